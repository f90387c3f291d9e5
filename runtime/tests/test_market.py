from __future__ import annotations

import asyncio
import gc
import math
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from made_api import BASES, START, Api, Fault, price, raw, status

from precog_runtime.errors import RateLimited, SourceError
from precog_runtime.market import budget
from precog_runtime.market import market as module
from precog_runtime.market.coinmetrics import CoinMetrics
from precog_runtime.market.market import Market, believed, gap, lagging
from precog_runtime.metrics import Metrics
from precog_runtime.settings import Settings
from precog_runtime.types import Series

ASSETS = ("btc", "eth", "tao_bittensor")
YEAR_2030 = 1_893_456_000


class Clock:
    def __init__(self) -> None:
        self.second = float(START)

    def __call__(self) -> float:
        return self.second


class Source:
    """A source in process: `rows` is what is published.

    :ivar faults: the next calls raise these, one each; None lets one through.
    :ivar calls: the ranges that were asked for.
    :ivar gate: what calls wait for.
    """

    def __init__(self) -> None:
        self.rows: dict[str, dict[int, float]] = {asset: {} for asset in ASSETS}
        self.faults: deque[Exception | None] = deque()
        self.calls: list[tuple[int, int]] = []
        self.gate: asyncio.Event | None = None

    def publish(self, start: int, end: int, assets: Sequence[str] = ASSETS) -> None:
        for asset in assets:
            self.rows[asset].update({second: price(asset, second) for second in range(start, end + 1)})

    async def fetch(self, assets: Sequence[str], start: int, end: int, timeout_s: float) -> Mapping[str, Series]:
        self.calls.append((start, end))
        await (self.gate.wait() if self.gate else asyncio.sleep(0))
        fault = self.faults.popleft() if self.faults else None
        if fault is not None:
            raise fault
        return {asset: made(_between(self.rows[asset], start, end)) for asset in assets}

    async def close(self) -> None:
        pass


class Made(NamedTuple):
    market: Market
    source: Source
    now: Clock
    metrics: Metrics


class MadeOverHttp(NamedTuple):
    market: Market
    api: Api
    now: Clock


def with_source(work: Callable[[Made], Awaitable[None]], **changed: Any) -> None:
    async def whole() -> None:
        source, now, metrics = Source(), Clock(), Metrics()
        market = Market(source, Settings(**{"api_requests": 1000, **changed}), metrics, now)
        try:
            await work(Made(market, source, now, metrics))
        finally:
            await market.close()

    asyncio.run(asyncio.wait_for(whole(), 20))


def with_api(work: Callable[[MadeOverHttp], Awaitable[None]], **changed: Any) -> None:
    async def whole() -> None:
        async with Api() as api:
            now, metrics = Clock(), Metrics()
            settings = Settings(api_url=api.url, **{"api_period_s": 0.5, "api_timeout_s": 2.0, **changed})
            source = CoinMetrics(settings, metrics)
            market = Market(source, settings, metrics, now)
            try:
                await work(MadeOverHttp(market, api, now))
            finally:
                await market.close()
                await source.close()

    asyncio.run(asyncio.wait_for(whole(), 20))


def made(rows: Mapping[int, float]) -> Series:
    return Series(np.array(list(rows), np.int64), np.array(list(rows.values())))


def shown(series: Series) -> dict[int, float]:
    return dict(zip(series.times.tolist(), series.prices.tolist(), strict=True))


def _between(rows: Mapping[int, float], start: int, end: int) -> dict[int, float]:
    return {time: rows[time] for time in range(start, end + 1) if time in rows}


def errors(metrics: Metrics, kind: str) -> float:
    return metrics.registry.get_sample_value("precog_errors_total", {"kind": kind}) or 0.0


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.002)


def test_one_fetch_for_a_hundred_who_wait() -> None:
    async def work(made: MadeOverHttp) -> None:
        made.api.delay_s = 0.1
        await asyncio.gather(*(made.market.refresh(START, 5) for _ in range(100)))
        assert len(made.api.queries) == 1
        for asset in ASSETS:
            assert made.market.windows[asset].newest == START
            assert made.market.age(asset, START) == 0
        await asyncio.gather(*(made.market.refresh(START - each, 5) for each in range(100)))
        assert len(made.api.queries) == 1  # what is there is not asked for

    with_api(work)


