"""The path from request to answer, with every fault of its source and its model."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from world import EPOCH, LEVELS, Spy, quiet, use, virtual, walk, world

from precog_runtime import timestamps
from precog_runtime.forecast.default import DefaultModel
from precog_runtime.types import HORIZON_S, Forecast, Request

YEAR_2030 = "2030-01-01T00:00:00.000000Z"


@virtual
async def test_every_asset_is_answered_from_its_own_prices():
    async with world() as running:
        answer = await running.ask()
        assert answer.timestamp == int(running.now)
        assert list(answer.predictions()) == list(LEVELS)
        for asset, point in answer.predictions().items():
            low, high = answer.intervals()[asset]
            assert low < point < high
            assert point == pytest.approx(walk(asset, answer.timestamp), rel=0.002)
        assert not answer.refused


@virtual
async def test_a_forecast_sees_no_price_after_its_timestamp():
    async with world() as running:
        spy = use(running, Spy())
        asked = int(running.now) - 100
        await running.ask(asked)
        for _, timestamp, series in spy.shown:
            assert timestamp == asked
            assert (series.times[0], series.times[-1]) == (asked - spy.lookback_s, asked)
        assert len(spy.shown) == len(LEVELS)


def lookups(running):
    """How often the cache was asked."""
    value = running.runtime.metrics.registry.get_sample_value
    kinds = ({"result": result} for result in ("hit", "miss"))
    return sum(value("precog_cache_requests_total", kind) or 0 for kind in kinds)


@virtual
async def test_many_at_once_share_one_fetch_and_one_forecast_an_asset():
    async with world(quiet(patience_s=1.0)) as running:
        spy = use(running, Spy())
        await asyncio.sleep(30)
        running.market.latency_s, before = 0.15, running.market.fetches
        looked_up = lookups(running)
        answers = await asyncio.gather(*(running.ask() for _ in range(64)))
        assert running.market.fetches - before == 1
        assert len(spy.shown) == len(LEVELS)
        assert lookups(running) - looked_up == len(LEVELS)  # they also look for them once
        assert all(set(answer.assets) == set(LEVELS) and not answer.refused for answer in answers)
        assert all(one.age_s == 0 for answer in answers for one in answer.assets.values())


@virtual
async def test_what_was_answered_once_is_ready_for_the_next_without_a_fetch():
    async with world() as running:
        first, before = await running.ask(), running.market.fetches
        again = running.runtime.engine.ready(running.request(first.timestamp))
        assert again.hit
        assert again.predictions() == first.predictions()
        assert running.market.fetches == before


@virtual
async def test_a_first_request_for_one_asset_leaves_none_out_of_the_next():
    async with world() as running:
        at = int(running.now)
        assert list((await running.ask(at, ["btc"])).predictions()) == ["btc"]
        assert set((await running.ask(at)).predictions()) == set(LEVELS)


@virtual
async def test_a_timestamp_in_2030_is_refused_and_costs_the_next_nothing():
    async with world() as running:
        before = running.market.fetches
        refused = await running.ask(YEAR_2030)
        assert (refused.predictions(), refused.timestamp) == ({}, None)
        assert "in the future" in refused.refused[""]
        assert set((await running.ask()).predictions()) == set(LEVELS)
        assert running.market.fetches == before


@pytest.mark.parametrize("late_s", [179, 180, 210, 239])
@virtual
async def test_a_validator_that_asks_late_and_names_the_nearest_mark_is_answered(late_s):
    """Upstream's validator rounds the time of asking to the nearest mark, which from 150 s on is the next one."""
    async with world(quiet(mark_s=300, poll_s=5.0)) as running:
        await asyncio.sleep(late_s)
        now = int(running.now)
        named = round(now / 300) * 300
        assert named - now == 300 - late_s
        answer = await running.ask(timestamps.text(named))
        assert answer.timestamp == named
        assert {one.age_s for one in answer.assets.values()} == {0}
        assert {one.degraded for one in answer.assets.values()} == {""}
        for asset, point in answer.predictions().items():
            low, high = answer.intervals()[asset]
            assert low < point < high
            assert point == pytest.approx(walk(asset, now), rel=0.002)


@virtual
async def test_an_unknown_asset_loses_only_itself():
    async with world() as running:
        answer = await running.ask(None, ["btc", "nonsense", "eth"])
        assert list(answer.predictions()) == ["btc", "eth"]
        assert list(answer.refused) == ["nonsense"]


