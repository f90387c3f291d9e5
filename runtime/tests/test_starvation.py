"""With one request in a period, as the role sets it for six instances and more: fresh prices first, history after."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from itertools import pairwise

import pytest

from precog_runtime.market.budget import Budget, background, urgent
from precog_runtime.runtime import open_runtime
from precog_runtime.settings import Settings
from precog_runtime.simulator.server import Config, start


async def watched(instances, period_s, limit, watch_s, window_s):
    """Run instances that share a source's rate limit; return what was seen.

    :return: the greatest age at each look, the seconds of history of each instance, and how many requests got a 429.
    """
    settings = Settings(
        api_requests=1, api_period_s=period_s, poll_s=period_s * 5 / 6, window_s=window_s, mark_s=0, monitor_s=0.0
    )
    market = await start(Config(port=0, rate_limit=limit, rate_period_s=period_s, regime="calm"))
    ages = []
    try:
        async with AsyncExitStack() as stack:
            mine = Settings(**{**vars(settings), "api_url": market.url})
            runtimes = [await stack.enter_async_context(open_runtime(mine)) for _ in range(instances)]
            for _ in range(int(watch_s / 0.1)):
                await asyncio.sleep(0.1)
                ages.append(max(age for each in runtimes for age in each.engine.ages().values()))
            now = int(runtimes[0].engine.now())
            history = [len(each.market.series("btc", now - 86400, now)) for each in runtimes]
            value = [each.metrics.registry.get_sample_value for each in runtimes]
            refused = sum(
                get("precog_api_request_duration_seconds_count", {"outcome": "rate_limited"}) or 0 for get in value
            )
    finally:
        await market.close()
    return ages, history, refused


def test_instance_with_one_request_a_period_has_fresh_prices_while_its_history_comes():
    period_s, window_s = 0.6, 86400
    ages, [history], refused = asyncio.run(watched(1, period_s, 1, 9.0, window_s))
    # Two periods between fresh ones, and a second, as prices are of whole seconds.
    late = [age for age in ages[20:] if age > 2 * period_s + 2]
    assert len(late) <= len(ages) / 20, ages
    assert max(ages[20:]) <= 6, ages
    assert history >= 4 * 3333
    assert not refused


@pytest.mark.full
def test_eight_instances_share_the_community_limit_with_fresh_prices_and_history():
    ages, history, refused = asyncio.run(watched(8, 6.0, 10, 45.0, 86400))
    assert max(ages[100:]) <= 2 * 6.0 + 5, ages
    assert min(history) >= 3333
    assert not refused


def test_background_leaves_the_turn_after_its_own_to_a_fresh_price():
    order = []

    async def fetch(budget, kind, times):
        (background if kind == "old" else urgent).set(True)
        while times:
            try:
                async with budget.acquire(10):
                    order.append(kind)
                    times -= 1
            except Exception as limited:
                await asyncio.sleep(limited.retry_after_s)

    async def work():
        budget = Budget(1, 0.1)
        await asyncio.gather(fetch(budget, "old", 4), fetch(budget, "new", 4))

    asyncio.run(work())
    # On a busy machine the background may come late to its turn, which a fresh price then takes.
    contended = order[: len(order) - order[::-1].index("new")]
    assert all(pair != ("old", "old") for pair in pairwise(contended)), order
    assert order.count("old") == order.count("new") == 4


def test_background_goes_on_where_nobody_wants_fresh_prices():
    async def work():
        budget, loop = Budget(1, 0.1), asyncio.get_running_loop()
        background.set(True)
        began = loop.time()
        for _ in range(3):
            async with budget.acquire(10):
                pass
        return loop.time() - began

    assert asyncio.run(work()) < 1.5
