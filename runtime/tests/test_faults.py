"""Every fault of the market under load: all requests answered in time, from the right prices, their age told."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import aiohttp
import pytest

from precog_runtime import timestamps
from precog_runtime.load import burst
from precog_runtime.runtime import open_runtime
from precog_runtime.serve import listening
from precog_runtime.settings import Settings
from precog_runtime.simulator.faults import Faults
from precog_runtime.simulator.prices import prices
from precog_runtime.simulator.server import Config, start

DEADLINE_S = 3.0
K = 64

FAULTS = {
    "latency": Faults(latency=1, latency_ms=2000),
    "hang": Faults(hang=1),
    "drop": Faults(drop=1),
    "429": Faults(http_429=1, reset_s=1),
    "500": Faults(http_500=1),
    "cut": Faults(cut=1),
    "garbage": Faults(garbage=1),
    "late": Faults(late=0.5, late_s=4),
    "everything now and then": Faults(
        latency=0.2,
        latency_ms=700,
        hang=0.1,
        drop=0.2,
        http_429=0.1,
        reset_s=1,
        http_500=0.2,
        cut=0.1,
        garbage=0.3,
        late=0.2,
    ),
}


@asynccontextmanager
async def served():
    """The whole path over real sockets: a market, a runtime, a server."""
    market = await start(Config(rate_limit=0, regime="calm"))
    settings = Settings(
        api_url=market.url,
        api_requests=1000,
        api_timeout_s=0.5,
        patience_s=0.3,
        fresh_s=1.0,
        poll_s=0.5,
        window_s=7200,
        monitor_s=0,
        deadline_s=DEADLINE_S,
    )
    try:
        async with open_runtime(settings) as runtime, listening(runtime, "127.0.0.1", 0) as url:
            await until(lambda: max(runtime.engine.ages().values()) <= 2)
            yield market, runtime, url
    finally:
        await market.close()


async def until(condition, within_s=30.0):
    for _ in range(int(within_s / 0.05)):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"not so within {within_s} s")


async def asked(url):
    async with aiohttp.ClientSession() as session, session.post(f"{url}/predict", json={}) as response:
        return response.status, json.loads(await response.text())


def check(answer, settings):
    """The point is the asset's own last price but for its noise, and the age is that of the price used."""
    at = timestamps.parse(answer["timestamp"])
    assert set(answer["predictions"]) == set(settings.assets)
    for asset, point in answer["predictions"].items():
        age = int(answer["age_s"][asset])
        true = prices(asset, at - age, at - age, 1, "calm").prices[0]
        assert point == pytest.approx(true, rel=0.001)
        assert (age > settings.fresh_s) == ("s old" in answer["degraded"].get(asset, ""))


@pytest.mark.parametrize("name", FAULTS)
def test_under_load_no_request_is_lost_late_or_wrong(name):
    async def test():
        async with served() as (market, runtime, url):
            before = market.requests
            market.faults = FAULTS[name]
            await until(lambda: market.requests >= before + 3)
            for _ in range(3):
                result = await burst(url, K, runtime.settings.assets, deadline_s=DEADLINE_S)
                assert (result.requests, result.failed) == (K, 0), result.failures
                status, answer = await asked(url)
                assert status == 200
                check(answer, runtime.settings)
            market.faults = Faults()
            await until(lambda: max(runtime.engine.ages().values()) <= 2)
            status, answer = await asked(url)
            check(answer, runtime.settings)
            assert max(answer["age_s"].values()) <= 2

    asyncio.run(test())


def test_with_the_source_away_the_age_grows_and_is_told_everywhere():
    async def test():
        async with served() as (market, runtime, url):
            market.faults = Faults(drop=1)
            await until(lambda: min(runtime.engine.ages().values()) >= 4)
            _, answer = await asked(url)
            assert min(answer["age_s"].values()) >= 4
            assert set(answer["degraded"]) == set(runtime.settings.assets)
            check(answer, runtime.settings)
            text = runtime.exposition().decode()
            ages = [
                float(line.split()[-1]) for line in text.splitlines() if line.startswith("precog_data_age_seconds{")
            ]
            assert min(ages) >= 4
            runtime.log.store.flush()
            rows = runtime.log.store.query("SELECT min(age_s), max(degraded) FROM answers WHERE age_s >= 4", ())
            assert rows[0][0] >= 4
            assert "s old" in rows[0][1]

    asyncio.run(test())