@virtual
async def test_an_asset_without_prices_loses_only_itself():
    async with world(filled=False) as running:
        running.market.only = {"btc"}
        await running.until(lambda: running.runtime.engine.ages()["btc"] < 2)
        answer = await running.ask()
        assert list(answer.predictions()) == ["btc"]
        assert answer.refused.keys() == {"eth", "tao_bittensor"}
        assert "there is no price" in answer.refused["eth"]


@pytest.mark.parametrize("known", [False, True], ids=["never there", "gone"])
@virtual
async def test_an_asset_that_the_source_has_no_longer_makes_nobody_wait(known):
    async with world(quiet(mark_s=300, poll_s=5.0), filled=False) as running:
        engine, mark = running.runtime.engine, EPOCH + 300
        running.market.only = set(LEVELS) if known else {"btc", "eth"}
        await running.until(lambda: engine.ages()["eth"] < 2)
        running.market.only = {"btc", "eth"}
        await asyncio.sleep(mark - running.now + 0.2)
        answer = engine.ready(running.request(mark))
        assert {one.degraded for asset, one in answer.assets.items() if asset != "tao_bittensor"} == {""}
        assert set(answer.assets) == (set(LEVELS) if known else {"btc", "eth"})
        if known:
            gone = answer.assets["tao_bittensor"]
            assert (gone.age_s, gone.degraded) == (mark - EPOCH, "prices are 300 s old")
        else:
            assert "there is no price" in answer.refused["tao_bittensor"]
            assert running.errors("no_data") == 1
        running.market.latency_s, before, began = 0.5, running.market.fetches, running.now
        for _ in range(20):
            await running.ask(mark)
        assert running.now - began == 0
        assert running.market.fetches == before
        await running.ask(None, ["tao_bittensor"])
        assert running.now - began == 0
        running.market.only, running.market.latency_s = None, 0.0
        await asyncio.sleep(6)
        answer = engine.ready(running.request(mark))
        assert {one.degraded for one in answer.assets.values()} == {""}
        assert set(answer.assets) == set(LEVELS)


@virtual
async def test_seconds_that_are_not_published_yet_are_not_asked_for_by_each_request():
    async with world(quiet(fresh_s=1.0)) as running:
        await asyncio.sleep(30)
        running.market.delay_s, running.market.latency_s, before = 3, 0.15, running.market.fetches
        answers = [
            *await asyncio.gather(*(running.ask() for _ in range(20))),
            *[await running.ask() for _ in range(20)],
        ]
        assert running.market.fetches - before == 1
        assert {one.age_s for answer in answers for one in answer.assets.values()} == {3}


@virtual
async def test_when_the_source_hangs_the_answer_comes_from_the_last_prices_with_their_age_told():
    async with world(quiet(patience_s=1.0)) as running:
        fresh = (await running.ask()).assets["btc"]
        await asyncio.sleep(290)
        running.market.latency_s = math.inf
        began = asyncio.get_running_loop().time()
        answer = await running.ask()
        assert asyncio.get_running_loop().time() - began <= 1.0
        stale = answer.assets["btc"]
        assert 289 <= stale.age_s <= 291
        assert stale.degraded == f"prices are {stale.age_s:.0f} s old"
        assert relative_width(stale.forecast) > relative_width(fresh.forecast) * 1.02
        assert running.errors("patience") + running.errors("source") >= 1


def relative_width(forecast):
    return (forecast.high - forecast.low) / forecast.point


@virtual
async def test_a_failing_source_is_counted_and_the_older_the_prices_the_wider_the_interval():
    async with world() as running:
        running.market.failing = True
        widths = []
        for _ in range(5):
            await asyncio.sleep(400)
            widths.append(relative_width((await running.ask()).assets["eth"].forecast))
        assert widths == sorted(widths)
        assert len(set(widths)) == 5
        assert running.errors("source") >= 5


@virtual
async def test_beyond_the_limit_of_age_there_is_no_answer_and_with_new_prices_there_is_one():
    async with world(quiet(max_age_s=600.0)) as running:
        running.market.failing = True
        await asyncio.sleep(650)
        answer = await running.ask()
        assert answer.predictions() == {}
        assert "s old; 600 s at most are used" in answer.refused["btc"]
        assert running.errors("no_data") == 3
        running.market.failing = False
        assert set((await running.ask()).predictions()) == set(LEVELS)


