"""The simulated market: its prices, its API over real sockets, its faults, its command."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import signal
import socket
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precog_runtime import timestamps
from precog_runtime.errors import SettingError
from precog_runtime.simulator import command, faults, server
from precog_runtime.simulator.faults import Faults
from precog_runtime.simulator.prices import ASSETS, HOUR_S, REGIMES, SPAN_H, lots, prices
from precog_runtime.simulator.server import METRIC, Config, RateLimit, Server

SRC = Path(server.__file__).parents[2]
NOW = 1_795_467_900  # 2026-11-23T21:05:00Z
SPAN_S = SPAN_H * HOUR_S
moments = st.integers(-3_000_000_000, 10_000_000_000)
regimes = st.sampled_from(list(REGIMES))
names = st.sampled_from([*ASSETS, "sol", "x"])


# Prices


@settings(max_examples=40, deadline=None)
@given(names, regimes, st.integers(0, 5), moments, st.integers(0, 9000), st.data())
def test_a_second_has_the_same_price_whatever_range_is_asked(
    asset: str, regime: str, seed: int, start: int, length: int, data: st.DataObject
) -> None:
    whole = prices(asset, start, start + length, seed, regime)
    first = data.draw(st.integers(0, length))
    last = data.draw(st.integers(first, length))
    part = prices(asset, start + first, start + last, seed, regime)
    assert whole.times.tolist() == list(range(start, start + length + 1))
    assert part.times.tolist() == whole.times[first : last + 1].tolist()
    assert part.prices.tolist() == whole.prices[first : last + 1].tolist()
    assert bool(np.all(np.isfinite(whole.prices) & (whole.prices > 0)))


def test_every_process_has_the_same_prices() -> None:
    script = (
        "from precog_runtime.simulator.prices import REGIMES, prices, lots\n"
        f"print([[prices(a, {NOW - 2}, {NOW}, 7, r).prices.tolist() for a in ('btc', 'sol')] for r in REGIMES])\n"
        f"print(lots(7, 'btc', {NOW}, {NOW + 2}).tolist())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": str(SRC), "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    here = [[prices(a, NOW - 2, NOW, 7, r).prices.tolist() for a in ("btc", "sol")] for r in REGIMES]
    assert outputs == {f"{here}\n{lots(7, 'btc', NOW, NOW + 2).tolist()}\n"}


def test_seeds_regimes_and_assets_differ_and_no_price_is_a_copy_that_can_be_spoiled() -> None:
    def at(asset: str, seed: int, regime: str) -> float:
        return float(prices(asset, NOW, NOW, seed, regime).prices[0])

    assert at("btc", 1, "calm") != at("btc", 2, "calm")
    assert at("btc", 1, "calm") != at("btc", 1, "volatile")
    assert at("sol", 1, "calm") != at("doge", 1, "calm")
    before = at("btc", 1, "calm")
    prices("btc", NOW, NOW + 5, 1, "calm").prices[:] = 0
    assert at("btc", 1, "calm") == before


def test_an_empty_range_has_no_prices() -> None:
    assert len(prices("btc", NOW, NOW - 1, 1, "calm")) == 0
    assert len(lots(1, "btc", NOW, NOW - 1)) == 0


def test_an_unknown_regime_is_refused_by_name() -> None:
    with pytest.raises(SettingError, match=r"regime is 'wild'.*calm, volatile"):
        prices("btc", NOW, NOW, 1, "wild")


@pytest.mark.parametrize("regime", REGIMES)
def test_prices_go_on_where_hours_and_spans_meet(regime: str) -> None:
    """The step onto a border is like any other: within what the hours on both sides have, jumps aside."""
    span = NOW // SPAN_S * SPAN_S
    for border in (span, span + HOUR_S, span + 5 * HOUR_S, span + SPAN_S):
        around = np.abs(np.diff(np.log(prices("btc", border - 1800, border + 1800, 3, regime).prices)))
        assert around[1799] < 10 * max(np.median(around[:1799]), np.median(around[1800:])) + 1e-5


def hours(asset: str, regime: str, count: int = 1500) -> np.ndarray[Any, np.dtype[np.float64]]:
    start = NOW // HOUR_S * HOUR_S
    parts = [prices(asset, start + n * HOUR_S, start + (n + 1) * HOUR_S - 1, 11, regime).prices for n in range(count)]
    return np.array(parts)


def ranges(of: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    found: np.ndarray[Any, np.dtype[np.float64]] = (of.max(axis=1) - of.min(axis=1)) / of[:, 0] * 100
    return found


def scaled(of: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    """Volatility of 1 s returns of an hour times sqrt(3600), %, the mean of the hours."""
    return float(np.mean(np.std(np.diff(np.log(of), axis=1), axis=1))) * 60 * 100


@pytest.mark.parametrize(("asset", "measured"), [("btc", 0.65), ("eth", 1.10), ("tao_bittensor", 1.18)])
def test_hours_range_as_measured_on_the_real_market(asset: str, measured: float) -> None:
    mean = {regime: float(np.mean(ranges(hours(asset, regime, 600)))) for regime in ("calm", "mixed", "volatile")}
    assert 0.75 * measured < mean["mixed"] < 1.3 * measured
    assert mean["calm"] < 0.85 * measured
    assert mean["volatile"] > 1.4 * measured


@pytest.mark.parametrize(
    ("asset", "ratio"), [("btc", 0.74 / 0.65), ("eth", 2.13 / 1.10), ("tao_bittensor", 2.17 / 1.18)]
)
def test_noise_overstates_the_volatility_of_an_hour_as_measured(asset: str, ratio: float) -> None:
    noisy, calm = hours(asset, "noisy", 500), hours(asset, "calm", 500)
    assert scaled(noisy) / float(np.mean(ranges(noisy))) == pytest.approx(ratio, rel=0.15)
    assert scaled(calm) / float(np.mean(ranges(calm))) == pytest.approx(math.sqrt(math.pi / 8), rel=0.12)


def test_volatility_clusters() -> None:
    of = ranges(hours("btc", "calm"))
    assert np.corrcoef(of[1:], of[:-1])[0, 1] > 0.2
    assert np.percentile(of, 95) > 3 * np.percentile(of, 25)


def test_volatility_clusters_within_an_hour_too() -> None:
    """Without bursts, the deviations of 300 independent steps differ by about 4 % from one 5 minutes to the next."""
    steps = np.diff(np.log(hours("btc", "calm", 200)), axis=1, append=np.nan).reshape(200, 12, 300)
    deviations = np.nanstd(steps, axis=2)
    assert float(np.mean(np.std(deviations, axis=1) / np.mean(deviations, axis=1))) > 0.15


def halves(regime: str) -> float:
    """Correlation of the return of each hour's first half with that of its second half."""
    of = np.log(hours("btc", regime))
    return float(np.corrcoef(of[:, 1800] - of[:, 0], of[:, -1] - of[:, 1800])[0, 1])


