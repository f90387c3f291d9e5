"""The log of predictions: what is written, what comes true, how good it was, and what is removed."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from precog_runtime import log as log_module
from precog_runtime import store as store_module
from precog_runtime.forecast.backtest import interval_score
from precog_runtime.log import FILE, Accuracy, PredictionLog
from precog_runtime.metrics import Metrics
from precog_runtime.settings import Settings
from precog_runtime.types import HORIZON_S, Answer, AssetAnswer, Forecast, Request, Series

BEGIN = 1_700_000_100


class Clock:
    def __init__(self) -> None:
        self.time = float(BEGIN)

    def __call__(self) -> float:
        return self.time


class Prices:
    """What came true: prices by asset and second."""

    def __init__(self, **prices: dict[int, float]) -> None:
        self.prices = prices

    def price(self, asset: str, second: int) -> float | None:
        return self.prices.get(asset, {}).get(second)

    def series(self, asset: str, start: int, end: int) -> Series:
        found = sorted((time, price) for time, price in self.prices.get(asset, {}).items() if start <= time <= end)
        return Series(np.array([time for time, _ in found], np.int64), np.array([price for _, price in found], float))


def realise(log: PredictionLog, true: Prices) -> int:
    return asyncio.run(log.realise(true.price, true.series))


def hour(begin: int, *prices: float) -> dict[int, float]:
    """Prices at even steps over the hour from `begin`, both ends included."""
    return {begin + round(HORIZON_S * step / (len(prices) - 1)): price for step, price in enumerate(prices)}


def request(caller: str = "5Fcaller") -> Request:
    return Request("2023-11-14T22:15:00Z", ["btc", "eth"], 0.0, caller)


def answered(
    asset: str, forecast: Forecast, model: str = "default", degraded: str = "", age_s: float = 0.5
) -> AssetAnswer:
    return AssetAnswer(asset, forecast, age_s, model, degraded)


def answer(*assets: AssetAnswer, timestamp: int = BEGIN, refused: dict[str, str] | None = None) -> Answer:
    return Answer(timestamp, {each.asset: each for each in assets}, refused or {}, hit=True)


class Opened:
    def __init__(self, folder: str) -> None:
        self.folder, self.clock, self.metrics = folder, Clock(), Metrics()
        self.logs: list[PredictionLog] = []

    def log(self, **settings: float) -> PredictionLog:
        self.logs.append(PredictionLog(Settings(state_dir=self.folder, **settings), self.metrics, self.clock))
        return self.logs[-1]

    def read(self, sql: str) -> list[tuple[object, ...]]:
        self.logs[-1].store.flush()
        return self.logs[-1].store.query(sql)


@pytest.fixture(params=["disk", "memory"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opened]:
    opened = Opened(str(tmp_path) if request.param == "disk" else "")
    yield opened
    for log in opened.logs:
        log.close()


def errors(metrics: Metrics, kind: str) -> float:
    return metrics.registry.get_sample_value("precog_errors_total", {"kind": kind}) or 0.0


BTC = Forecast(100.0, 90.0, 110.0)
ETH = Forecast(10.0, 9.0, 11.0)


def test_a_request_with_its_answers(opened: Opened) -> None:
    log = opened.log()
    log.record("axon", request(), answer(answered("btc", BTC), answered("eth", ETH, "other", "stale", 77.0)), 0.0125)
    assert opened.read("SELECT time, front, caller, timestamp, latency_s, outcome, hit, refused FROM requests") == [
        (BEGIN, "axon", "5Fcaller", BEGIN, 0.0125, "full", 1, 0)
    ]
    assert opened.read("SELECT asset, timestamp, point, low, high, age_s, model, degraded, realised FROM answers") == [
        ("btc", BEGIN, 100.0, 90.0, 110.0, 0.5, "default", "", None),
        ("eth", BEGIN, 10.0, 9.0, 11.0, 77.0, "other", "stale", None),
    ]


@pytest.mark.parametrize(
    ("given_answer", "outcome", "refused", "answers", "refusals"),
    [
        (answer(answered("btc", BTC)), "full", 0, 1, []),
        (answer(answered("btc", BTC), refused={"doge": "unknown"}), "partial", 1, 1, [("doge", "unknown")]),
        (answer(refused={"": "no assets"}), "none", 1, 0, [("", "no assets")]),
        (
            Answer(None, {}, {"": "timestamp 'x' is no timestamp"}),
            "none",
            1,
            0,
            [("", "timestamp 'x' is no timestamp")],
        ),
        (answer(), "none", 0, 0, []),
    ],
)
def test_outcomes_and_refusals(
    opened: Opened, given_answer: Answer, outcome: str, refused: int, answers: int, refusals: list[tuple[str, str]]
) -> None:
    opened.log().record("serve", request(), given_answer, 0.001)
    assert opened.read("SELECT outcome, refused, timestamp FROM requests") == [
        (outcome, refused, given_answer.timestamp)
    ]
    assert opened.read("SELECT count(*) FROM answers") == [(answers,)]
    assert opened.read("SELECT asset, reason FROM refusals") == refusals
    assert opened.read("SELECT count(*) FROM log") == [(1,)]


def test_what_a_caller_sends_is_bounded_and_made_harmless(opened: Opened) -> None:
    refused = {f"{number}{'x' * 5000}": "y" * 5000 for number in range(10_000)}
    refused["0" + "x" * 4999] = "cut to the name of another"
    log = opened.log()
    log.record("axon", request("\x1b[2J\x00\ud800" + "z" * 10_000), answer(refused=refused), 0.1)
    assert opened.read("SELECT caller FROM requests") == [("?[2J??" + "z" * 122,)]
    ((count, asset, reason),) = opened.read("SELECT count(*), max(length(asset)), max(length(reason)) FROM refusals")
    assert (count, asset, reason) == (log_module.REFUSALS, log_module.TEXT, log_module.TEXT)
    assert opened.read("SELECT refused FROM requests") == [(10_001,)]


def test_each_request_has_its_own_answers_however_many_at_once(opened: Opened) -> None:
    log = opened.log()
    for number in range(1, 301):
        log.record(
            "axon", request(str(number)), answer(answered("btc", Forecast(number, 1.0, 2.0)), answered("eth", ETH)), 0.0
        )
    found = opened.read("SELECT caller, point FROM requests JOIN answers ON request_id = id WHERE asset = 'btc'")
    assert sorted((int(str(caller)), point) for caller, point in found) == [
        (each, float(each)) for each in range(1, 301)
    ]


@pytest.mark.parametrize(
    ("forecast", "prices", "expected"),
    [
        # realised, hour_low, hour_high, seconds, inside, error, score
        (Forecast(100.0, 90.0, 110.0), (95, 100, 105, 80), (80, 80, 105, 4, 0.75, 0.25, 0.75 * 15 / 20)),
        (Forecast(100.0, 90.0, 110.0), (90, 110), (110, 90, 110, 2, 1.0, 10 / 110, 1.0)),  # the ends are inside
        (Forecast(100.0, 90.0, 110.0), (100, 100), (100, 100, 100, 2, 1.0, 0.0, 0.0)),  # no overlap in a flat hour
        (Forecast(100.0, 90.0, 110.0), (200, 300), (300, 200, 300, 2, 0.0, 2 / 3, 0.0)),  # all outside
        (Forecast(100.0, 100.0, 100.0), (100, 100), (100, 100, 100, 2, 1.0, 0.0, 0.0)),  # no width
        (Forecast(100.0, 110.0, 90.0), (95, 105), (105, 95, 105, 2, 1.0, 5 / 105, 0.5)),  # ends swapped
        (Forecast(100.0, 50.0, 150.0), (100, 125, 100), (100, 100, 125, 3, 1.0, 0.0, 0.25)),
    ],
)
def test_what_came_true(
    opened: Opened, forecast: Forecast, prices: tuple[float, ...], expected: tuple[float, ...]
) -> None:
    log = opened.log()
    log.record("axon", request(), answer(answered("btc", forecast)), 0.0)
    log.store.flush()
    true = Prices(btc={**hour(BEGIN, *prices), BEGIN - 1: 1.0, BEGIN + HORIZON_S + 1: 1e9})
    opened.clock.time += HORIZON_S - 1
    assert realise(log, true) == 0
    opened.clock.time += 1
    assert realise(log, true) == 1
    assert realise(log, true) == 0
    (found,) = opened.read("SELECT realised, hour_low, hour_high, seconds, inside, error, score FROM answers")
    assert found == pytest.approx(expected)
    assert realise(log, true) == 0


prices = st.floats(1, 1000)


@given(point=prices, ends=st.tuples(prices, prices), true=st.lists(prices, min_size=1, max_size=50))
@hypothesis_settings(max_examples=200, deadline=None)
def test_scores_are_parts_of_one(point: float, ends: tuple[float, float], true: list[float]) -> None:
    series = Series(np.arange(len(true)), np.array(true))
    low, high, seconds, inside, error, score = log_module._outcome(point, *ends, true[-1], series)
    assert (low, high, seconds) == (min(true), max(true), len(true))
    assert 0 <= score <= inside <= 1
    assert score == interval_score(min(ends), max(ends), series.prices)  # as the backtest has it
    assert error >= 0
    best = log_module._outcome(point, low, high, true[-1], series)
    assert best[3] == 1
    assert best[5] == (1 if high > low else 0)


def test_equal_answers_come_true_together_and_others_wait_for_their_prices(opened: Opened) -> None:
    log = opened.log()
    for _ in range(5):
        log.record("axon", request(), answer(answered("btc", BTC), answered("eth", ETH)), 0.0)
    log.record("axon", request(), answer(answered("btc", BTC), timestamp=BEGIN + 300), 0.0)
    log.store.flush()
    opened.clock.time += HORIZON_S + 10
    true = Prices(btc=hour(BEGIN, 100, 101), eth={BEGIN: 10.0})  # the price at eth's end is not known yet
    assert realise(log, true) == 1
    assert opened.read("SELECT asset, count(*) FROM answers WHERE realised = 101 GROUP BY asset") == [("btc", 5)]
    true.prices["eth"][BEGIN + HORIZON_S] = 10.5
    assert realise(log, true) == 1
    assert opened.read("SELECT count(*) FROM answers WHERE realised IS NULL") == [(1,)]  # 5 minutes later


def test_beyond_the_window_of_prices_nothing_is_tried(opened: Opened) -> None:
    log = opened.log(window_s=7200)
    log.record("axon", request(), answer(answered("btc", BTC)), 0.0)
    log.store.flush()
    opened.clock.time += 7201
    asked: list[tuple[str, int]] = []
    assert asyncio.run(log.realise(lambda *what: asked.append(what), Prices().series)) == 0
    assert asked == []


def test_many_forecasts_come_true_in_several_calls(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "REALISE_MOST", 7)
    log = opened.log()
    for number in range(20):
        log.record("axon", request(), answer(answered("btc", Forecast(100.0 + number, 90.0, 110.0))), 0.0)
    log.store.flush()
    opened.clock.time += HORIZON_S
    true = Prices(btc=hour(BEGIN, 100, 100))
    counts = []
    for _ in range(4):
        counts.append(realise(log, true))
        log.store.flush()
    assert counts == [7, 7, 6, 0]


def test_forecasts_that_have_no_price_yet_keep_none_behind_them_from_coming_true(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "REALISE_MOST", 7)
    log = opened.log()
    for number in range(19):
        log.record("axon", request(), answer(answered("btc", Forecast(100.0 + number, 90.0, 110.0))), 0.0)
    log.record("axon", request(), answer(answered("btc", BTC), timestamp=BEGIN + 1), 0.0)
    log.store.flush()
    opened.clock.time += HORIZON_S + 1
    true = Prices(btc=hour(BEGIN + 1, 100, 100))
    assert [realise(log, true) for _ in range(3)] == [0, 0, 1]
    true.prices["btc"] = hour(BEGIN, 100, 100)
    log.store.flush()
    assert [realise(log, true) for _ in range(3)] == [7, 7, 5]


def test_the_event_loop_reads_prices_an_hour_at_a_time_and_waits_for_nothing_else(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, here = opened.log(), threading.get_ident()
    for number in range(30):
        log.record("axon", request(), answer(answered("btc", BTC), timestamp=BEGIN + number), 0.0)
    log.store.flush()
    opened.clock.time += HORIZON_S + 30
    query, outcome, elsewhere, turns, series = log.store.query, log_module._outcome, [], [0], []

    def noted(function):  # type: ignore[no-untyped-def]
        def call(*args):  # type: ignore[no-untyped-def]
            elsewhere.append(threading.get_ident() != here)
            return function(*args)

        return call

    def extremes(_asset: str, start: int, end: int) -> Series:
        series.append((threading.get_ident(), turns[0]))
        return Series(np.array([start, end]), np.array([100.0, 101.0]))

    async def work() -> None:
        async def go_round() -> None:
            while True:
                turns[0] += 1
                await asyncio.sleep(0)

        others = asyncio.ensure_future(go_round())
        assert await log.realise(lambda *_: 100.0, extremes) == 30
        others.cancel()

    monkeypatch.setattr(log.store, "query", noted(query))
    monkeypatch.setattr(log_module, "_outcome", noted(outcome))
    asyncio.run(work())
    assert len(elsewhere) == 31
    assert all(elsewhere)
    assert {thread for thread, _ in series} == {here}
    assert len({turn for _, turn in series}) == 30


def test_accuracy_by_asset_and_model_and_its_metrics(opened: Opened) -> None:
    log = opened.log()
    log.record("axon", request(), answer(answered("btc", BTC), answered("eth", ETH)), 0.0)
    log.record("axon", request(), answer(answered("btc", Forecast(110.0, 100.0, 120.0)), answered("eth", ETH)), 0.0)
    log.record("axon", request(), answer(answered("btc", Forecast(104.0, 96.0, 106.0), "fallback", "slow")), 0.0)
    log.record("axon", request(), answer(answered("gone", BTC)), 0.0)
    log.store.flush()
    opened.clock.time += HORIZON_S
    true = Prices(btc=hour(BEGIN, 95, 105, 100), eth=hour(BEGIN, 9, 11, 10), gone=hour(BEGIN, 1, 1))
    realise(log, true)
    log.store.flush()
    found = log.accuracy(24)
    assert found.keys() == {("btc", "default"), ("btc", "fallback"), ("eth", "default"), ("gone", "default")}
    assert found["eth", "default"] == (2, 0.0, 1.0, 0.2, 1.0)
    assert found["btc", "default"] == pytest.approx((2, 0.05, (1 + 2 / 3) / 2, 0.2, (10 / 20 + 2 / 3 * 5 / 20) / 2))
    assert found["btc", "fallback"] == pytest.approx((1, 0.04, 2 / 3, 0.1, 2 / 3 * 9 / 10))
    assert isinstance(found["btc", "fallback"], Accuracy)

    log.export(24)
    value = opened.metrics.registry.get_sample_value
    assert value("precog_forecast_error_ratio", {"asset": "btc"}) == pytest.approx((0.05 * 2 + 0.04) / 3)
    assert value("precog_forecast_coverage_ratio", {"asset": "btc"}) == pytest.approx(7 / 9)
    assert value("precog_forecast_width_ratio", {"asset": "btc"}) == pytest.approx(0.5 / 3)
    scores = (2 * found["btc", "default"].score + found["btc", "fallback"].score) / 3
    assert value("precog_forecast_score_ratio", {"asset": "btc"}) == pytest.approx(scores)
    assert value("precog_forecast_score_ratio", {"asset": "eth"}) == 1.0
    assert value("precog_forecast_error_ratio", {"asset": "eth"}) == 0.0
    assert errors(opened.metrics, "label") == 0  # an asset that is no longer configured is no label

    opened.clock.time += 24 * 3600 - 1
    assert log.accuracy(24) == found
    opened.clock.time += 1
    assert log.accuracy(24) == {}


def test_retention(opened: Opened) -> None:
    log = opened.log(retention_days=2)
    for day in range(5):
        opened.clock.time = BEGIN + day * 86400.0
        log.record("axon", request(str(day)), answer(answered("btc", BTC), refused={"x": "no"}), 0.0)
    log.prune()
    for table in ("requests", "answers", "refusals"):
        assert opened.read(f"SELECT count(*) FROM {table}") == [(3,)]
    assert opened.read("SELECT caller FROM requests ORDER BY id") == [("2",), ("3",), ("4",)]


def test_a_clock_that_goes_back_loses_nothing(opened: Opened) -> None:
    log = opened.log(retention_days=1)
    for step in (0, -86_400 * 3, 5):
        opened.clock.time += step
        log.record("axon", request(), answer(answered("btc", BTC)), 0.0)
        log.prune()
        assert realise(log, Prices()) == 0
    assert opened.read("SELECT count(*) FROM requests") == [(3,)]


def test_a_flood_is_bounded_without_a_call_of_prune(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "MOST_REQUESTS", 1500)
    monkeypatch.setattr(log_module, "MOST_IN_MEMORY", 1500)
    log = opened.log()
    for number in range(5000):
        log.record("axon", request(str(number)), answer(answered("btc", BTC)), 0.0)
    assert opened.read("SELECT count(*), min(CAST(caller AS INTEGER)) FROM requests") == [(1500, 3500)]
    assert opened.read("SELECT count(*) FROM answers") == [(1500,)]
    assert errors(opened.metrics, "store_full") == 0


def test_the_file_shrinks_and_is_easy_to_read(tmp_path: Path) -> None:
    opened = Opened(str(tmp_path))
    log = opened.log(retention_days=1)
    for _ in range(3000):
        log.record("axon", request("x" * 100), answer(answered("btc", BTC), answered("eth", ETH)), 0.0)
    log.store.flush()
    before = (tmp_path / FILE).stat().st_size + (tmp_path / f"{FILE}-wal").stat().st_size
    opened.clock.time += 86400 * 1.5
    log.record("serve", request("last"), answer(answered("btc", BTC)), 0.25)
    log.prune()
    log.close()
    assert (tmp_path / FILE).stat().st_size < 100_000 < before / 5
    connection = sqlite3.connect(tmp_path / FILE)
    connection.row_factory = sqlite3.Row
    (row,) = connection.execute("SELECT * FROM log ORDER BY id DESC LIMIT 10").fetchall()
    connection.close()
    assert {name: row[name] for name in ("answered", "asked_for", "caller", "asset", "point", "latency_s")} == {
        "answered": "2023-11-16 10:15:00",
        "asked_for": "2023-11-14 22:15:00",
        "caller": "last",
        "asset": "btc",
        "point": 100.0,
        "latency_s": 0.25,
    }


def test_a_restart_goes_on(tmp_path: Path) -> None:
    opened = Opened(str(tmp_path))
    opened.log().record("axon", request("before"), answer(answered("btc", BTC)), 0.0)
    opened.logs[-1].close()
    log = opened.log()
    log.record("axon", request("after"), answer(answered("btc", BTC)), 0.0)
    log.store.flush()
    opened.clock.time += HORIZON_S
    true = Prices(btc=hour(BEGIN, 100, 100))
    assert realise(log, true) == 1
    assert opened.read("SELECT caller, realised FROM log ORDER BY id") == [("before", 100.0), ("after", 100.0)]
    log.close()
    log.close()
    assert log.accuracy(24) == {}


def test_in_memory_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    opened = Opened("")
    log = opened.log()
    log.record("axon", request(), answer(answered("btc", BTC)), 0.0)
    assert opened.read("SELECT count(*) FROM requests") == [(1,)]
    log.close()
    assert list(tmp_path.iterdir()) == []


def test_flood_of_refused_requests_keeps_the_history_of_answered_ones(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "MOST_REQUESTS", 1000)
    monkeypatch.setattr(log_module, "MOST_IN_MEMORY", 1000)
    log = opened.log()
    for number in range(900):
        log.record("axon", request(str(number)), answer(answered("btc", BTC)), 0.0)
    log.store.flush()
    for number in range(6000):
        log.record("axon", request(f"refused {number}"), answer(refused={"": "no"}), 0.0)
        if number % 500 == 0:
            log.store.flush()
    log.prune()
    assert opened.read("SELECT count(*) FROM requests WHERE outcome = 'full'") == [(900,)]
    assert opened.read("SELECT count(*) FROM answers") == [(900,)]
    assert opened.read("SELECT count(*), max(id) > 6000 FROM requests WHERE outcome = 'none'") == [(100, 1)]
    assert opened.read("SELECT count(*) FROM refusals") == [(100,)]


def test_flood_of_refused_requests_leaves_the_queue_to_answered_ones(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = opened.log()
    monkeypatch.setattr(log.store, "_take", lambda: [])  # the disk is slow
    monkeypatch.setattr(store_module, "QUEUE_ROWS", 1000)
    for number in range(2000):
        log.record("axon", request(f"refused {number}"), answer(refused={"": "no"}), 0.0)
    log.record("axon", request("answered"), answer(answered("btc", BTC)), 0.0)
    monkeypatch.undo()
    assert opened.read("SELECT caller FROM requests WHERE outcome = 'full'") == [("answered",)]
    assert errors(opened.metrics, "store_full") >= 1900
