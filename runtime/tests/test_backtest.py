"""Scores as validators give them, and the command."""

import io
import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precog_runtime.cli import main
from precog_runtime.errors import ModelError
from precog_runtime.forecast.backtest import EPOCH, backtest, interval_score, point_error, read_file
from precog_runtime.forecast.baseline import UpstreamRule
from precog_runtime.forecast.default import DefaultModel
from precog_runtime.simulator.prices import REGIMES, prices
from precog_runtime.types import HORIZON_S, Forecast, Series


@pytest.mark.parametrize(
    ("low", "high", "came", "score"),
    [
        (90, 110, [90, 100, 110], 1.0),  # all inside, all needed
        (80, 120, [90, 100, 110], 0.5),  # twice as wide as needed
        (95, 105, [90, 100, 110, 100], 0.5),  # all needed, half inside
        (100, 120, [90, 100, 110, 120], 0.75),
        (100, 140, [90, 100, 110, 120], 0.375),
        (120, 130, [90, 100, 110], 0.0),  # nothing inside: the overlap is negative
        (50, 60, [90, 100, 110], 0.0),
        (100, 100, [100, 100], 0.0),  # no width
        (110, 90, [100, 100], 0.0),
        (99, 101, [100, 100], 0.0),  # prices that stood still need none of it
    ],
)
def test_interval_scores(low, high, came, score):
    assert interval_score(low, high, np.array(came, float)) == pytest.approx(score)


@given(st.floats(1, 1000), st.floats(1, 1000), st.lists(st.floats(1, 1000), min_size=1, max_size=50))
def test_an_interval_score_is_a_share(low, high, came):
    assert 0 <= interval_score(low, high, np.array(came)) <= 1


def test_point_errors():
    assert point_error(101, 100) == point_error(99, 100) == pytest.approx(0.01)


def straight(start=0, end=20_000, slope=0.001):
    times = np.arange(start, end + 1, dtype=np.int64)
    return Series(times, 100 + slope * times)


def reader(whole, asked=None):
    def read(_asset, start, end):
        if asked is not None:
            asked.append((start, end))
        first, last = np.searchsorted(whole.times, [start, end + 1])
        return Series(whole.times[first:last], whole.prices[first:last])

    return read


class Knowing:
    """Knows that prices rise by 0.001 USD a second."""

    name = "knowing"
    lookback_s = 100
    kind = "numpy"

    def forecast(self, asset, timestamp, series):
        last = float(series.prices[-1])
        return Forecast(last + 3.6, last, last + 3.6)


def test_a_perfect_model():
    (found,) = backtest([Knowing()], ["btc"], reader(straight()), 100, 16_300, 300)
    assert (found.model, found.asset, found.forecasts, found.skipped) == ("knowing", "btc", 55, 0)
    assert found.point_error == pytest.approx(0, abs=1e-9)
    assert found.median_error == pytest.approx(0, abs=1e-9)
    assert found.coverage == pytest.approx(100, abs=0.06)  # both ends of the interval are within rounding
    assert found.score == pytest.approx(1, abs=0.001)


def test_figures_of_a_model_that_is_off():
    class Off(Knowing):
        def forecast(self, asset, timestamp, series):
            last = float(series.prices[-1])
            return Forecast(last, last - 1.8, last + 1.8)

    (found,) = backtest([Off()], ["btc"], reader(straight()), 1000, 1000, 300)
    assert found.point_error == found.median_error == pytest.approx(100 * 3.6 / 104.6)
    assert found.coverage == pytest.approx(100 * 1801 / 3601, abs=0.03)
    assert found.width == pytest.approx(100 * 3.6 / 101)
    assert found.score == pytest.approx(0.25, abs=0.001)


def test_times_that_cannot_be_scored_are_skipped():
    whole = straight()
    # None at the end of the horizon of 1000, none before 400.
    kept = (whole.times != 1000 + HORIZON_S) & (whole.times > 400)
    holed = Series(whole.times[kept], whole.prices[kept])
    (found,) = backtest([Knowing()], ["btc"], reader(holed), 400, 1600, 300)
    assert (found.forecasts, found.skipped) == (3, 2)
    assert np.isfinite(found.score)