def test_trends_go_on_and_reversion_comes_back() -> None:
    assert halves("trend") > 0.1
    assert abs(halves("calm")) < 0.1
    of = np.log(hours("btc", "reverting"))
    ups, nexts = of[:, 600::600] - of[:, :-600:600], of[:, 1200::600] - of[:, 600:-600:600]
    assert np.corrcoef(ups[:, :-1].ravel(), nexts.ravel())[0, 1] < -0.2


def test_only_the_jumping_regimes_jump() -> None:
    def biggest(regime: str) -> float:
        steps = np.abs(np.diff(np.log(hours("btc", regime, 400)), axis=1))
        return float(np.max(np.max(steps, axis=1) / np.median(steps, axis=1)))

    assert biggest("jumps") > 40
    assert biggest("calm") < 25


def test_prices_stay_around_their_level_for_good() -> None:
    found = [float(prices("btc", NOW + n * SPAN_S, NOW + n * SPAN_S, 1, "mixed").prices[0]) for n in range(300)]
    assert 0.6 * 67_000 < min(found) < max(found) < 1.6 * 67_000
    assert statistics.median(found) == pytest.approx(67_000, rel=0.05)


# Faults


@given(st.integers(), st.integers(0, 10**9))
def test_a_decision_depends_on_seed_and_number_only(seed: int, number: int) -> None:
    some = Faults(latency=0.5, jitter_ms=10, hang=0.1, drop=0.2, http_429=0.2, http_500=0.2, cut=0.2, garbage=0.5)
    assert faults.decide(some, seed, number) == faults.decide(some, seed, number)
    assert faults.decide(Faults(), seed, number) == faults.Decision(0.0, "answer")