@pytest.mark.parametrize("deadline_s", [-1.0, 0.0, 0.1, 0.5, 3.0])
@virtual
async def test_no_answer_comes_after_its_deadline(deadline_s):
    async with world(quiet(patience_s=60.0)) as running:
        await asyncio.sleep(120)
        running.market.latency_s = 30.0
        began = asyncio.get_running_loop().time()
        answer = await running.ask(deadline_s=deadline_s)
        assert asyncio.get_running_loop().time() - began <= max(deadline_s, 0.0)
        assert set(answer.predictions()) == set(LEVELS)


@virtual
async def test_one_who_gives_up_takes_nothing_from_the_others():
    async with world() as running:
        await asyncio.sleep(30)
        running.market.latency_s = 0.5
        tasks = [asyncio.ensure_future(running.ask()) for _ in range(3)]
        await asyncio.sleep(0.2)
        tasks[0].cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(answers[0], asyncio.CancelledError)
        assert all(one.age_s == 0 for answer in answers[1:] for one in answer.assets.values())


@virtual
async def test_a_late_point_makes_a_new_forecast():
    async with world() as running:
        spy = use(running, Spy())
        at = int(running.now) + 4
        running.market.withheld = {at}
        await asyncio.sleep(5)
        first = (await running.ask(at)).assets["btc"]
        assert first.age_s == 1
        running.market.withheld = set()
        await asyncio.sleep(3)
        await running.ask()  # which is behind, and so has the window brought up to date
        second = (await running.ask(at)).assets["btc"]
        assert second.age_s == 0
        assert first.forecast.point == walk("btc", at - 1)
        assert second.forecast.point == walk("btc", at)
        assert [series.times[-1] for _, timestamp, series in spy.shown if timestamp == at][-1] == at


BROKEN = [
    (lambda: 1 / 0, "model failed: ZeroDivisionError: division by zero"),
    (lambda: Forecast(math.nan, 1.0, 2.0), "model failed: "),
    (lambda: Forecast(5.0, 6.0, 7.0), "model failed: "),
    (lambda: Forecast(-5.0, -6.0, -4.0), "model failed: "),
    (lambda: "up", "model failed: "),
    (lambda: None, "model failed: "),
]


@pytest.mark.parametrize(("forecast", "told"), BROKEN)
def test_a_model_that_fails_is_replaced_by_the_default_and_told(forecast, told):
    class Broken(Spy):
        def forecast(self, asset, timestamp, series):
            return forecast()

    @virtual
    async def test():
        async with world() as running:
            use(running, Broken())
            answer = await running.ask()
            for one in answer.assets.values():
                assert one.model == DefaultModel.name
                assert one.degraded.startswith(told)
            assert running.errors("model") == 3
            use(running, Spy())
            assert {one.degraded for one in (await running.ask()).assets.values()} == {""}

    test()


def test_a_model_that_is_too_slow_is_replaced_by_the_default_before_the_deadline():
    """In real time and a thread, as the model really blocks."""
    answered = threading.Event()

    class Slow(Spy):
        def forecast(self, asset, timestamp, series):
            answered.wait(20)
            return super().forecast(asset, timestamp, series)

    async def test():
        loop = asyncio.get_running_loop()
        slow = use(running, Slow())
        began = time.monotonic()
        at = int(running.now)
        hurried, patient = (asyncio.ensure_future(running.ask(at, deadline_s=each)) for each in (0.6, 9.0))
        answer = await hurried
        assert time.monotonic() - began < 5
        answered.set()
        assert {(one.model, one.degraded) for one in answer.assets.values()} == {(DefaultModel.name, "model too slow")}
        # Who has more time and asks for the same at the same moment waits for it.
        assert {one.model for one in (await patient).assets.values()} == {"spy"}
        # It goes on, and what it says is kept for the next.
        await running.until(lambda: len(slow.shown) == len(LEVELS), within_s=20)
        await loop.run_in_executor(None, int)
        assert {one.model for one in (await running.ask(at)).assets.values()} == {"spy"}

    async def open_and_test():
        nonlocal running
        with ThreadPoolExecutor(3) as threads:
            async with world(executor=threads) as running:
                await test()

    running = None
    asyncio.run(open_and_test())


@virtual
async def test_the_log_has_each_request_and_later_what_came_true():
    async with world(quiet(poll_s=60.0)) as running:
        asked = await running.ask(None, ["btc", "nonsense"])
        log = running.runtime.log
        log.store.flush()
        await asyncio.sleep(HORIZON_S + 200)
        log.store.flush()
        [((asset, model), figures)] = log.accuracy(24).items()
        assert (asset, model, figures.answers) == ("btc", DefaultModel.name, 1)
        came_true = walk("btc", asked.timestamp + HORIZON_S)
        assert figures.error == pytest.approx(abs(asked.predictions()["btc"] - came_true) / came_true)


