"""Many requests for different timestamps at once: memory stays as it was, and prepared answers are not held up."""

from __future__ import annotations

import asyncio
import statistics
import time
from concurrent.futures import Future

import aiohttp
import psutil
import pytest
from processes import call, running, wait_until
from world import EPOCH, LEVELS, InlineExecutor, Spy, quiet, use, virtual, walk, world

from precog_runtime import forecaster
from precog_runtime.forecaster import MOST_WAITING, TOO_MANY, TOO_SLOW

REQUESTS, AT_ONCE = 3500, 200
LOOKBACK_S = 21600  # the default model's
GROWTH = 1.2  # of the memory before; what is kept of a request, a row of the log, has some hundred bytes
DELAY = 5.0  # times the latency under as many requests that are all prepared


BASES = [
    pytest.param("newest", 300, id="newest prices"),
    pytest.param("mark", 300, id="marks", marks=pytest.mark.full),
    pytest.param("mark", 0, id="no marks", marks=pytest.mark.full),
]


@pytest.mark.parametrize(("basis", "mark_s"), BASES)
def test_flood_of_timestamps_takes_no_memory_and_delays_no_prepared_answer(basis, mark_s):
    with (
        running("simulate-market", "--port", 0, "--rate-limit", 0, "--regime", "calm") as market,
        running(
            *("serve", "--port", 0, "--api-url", market.url, "--api-requests", 1000, "--mark-s", mark_s),
            *("--price-basis", basis),
            *("--window-s", LOOKBACK_S + 3600, "--max-past-s", LOOKBACK_S, "--log-level", "error"),
        ) as serve,
    ):
        early = {"timestamp": int(time.time()) - LOOKBACK_S + 60}
        wait_until(lambda: call(f"{serve.url}/predict", early)[0] == 200)
        now = int(time.time())
        prepared = asyncio.run(flood(serve.url, [now] * REQUESTS))
        process = psutil.Process(serve.process.pid)
        before = process.memory_info().rss
        distinct = asyncio.run(flood(serve.url, [now - 4000 - number for number in range(REQUESTS)]))
        assert process.memory_info().rss < before * GROWTH
        assert statistics.median(distinct) < statistics.median(prepared) * DELAY


async def flood(url, timestamps):
    """Return the latencies of the last timestamp's answers while all of them are asked for."""
    connector = aiohttp.TCPConnector(limit=AT_ONCE)
    async with aiohttp.ClientSession(connector=connector) as many, aiohttp.ClientSession() as one:

        async def ask(session, timestamp):
            began = time.perf_counter()
            async with session.post(f"{url}/predict", json={"timestamp": timestamp}) as response:
                assert (response.status, set((await response.json())["predictions"])) == (200, set(LEVELS))
            return time.perf_counter() - began

        hot = int(time.time()) // 300 * 300
        await ask(one, hot)
        asking = [asyncio.ensure_future(ask(many, timestamp)) for timestamp in timestamps]
        latencies = []
        while not all(each.done() for each in asking):
            latencies.append(await ask(one, hot))
            await asyncio.sleep(0.01)
        await asyncio.gather(*asking)
        return latencies


class Held(InlineExecutor):
    """Runs nothing until it is let go."""

    def __init__(self):
        self.held = []
        self.holding = True

    def submit(self, fn, /, *args, **kwargs):
        if not self.holding:
            return super().submit(fn, *args, **kwargs)
        future = Future()
        self.held.append((future, fn, args))
        return future

    def go(self):
        self.holding = False
        for future, fn, args in self.held:
            if future.set_running_or_notify_cancel():
                future.set_result(fn(*args))
        self.held.clear()


