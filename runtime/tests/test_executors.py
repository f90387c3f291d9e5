"""The setting `executor`: models run where the operator's function says, in `serve` and behind the axon alike."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
from processes import call, done, running, wait_until

from precog_runtime.errors import SettingError
from precog_runtime.market.simulated import SimulatedMarket
from precog_runtime.runtime import open_runtime
from precog_runtime.settings import Settings
from precog_runtime.types import Request
from precog_runtime.workers import executors

MODEL = """
import os
from pathlib import Path
from precog_runtime.types import Forecast

class Told:
    name, lookback_s, kind = "told", 60, "numpy"

    def forecast(self, asset, timestamp, series):
        (Path(__file__).parent / f"by-{os.getpid()}").touch()
        last = float(series.prices[-1])
        return Forecast(last, last * 0.99, last * 1.01)
"""
EXECUTOR = """
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

class Pool(ProcessPoolExecutor):
    def shutdown(self, wait=True, **more):
        (Path(__file__).parent / f"shut-down-{wait}").touch()
        super().shutdown(wait, **more)

def pool():
    return Pool(2, mp_context=get_context("spawn"))

def broken():
    raise ConnectionError("no scheduler")

nothing = dict
number = 7
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "told_model.py").write_text(MODEL)
    (tmp_path / "our_pool.py").write_text(EXECUTOR)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in ("told_model", "our_pool"):
        sys.modules.pop(name, None)


def processes(folder):
    return {int(path.name.removeprefix("by-")) for path in folder.glob("by-*")}


def test_serve_has_its_forecasts_made_by_the_executors_processes(folder):
    model, executor = f"{folder / 'told_model.py'}:Told", f"{folder / 'our_pool.py'}:pool"
    with running("simulate-market", "--port", 0) as market:
        options = ("--api-url", market.url, "--window-s", 600, "--model", model, "--executor", executor)
        with running("serve", "--port", 0, *options) as command:
            wait_until(lambda: call(f"{command.url}/readyz")[0] == 200)
            answer = call(f"{command.url}/predict", {})[1]
            assert set(answer["models"].values()) == {"told"}, answer
            assert processes(folder)
            assert command.process.pid not in processes(folder)
            assert command.end() == 0
    assert (folder / "shut-down-False").exists()
    for pid in processes(folder):
        wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists())


def test_a_runtime_takes_it_from_its_settings_as_behind_the_axon(folder):
    model, executor = f"{folder / 'told_model.py'}:Told", f"{folder / 'our_pool.py'}:pool"
    settings = Settings(window_s=600, monitor_s=0, mark_s=0, model=model, executor=executor)

    async def test():
        async with open_runtime(settings, SimulatedMarket(1, "calm")) as runtime:
            await runtime.attempted.wait()
            request = Request(None, settings.assets, runtime.engine.clock() + 30)
            return await runtime.engine.answer(request, "test")

    answer = asyncio.run(test())
    assert {each.model for each in answer.assets.values()} == {"told"}
    assert processes(folder)
    assert os.getpid() not in processes(folder)


def test_a_module_on_the_path_can_be_named_too(folder):
    sys.path.append(str(folder))
    with executors.made("our_pool:pool") as executor:
        assert executor.submit(os.getpid).result() != os.getpid()


def test_none_is_made_if_none_is_named():
    with executors.made("") as executor:
        assert executor is None


WRONG = [
    ("our_pool", "names no function. Give path/to/file.py:NAME or package.module:NAME"),
    ("nowhere.py:pool", "there is no file"),
    ("no_such_module:pool", "no_such_module can't be imported: ModuleNotFoundError"),
    ("our_pool:pol", "has no 'pol'. Did you mean pool?"),
    ("our_pool:number", "it is a int. Name a function"),
    ("our_pool:broken", "it failed: ConnectionError: no scheduler"),
    ("our_pool:nothing", "it returned a dict. Return a concurrent.futures.Executor"),
]


@pytest.mark.parametrize(("name", "told"), WRONG)
def test_what_is_no_executor_is_told(folder, name, told):
    sys.path.append(str(folder))
    with pytest.raises(SettingError) as caught, executors.made(name):
        pass
    assert f"executor is {name!r}: " in str(caught.value)
    assert told in str(caught.value)


def test_serve_ends_with_2_where_there_is_no_such_executor():
    ended = done("serve", "--port", 0, "--executor", "no_such_module:pool")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "executor is 'no_such_module:pool'" in ended.stderr
    assert "Traceback" not in ended.stderr