def test_times_after_the_last_price_are_skipped():
    (found,) = backtest([Knowing()], ["btc"], reader(straight()), 16_000, 22_000, 3000)
    assert (found.forecasts, found.skipped) == (1, 2)


def test_a_model_sees_nothing_of_the_future():
    seen = []

    class Seeing(Knowing):
        def forecast(self, asset, timestamp, series):
            seen.append((timestamp, int(series.times[0]), int(series.times[-1])))
            return super().forecast(asset, timestamp, series)

    backtest([Seeing()], ["btc"], reader(straight()), 1000, 2000, 500)
    assert seen == [(1000, 900, 1000), (1500, 1400, 1500), (2000, 1900, 2000)]


@pytest.mark.parametrize("model", [DefaultModel(), UpstreamRule()], ids=lambda model: model.name)
def test_later_prices_change_no_forecast(model):
    made = []

    class Kept:
        name, lookback_s, kind = model.name, model.lookback_s, model.kind

        def forecast(self, asset, timestamp, series):
            made[-1].append(model.forecast(asset, timestamp, series))
            return made[-1][-1]

    whole = prices("btc", EPOCH - 21_600, EPOCH + 7200, 1, "mixed")
    later = whole.times > EPOCH
    for factor in (1.0, 1.2):
        made.append([])
        changed = Series(whole.times, np.where(later, factor * whole.prices, whole.prices))
        backtest([Kept()], ["btc"], reader(changed), EPOCH, EPOCH + 300, 300)
    assert made[0][0] == made[1][0]
    assert made[0][1] != made[1][1]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (ZeroDivisionError("oh"), "ZeroDivisionError: oh"),
        (Forecast(1.0, 2.0, 3.0), "not within the interval"),
        (Forecast(1e9, 1e9, 1e9), "more than a factor of 10 from the price"),
    ],
)
def test_a_model_that_fails_is_named(fault, told):
    class Failing(Knowing):
        def forecast(self, asset, timestamp, series):
            if isinstance(fault, Exception):
                raise fault
            return fault

    with pytest.raises(ModelError, match=f"model knowing at 1000, 101 prices of btc: .*{told}"):
        backtest([Failing()], ["btc"], reader(straight()), 1000, 2000, 500)


def command(*words, capsys):
    code = main(["backtest", *words])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def over_all_regimes():
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        # A step that comes to all times within the hour: the simulator's processes begin and end with it.
        assert main(["backtest", "--hours", "60", "--step", "1500", "--json"]) == 0
    return json.loads(out.getvalue())


@pytest.mark.full
def test_all_regimes_are_run(over_all_regimes):
    assert list(dict.fromkeys(row["market"] for row in over_all_regimes)) == list(REGIMES)


@pytest.mark.full
@pytest.mark.parametrize("regime", REGIMES)
def test_the_default_beats_upstreams_rule(regime, over_all_regimes):
    (ours,) = (
        row
        for row in over_all_regimes
        if (row["market"], row["asset"], row["model"], row["prices"]) == (regime, "all", DefaultModel.name, "mark")
    )
    assert ours["forecasts"] == 3 * 145
    assert ours["score_ratio"] > 1.3
    # Where prices revert there is something to know; elsewhere the points differ by a filter at most.
    assert ours["error_ratio"] < (1.0 if regime == "reverting" else 1.005)


def test_the_table(capsys):
    code, out, err = command("--regime", "calm", "--hours", "1", "--asset", "btc", "--model", "upstream", capsys=capsys)
    assert code == 0
    title, row, later = out.splitlines()
    assert title.split()[:4] == ["market", "asset", "model", "prices"]
    assert row.split()[:6] == ["calm", "btc", "upstream", "mark", "13", "0"]
    assert row.split()[-2:] == ["1.000", "1.00"]
    assert later.split()[:7] == ["calm", "btc", "upstream", "+5", "s", "13", "0"]
    assert err == "calm done\n"


