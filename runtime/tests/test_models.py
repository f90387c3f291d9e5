"""Loading models, checking what they make, and the guide's example."""

import concurrent.futures
import multiprocessing
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from precog_runtime.errors import ModelError
from precog_runtime.forecast.backtest import backtest
from precog_runtime.forecast.baseline import UpstreamRule
from precog_runtime.forecast.default import DefaultModel
from precog_runtime.forecast.model import check, load
from precog_runtime.types import Forecast, Model, Series

GUIDE = Path(__file__).parents[2] / "docs" / "runtime" / "model.md"
PRICES = Series(np.arange(1000, 1600, dtype=np.int64), np.full(600, 50.0))

GOOD = """
from precog_runtime.types import Forecast

class Mine:
    name = "mine"
    lookback_s = 600
    kind = "numpy"

    def forecast(self, asset, timestamp, series):
        last = float(series.prices[-1])
        return Forecast(last, last * 0.99, last * 1.01)

ready = Mine()
"""


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Return a function that writes a module with a name of its own, and gives its path."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def write(text, name="my_model"):
        path = tmp_path / f"{name}.py"
        path.write_text(text, encoding="utf-8")
        return path

    yield write
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize(("name", "kind"), [("default", DefaultModel), ("upstream", UpstreamRule)])
def test_ours(name, kind):
    model = load(name)
    assert isinstance(model, kind)
    assert isinstance(model, Model)


@pytest.mark.parametrize("attribute", ["Mine", "ready"])
def test_a_files_class_or_instance(written, attribute):
    model = load(f"{written(GOOD)}:{attribute}")
    assert model.name == "mine"
    assert model.forecast("btc", 1600, PRICES) == Forecast(50.0, 49.5, 50.5)


def test_a_file_by_a_relative_path(written, monkeypatch):
    monkeypatch.chdir(written(GOOD).parent)
    assert load("my_model.py:Mine").name == "mine"


def test_a_files_neighbour_can_be_imported(written):
    written("last = 3", "my_neighbour")
    path = written("from my_neighbour import last\n" + GOOD)
    assert load(f"{path}:Mine").name == "mine"


def test_a_python_model_works_in_another_process(written):
    model = load(f"{written(GOOD.replace('numpy', 'python'))}:Mine")
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        assert pool.submit(model.forecast, "btc", 1600, PRICES).result(timeout=60) == Forecast(50.0, 49.5, 50.5)