def test_who_is_cancelled_does_not_cancel_the_fetch() -> None:
    async def work(made: MadeOverHttp) -> None:
        made.api.delay_s = 0.1
        waiters = [asyncio.ensure_future(made.market.refresh(START, 5)) for _ in range(100)]
        await until(lambda: len(made.api.queries) == 1)
        for waiter in waiters[:-1]:
            waiter.cancel()
        await asyncio.gather(*waiters, return_exceptions=True)
        assert all(waiter.cancelled() for waiter in waiters[:-1])
        assert waiters[-1].exception() is None
        assert made.market.windows["btc"].newest == START
        assert len(made.api.queries) == 1

    with_api(work)


def test_the_fetch_goes_on_when_all_have_given_up() -> None:
    async def work(made: MadeOverHttp) -> None:
        made.api.delay_s = 0.1
        waiters = [asyncio.ensure_future(made.market.refresh(START, 0.02)) for _ in range(50)]
        waiters += [asyncio.ensure_future(made.market.refresh(START, 5)) for _ in range(50)]
        await until(lambda: len(made.api.queries) == 1)
        for waiter in waiters[50:]:
            waiter.cancel()
        told = await asyncio.gather(*waiters, return_exceptions=True)
        assert [type(each) for each in told[:50]] == [SourceError] * 50
        await until(lambda: made.market.windows["btc"].newest == START)
        assert len(made.api.queries) == 1

    with_api(work)


def test_a_failed_fetch_fails_for_all_and_the_next_tries_anew() -> None:
    async def work(made: MadeOverHttp) -> None:
        made.api.faults.append(status(404))
        told = await asyncio.gather(*(made.market.refresh(START, 5) for _ in range(100)), return_exceptions=True)
        assert len(made.api.queries) == 1
        assert {type(each) for each in told} == {SourceError}
        await made.market.refresh(START, 5)
        assert made.market.windows["btc"].newest == START
        assert len(made.api.queries) == 2

    with_api(work)


def test_the_shared_error_does_not_grow_with_those_who_get_it() -> None:
    async def work(made: Made) -> None:
        made.source.faults.append(SourceError("broken"))
        told = await asyncio.gather(*(made.market.refresh(START, 5) for _ in range(100)), return_exceptions=True)
        frames, link = 0, told[-1].__traceback__  # type: ignore[union-attr]
        while link is not None:
            frames, link = frames + 1, link.tb_next
        assert frames < 10

    with_source(work)


def test_a_failure_that_nobody_waits_for_is_not_reported_as_a_bug(caplog: pytest.LogCaptureFixture) -> None:
    async def work(made: Made) -> None:
        made.source.gate = asyncio.Event()
        made.source.faults.append(SourceError("broken"))
        waiter = asyncio.ensure_future(made.market.refresh(START, 5))
        await until(lambda: len(made.source.calls) == 1)
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
        made.source.gate.set()
        await until(lambda: made.market._flight is None)
        gc.collect()

    with_source(work)
    assert "never retrieved" not in caplog.text


@pytest.mark.parametrize(("later", "fetches"), [(1, 1), (2, 1), (3, 2)])
def test_who_wants_a_much_later_second_than_the_shared_fetch_brings_gets_another(later: int, fetches: int) -> None:
    """One that is not later by more than `fresh_s` is served by the fetch under way: another would double the wait."""

    async def work(made: MadeOverHttp) -> None:
        made.api.delay_s = 0.1
        early = asyncio.ensure_future(made.market.refresh(START, 5))
        await until(lambda: len(made.api.queries) == 1)
        made.now.second += later
        await asyncio.gather(*(made.market.refresh(START + later, 5) for _ in range(50)), early)
        assert made.market.windows["btc"].newest == (START if fetches == 1 else START + later)
        assert len(made.api.queries) == fetches

    with_api(work)


