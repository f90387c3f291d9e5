"""An operator's own source that returns no prices at all: answers go on from those that there are."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from world import LEVELS, quiet, virtual, walk, world

from precog_runtime.types import Series


def series(times, prices):
    return Series(times, prices)


MALFORMED = {
    "nothing": None,
    "a number": 5,
    "a list": ["btc", "eth", "tao_bittensor"],
    "no series": dict.fromkeys(LEVELS, 80_000.0),
    "no array": dict.fromkeys(LEVELS, series(None, None)),
    "more times than prices": dict.fromkeys(LEVELS, series(np.arange(5), np.ones(3))),
    "a table": dict.fromkeys(LEVELS, series(np.ones((2, 2), np.int64), np.ones((2, 2)))),
    "words": dict.fromkeys(LEVELS, series(np.array(["now", "then"]), np.array(["much", "little"]))),
    "objects": dict.fromkeys(LEVELS, series([{}, {}], [{}, {}])),
    "a price a year": dict.fromkeys(LEVELS, series(["2026", "2027"], [[1.0], [2.0, 3.0]])),
}


@pytest.mark.parametrize("returned", MALFORMED.values(), ids=MALFORMED)
@virtual
async def test_malformed_prices_are_an_error_of_the_source_and_answers_go_on(returned):
    async with world(quiet(poll_s=5.0, mark_s=300)) as running:
        good, newest = running.market.fetch, running.runtime.market.windows["btc"].newest

        async def fetch(*_asked):
            return returned

        running.market.fetch = fetch
        await asyncio.sleep(20)
        answer = await running.ask()
        assert answer.predictions().keys() == LEVELS.keys()
        assert answer.assets["btc"].age_s == answer.timestamp - newest
        assert running.errors("source") > 0
        assert running.errors("internal") == 0
        running.market.fetch = good
        await asyncio.sleep(10)
        assert (await running.ask()).assets["btc"].age_s <= 2


@virtual
async def test_malformed_prices_of_one_asset_lose_that_asset_alone(caplog):
    async with world(quiet(poll_s=5.0)) as running:
        good = running.market.fetch

        async def fetch(assets, start, end, timeout_s):
            return {**await good(assets, start, end, timeout_s), "eth": series(np.arange(5), np.ones(3))}

        running.market.fetch = fetch
        await asyncio.sleep(30)
        answer = await running.ask()
        assert answer.assets["btc"].age_s <= 2
        assert answer.assets["eth"].age_s >= 20
        assert answer.predictions()["eth"] == pytest.approx(walk("eth", answer.timestamp), rel=0.01)
        assert running.errors("garbage_page") >= 5
        told = [each.getMessage() for each in caplog.records if "can be read" in each.getMessage()]
        assert told == [
            "the source returned no prices that can be read for eth "
            "(ValueError: times have the shape (5,), prices (3,)). Not logged again"
        ]


@virtual
async def test_bug_in_the_refresh_does_not_keep_back_the_prices_that_there_are(monkeypatch):
    async with world() as running:
        await asyncio.sleep(30)

        async def refresh(*_asked):
            raise KeyError("a bug")

        monkeypatch.setattr(running.runtime.market, "refresh", refresh)
        assert (await running.ask()).predictions().keys() == LEVELS.keys()
        assert running.errors("internal") == 1


@virtual
async def test_source_that_hangs_leaves_half_of_a_short_deadline_to_the_model():
    async with world(quiet(patience_s=60.0)) as running:
        await asyncio.sleep(30)
        running.market.latency_s, began = 1e9, asyncio.get_running_loop().time()
        answer = await running.ask(deadline_s=2.25)
        assert asyncio.get_running_loop().time() - began == pytest.approx(1.0, abs=0.05)
        assert {one.degraded for one in answer.assets.values()} == {
            f"prices are {answer.assets['btc'].age_s:.0f} s old"
        }