@pytest.mark.parametrize(
    ("name", "action"),
    [("hang", "hang"), ("drop", "drop"), ("429", "429"), ("500", "500"), ("cut", "cut"), ("garbage", "garbage")],
)
def test_shares_are_kept(name: str, action: str) -> None:
    def share(value: float) -> float:
        some = faults.merged(Faults(), {name: value})
        found = [faults.decide(some, 1, number).action for number in range(2000)]
        return sum(each == action or (action == "garbage" and each in faults.GARBAGE) for each in found) / 2000

    assert share(1.0) == 1.0
    assert share(0.0) == 0.0
    assert 0.25 < share(0.3) < 0.35


def test_latency_has_a_fixed_part_and_jitter_and_goes_with_any_other_fault() -> None:
    some = Faults(latency=1.0, latency_ms=200, jitter_ms=100, http_500=1.0)
    found = [faults.decide(some, 1, number) for number in range(500)]
    assert {each.action for each in found} == {"500"}
    assert 0.2 <= min(each.delay_s for each in found) < 0.21
    assert 0.29 < max(each.delay_s for each in found) <= 0.3


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"dorp": 1}, "no fault 'dorp'"),
        ({"501": 1}, "no fault '501'"),
        ({"drop": 1.5}, "fault drop is 1.5"),
        ({"500": -0.1}, "fault 500 is -0.1"),
        ({"drop": "often"}, "fault drop is 'often'"),
        ({"drop": True}, "fault drop is True"),
        ({"drop": None}, "fault drop is None"),
        ({"drop": float("nan")}, "fault drop is nan"),
        ({"latency_ms": -1}, "milliseconds from 0"),
        ({"garbage_kind": "odd"}, "garbage_kind is 'odd'"),
    ],
)
def test_a_bad_fault_is_refused_by_name_and_reason(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingError, match=told):
        faults.merged(Faults(), {"cut": 0.5, **changes})


def test_faults_are_told_by_the_names_that_change_them() -> None:
    some = faults.merged(Faults(), {"429": "0.25", "garbage_kind": "html"})
    assert (some.http_429, some.garbage_kind) == (0.25, "html")
    assert faults.merged(Faults(), faults.settings(some)) == some


# The API


@contextlib.asynccontextmanager
async def running(**options: Any) -> AsyncIterator[tuple[Server, aiohttp.ClientSession]]:
    options = {"rate_limit": 0, "now": lambda: float(NOW), **options}
    api = await server.start(Config(**options))
    try:
        async with aiohttp.ClientSession() as session:
            yield api, session
    finally:
        await api.close()


async def get(api: Server, session: aiohttp.ClientSession, **query: Any) -> tuple[int, Any, Any]:
    asked = {"assets": "btc", "metrics": METRIC, "frequency": "1s", **query}
    asked = {name: str(value) for name, value in asked.items() if value is not None}
    async with session.get(f"{api.url}/timeseries/asset-metrics", params=asked) as response:
        return response.status, json.loads(await response.read()), response.headers


async def pages(api: Server, session: aiohttp.ClientSession, **query: Any) -> list[list[dict[str, str]]]:
    _, answer, _ = await get(api, session, **query)
    found = [answer["data"]]
    while "next_page_url" in answer:
        async with session.get(answer["next_page_url"]) as response:
            answer = await response.json()
        found.append(answer["data"])
    return found


def asked_once(config: dict[str, Any] | None = None, **query: Any) -> tuple[int, Any, Any]:
    async def scene() -> tuple[int, Any, Any]:
        async with running(**(config or {})) as (api, session):
            return await get(api, session, **query)

    return asyncio.run(scene())


def seconds(rows: list[dict[str, str]]) -> list[int]:
    return [timestamps.parse(row["time"]) - NOW for row in rows]


def test_rows_are_as_the_real_api_writes_them() -> None:
    status, answer, headers = asked_once({"regime": "calm", "seed": 4}, start_time=timestamps.text(NOW - 1))
    expected = [repr(float(price)) for price in prices("btc", NOW - 1, NOW, 4, "calm").prices]
    assert status == 200
    assert headers["Content-Type"].startswith("application/json")
    assert answer == {
        "data": [
            {"asset": "btc", "time": "2026-11-23T21:04:59.000000000Z", METRIC: expected[0]},
            {"asset": "btc", "time": "2026-11-23T21:05:00.000000000Z", METRIC: expected[1]},
        ]
    }