def installed(folder, name, value):
    """Write what an installed package with an entry point leaves."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[precog_runtime.models]\n{name} = {value}\n", encoding="utf-8")


def test_an_entry_point(written, tmp_path):
    written(GOOD)
    installed(tmp_path, "my-entry", "my_model:Mine")
    sys.path.append(str(tmp_path))
    assert load("my-entry").name == "mine"
    with pytest.raises(ModelError, match=r"my-entri: there is none of that name. Did you mean my-entry\?"):
        load("my-entri")


def test_an_entry_point_that_fails(tmp_path, written):
    written("raise RuntimeError('no licence')", "my_broken")
    installed(tmp_path, "my-broken", "my_broken:Mine")
    sys.path.append(str(tmp_path))
    with pytest.raises(ModelError, match=r"my_broken:Mine can't be loaded: RuntimeError\('no licence'\)"):
        load("my-broken")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("defualt", r"model defualt: there is none of that name\. Did you mean default\?"),
        ("zzz", r"There are: default, upstream"),
        ("", r"there is none of that name"),
        ("nowhere/model.py:Mine", r"there is no file /.*/nowhere/model\.py"),
        ("my_model.py", r"it names a file only\. Add the class in it, as in my_model\.py:MyModel"),
    ],
)
def test_no_such_model(name, told):
    with pytest.raises(ModelError, match=told):
        load(name)


def test_near_names_of_files_and_classes(written):
    path = written(GOOD)
    with pytest.raises(ModelError, match=rf"Did you mean {re.escape(str(path))}\?"):
        load(f"{path.with_name('my_modle.py')}:Mine")
    with pytest.raises(ModelError, match=r"has no 'Mien'\. Did you mean Mine\?"):
        load(f"{path}:Mien")
    with pytest.raises(ModelError, match=r"has no ''"):
        load(f"{path}:")


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("class Mine", "class Mine(", r"can't be imported: SyntaxError"),
        ("class Mine", "import nothing_there\nclass Mine", r"can't be imported: ModuleNotFoundError"),
        ('name = "mine"', "", r"its `name` is None"),
        ('name = "mine"', 'name = ""', r"its `name` is ''"),
        ('name = "mine"', "name = 7", r"its `name` is 7"),
        ("lookback_s = 600", "", r"its `lookback_s` is None"),
        ("lookback_s = 600", "lookback_s = 0", r"`lookback_s` is 0\. Give whole seconds, 1 to 604800"),
        ("lookback_s = 600", "lookback_s = 600.0", r"`lookback_s` is 600\.0"),
        ("lookback_s = 600", "lookback_s = True", r"`lookback_s` is True"),
        ("lookback_s = 600", "lookback_s = 10**9", r"`lookback_s` is 1000000000"),
        ('kind = "numpy"', 'kind = "gpu"', r"`kind` is 'gpu'\. Give one of numpy, python"),
        ('kind = "numpy"', 'kind = "python"\n    def __init__(self): self.f = lambda: 0', r"can't be pickled"),
        ("def forecast", "def forecasts", r"it has no method `forecast\(asset, timestamp, series\)`"),
        ("def forecast", "async def forecast", r"its `forecast` is async"),
        (
            "asset, timestamp, series",
            "asset, series",
            r"can't be called as forecast\(asset, timestamp, series\): too many",
        ),
        ("asset, timestamp, series", "asset, timestamp, series, more", r"can't be called .* missing"),
        ('kind = "numpy"', 'kind = "numpy"\n    def __init__(self, depth): pass', r"can't be made without arguments"),
    ],
)
def test_what_is_no_model(written, before, after, told):
    text = GOOD.replace("\nready = Mine()\n", "").replace(before, after, 1)
    with pytest.raises(ModelError, match=told):
        load(f"{written(text)}:Mine")


def test_a_failed_import_can_be_mended(written):
    path = written("raise ValueError")
    with pytest.raises(ModelError):
        load(f"{path}:Mine")
    written(GOOD)
    assert load(f"{path}:Mine").name == "mine"


def test_a_file_that_is_called_like_another_module(written):
    with pytest.raises(ModelError, match=r"another module is called 'json'\. Rename the file"):
        load(f"{written(GOOD, 'json')}:Mine")


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (None, r"gave a NoneType"),
        ((1.0, 0.9, 1.1), r"gave a tuple"),
        (Forecast(float("nan"), 0.9, 1.1), r"point is nan"),
        (Forecast(1.0, 0.9, float("inf")), r"high is inf"),
        (Forecast(1.0, 0.0, 1.1), r"low is 0\.0"),
        (Forecast(-1.0, -2.0, 1.1), r"point is -1\.0"),
        (Forecast("1", 0.9, 1.1), r"point is '1'"),
        (Forecast(True, 0.9, 1.1), r"point is True"),
        (Forecast(np.ones(2), 0.9, 1.1), r"point is array"),
        (Forecast(1.2, 0.9, 1.1), r"point 1\.2 is not within the interval 0\.9 to 1\.1"),
        (Forecast(1.0, 1.1, 0.9), r"is not within"),
        (Forecast(1.0, 0.2, 2.1), r"spans more than a factor of 10"),
    ],
)
def test_what_is_no_forecast(made, told):
    with pytest.raises(ModelError, match=f"btc: .*{told}"):
        check("btc", made)


def test_a_point_far_from_the_price():
    made = Forecast(1.0, 0.9, 1.1)
    assert check("btc", made, 9.9) == made
    for last in (10.1, 0.099):
        with pytest.raises(ModelError, match="more than a factor of 10 from the price"):
            check("btc", made, last)


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64, int])
def test_a_forecast_becomes_plain_floats(kind):
    made = check("btc", Forecast(kind(2), kind(1), kind(3)))
    assert made == Forecast(2.0, 1.0, 3.0)
    assert {type(made.point), type(made.low), type(made.high)} == {float}


def test_the_guides_example(written):
    (example,) = re.findall(r"```python\n# my_range\.py\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    model = load(f"{written(example, 'my_range')}:MyRange")
    draw = np.random.default_rng(1)
    times = np.arange(0, 6 * 3600, dtype=np.int64)
    whole = Series(times, 100 * np.exp(np.cumsum(1e-4 * draw.standard_normal(len(times)))))

    def read(_asset, start, end):
        first, last = np.searchsorted(times, [start, end + 1])
        return Series(times[first:last], whole.prices[first:last])

    found = {each.model: each for each in backtest([model, UpstreamRule()], ["btc"], read, 3600, 17_000, 600)}
    assert found[model.name].forecasts == 23
    assert found[model.name].score > 1.3 * found["upstream"].score