def test_what_is_not_published_yet_is_not_asked_for_at_once_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 2.0)  # so that all calls come within it

    async def work(made: MadeOverHttp) -> None:
        made.api.published = START - 3
        await made.market.refresh(START, 5)
        assert made.market.windows["btc"].newest == START - 3
        for _ in range(20):
            await asyncio.gather(*(made.market.refresh(START, 5) for _ in range(20)))
        assert len(made.api.queries) == 1
        made.api.published = START
        await asyncio.sleep(module.PAUSE_S)
        await made.market.refresh(START, 5)
        assert made.market.windows["btc"].newest == START
        assert len(made.api.queries) == 2

    with_api(work)


def test_the_pause_keeps_within_the_rate_limit() -> None:
    async def work(made: MadeOverHttp) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        # More is published all the time, and always the newest is lacking.
        while len(made.api.queries) < 3:
            made.now.second += 0.02
            made.api.published = int(made.now.second) - 1
            # With a shorter pause the budget would be used up, and this would be refused.
            await made.market.refresh(int(made.now.second), 5)
            await asyncio.sleep(0.02)
        assert loop.time() - began >= 2.0

    with_api(work, api_requests=2, api_period_s=2.0)


def test_all_rows_of_all_assets_are_kept() -> None:
    # Upstream's cache keeps one row a second over all assets: two thirds are lost.
    async def work(made: MadeOverHttp) -> None:
        await made.market.fill(3600, 15)
        for asset in ASSETS:
            wanted = {second: price(asset, second) for second in range(START - 3599, START + 1)}
            assert shown(made.market.series(asset, 0, 2 * START)) == wanted

    with_api(work)


def test_no_asset_freezes_under_updates_every_few_seconds() -> None:
    # In upstream's cache ETH and TAO freeze under updates every 1-4 s, and vanish after an hour.
    async def work(made: Made) -> None:
        made.source.publish(START - 600, START + 2 * 3600)
        await made.market.fill(600, 5)
        steps = np.random.default_rng(1).integers(1, 5, 1500)
        for step in steps.tolist():
            made.now.second += step
            second = int(made.now.second)
            await made.market.refresh(second, 5)
            assert [made.market.age(asset, second) for asset in ASSETS] == [0.0] * 3
        for asset in ASSETS:
            first = START - 599
            assert len(made.market.series(asset, 0, 2 * START)) == int(made.now.second) - first + 1

    with_source(work)


def test_a_timestamp_in_2030_empties_nothing() -> None:
    async def work(made: MadeOverHttp) -> None:
        await made.market.refresh(START, 5)
        before = {asset: shown(made.market.series(asset, 0, START)) for asset in ASSETS}
        versions = [made.market.version(asset, START - 60, START) for asset in ASSETS]
        changes = made.market.changes
        for second in (YEAR_2030, 10**12, -YEAR_2030, 10**30):
            assert len(made.market.series("btc", second, second + 3600)) == 0
            made.market.version("btc", second, second + 3600)
            assert made.market.price("btc", second) is None
        assert made.market.age("btc", YEAR_2030) == YEAR_2030 - START
        assert made.market.age("btc", -YEAR_2030) == math.inf
        await made.market.refresh(YEAR_2030, 5)
        assert made.api.queries[-1]["end_time"] == "2026-11-23T20:02:30.000000Z"  # max_future_s
        made.api.faults.append(raw(b'{"data":[{"asset":"btc","time":"2030-01-01T00:00:00Z","ReferenceRateUSD":"1"}]}'))
        made.now.second += 151
        made.api.published = 0
        await made.market.refresh(START + 151, 5)
        assert {asset: shown(made.market.series(asset, 0, START)) for asset in ASSETS} == before
        assert [made.market.version(asset, START - 60, START) for asset in ASSETS] == versions
        assert made.market.windows["btc"].newest == START + 150
        assert changes < made.market.changes

    with_api(work)