def test_ratios_are_to_upstreams_rule_at_the_mark_whatever_prices_a_model_sees(capsys):
    options = ("--regime", "calm", "--hours", "1", "--asset", "btc", "--json")
    code, out, _ = command(*options, capsys=capsys)
    assert code == 0
    rows = json.loads(out)
    (base,) = [row for row in rows if (row["model"], row["prices"]) == ("upstream", "mark")]
    assert len(rows) == 4
    for row in rows:
        assert row["error_ratio"] == pytest.approx(row["point_error"] / base["point_error"])
        assert row["score_ratio"] == pytest.approx(row["score"] / base["score"])


def recording(folder, form, assets=("btc", "eth")):
    """Write 3 simulated hours as a file, newest first and with rows that are no prices; return path and prices."""
    pandas = pytest.importorskip("pandas")
    kept = {asset: prices(asset, EPOCH, EPOCH + 3 * 3600, 1, "calm") for asset in assets}
    frames = []
    for asset, each in kept.items():
        times = pandas.to_datetime(each.times, unit="s", utc=True)
        column = "price" if form == "seconds" else "ReferenceRateUSD"
        frames.append(
            pandas.DataFrame(
                {
                    "asset": asset,
                    "time": each.times if form == "seconds" else times.strftime("%Y-%m-%dT%H:%M:%S.%f000Z"),
                    column: each.prices,
                }
            )
        )
        frames.append(frames[-1].iloc[[7]].assign(**{column: float("nan")}))
        frames.append(frames[0].iloc[[9]].assign(asset=asset, **{column: -1.0}))
    whole = pandas.concat(frames)[::-1]
    path = folder / ("prices.parquet" if form == "parquet" else "prices.csv")
    if form == "parquet":
        whole.assign(time=pandas.to_datetime(whole["time"])).to_parquet(path)
    else:
        whole.to_csv(path, index=False)
    return path, kept


@pytest.mark.parametrize("form", ["iso", "seconds", "parquet"])
def test_recorded_prices(tmp_path, form, capsys):
    path, kept = recording(tmp_path, form)
    found = read_file(str(path))
    assert set(found) == set(kept)
    for asset, each in kept.items():
        assert np.array_equal(found[asset].times, each.times)
        assert np.allclose(found[asset].prices, each.prices, rtol=1e-12)
    option = "--parquet" if form == "parquet" else "--csv"
    code, out, _ = command(option, str(path), "--json", capsys=capsys)
    assert code == 0
    rows = json.loads(out)
    assert {(row["asset"], row["model"]) for row in rows} == {
        (asset, model) for asset in ("btc", "eth", "all") for model in ("rw-1", "upstream")
    }
    # From an hour after the beginning to an hour before the end.
    assert {row["forecasts"] for row in rows if row["asset"] != "all"} == {13}
    assert all(row["market"] == str(path) for row in rows)


def test_the_last_price_of_a_second_counts(tmp_path):
    path = tmp_path / "twice.csv"
    path.write_text("asset,time,price\nbtc,5,1.5\nbtc,5,2.5\nbtc,4,9\n", encoding="utf-8")
    found = read_file(str(path))["btc"]
    assert found.times.tolist() == [4, 5]
    assert found.prices.tolist() == [9, 2.5]


def test_assets_of_a_recording_can_be_chosen(tmp_path, capsys):
    path, _ = recording(tmp_path, "iso")
    code, out, _ = command("--csv", str(path), "--asset", "eth", "--json", capsys=capsys)
    assert code == 0
    assert {row["asset"] for row in json.loads(out)} == {"eth"}
    code, _, err = command("--csv", str(path), "--asset", "doge", capsys=capsys)
    assert code == 2
    assert "no prices of doge. It has: " in err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("asset,when,price\nbtc,5,1\n", "no column 'time'"),
        ("asset,time,cost\nbtc,5,1\n", "no column 'price'"),
        ("asset,time,price\nbtc,yesterday,1\n", "column 'time' has something that is no time"),
        ("asset,time,price\nbtc,5,-1\n", "there is no price in it"),
        ("asset,time,price\nbtc,5,1\nbtc,6,1\n", "span too little"),
        ("", "prices.csv"),
    ],
)
def test_recordings_that_cannot_be_used(tmp_path, text, told, capsys):
    path = tmp_path / "prices.csv"
    path.write_text(text, encoding="utf-8")
    code, out, err = command("--csv", str(path), capsys=capsys)
    assert (code, out) == (2, "")
    assert told in err


