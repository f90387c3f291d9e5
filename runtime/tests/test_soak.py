"""A day of simulated time: every burst answered, and memory flat."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import sqlite3
import sys
from concurrent.futures import ProcessPoolExecutor

import psutil
import pytest
from simulated import SimulatedMarket
from world import EPOCH, InlineExecutor, run

from precog_runtime import forecaster
from precog_runtime.errors import SourceError
from precog_runtime.runtime import open_runtime
from precog_runtime.settings import Settings
from precog_runtime.simulator.prices import prices
from precog_runtime.types import Request

HOURS, WARM_HOURS = 24, 4
BURST = 16
KEPT = 64  # of the ready answers, so that the table of them is full before it is measured
# In the 20 hours measured there are 3840 requests, so one object kept of each would be twice the first bound. Blocks
# vary by 800 with the moment, as rows wait to be written or not. What isn't Python's (arrays, SQLite) shows in the size
# of the process, which grows by 2 to 3.4 MB: pages of SQLite, holes of the allocator; less each hour.
GROWTH_BLOCKS = 1920
GROWTH_MB = 4.5
MARKS = range(EPOCH + 300, EPOCH + HOURS * 3600 + 1, 300)
OUTAGE = range(EPOCH + 10 * 3600, EPOCH + 10 * 3600 + 1500)  # seconds in which the source is away


class SometimesAway(SimulatedMarket):
    """The simulator, with an outage of 25 minutes."""

    def __init__(self, now):
        super().__init__(seed=1, regime="mixed", now=now)
        self.wall = now

    async def fetch(self, assets, start, end, timeout_s):
        if int(self.wall()) in OUTAGE:
            raise SourceError("away")
        return await super().fetch(assets, start, end, timeout_s)


def a_day(state_dir):
    """Live through it; return MB and blocks by hour, lacking answers, and marks answered from old prices."""
    forecaster.KEPT = KEPT
    # By marks there are the most forecasts to keep, and the fewest polls to sit through.
    settings = Settings(poll_s=30.0, monitor_s=60.0, state_dir=state_dir, window_s=3600, price_basis="mark")
    process, sizes, blocks, wrong, stale = psutil.Process(), {}, {}, [], []
    for asset in settings.assets:  # the simulator keeps what it has made: that isn't the runtime's
        prices(asset, EPOCH - 7200, EPOCH + HOURS * 3600 + 60, 1, "mixed")

    async def bursts(running, loop):
        for mark in MARKS:
            await asyncio.sleep(max(0.0, mark + 0.5 - EPOCH - loop.time()))
            request = Request(mark, settings.assets, loop.time() + 10)
            answers = await asyncio.gather(*(running.engine.answer(request, "soak") for _ in range(BURST)))
            wrong.extend(a for a in answers if set(a.assets) != set(settings.assets) or a.refused)
            if max(one.age_s for one in answers[0].assets.values()) > 2:
                stale.append(mark)
            if (mark - EPOCH) % 3600 == 0:
                gc.collect()
                hour = (mark - EPOCH) // 3600
                sizes[hour] = process.memory_info().rss / 2**20
                blocks[hour] = sys.getallocatedblocks()

    async def test():
        loop = asyncio.get_running_loop()

        def now():
            return EPOCH + loop.time()

        source = SometimesAway(now)
        async with open_runtime(settings, source, now, loop.time, InlineExecutor()) as running:
            await bursts(running, loop)

    run(test)
    return sizes, blocks, [str(answer) for answer in wrong], stale


@pytest.mark.full
def test_a_day_with_a_burst_each_five_minutes(tmp_path):
    # In a process of its own: what other tests leave behind would be let go, or grow, meanwhile.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        sizes, blocks, wrong, stale = process.submit(a_day, str(tmp_path)).result()
    assert not wrong
    assert stale == [mark for mark in MARKS if mark in OUTAGE and mark - 2 in OUTAGE]
    assert blocks[HOURS] - blocks[WARM_HOURS] < GROWTH_BLOCKS, blocks
    assert sizes[HOURS] - sizes[WARM_HOURS] < GROWTH_MB, sizes
    with sqlite3.connect(tmp_path / "predictions.sqlite") as log:
        assert log.execute("pragma integrity_check").fetchone() == ("ok",)