RANGES = [
    ({"start_time": "2026-11-23T21:04:58Z", "end_time": "2026-11-23T21:04:59Z"}, [-2, -1]),
    ({"start_time": "2026-11-23T21:04:58", "end_time": "2026-11-23T21:04:58.999999999Z"}, [-2]),
    ({"start_time": "2026-11-23T21:04:57.000001", "end_time": "2026-11-23T21:04:59Z"}, [-2, -1]),
    ({"start_time": "2026-11-23T21:04:58Z", "end_inclusive": "false"}, [-2, -1, 0]),
    ({"start_time": "2026-11-23T21:04:58Z", "end_time": "2026-11-23T21:05:00Z", "end_inclusive": "false"}, [-2, -1]),
    ({"start_time": "2026-11-23T21:04:58Z", "end_time": "2026-11-23T21:04:59.5Z", "end_inclusive": "false"}, [-2, -1]),
    ({"start_time": "2026-11-23T21:04:58Z", "start_inclusive": "false"}, [-1, 0]),
    ({"start_time": "2026-11-23T21:04:58Z", "end_time": "2030-01-01"}, [-2, -1, 0]),
    ({"start_time": "2026-11-23T23:04:58+02:00"}, [-2, -1, 0]),
    ({"start_time": "2030-01-01T00:00:00Z"}, []),
    ({"start_time": "20300101"}, []),
    ({"limit_per_asset": 2}, [-1, 0]),
    ({"limit_per_asset": 2, "paging_from": "start", "start_time": "2026-11-23T21:04:00Z"}, [-60, -59]),
    ({"page_size": 3}, [-2, -1, 0]),
]


@pytest.mark.parametrize(("query", "expected"), RANGES)
def test_a_range_is_cut_where_it_is_asked_to_be(query: dict[str, Any], expected: list[int]) -> None:
    status, answer, _ = asked_once(**query)
    assert status == 200
    assert seconds(answer["data"]) == expected


@pytest.mark.parametrize("order", ["asset", "time"])
@pytest.mark.parametrize("side", ["start", "end"])
@pytest.mark.parametrize("size", [1, 3, 7, 11, 12, 100])
def test_pages_make_up_the_whole_answer(order: str, side: str, size: int) -> None:
    async def scene() -> tuple[Any, list[list[dict[str, str]]]]:
        async with running() as (api, session):
            query = {"assets": "eth,btc", "start_time": timestamps.text(NOW - 5), "sort": order, "paging_from": side}
            whole = await pages(api, session, page_size=10_000, **query)
            return whole, await pages(api, session, page_size=size, **query)

    whole, parts = asyncio.run(scene())
    if side == "end":
        parts.reverse()
    assert len(whole) == 1
    assert [row for part in parts for row in part] == whole[0]
    assert [len(part) for part in parts if len(part) != size] in ([], [12 % size])
    keys = [(row["asset"], row["time"]) for row in whole[0]]
    moments = [timestamps.text(NOW + n)[:-1] + "000Z" for n in range(-5, 1)]
    by_asset = [(asset, moment) for asset in ("eth", "btc") for moment in moments]
    by_time = [(asset, moment) for moment in moments for asset in ("eth", "btc")]
    assert keys == (by_asset if order == "asset" else by_time)


def test_later_pages_hold_to_the_first_ones_range_while_time_goes_on() -> None:
    clock = [float(NOW)]

    async def scene() -> list[dict[str, str]]:
        async with running(now=lambda: clock[0]) as (api, session):
            _, first, _ = await get(api, session, limit_per_asset=4, page_size=2)
            clock[0] += 100
            _, second, _ = await get(
                api, session, limit_per_asset=4, page_size=2, next_page_token=first["next_page_token"]
            )
            return [*second["data"], *first["data"]]

    assert seconds(asyncio.run(scene())) == [-3, -2, -1, 0]


