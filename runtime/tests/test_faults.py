"""Every fault of the market under load: all requests answered in time, from the right prices, their age told."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from dataclasses import fields

import aiohttp
import orjson
import pytest

from precog_runtime import timestamps
from precog_runtime.errors import RequestRefused
from precog_runtime.load import burst
from precog_runtime.runtime import open_runtime
from precog_runtime.serve import listening
from precog_runtime.settings import Settings
from precog_runtime.simulator.faults import GARBAGE, Faults
from precog_runtime.simulator.prices import prices
from precog_runtime.simulator.server import METRIC, Config, RateLimit, start

DEADLINE_S = 3.0
K = 64
SLACK_S = 2  # what the source has given may be on its way for so long, or be polled for
LIMITED = "the source's own rate limit"

FAULTS = {
    "latency": Faults(latency=1, latency_ms=2000),
    "hang": Faults(hang=1),
    "drop": Faults(drop=1),
    "429": Faults(http_429=1, reset_s=1),
    "500": Faults(http_500=1),
    "cut": Faults(cut=1),
    **{f"garbage: {kind}": Faults(garbage=1, garbage_kind=kind) for kind in GARBAGE},
    "late": Faults(late=0.5, late_s=4),
    LIMITED: Faults(),
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


def test_every_fault_of_the_simulator_is_among_them():
    shares = {each.name for each in fields(Faults) if each.default == 0.0} - {"jitter_ms"}
    assert {name for faults in FAULTS.values() for name in shares if getattr(faults, name)} == shares
    assert {faults.garbage_kind for faults in FAULTS.values() if faults.garbage == 1} == set(GARBAGE)


class Given:
    """What a market has given in time: the seconds of each asset whose true price it answered."""

    def __init__(self, market):
        self._respond, market._respond = market._respond, self.respond
        self._seconds = {}

    async def respond(self, request, decision):
        response = await self._respond(request, decision)
        if response.status == 200 and not decision.delay_s and decision.action in ("answer", *GARBAGE):
            self._note(response.body)
        return response

    def newest(self, asset, until):
        return max((second for second in self._seconds.get(asset, ()) if second <= until), default=0)

    def _note(self, body):
        try:
            rows = [row for row in orjson.loads(body)["data"] if isinstance(row, dict)]
        except (ValueError, TypeError):
            return
        true = true_prices(int(time.time()) - 7200, int(time.time()))
        for row in rows:
            try:
                asset, second, price = row["asset"], timestamps.parse(row["time"]), float(row[METRIC])
                if true.get((asset, second)) == price:
                    self._seconds.setdefault(asset, set()).add(second)
            except (LookupError, TypeError, ValueError, RequestRefused):
                continue


def true_prices(start, end):
    found = {}
    for asset in Settings().assets:
        series = prices(asset, start, end, 1, "calm")
        found.update(
            {
                (asset, second): price
                for second, price in zip(series.times.tolist(), series.prices.tolist(), strict=True)
            }
        )
    return found


@asynccontextmanager
async def served():
    """The whole path over real sockets: a market, a runtime, a server."""
    market = await start(Config(rate_limit=0, regime="calm"))
    given = Given(market)
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
            yield market, runtime, url, given
    finally:
        await market.close()


async def until(condition, within_s=30.0):
    for _ in range(int(within_s / 0.05)):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"not so within {within_s} s")


async def asked(url, settings, given):
    """Ask, and check that each point is the asset's own last price but for its noise, and the age that of that price.

    :return: the answer.
    """
    before = {asset: given.newest(asset, time.time() + 60) for asset in settings.assets}
    async with aiohttp.ClientSession() as session, session.post(f"{url}/predict", json={}) as response:
        answer = json.loads(await response.text())
        assert response.status == 200
    at = timestamps.parse(answer["timestamp"])
    assert set(answer["predictions"]) == set(settings.assets)
    for asset, point in answer["predictions"].items():
        age = int(answer["age_s"][asset])
        assert at - given.newest(asset, at) <= age <= max(0, at - before[asset]) + SLACK_S
        true = prices(asset, at - age, at - age, 1, "calm").prices[0]
        assert point == pytest.approx(true, rel=0.001)
        assert (age > settings.fresh_s) == ("s old" in answer["degraded"].get(asset, ""))
    return answer


QUICK = {"drop", LIMITED, "everything now and then"}  # each of the others takes some four seconds more


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.full) for name in FAULTS]
)
def test_under_load_no_request_is_lost_late_or_wrong(name):
    async def test():
        async with served() as (market, runtime, url, given):
            before = market.requests
            market.faults = FAULTS[name]
            market._limit = RateLimit(1 if name == LIMITED else 0, 2.0)
            await until(lambda: market.requests >= before + 3)
            for _ in range(3):
                result = await burst(url, K, runtime.settings.assets, deadline_s=DEADLINE_S)
                assert (result.requests, result.failed) == (K, 0), result.failures
                await asked(url, runtime.settings, given)
            market.faults, market._limit, before = Faults(), RateLimit(0, 2.0), market.requests
            # A request that hangs since before is no longer waited for by then.
            await until(lambda: market.requests >= before + 3)
            await until(lambda: max(runtime.engine.ages().values()) <= 2)
            answer = await asked(url, runtime.settings, given)
            assert max(answer["age_s"].values()) <= 2

    asyncio.run(test())


def test_with_the_source_away_the_age_grows_and_is_told_everywhere():
    async def test():
        async with served() as (market, runtime, url, given):
            market.faults = Faults(drop=1)
            await until(lambda: min(runtime.engine.ages().values()) >= 4)
            answer = await asked(url, runtime.settings, given)
            assert min(answer["age_s"].values()) >= 4
            assert set(answer["degraded"]) == set(runtime.settings.assets)
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