@virtual
async def test_flood_queues_no_more_than_its_bound_and_the_rest_costs_one_fallback_an_asset(monkeypatch):
    executor = Held()
    async with world(executor=executor) as running:
        spy = use(running, Spy())
        fallback = Spy()
        running.runtime.engine._forecaster.fallbacks = (fallback,)
        copies, series = [], running.runtime.market.series
        monkeypatch.setattr(running.runtime.market, "series", lambda *args: copies.append(args) or series(*args))
        now = int(running.now)
        asking = [asyncio.ensure_future(running.ask(now - number)) for number in range(1000)]
        done, waiting = await asyncio.wait(asking, timeout=1.0)
        assert (len(waiting), len(done)) == (MOST_WAITING, 1000 - MOST_WAITING)
        refused = [one for each in done for one in each.result().assets.values()]
        assert {one.degraded for one in refused} == {TOO_MANY}
        assert len(refused) == len(done) * len(LEVELS)
        assert {one.forecast.point for one in refused} == {walk(asset, now) for asset in LEVELS}
        assert len(fallback.shown) == len(LEVELS)
        assert len(copies) <= len(LEVELS) + 8  # the fallback's, and those of the models at work
        assert running.errors("busy") == len(refused)
        executor.go()
        answers = await asyncio.gather(*waiting)
        assert {one.degraded for each in answers for one in each.assets.values()} <= {""}
        assert len(spy.shown) == MOST_WAITING * len(LEVELS)


@virtual
async def test_flood_does_not_keep_the_next_marks_forecast_from_being_made():
    executor = Held()
    async with world(executor=executor) as running:
        use(running, Spy())
        now = int(running.now)
        asking = [asyncio.ensure_future(running.ask(now - number)) for number in range(200)]
        await asyncio.sleep(0.5)
        preparing = asyncio.ensure_future(running.runtime.engine.prepare(now + 2))
        await asyncio.sleep(0.1)
        executor.go()
        await preparing
        ready = running.runtime.engine.ready(running.request(now + 2))
        assert {one.degraded for one in ready.assets.values()} == {""}
        await asyncio.gather(*asking)


@virtual
async def test_forecast_that_waited_for_its_turn_is_made_from_the_prices_of_that_moment():
    executor = Held()
    async with world(quiet(poll_s=1.0, max_future_s=60.0), executor=executor) as running:
        spy, mark = use(running, Spy()), int(running.now) + 3
        places = running.runtime.settings.max_workers or 4
        ahead = [asyncio.ensure_future(running.ask(EPOCH - number)) for number in range(places + 4)]
        await asyncio.sleep(0.5)
        asked = asyncio.ensure_future(running.ask(mark))
        await asyncio.sleep(4.5)
        executor.go()
        answer = await asked
        assert answer.predictions() == {asset: walk(asset, mark) for asset in LEVELS}
        shown = [series.times[-1] for _, timestamp, series in spy.shown if timestamp == mark]
        assert shown == [mark] * len(LEVELS)
        again = running.runtime.engine.ready(running.request(mark))
        assert again.predictions() == answer.predictions()
        await asyncio.gather(*ahead)


@virtual
async def test_request_whose_turn_never_comes_gets_the_fallback_and_leaves_nothing_queued():
    executor = Held()
    async with world(quiet(deadline_s=2.0), executor=executor) as running:
        use(running, Spy())
        now = int(running.now)
        answers = await asyncio.gather(*(running.ask(now - number, deadline_s=2.0) for number in range(30)))
        assert {one.degraded for each in answers for one in each.assets.values()} == {TOO_SLOW}
        await asyncio.sleep(5)
        made = running.runtime.engine._forecaster
        assert (made._queued, made._making) == ({}, {})


@virtual
async def test_seconds_between_marks_are_answered_by_the_nearest_marks_forecast():
    async with world(quiet(mark_s=300, poll_s=5.0)) as running:
        spy = use(running, Spy())
        await asyncio.sleep(EPOCH + 300 - running.now + 20)
        spy.shown.clear()
        now = int(running.now)
        answers = {offset: await running.ask(now - offset) for offset in range(3000)}
        shown = {timestamp for _, timestamp, _ in spy.shown}
        assert {each for each in shown if each < now - 10} <= set(range(EPOCH - 3000, now, 300))
        assert len(shown) <= 10 + 12
        assert all(answers[offset].timestamp == now - offset for offset in answers)
        assert answers[1000].predictions() == answers[1001].predictions()


def test_queue_has_room_for_all_that_can_be_named_by_the_defaults():
    from precog_runtime.requests import PRESENT_S

    defaults = quiet(mark_s=300)
    marks = (defaults.max_past_s + defaults.max_future_s) // defaults.mark_s + 2
    assert marks + 2 * PRESENT_S + 1 <= forecaster.MOST_WAITING