@hypothesis_settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 5),
            st.dictionaries(st.tuples(st.sampled_from(ASSETS), st.integers(0, 9)), st.booleans(), max_size=20),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_late_points_and_corrections_arrive(steps: list[tuple[int, dict[tuple[str, int], bool]]]) -> None:
    """Whatever is published or corrected within OVERLAP_S of the newest is in the window after the next refresh."""

    async def work(made: Made) -> None:
        made.source.publish(START - 20, START)
        await made.market.refresh(START, 5)
        for step, changed in steps:
            made.now.second += step
            newest = int(made.now.second)
            for (asset, back), correction in changed.items():
                second = newest - step - back
                made.source.rows[asset][second] = price(asset, second) * (1.01 if correction else 1.0)
            for asset in ASSETS:
                made.source.rows[asset][newest] = price(asset, newest)
            await made.market.refresh(newest, 5)
            for asset in ASSETS:
                assert shown(made.market.series(asset, START - 20, newest)) == _between(
                    made.source.rows[asset], START - 20, newest
                )
            changes = made.market.changes
            made.market._quiet_until = 0.0
            made.source.calls.clear()
            await made.market._update(newest)
            assert made.market.changes == changes  # the same again is no change

    with_source(work)


def test_a_late_point_is_a_change() -> None:
    async def work(made: Made) -> None:
        made.source.publish(START - 20, START)
        del made.source.rows["eth"][START - 2]
        await made.market.refresh(START, 5)
        version, changes = made.market.version("eth", START - 60, START), made.market.changes
        made.source.publish(START - 2, START + 1)
        made.now.second += 1
        await made.market.refresh(START + 1, 5)
        assert made.market.price("eth", START - 2) == price("eth", START - 2)
        assert made.market.version("eth", START - 60, START) != version
        assert made.market.changes == changes + 3

    with_source(work)


def test_an_asset_that_is_stuck_makes_no_ever_longer_fetch_and_is_mended_when_it_comes_back() -> None:
    async def work(made: Made) -> None:
        made.source.publish(START - 600, START)
        await made.market.fill(600, 5)
        for _ in range(200):
            made.source.publish(int(made.now.second) + 1, int(made.now.second) + 10, ASSETS[:2])
            made.now.second += 10
            made.market._quiet_until = 0.0
            await made.market.refresh(int(made.now.second), 5)
            assert made.market.age("btc", int(made.now.second)) == 0
            start, end = made.source.calls[-1]
            assert end - start < module.CATCH_UP_S
        assert made.market.age("tao_bittensor", int(made.now.second)) == 2000
        made.source.publish(START, int(made.now.second) + 1)
        made.now.second += 1
        made.market._quiet_until = 0.0
        await made.market.refresh(int(made.now.second), 5)
        assert made.market.age("tao_bittensor", int(made.now.second)) == 0
        await until(lambda: len(made.market.series("tao_bittensor", START, 2 * START)) == 2002)

    with_source(work)


def test_an_asset_that_is_absent_holds_up_no_fetch_for_the_others() -> None:
    async def work(made: Made) -> None:
        for second in range(START, START + 5):
            made.source.publish(START - 20, second, ASSETS[:2])
            made.now.second = second
            for _ in range(3):
                await made.market.refresh(second, 5)
            assert made.market.absent == {"tao_bittensor"}
            assert made.market.age("btc", second) == 0
        assert len(made.source.calls) == 5
        made.source.publish(START - 20, START + 5)
        made.now.second += 1
        await made.market.refresh(START + 5, 5)
        assert made.market.absent == set()
        assert made.market.age("tao_bittensor", START + 5) == 0

    with_source(work)


def test_after_an_outage_the_newest_come_first_and_the_rest_behind() -> None:
    async def work(made: Made) -> None:
        made.source.publish(START - 600, START + 9000)
        await made.market.fill(600, 5)
        made.now.second += 9000
        made.source.calls.clear()
        made.source.faults.extend([None, SourceError("still shaky")])
        await made.market.refresh(START + 9000, 5)
        assert made.source.calls[0] == (START + 9000 - module.CATCH_UP_S + 1, START + 9000)
        assert made.market.age("btc", START + 9000) == 0
        await until(lambda: errors(made.metrics, "source") == 1)
        assert len(made.market.series("btc", START, START + 9000)) == module.CATCH_UP_S + 1
        made.source.publish(START + 9001, START + 9001)
        made.now.second += 1
        await made.market.refresh(START + 9001, 5)
        for asset in ASSETS:
            await until(lambda asset=asset: len(made.market.series(asset, START, START + 9001)) == 9002)  # type: ignore[misc]
        assert len(made.source.calls) <= 1 + 1 + 1 + 3  # three pages for what was lacking of all assets

    with_source(work)