def test_a_stream_has_one_row_a_line_and_no_pages() -> None:
    async def scene() -> list[Any]:
        async with running() as (api, session):
            query = {"assets": "btc", "metrics": METRIC, "frequency": "1s", "format": "json_stream"}
            query |= {"start_time": timestamps.text(NOW - 299)}
            async with session.get(f"{api.url}/timeseries/asset-metrics", params=query) as response:
                return [json.loads(line) for line in (await response.text()).splitlines()]

    assert seconds(asyncio.run(scene())) == list(range(-299, 1))


BAD = [
    ({"assets": "btc,nosuch"}, "Bad parameter 'assets'. Value 'nosuch' is not supported."),
    ({"assets": None}, "Missing parameter 'assets'"),
    ({"assets": ","}, "Missing parameter 'assets'"),
    ({"metrics": "PriceUSD"}, "Bad parameter 'metrics'. Value 'PriceUSD'"),
    ({"metrics": None}, "Missing parameter 'metrics'"),
    ({"frequency": "1d"}, "Bad parameter 'frequency'. Value '1d'"),
    ({"frequency": None}, "Bad parameter 'frequency'"),
    ({"start_time": "yesterday"}, "Bad parameter 'start_time'. Value 'yesterday'"),
    ({"end_time": "2026-13-01"}, "Bad parameter 'end_time'"),
    ({"page_size": 0}, "Bad parameter 'page_size'. Value '0'"),
    ({"page_size": 10_001}, "Bad parameter 'page_size'. Value '10001'"),
    ({"page_size": "²"}, "Bad parameter 'page_size'"),
    ({"limit_per_asset": -1}, "Bad parameter 'limit_per_asset'"),
    ({"paging_from": "middle"}, "Bad parameter 'paging_from'"),
    ({"end_inclusive": "maybe", "end_time": "2026-11-23"}, "Bad parameter 'end_inclusive'"),
    ({"sort": "height"}, "Bad parameter 'sort'"),
    ({"format": "csv"}, "Bad parameter 'format'"),
    ({"format": "json_stream", "start_time": "2026-01-01"}, "Bad parameter 'format'"),
    ({"next_page_token": "!"}, "Bad parameter 'next_page_token'"),
    ({"next_page_token": "LTEuMS4y"}, "Bad parameter 'next_page_token'"),
    ({"timezone": "America/Chicago"}, "Bad parameter 'timezone'"),
    ({"start_height": 5}, "Bad parameter 'start_height'"),
    ({"page-size": 5}, "Bad parameter 'page-size'"),
]


def test_bad_parameters_are_refused_as_the_real_api_does() -> None:
    async def scene() -> list[tuple[int, Any, Any]]:
        async with running() as (api, session):
            return [await get(api, session, **query) for query, _ in BAD]

    for (query, told), (status, answer, _) in zip(BAD, asyncio.run(scene()), strict=True):
        assert (status, answer["error"]["type"]) == (400, "bad_parameter"), query
        assert told in answer["error"]["message"]


def test_what_the_real_client_sends_is_understood() -> None:
    common = {"api_key": "k", "null_as_zero": "true", "ignore_forbidden_errors": "true", "status": "all"}
    status, answer, _ = asked_once(assets="btc,nosuch", ignore_unsupported_errors="true", limit_per_asset=1, **common)
    assert (status, [row["asset"] for row in answer["data"]]) == (200, ["btc"])
    status, answer, _ = asked_once(assets="nosuch", ignore_unsupported_errors="true", sort="time")
    assert (status, answer) == (200, {"data": []})
    status, answer, _ = asked_once(assets="*", limit_per_asset=1)
    assert [row["asset"] for row in answer["data"]] == list(ASSETS)


def test_any_configured_name_is_an_asset() -> None:
    status, answer, _ = asked_once({"assets": ("sol", "a.b")}, assets="a.b,sol", limit_per_asset=1)
    assert (status, [row["asset"] for row in answer["data"]]) == (200, ["a.b", "sol"])


def test_the_newest_prices_are_not_published_yet() -> None:
    _, answer, _ = asked_once({"publish_delay_s": 2.5}, limit_per_asset=2)
    assert seconds(answer["data"]) == [-4, -3]


