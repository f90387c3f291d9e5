from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from precog_runtime.errors import RateLimited
from precog_runtime.market.budget import LONGEST_RESET_S, Budget, background, urgent


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 20))  # type: ignore[arg-type]


def now() -> float:
    return asyncio.get_running_loop().time()


def most_within(times: list[float], period_s: float) -> int:
    return max(sum(begin <= time < begin + period_s for time in times) for begin in times)


def test_no_period_has_more_requests_than_allowed() -> None:
    async def work() -> None:
        budget, times = Budget(5, 0.2), []

        async def one() -> None:
            async with budget.acquire(10):
                times.append(now())

        await asyncio.gather(*(one() for _ in range(18)))
        assert len(times) == 18
        assert most_within(times, 0.2) <= 5

    run(work)


def test_a_request_counts_from_its_begin_until_a_period_after_its_end() -> None:
    async def work() -> None:
        budget = Budget(1, 0.15)
        async with budget.acquire(1):
            with pytest.raises(RateLimited) as refused:
                async with budget.acquire(0.1):
                    pass
            assert refused.value.retry_after_s == pytest.approx(0.15)
            await asyncio.sleep(0.2)
            ended = now()
        async with budget.acquire(1):
            assert now() - ended >= 0.15

    run(work)


def test_a_failed_request_counts_too() -> None:
    async def work() -> None:
        budget = Budget(1, 5)
        with pytest.raises(ValueError, match="broken"):
            async with budget.acquire(1):
                raise ValueError("broken")
        with pytest.raises(RateLimited):
            async with budget.acquire(1):
                pass

    run(work)


def test_who_would_wait_too_long_is_told_at_once() -> None:
    async def work() -> None:
        budget = Budget(1, 30)
        async with budget.acquire(0):
            pass
        with pytest.raises(RateLimited) as refused:
            async with budget.acquire(25):  # longer than this test may take
                pass
        assert 29 < refused.value.retry_after_s <= 30
        assert "rate limit" in str(refused.value)

    run(work)


def test_nothing_before_the_reset_that_was_told() -> None:
    async def work() -> None:
        budget = Budget(5, 0.01)
        budget.told(0.2)
        budget.told(0.05)
        until = now() + 0.2
        times: list[float] = []

        async def one() -> None:
            async with budget.acquire(2):
                times.append(now())

        await asyncio.gather(*(one() for _ in range(3)))
        assert min(times) >= until - 0.005

    run(work)


def test_waiters_heed_a_reset_that_is_told_while_they_wait() -> None:
    async def work() -> None:
        budget = Budget(1, 0.05)
        async with budget.acquire(0):
            pass

        async def one() -> float:
            async with budget.acquire(2):
                return now()

        waiter = asyncio.ensure_future(one())
        await asyncio.sleep(0)
        told_at = now()
        budget.told(0.25)
        assert await waiter >= told_at + 0.25

    run(work)


def test_the_longer_of_both_reasons_to_wait_is_told() -> None:
    async def work() -> None:
        budget = Budget(1, 0.05)
        async with budget.acquire(0):
            pass
        budget.told(30)
        with pytest.raises(RateLimited) as refused:
            async with budget.acquire(25):
                pass
        assert refused.value.retry_after_s > 29

    run(work)


def test_an_absurd_reset_is_bounded() -> None:
    async def work() -> None:
        budget = Budget(1, 1)
        budget.told(1_795_468_800.0)  # the time of day, in the place of a duration
        with pytest.raises(RateLimited) as refused:
            async with budget.acquire(1):
                pass
        assert refused.value.retry_after_s <= LONGEST_RESET_S

    run(work)


@pytest.mark.parametrize(("requests", "for_background"), [(10, 5), (9, 4), (3, 1), (2, 1), (1, 1)])
def test_the_background_leaves_half(requests: int, for_background: int) -> None:
    async def work() -> None:
        budget = Budget(requests, 30)
        token = background.set(True)
        for _ in range(for_background):
            async with budget.acquire(0):
                pass
        with pytest.raises(RateLimited):
            async with budget.acquire(1):
                pass
        background.reset(token)
        for _ in range(requests - for_background):
            async with budget.acquire(0):
                pass
        with pytest.raises(RateLimited):
            async with budget.acquire(1):
                pass

    run(work)


def test_what_is_urgent_is_told_at_once_that_it_is_not_its_turn() -> None:
    async def work() -> None:
        budget = Budget(1, 30)
        urgent.set(True)
        async with budget.acquire(0):
            pass
        with pytest.raises(RateLimited) as refused:
            async with budget.acquire(100):
                pass
        assert 29 < refused.value.retry_after_s <= 30

    run(work)


def test_fresh_requests_do_not_starve_the_background() -> None:
    async def work() -> None:
        budget = Budget(10, 30)
        for _ in range(7):
            async with budget.acquire(0):
                pass
        token = background.set(True)
        for _ in range(3):
            async with budget.acquire(0):
                pass
        with pytest.raises(RateLimited):
            async with budget.acquire(1):
                pass
        background.reset(token)

    run(work)


def test_a_cancelled_waiter_takes_nothing() -> None:
    async def work() -> None:
        budget = Budget(1, 0.1)
        async with budget.acquire(0):
            pass

        async def one() -> None:
            async with budget.acquire(2):
                pass

        waiters = [asyncio.ensure_future(one()) for _ in range(5)]
        await asyncio.sleep(0)
        for waiter in waiters:
            waiter.cancel()
        await asyncio.gather(*waiters, return_exceptions=True)
        async with budget.acquire(0.2):
            pass

    run(work)