def test_what_is_mended_waits_for_its_turn_and_leaves_budget() -> None:
    """It is begun by an update, which is urgent: one that finds the budget used up fails at once."""
    told: list[tuple[bool, bool]] = []

    async def work(made: Made) -> None:
        made.source.publish(START - 600, START + 9000)
        await made.market.fill(600, 5)
        fetch = made.source.fetch

        async def spied(assets: Sequence[str], start: int, end: int, timeout_s: float) -> Mapping[str, Series]:
            told.append((budget.urgent.get(), budget.background.get()))
            return await fetch(assets, start, end, timeout_s)

        made.source.fetch = spied  # type: ignore[method-assign]
        made.now.second += 9000
        await made.market.refresh(START + 9000, 5)
        await until(lambda: len(made.market.series("eth", START, START + 9000)) == 9001)

    with_source(work)
    assert told[0] == (True, False)
    assert told[1:] == [(False, True)] * 3


@pytest.mark.parametrize(
    ("newest", "wanted"),
    [
        ({"btc": None, "eth": None}, set()),
        ({"btc": 1000, "eth": None}, {"eth"}),
        ({"btc": 1000, "eth": 1000 - module.LAGGING_S}, set()),
        ({"btc": 1000, "eth": 1000 - module.LAGGING_S - 1}, {"eth"}),
        ({"btc": 5}, set()),
    ],
)
def test_an_asset_far_behind_the_others_is_lagging(newest: dict[str, int | None], wanted: set[str]) -> None:
    assert lagging(newest) == wanted


@pytest.mark.parametrize(
    ("lacking", "wanted"),
    [
        ([[]], None),
        ([[40]], (40, 40)),
        ([[40, 41, 50]], (40, 50)),
        ([[40], [60, 61]], (40, 61)),
        ([[0, 1]], None),  # before the first price there is not
        ([[88]], (88, 88)),
        ([[90]], None),  # comes with the next refresh
        ([[88, 90, 99]], (88, 88)),
        ([range(100)], None),
        ([range(99)], None),
        ([range(100), [7]], (7, 7)),
    ],
)
def test_a_gap_is_what_lacks_between_prices(lacking: list[list[int]], wanted: tuple[int, int] | None) -> None:
    assert gap([np.array(sorted({*range(100)} - {*each}), np.int64) for each in lacking]) == wanted


def test_a_look_for_gaps_fetches_only_where_there_is_one() -> None:
    async def work(made: Made) -> None:
        made.source.publish(START - 600, START)
        del made.source.rows["eth"][START - 50], made.source.rows["btc"][START - 20]
        await made.market.fill(600, 5)
        made.source.calls.clear()
        made.market.look_for_gaps(15)
        await asyncio.sleep(0.01)
        assert made.source.calls == []
        made.source.publish(START - 600, START)
        made.market.look_for_gaps(300)
        await until(lambda: made.market.price("eth", START - 50) is not None)
        assert made.source.calls == [(START - 50, START - 20)]
        assert made.market.price("btc", START - 20) == price("btc", START - 20)
        made.market.look_for_gaps(300)
        await asyncio.sleep(0.01)
        assert len(made.source.calls) == 1

    with_source(work)


def test_fill_goes_backwards_a_page_at_a_time_and_not_twice() -> None:
    async def work(made: Made) -> None:
        made.source.publish(START - 86400, START + 100)
        await made.market.fill(3600, 5)
        assert made.source.calls == [(START - 3332, START), (START - 3599, START - 3333)]
        made.now.second += 50
        await made.market.fill(20_000, 5)
        assert made.source.calls[2][1] == START - 3600
        assert made.source.calls[-1][0] == START + 50 - 19_999
        assert all(end - start < 3334 for start, end in made.source.calls)
        calls = len(made.source.calls)
        await made.market.fill(20_000, 5)
        assert len(made.source.calls) == calls
        assert len(made.market.series("eth", 0, START)) == 19_950
        await made.market.fill(10**9, 5)
        assert len(made.market.series("eth", 0, START)) == 86_350
        assert min(made.source.calls)[0] == START + 50 - 86_399

    with_source(work)