def test_the_rate_limit_is_kept_and_told() -> None:
    async def scene() -> tuple[list[tuple[int, Any, Any]], Server]:
        async with running(rate_limit=2, rate_period_s=30) as (api, session):
            return [await get(api, session, limit_per_asset=1) for _ in range(3)], api

    found, api = asyncio.run(scene())
    assert [status for status, _, _ in found] == [200, 200, 429]
    assert found[2][1]["error"]["type"] == "too_many_requests"
    assert [headers["x-ratelimit-remaining"] for _, _, headers in found] == ["1", "0", "0"]
    assert [headers["x-ratelimit-limit"] for _, _, headers in found] == ["2;w=30"] * 3
    assert all(25 < int(headers["x-ratelimit-reset"]) <= 30 for _, _, headers in found)
    assert (api.requests, dict(api.outcomes)) == (3, {"answer": 2, "limited": 1})


@given(st.lists(st.floats(0, 3), max_size=60), st.integers(1, 5))
def test_no_window_holds_more_requests_than_the_limit(pauses: list[float], limit: int) -> None:
    watch, allowed, now = RateLimit(limit, 6.0), list[float](), 0.0
    for number, pause in enumerate(pauses):
        now += pause
        good, headers = watch.take("a", now)
        if good:
            allowed.append(now)
        inside = sum(now - 6.0 < each for each in allowed)
        assert inside <= limit
        assert good or inside == limit
        assert int(headers["x-ratelimit-remaining"]) == limit - inside
        assert watch.take(f"other {number}", now)[0]


def test_addresses_that_are_gone_are_forgotten() -> None:
    watch = RateLimit(1, 6.0)
    for number in range(5000):
        watch.take(str(number), float(number))
    assert len(watch._taken) <= server.ADDRESSES + 1


@pytest.mark.parametrize("now", [0.0, 0.1, 2.0, 3.5, 5.0, 5.99])
def test_waiting_as_long_as_told_is_enough_and_a_window_is_no_longer_than_its_period(now: float) -> None:
    watch = RateLimit(1, 6.0)
    assert watch.take("a", 0.0)[0]
    good, headers = watch.take("a", now)
    assert not good
    assert 6.0 <= now + int(headers["x-ratelimit-reset"]) < 7.0
    assert watch.take("a", 6.0)[0]


# The faults over the API


async def spoiled(api: Server, session: aiohttp.ClientSession, kind: str) -> tuple[int, bytes, str]:
    api.faults = Faults(garbage=1.0, garbage_kind=kind)
    query = {"assets": "btc", "metrics": METRIC, "frequency": "1s", "limit_per_asset": "50"}
    async with session.get(f"{api.url}/timeseries/asset-metrics", params=query) as response:
        return response.status, await response.read(), response.content_type


def test_every_kind_of_garbage_comes_with_status_200() -> None:
    async def scene() -> dict[str, tuple[int, bytes, str]]:
        async with running() as (api, session):
            return {kind: await spoiled(api, session, kind) for kind in faults.GARBAGE}

    found = asyncio.run(scene())
    assert {status for status, _, _ in found.values()} == {200}
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        json.loads(found["truncated"][1])
    assert found["html"][2] == "text/html"
    assert not isinstance(json.loads(found["shape"][1])["data"], list)
    good = prices("btc", NOW - 49, NOW, 1, "mixed")
    bad_rows = {
        kind: [
            (at, row)
            for at, row in enumerate(json.loads(found[kind][1])["data"])
            if row
            != {
                "asset": "btc",
                "time": timestamps.text(NOW - 49 + at)[:-1] + "000Z",
                METRIC: repr(float(good.prices[at])),
            }
        ]
        for kind in ("types", "negative", "nan", "absurd", "asset", "range")
    }
    for kind, rows in bad_rows.items():
        assert [at for at, _ in rows] == list(range(0, 50, faults.EVERY)), kind
    assert all(float(row[METRIC]) < 0 for _, row in bad_rows["negative"])
    assert all(math.isnan(float(row[METRIC])) for _, row in bad_rows["nan"])
    assert all(float(row[METRIC]) > 1e10 for _, row in bad_rows["absurd"])
    assert {row["asset"] for _, row in bad_rows["asset"]} == {"nosuchasset"}
    assert all(abs(timestamps.parse(row["time"]) - NOW) > 80_000 for _, row in bad_rows["range"])
    assert not any(
        isinstance(row, dict)
        and isinstance(row.get(METRIC), str)
        and isinstance(row.get("time"), str)
        and isinstance(row.get("asset"), str)
        for _, row in bad_rows["types"]
    )


