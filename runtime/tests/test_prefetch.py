"""The window is up to date and the forecasts are made before the validators ask."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import EPOCH, LEVELS, Spy, Stuck, quiet, run, use, virtual, walk, world

from precog_runtime.market.snapshot import NAME, save
from precog_runtime.prefetch import AFTER_S, BEFORE_S, next_due, to_prepare
from precog_runtime.settings import Settings
from precog_runtime.types import NEWEST, Series

SETTINGS = Settings(price_basis="mark")

DUE = [
    (0.0, 1.0),
    (0.2, 1.0),
    (9.7, 10.0),
    (10.0, 15.0),
    (100.5, 105.5),
    (296.0, 298.0),
    (297.9, 298.0),
    (298.0, 299.0),
    (299.9, 300.0),
]


@pytest.mark.parametrize(("into", "due"), DUE)
def test_around_a_mark_each_second_and_else_each_poll(into, due):
    assert next_due(EPOCH + into, SETTINGS) == EPOCH + due


@given(
    st.floats(EPOCH, EPOCH + 86400),
    st.floats(0.2, 300),
    st.integers(0, 86400).filter(lambda mark: mark == 0 or mark > 20),
)
def test_it_is_always_later_and_never_long(now, poll_s, mark_s):
    settings = Settings(poll_s=poll_s, mark_s=mark_s)
    due = next_due(now, settings)
    assert now < due <= now + max(poll_s, 1.0) + 1e-6


@given(st.floats(0.2, 300))
def test_no_mark_is_missed(poll_s):
    settings = Settings(poll_s=poll_s)
    now, seen = float(EPOCH + 40), []
    while now < EPOCH + 340:
        now = next_due(now, settings)
        seen.append(now - EPOCH)
    for second in range(300 - BEFORE_S, 300 + AFTER_S["newest"]):
        assert second in seen


@pytest.mark.parametrize(("into", "due"), [(10.0, 11.0), (31.5, 32.0), (32.0, 37.0)])
def test_newest_prices_are_polled_each_second_until_the_last_validator_has_its_answer(into, due):
    assert next_due(EPOCH + into, Settings()) == EPOCH + due
    assert to_prepare(EPOCH + into, Settings()) == [NEWEST]


def test_without_marks_it_only_polls():
    assert next_due(EPOCH + 299.0, Settings(mark_s=0)) == EPOCH + 304.0
    assert to_prepare(EPOCH, Settings(mark_s=0)) == []


PREPARED = [(0, [0]), (150, [0]), (292.9, [0]), (293, [0, 300]), (299.9, [0, 300]), (300, [300])]


@pytest.mark.parametrize(("into", "marks"), PREPARED)
def test_the_last_mark_is_prepared_and_the_next_when_it_is_near(into, marks):
    assert to_prepare(EPOCH + into, SETTINGS) == [EPOCH + mark for mark in marks]


def test_a_burst_at_a_mark_meets_ready_answers_and_a_late_point_updates_them():
    async def test():
        async with world(quiet(mark_s=300, poll_s=5.0)) as running:
            running.market.delay_s = 1
            running.market.withheld = {EPOCH + 300}
            mark = EPOCH + 300
            await asyncio.sleep(mark - running.now + 0.5)
            running.market.latency_s, before = 0.15, running.market.fetches
            answers = [running.runtime.engine.ready(running.request(mark)) for _ in range(64)]
            assert all(answer is not None and set(answer.assets) == set(LEVELS) for answer in answers)
            assert running.market.fetches == before
            assert answers[0].assets["btc"].age_s <= SETTINGS.fresh_s
            running.market.withheld = set()
            await asyncio.sleep(4)
            later = running.runtime.engine.ready(running.request(mark))
            assert later.assets["btc"].age_s == 0
            assert later.predictions()["btc"] != answers[0].predictions()["btc"]
            assert later.predictions()["btc"] == pytest.approx(walk("btc", mark), rel=1e-3)

    run(test)


def test_it_begins_when_the_source_comes_and_goes_on_after_it_was_away():
    async def test():
        async with world(quiet(mark_s=300, poll_s=5.0), filled=False) as running:
            running.market.failing = True
            await asyncio.sleep(60)
            assert running.errors("source") >= 3
            assert not (await running.ask()).assets
            running.market.failing = False
            await running.until(lambda: max(running.runtime.engine.ages().values()) <= 2, 30)
            running.market.failing = True
            await asyncio.sleep(600)
            running.market.failing = False
            await running.until(lambda: max(running.runtime.engine.ages().values()) <= 2, 30)
            assert set((await running.ask()).predictions()) == set(LEVELS)
            assert running.errors("internal") == 0

    run(test)


@pytest.mark.parametrize(("old_s", "waits"), [(30, False), (600, True)])
def test_prices_that_a_restart_kept_are_answered_from_at_once_unless_they_are_old(tmp_path, old_s, waits):
    seconds = np.arange(EPOCH - old_s - 60, EPOCH - old_s)
    save(tmp_path / NAME, {asset: Series(seconds, np.full(60, 100.0)) for asset in SETTINGS.assets})

    async def test():
        async with world(quiet(state_dir=str(tmp_path)), filled=False) as running:
            running.market.latency_s = 3.0
            await asyncio.sleep(0.5)
            assert running.runtime.attempted.is_set() is not waits
            assert (await running.ask()).assets
            await asyncio.sleep(10)
            assert running.runtime.attempted.is_set()

    run(test)


def test_the_window_is_filled_backwards_to_its_full_length():
    async def test():
        async with world(quiet(window_s=86400)) as running:
            market, start = running.runtime.market, EPOCH - 86400 + 900
            await running.until(lambda: len(market.series("eth", start, EPOCH)) == EPOCH - start + 1, 3600)

    run(test)


def test_ages_are_told_as_metrics():
    async def test():
        async with world(quiet(poll_s=10.0)) as running:
            running.market.failing = True
            await asyncio.sleep(100)
            running.runtime.exposition()
            for asset in LEVELS:
                age = running.runtime.metrics.registry.get_sample_value("precog_data_age_seconds", {"asset": asset})
                assert 85 <= age <= 101

    run(test)


@virtual
async def test_a_source_that_fails_at_long_ranges_gives_prices_from_the_start_and_the_rest_later():
    async with world(quiet(mark_s=300, poll_s=5.0), filled=False) as running:
        running.market.longest_s = 400
        await asyncio.wait_for(running.runtime.attempted.wait(), 3)
        answer = running.runtime.engine.ready(running.request(EPOCH))
        assert set(answer.predictions()) == set(LEVELS)
        await asyncio.sleep(60)
        assert max(running.runtime.engine.ages().values()) <= 5
        assert running.errors("source") >= 3
        running.market.longest_s = 10**6
        oldest = EPOCH - 7000
        await running.until(lambda: len(running.runtime.market.series("eth", oldest, EPOCH)) == 7001, 60)


@virtual
async def test_a_slow_model_does_not_stop_the_prices_and_its_forecasts_are_of_the_newest():
    executor = Stuck()
    executor.stuck = False
    async with world(quiet(mark_s=300, poll_s=5.0, deadline_s=60.0), executor=executor) as running:
        spy = use(running, Spy())
        await asyncio.sleep(20)
        executor.stuck, before, ages = True, running.market.fetches, []
        for _ in range(280):
            await asyncio.sleep(1)
            ages.append(max(running.runtime.engine.ages().values()))
        assert running.market.fetches - before >= 280 / 5
        assert max(ages) <= 6
        executor.stuck = False
        await asyncio.sleep(70)  # the forecasts that hang are given up
        spy.shown.clear()
        await asyncio.sleep(EPOCH + 600 - running.now + 1.5)
        assert running.runtime.engine.ready(running.request(EPOCH + 600)) is not None
        assert {timestamp for _, timestamp, _ in spy.shown} == {EPOCH + 600}  # once for each update that changed it
        executor.stuck = True
        await asyncio.sleep(290)  # and the runtime ends while a forecast is being made


@virtual
async def test_prices_that_are_published_late_come_all_the_same_at_a_bounded_rate():
    """Each seventh second is published 35 s after the others: long after the seconds that a refresh fetches again."""
    async with world(quiet(poll_s=5.0)) as running:
        running.market.late_s, start = 35, int(running.now)
        market, before = running.runtime.market, running.market.fetches
        await asyncio.sleep(600)
        end = int(running.now) - 35 - 40
        for asset in LEVELS:
            assert market.series(asset, start, end).times.tolist() == list(range(start, end + 1))
        assert running.market.fetches - before <= 600 / 5 + 600 / 30 + 3


@virtual
async def test_seconds_that_never_come_cost_little():
    async with world(quiet(poll_s=5.0)) as running:
        running.market.withheld = set(range(EPOCH + 100, EPOCH + 200))
        await asyncio.sleep(100)
        before = running.market.fetches
        await asyncio.sleep(3600)
        assert running.market.fetches - before <= 3600 / 5 + 30
