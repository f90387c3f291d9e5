"""What answers where the model doesn't: in time, once for all who wait, told once, at no other asset's cost."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
from world import LEVELS, InlineExecutor, Spy, Stuck, quiet, use, virtual, walk, world

from precog_runtime import forecaster
from precog_runtime.forecast.baseline import UpstreamRule
from precog_runtime.forecast.default import DefaultModel
from precog_runtime.forecaster import TOO_SLOW
from precog_runtime.types import Forecast

K = 64


def fall_back_to(running, *models):
    running.runtime.engine._forecaster.fallbacks = models
    return models[0]


async def burst(running, at, deadline_s):
    return await asyncio.gather(*(running.ask(at, deadline_s=deadline_s) for _ in range(K)))


@virtual
async def test_a_model_that_is_too_slow_for_a_burst_costs_one_forecast_an_asset_and_one_line(caplog):
    executor = Stuck()
    async with world(executor=executor) as running:
        use(running, Spy())
        fallback, loop = fall_back_to(running, Spy()), asyncio.get_running_loop()
        fallback.name = "other"
        for number in range(1, 4):
            at, began = int(running.now), loop.time()
            answers = await burst(running, at, 2.0)
            assert loop.time() - began <= 2.0
            assert len(fallback.shown) == number * len(LEVELS)
            parts = [one for answer in answers for one in answer.assets.values()]
            assert {(one.model, one.degraded) for one in parts} == {("other", TOO_SLOW)}
            assert len(parts) == K * len(LEVELS)
            assert running.errors("model_slow") >= number * len(parts)
            assert len(lines(caplog)) == 1
            await asyncio.sleep(30)
        executor.stuck = False
        assert {one.model for one in (await running.ask()).assets.values()} == {"spy"}
        executor.stuck = True
        await asyncio.sleep(30)
        await burst(running, int(running.now), 2.0)
        assert [line.partition(" by ")[2] or line for line in lines(caplog)] == [
            f"spy: {TOO_SLOW}. Not told again until it is well",
            f"spy is well again ({forecaster.SLOW})",
            f"spy: {TOO_SLOW}. Not told again until it is well",
        ]
        await asyncio.sleep(30)


def lines(caplog):
    return [record.getMessage() for record in caplog.records if record.name == forecaster.__name__]


def test_a_burst_is_answered_by_its_deadline_however_slow_the_model_and_its_replacement():
    """In real time, with real work. Each asset's fallback forecast is made once, for all 64."""
    ended = []

    class Busy(Spy):
        def forecast(self, asset, timestamp, series):
            while not ended:
                np.sort(np.tile(series.prices, 20))
            return super().forecast(asset, timestamp, series)

    class Heavy(Spy):
        def forecast(self, asset, timestamp, series):
            until = time.thread_time() + 0.006
            while time.thread_time() < until:
                pass
            return super().forecast(asset, timestamp, series)

    async def test():
        with ThreadPoolExecutor(3) as threads:
            async with world(quiet(patience_s=0.1), executor=threads) as running:
                use(running, Busy())
                fallback = fall_back_to(running, Heavy())
                at, began = int(running.now), time.monotonic()
                answers = await burst(running, at, 1.0)
                took_s = time.monotonic() - began
                ended.append(True)
                assert {one.degraded for answer in answers for one in answer.assets.values()} == {TOO_SLOW}
                assert len(fallback.shown) == len(LEVELS)
                assert took_s <= 5  # the model is still at work

    asyncio.run(test())


@virtual
async def test_what_is_made_in_time_is_not_lost_to_an_asset_that_is_too_slow():
    class Slow(InlineExecutor):
        def submit(self, fn, /, *args, **kwargs):
            return Future() if args[1] == "eth" else super().submit(fn, *args, **kwargs)

    async with world(executor=Slow()) as running:
        use(running, Spy())
        answers = await burst(running, int(running.now), 2.0)
        told = {(asset, one.model) for answer in answers for asset, one in answer.assets.items()}
        assert told == {("btc", "spy"), ("eth", DefaultModel.name), ("tao_bittensor", "spy")}
        await asyncio.sleep(30)