def test_broken_connections_are_broken_where_they_should_be() -> None:
    async def scene() -> Server:
        async with running() as (api, session):
            api.faults = Faults(drop=1.0)
            with pytest.raises(aiohttp.ServerDisconnectedError):
                await get(api, session)
            api.faults = Faults(cut=1.0)
            with pytest.raises(aiohttp.ClientPayloadError):
                await get(api, session, page_size=5000)
            api.faults = Faults()
            assert (await get(api, session))[0] == 200
            return api

    # aiohttp repeats a GET once if a kept connection was closed; each scene here opens its own.
    assert asyncio.run(scene()).outcomes["cut"] >= 1


def test_errors_of_the_server_come_as_the_real_ones() -> None:
    async def scene() -> tuple[Any, Any]:
        async with running(rate_limit=10) as (api, session):
            api.faults = Faults(http_500=1.0)
            broken = await get(api, session)
            api.faults = Faults(http_429=1.0, reset_s=3)
            return broken, await get(api, session)

    (status, answer, _), (limited, told, headers) = asyncio.run(scene())
    assert (status, answer["error"]["type"]) == (500, "internal_server_error")
    assert (limited, told["error"]["type"]) == (429, "too_many_requests")
    assert (headers["x-ratelimit-reset"], headers["x-ratelimit-remaining"]) == ("3", "0")


def test_a_hanging_request_harms_no_other_and_ends_with_the_server() -> None:
    async def scene() -> BaseException:
        async with running(faults=Faults(hang=1.0)) as (api, session):
            hanging = asyncio.ensure_future(get(api, session))
            while not api.requests:
                await asyncio.sleep(0)
            api.faults = Faults()
            assert (await get(api, session))[0] == 200
            assert not hanging.done()
            await api.close()
            (error,) = await asyncio.gather(hanging, return_exceptions=True)
            return error if isinstance(error, BaseException) else AssertionError("answered")

    assert isinstance(asyncio.run(scene()), aiohttp.ClientError)


def test_nothing_is_kept_for_a_client_that_has_gone() -> None:
    async def scene() -> None:
        async with running(faults=Faults(hang=1.0)) as (api, session):
            before = len(asyncio.all_tasks())
            hanging = [asyncio.ensure_future(get(api, session)) for _ in range(5)]
            while api.requests < 5:
                await asyncio.sleep(0)
            for each in hanging:
                each.cancel()
            await asyncio.gather(*hanging, return_exceptions=True)
            while len(asyncio.all_tasks()) > before:
                await asyncio.sleep(0.005)

    asyncio.run(asyncio.wait_for(scene(), 10))


def test_latency_is_added_to_the_usual_one() -> None:
    async def scene() -> float:
        async with running(latency_ms=100, faults=Faults(latency=1.0, latency_ms=100)) as (api, session):
            begin = asyncio.get_running_loop().time()
            await get(api, session, limit_per_asset=1)
            return asyncio.get_running_loop().time() - begin

    assert asyncio.run(scene()) >= 0.2


def test_late_prices_come_in_the_end_and_the_others_at_once() -> None:
    clock = [float(NOW)]

    async def scene() -> tuple[list[int], list[int]]:
        async with running(faults=Faults(late=0.4, late_s=20), now=lambda: clock[0]) as (api, session):
            span = {"start_time": timestamps.text(NOW - 99), "end_time": timestamps.text(NOW)}
            first = (await get(api, session, **span))[1]["data"]
            clock[0] += 20
            return seconds(first), seconds((await get(api, session, **span))[1]["data"])

    first, second = asyncio.run(scene())
    assert second == list(range(-99, 1))
    missing = set(second) - set(first)
    assert 3 <= len(missing) <= 14
    assert min(missing) > -20


def test_a_page_of_late_prices_only_is_skipped() -> None:
    """The real client takes an empty page for the end."""

    async def scene() -> list[list[dict[str, str]]]:
        async with running(faults=Faults(late=1.0, late_s=20)) as (api, session):
            return await pages(api, session, limit_per_asset=40, page_size=10)

    assert [seconds(page) for page in asyncio.run(scene())] == [list(range(-29, -19)), list(range(-39, -29))]