def test_prices_of_each_hour_cannot_be_scored(tmp_path, capsys):
    path = tmp_path / "coarse.csv"
    rows = [f"btc,{5000 * at + 1},{100 + at}" for at in range(20)]
    path.write_text("\n".join(["asset,time,price", *rows]), encoding="utf-8")
    code, _, err = command("--csv", str(path), "--step", "5000", capsys=capsys)
    assert code == 2
    assert "nothing could be scored" in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--regime", "clam"], "regime is 'clam': there is no such regime"),
        (["--model", "defualt"], "Did you mean default?"),
        (["--model", "default", "--model", "upstream", "--csv", "/nowhere.csv"], "/nowhere.csv"),
    ],
)
def test_wrong_use(words, told, capsys):
    code, out, err = command(*words, capsys=capsys)
    assert (code, out) == (2, "")
    assert told in err


@pytest.mark.parametrize(
    "words", [["--hours", "0"], ["--step", "-5"], ["--hours", "inf"], ["--csv", "a", "--parquet", "b"]]
)
def test_wrong_arguments(words, capsys):
    with pytest.raises(SystemExit) as left:
        main(["backtest", *words])
    assert left.value.code == 2
    assert words[0] in capsys.readouterr().err


def test_two_models_of_one_name(tmp_path, capsys):
    path = tmp_path / "my_upstream.py"
    path.write_text("from precog_runtime.forecast.baseline import UpstreamRule\n", encoding="utf-8")
    code, _, err = command("--model", "upstream", "--model", f"{path}:UpstreamRule", capsys=capsys)
    assert code == 2
    assert "two models are called 'upstream'" in err


def test_without_upstream_there_are_no_ratios(capsys):
    code, out, _ = command("--regime", "calm", "--hours", "1", "--model", "default", "--json", capsys=capsys)
    assert code == 0
    assert {row["score_ratio"] for row in json.loads(out)} == {None}


def test_answer_made_later_sees_the_newest_price_and_is_scored_from_the_mark():
    seen = []

    class Seeing(Knowing):
        def forecast(self, asset, timestamp, series):
            seen.append((timestamp, int(series.times[-1])))
            last = float(series.prices[-1])
            return Forecast(last, last - 1, last + 1)

    at_mark, later = (backtest([Seeing()], ["btc"], reader(straight()), 300, 300, 300, later_s=s)[0] for s in (0, 12))
    assert seen == [(300, 300), (312, 312)]
    assert (at_mark.prices, later.prices) == ("mark", "+12 s")
    # The price rises all the time: 12 s of the hour's 3600 are known by then.
    assert later.point_error == pytest.approx(at_mark.point_error * 3588 / 3600)


@pytest.mark.full
def test_newest_prices_are_nearer_to_what_comes_than_those_of_the_mark(over_all_regimes):
    ratios = {}
    for row in over_all_regimes:
        if (row["asset"], row["model"]) == ("all", DefaultModel.name):
            ratios.setdefault(row["market"], {})[row["prices"]] = row["point_error"]
    assert set(ratios) == set(REGIMES)
    assert np.mean([each["+5 s"] / each["mark"] for each in ratios.values()]) < 1


@pytest.mark.parametrize("later_s", ["-1", "3600"])
def test_later_than_the_horizon_is_refused(later_s, capsys):
    code, _, err = command("--later-s", later_s, capsys=capsys)
    assert code == 2
    assert f"--later-s is {later_s}: give 0 to 3599 seconds" in err