@virtual
async def test_a_request_is_counted_by_front_and_outcome():
    async with world() as running:
        engine = running.runtime.engine
        await engine.answer(running.request(), "serve")
        await engine.answer(running.request(None, ["btc", "nonsense"]), "serve")
        await engine.answer(running.request(YEAR_2030), "serve")
        for outcome in ("full", "partial", "none"):
            labels = {"front": "serve", "outcome": outcome}
            assert (
                running.runtime.metrics.registry.get_sample_value("precog_request_duration_seconds_count", labels) == 1
            )


@virtual
async def test_garbage_between_good_prices_changes_no_answer():
    async def widths(price):
        async with world(price=price) as running:
            return {a: relative_width(one.forecast) for a, one in (await running.ask()).assets.items()}

    def spiked(asset, second):
        return walk(asset, second) * (1000.0 if second % 211 == 0 else 1.0)

    clean, dirty = await widths(walk), await widths(spiked)
    for asset, width in clean.items():
        assert dirty[asset] == pytest.approx(width, rel=0.2)


@virtual
async def test_ready_from_another_thread_while_the_market_moves():
    """The hot path is called from the axon's thread: its prices are those of the second that it tells, to the cent."""
    async with world(quiet(poll_s=0.5, mark_s=300)) as running:
        use(running, Spy())
        await asyncio.sleep(2)
        engine = running.runtime.engine
        stop, wrong, seconds = [], [], []
        now = Request(None, tuple(LEVELS), math.inf, "a thread")

        def hammer():
            while not stop:
                time.sleep(0)  # or the other threads would wait for their turn
                answer = engine.ready(now)
                if answer is not None:
                    seconds.append(answer.timestamp)
                    wrong.extend(
                        (asset, answer.timestamp, one)
                        for asset, one in answer.assets.items()
                        if one.forecast.point != walk(asset, answer.timestamp - int(one.age_s))
                    )

        with ThreadPoolExecutor(2) as threads:
            done = [threads.submit(hammer) for _ in range(2)]
            for number in range(120):
                running.market.delay_s = number % 3
                await asyncio.sleep(0.25)
                await running.ask()
                time.sleep(0.002)  # in which no virtual time passes, and the threads get their turn
            stop.append(True)
            for future in done:
                future.result()
        assert len(set(seconds)) >= 20
        assert not wrong


@pytest.mark.parametrize("fresh_s", [2.0, 300.0])
@virtual
async def test_what_was_prepared_ahead_tells_the_age_of_its_prices_at_the_moment_of_the_answer(fresh_s):
    """Prices stop 2 s before a mark whose answer is prepared; `ready` has to tell it at and after the mark."""
    async with world(quiet(fresh_s=fresh_s)) as running:
        engine, mark = running.runtime.engine, int(running.now) + 2
        await running.ask(mark - 2)
        running.market.failing = True
        await engine.prepare(mark)
        ahead = engine.ready(running.request(mark))
        assert {one.age_s for one in ahead.assets.values()} == {0}
        for later_s, age_s in [(1.0, 1), (1.0, 2), (60.0, 2)]:
            await asyncio.sleep(later_s)
            answer = engine.ready(running.request(mark), "serve")
            assert {one.age_s for one in answer.assets.values()} == {age_s}, later_s
            assert {one.degraded for one in answer.assets.values()} == {""}
        running.runtime.log.store.flush()
        rows = running.runtime.log.store.query("SELECT age_s FROM answers WHERE asset = 'btc' ORDER BY request_id", ())
        assert [age for (age,) in rows] == [0, 0, 1, 2, 2]
        value = running.runtime.metrics.registry.get_sample_value
        assert value("precog_answer_age_seconds_sum", {"asset": "btc"}) == 5


@virtual
async def test_an_answer_that_grows_too_old_in_the_table_is_none_any_more():
    async with world(quiet(fresh_s=300.0, max_age_s=30.0)) as running:
        engine, mark = running.runtime.engine, int(running.now) + 50
        running.market.failing = True
        await engine.prepare(mark)
        await asyncio.sleep(20)
        assert 20 <= engine.ready(running.request(mark)).assets["btc"].age_s <= 22
        await asyncio.sleep(40)
        answer = engine.ready(running.request(mark))
        assert (answer.assets, set(answer.refused)) == ({}, set(LEVELS))
        assert running.errors("no_data") == len(LEVELS)