def test_faults_are_switched_from_outside() -> None:
    async def scene() -> None:
        async with running(token="hush") as (api, session):
            session.headers["Authorization"] = "Bearer hush"
            control = f"{api.url.removesuffix('/v4')}/control"
            async with session.post(control, json={"500": 1, "latency_ms": 5}) as response:
                answer = await response.json()
            assert (response.status, answer["500"], answer["latency_ms"]) == (200, 1.0, 5.0)
            assert (await get(api, session))[0] == 500
            for bad in (b'{"500": 0, "dorp": 1}', b'{"500": 0, "drop": 7}', b"{", b"[]"):
                async with session.post(control, data=bad) as response:
                    refused = await response.json()
                assert (response.status, refused["error"]["type"]) == (400, "bad_parameter")
            async with session.get(control) as response:
                assert await response.json() == answer
            async with session.post(control, json={"500": 0}):
                pass
            assert (await get(api, session))[0] == 200
            assert api.requests == 2

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("token", "given", "status"),
    [
        ("", None, 403),
        ("", "Bearer ", 403),
        ("hush", None, 401),
        ("hush", "Bearer", 401),
        ("hush", "Bearer hus", 401),
        ("hush", "Basic hush", 401),
        ("hush", "Bearer hush", 200),
    ],
)
def test_faults_are_switched_only_by_who_has_the_token(token: str, given: str | None, status: int) -> None:
    async def scene() -> None:
        async with running(token=token) as (api, session):
            control = f"{api.url.removesuffix('/v4')}/control"
            headers = {} if given is None else {"Authorization": given}
            async with session.post(control, json={"500": 1}, headers=headers) as response:
                assert response.status == status
                assert "hush" not in await response.text()
            async with session.get(control) as response:
                assert (await response.json())["500"] == (1.0 if status == 200 else 0.0)

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"regime": "wild"}, "regime is 'wild'"),
        ({"assets": ()}, "assets is"),
        ({"rate_limit": -1}, "rate_limit is -1"),
        ({"rate_period_s": 0}, "rate_period_s is 0"),
        ({"publish_delay_s": float("nan")}, "publish_delay_s is nan"),
        ({"port": 70000}, "port is 70000"),
    ],
)
def test_an_impossible_configuration_is_refused_by_name(options: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingError, match=told):
        Config(**options)


# The command

SCRIPT = (
    "import argparse, sys; from precog_runtime.simulator import command; parser = argparse.ArgumentParser();"
    "command.add(parser); args = parser.parse_args(); sys.exit(args.run(args))"
)


@contextlib.asynccontextmanager
async def started(*words: str) -> AsyncIterator[asyncio.subprocess.Process]:
    flags = ["-O"] if sys.flags.optimize else []
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, *flags, "-c", SCRIPT, *words, stdout=-1, stderr=-1, env=environment
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_it_is_told_to_end(ending: signal.Signals) -> None:
    async def scene() -> tuple[int, int | None, bytes]:
        words = ("--port", "0", "--assets", "sol", "--rate-limit", "1", "--fault", "500=1", "--fault", "hang=0")
        async with started(*words) as process, aiohttp.ClientSession() as session:
            if process.stdout is None or process.stderr is None:
                raise AssertionError("no pipes")
            url = json.loads(await process.stdout.readline())["listening"]
            query = {"assets": "sol", "metrics": METRIC, "frequency": "1s"}
            async with session.get(f"{url}/timeseries/asset-metrics", params=query) as response:
                status = response.status
            process.send_signal(ending)
            return status, await process.wait(), await process.stderr.read()

    assert asyncio.run(scene()) == (500, 0, b"")


def test_the_command_refuses_what_it_cannot_do(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for words, told in (
            (["--port", port], f"can't listen on 127.0.0.1 port {port}"),
            (["--regime", "wild"], "Choose one of calm"),
            (["--fault", "dorp=1"], "there is no fault 'dorp'"),
            (["--fault", "drop"], "Give NAME=VALUE"),
            (["--fault", "drop=2"], "fault drop is 2"),
            (["--assets", ","], "name at least one"),
            (["--rate-period-s", "0"], "rate_period_s is 0"),
        ):
            parser = argparse.ArgumentParser()
            command.add(parser)
            args = parser.parse_args(words)
            assert args.run(args) == 2
            error = capsys.readouterr().err
            assert told in error
            assert error.count("\n") == 1