class Broken(Spy):
    """A model with a bug that only some assets meet."""

    name = "broken"

    def __init__(self, *assets):
        super().__init__()
        self._assets = assets

    def forecast(self, asset, timestamp, series):
        if asset in self._assets:
            raise IndexError("index -1 is out of bounds")
        return super().forecast(asset, timestamp, series)


@virtual
async def test_where_the_default_model_fails_as_well_upstreams_rule_answers_for_that_asset_alone(caplog):
    async with world() as running:
        use(running, Broken("eth"))
        fall_back_to(running, Broken("eth"), UpstreamRule())
        for _ in range(5):
            answer = await running.ask()
            assert {asset: one.model for asset, one in answer.assets.items()} == {
                "btc": "broken", "eth": UpstreamRule.name, "tao_bittensor": "broken",
            }  # fmt: skip
            assert answer.assets["eth"].degraded.startswith("model failed: IndexError")
            await asyncio.sleep(30)
        assert running.errors("internal") == 5
        # Of the model and of the first that replaces it, though they have the same name, at the first request alone.
        assert len(lines(caplog)) == 2


@virtual
async def test_where_every_model_fails_the_others_are_answered():
    async with world() as running:
        use(running, Broken("eth"))
        fall_back_to(running, Broken("eth"))
        answers = await burst(running, int(running.now), 2.0)
        for answer in answers:
            assert set(answer.assets) == {"btc", "tao_bittensor"}
            assert answer.refused == {"eth": "no model can make a forecast of its prices"}


@pytest.mark.parametrize("broken", ["forecast", "late"])
@virtual
async def test_a_bug_of_ours_refuses_its_asset_alone_and_is_told_once(monkeypatch, caplog, broken):
    async with world(executor=InlineExecutor() if broken == "forecast" else Stuck()) as running:
        original = getattr(running.runtime.engine._forecaster, broken)

        def bug(asset, *args):
            if asset == "btc":
                raise KeyError("a bug")
            return original(asset, *args)

        monkeypatch.setattr(running.runtime.engine._forecaster, broken, bug)
        for answer in await burst(running, int(running.now), 2.0):
            assert set(answer.assets) == {"eth", "tao_bittensor"}
            assert answer.refused == {"btc": "a bug: KeyError"}
        assert running.errors("internal") >= 1
        assert len([record for record in caplog.records if record.exc_info]) == 1
        await asyncio.sleep(30)


def test_the_runtimes_own_order_of_models():
    @virtual
    async def test():
        async with world() as running:
            assert [each.name for each in running.runtime.engine._forecaster.fallbacks] == ["rw-1", "upstream"]

    test()


@pytest.mark.parametrize("old_s", [900, 7 * 3600])
@virtual
async def test_prices_older_than_a_model_looks_back_are_shown_to_it_and_answered_from(old_s):
    """A model is promised one price at least: spy looks back 600 s, the default model 6 h, upstream's rule 1 h."""
    async with world(quiet(max_age_s=86400.0, window_s=86400)) as running:
        await asyncio.sleep(60)  # so that nothing is fetched after this
        running.market.failing = True
        newest = running.runtime.market.windows["btc"].newest
        await asyncio.sleep(old_s)
        spy = use(running, Spy())
        answer = await running.ask()
        assert {one.model for one in answer.assets.values()} == {"spy"}
        assert [(series.times.tolist(), len(series.prices)) for _, _, series in spy.shown] == [([newest], 1)] * 3
        use(running, Broken(*LEVELS))
        for models in [(DefaultModel(),), (UpstreamRule(),)]:
            fall_back_to(running, *models)
            await asyncio.sleep(1)
            answer = await running.ask()
            assert {one.model for one in answer.assets.values()} == {models[0].name}
            for asset, point in answer.predictions().items():
                assert point == pytest.approx(walk(asset, newest), rel=0.002)
                assert answer.assets[asset].age_s == answer.timestamp - newest


def test_a_forecast_of_a_fallback_is_checked_as_the_models_is():
    class Absurd(Spy):
        def forecast(self, asset, timestamp, series):
            return Forecast(-1.0, -2.0, 0.0)

    @virtual
    async def test():
        async with world() as running:
            use(running, Broken(*LEVELS))
            fall_back_to(running, Absurd(), Spy())
            assert {one.model for one in (await running.ask()).assets.values()} == {"spy"}

    test()