def test_a_fill_that_fails_half_way_goes_on_there() -> None:
    async def work(made: Made) -> None:
        made.source.publish(START - 10_000, START)
        broken = SourceError("broken")
        failing = made.source.fetch

        async def fetch(assets: Sequence[str], start: int, end: int, timeout_s: float) -> Mapping[str, Series]:
            if len(made.source.calls) == 1:
                made.source.faults.append(broken)
            return await failing(assets, start, end, timeout_s)

        made.source.fetch = fetch  # type: ignore[method-assign]
        with pytest.raises(SourceError, match="broken"):
            await made.market.fill(9000, 5)
        await made.market.fill(9000, 5)
        assert len(made.market.series("btc", 0, START)) == 9000
        assert [start for start, _ in made.source.calls].count(START - 3332) == 1

    with_source(work)


def test_the_rate_limit_is_met_once_until_it_ends() -> None:
    async def limited(made: Made) -> RateLimited:
        with pytest.raises(RateLimited) as refused:
            await made.market.refresh(START, 5)
        return refused.value

    async def work(made: Made) -> None:
        made.source.publish(START - 100, START)
        made.source.faults.extend([RateLimited("not now", 2), RateLimited("not now", 1e9)])
        told = [await limited(made) for _ in range(64)]
        assert len(made.source.calls) == 1
        assert all(0 < one.retry_after_s <= 2 for one in told)
        await asyncio.sleep(told[-1].retry_after_s)
        # However long a source of the operator's own says.
        await limited(made)
        assert 59 < (await limited(made)).retry_after_s <= 60
        assert len(made.source.calls) == 2

    with_source(work)


def test_fill_waits_for_the_rate_limit_where_there_is_time() -> None:
    async def work(made: Made) -> None:
        made.source.publish(START - 10_000, START)
        made.source.faults.extend([RateLimited("not now", 0.01)] * 3)
        await made.market.fill(600, 5)
        assert len(made.market.series("btc", 0, START)) == 600
        made.source.faults.append(RateLimited("not today", 3600))
        with pytest.raises(RateLimited, match="not today"):
            await made.market.fill(1200, 5)

    with_source(work)


def test_fill_leaves_budget_for_fresh_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_ROWS", 90)

    async def work(made: MadeOverHttp) -> None:
        await made.market.refresh(START, 5)
        # Old pages fail now and then: their other attempts must not eat the budget of the fresh ones.
        made.api.faults.extend([_old_fails(made.api)] * 12)
        fill = asyncio.ensure_future(made.market.fill(450, 15))
        while not fill.done():
            made.now.second += 1
            await made.market.refresh(int(made.now.second), 5)
            await asyncio.sleep(0.2)
        await fill
        old = [
            time
            for time, query in zip(made.api.arrivals, made.api.queries, strict=True)
            if query["end_time"] <= "2026-11-23T20:00:00.000000Z"
        ][1:]
        assert len(old) >= 14
        assert max(sum(begin <= time < begin + 0.5 for time in old) for begin in old) <= 6
        assert max(sum(begin <= time < begin + 0.5 for time in made.api.arrivals) for begin in old) <= 9

    with_api(work, api_requests=9)


def _old_fails(api: Api) -> Fault:
    async def answer(request: web.Request) -> web.StreamResponse:
        old = request.query["end_time"] <= "2026-11-23T20:00:00.000000Z"
        return web.Response(status=500) if old else api.answer(request)

    return answer


@pytest.mark.parametrize(
    ("given_prices", "before", "after", "wanted"),
    [
        ([100, 101, 102], 100, None, "yyy"),
        ([100], None, None, "y"),
        ([149], 100, None, "y"),
        ([151], 100, None, "n"),
        ([67], 100, None, "y"),
        ([66], 100, None, "n"),
        ([1e300], 100, None, "n"),
        ([1e-300], 100, None, "n"),
        ([100, 1e9, 100], 100, None, "yny"),
        ([100, 200, 200, 200, 200, 100], 100, None, "ynnnny"),
        ([100, 200, 200, 200, 200, 200, 201], 100, None, "yyyyyyy"),
        ([100, 200, 200, 100, 200, 200, 200], 100, None, "ynnynnn"),  # not in a row
        ([200, 400, 200, 400, 200, 400], 100, None, "nnnnnn"),  # they don't agree
        ([200, 200, 200, 200], 100, 200, "nnnn"),  # what is known before it counts
        ([1, 100, 100], None, None, "nyy"),  # the first ever is garbage
        ([100, 100, 1], None, 100, "yyn"),
        ([50, 100, 100], None, 100, "nyy"),  # history is read backwards
        ([50, 50, 50, 50, 50, 100], None, 100, "yyyyyy"),
    ],
)
def test_believed(given_prices: list[float], before: float | None, after: float | None, wanted: str) -> None:
    series = made({START + at: float(value) for at, value in enumerate(given_prices)})
    told = believed(series, before, after)
    assert "".join("y" if each else "n" for each in told) == wanted


def test_a_lone_jump_is_held_back_and_counted_once_and_a_true_one_gets_through() -> None:
    async def work(made: Made) -> None:
        made.source.publish(START - 20, START)
        await made.market.refresh(START, 5)
        for ahead in range(1, 5):
            made.source.publish(START + ahead, START + ahead)
            made.source.rows["eth"][START + ahead] *= 2
            made.now.second += 1
            made.market._quiet_until = 0.0
            await made.market.refresh(START + ahead, 5)
            assert made.market.windows["eth"].newest == START
            assert made.market.windows["btc"].newest == START + ahead
            assert errors(made.metrics, "garbage") == ahead
        made.source.rows["eth"][START + 5] = price("eth", START + 5) * 2
        made.source.publish(START + 5, START + 5, ["btc", "tao_bittensor"])
        made.now.second += 1
        made.market._quiet_until = 0.0
        await made.market.refresh(START + 5, 5)
        assert made.market.windows["eth"].newest == START + 5
        assert made.market.price("eth", START + 1) == price("eth", START + 1) * 2
        assert errors(made.metrics, "garbage") == 4

    with_source(work)


class Strange(Source):
    """An operator's own source, which keeps to nothing."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    async def fetch(self, assets: Sequence[str], start: int, end: int, timeout_s: float) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize("answer", [KeyError("btc"), ZeroDivisionError(), OSError(5, "no")])
def test_whatever_a_source_raises_is_a_source_error(answer: Exception) -> None:
    async def work() -> None:
        market = Market(Strange(answer), Settings(), Metrics(), Clock())
        with pytest.raises(SourceError, match=type(answer).__name__):
            await market.refresh(START, 5)
        with pytest.raises(SourceError, match=type(answer).__name__):
            await market.fill(600, 5)

    asyncio.run(work())


def test_rows_that_a_source_must_not_give_are_left_out() -> None:
    rows = {
        START - 1: 87_000.0, YEAR_2030: 87_000.0, START - 2: math.nan, START - 4: 87_001.0,
        START - 5: -1.0, START - 6: 0.0, START - 7: math.inf, START - 10**6: 87_000.0,
    }  # fmt: skip
    strange = Strange({"btc": made(rows), "doge": made({START: 0.1}), "eth": made({})})

    async def work() -> None:
        market = Market(strange, Settings(), Metrics(), Clock())
        await market.refresh(START, 5)
        assert shown(market.series("btc", 0, 2 * START)) == {START - 4: 87_001.0, START - 1: 87_000.0}
        assert market.windows["btc"].newest == START - 1
        assert list(market.windows) == list(ASSETS)
        assert market.windows["eth"].newest is None
        assert market.age("eth", START) == math.inf

    asyncio.run(work())


def test_close_ends_what_runs() -> None:
    async def work(made: MadeOverHttp) -> None:
        made.api.delay_s = 30
        waiter = asyncio.ensure_future(made.market.refresh(START, 15))
        await until(lambda: len(made.api.queries) == 1)
        await made.market.close()
        await made.market.close()
        with pytest.raises(SourceError, match="closed"):
            await waiter
        assert made.market._flight is None

    with_api(work)


def test_the_assets_of_these_tests() -> None:
    assert tuple(BASES) == ASSETS == Settings().assets
