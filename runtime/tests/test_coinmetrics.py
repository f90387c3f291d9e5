from __future__ import annotations

import asyncio
import logging
import threading
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from made_api import START, Api, Fault, body, drip, drop, drop_in_body, hang, price, raw, row, status

from precog_runtime.errors import RateLimited, SourceError
from precog_runtime.market import coinmetrics
from precog_runtime.market.coinmetrics import CoinMetrics, parse
from precog_runtime.metrics import Metrics
from precog_runtime.settings import Settings
from precog_runtime.types import PriceSource, Series

ASSETS = ("btc", "eth", "tao_bittensor")
KEY = "s3cr3t/key+1"


class Made(NamedTuple):
    api: Api
    source: CoinMetrics
    metrics: Metrics


def with_api(work: Callable[[Made], Awaitable[None]], **changed: Any) -> None:
    async def whole() -> None:
        async with Api() as api:
            given = {"api_requests": 100, "api_timeout_s": 2.0, "api_period_s": 0.3, **changed}
            settings, metrics = Settings(api_url=api.url, **given), Metrics()
            source = CoinMetrics(settings, metrics)
            try:
                await work(Made(api, source, metrics))
            finally:
                await source.close()

    asyncio.run(asyncio.wait_for(whole(), 20))


def counted(metrics: Metrics, sample: str) -> float:
    for line in metrics.text().decode().splitlines():
        if line.startswith(sample + " "):
            return float(line.split()[-1])
    return 0.0


def errors(metrics: Metrics, kind: str) -> float:
    return counted(metrics, f'precog_errors_total{{kind="{kind}"}}')


def requests(metrics: Metrics, outcome: str) -> float:
    return counted(metrics, f'precog_api_request_duration_seconds_count{{outcome="{outcome}"}}')


def check(series: Series, asset: str, start: int, end: int) -> None:
    assert series.times.tolist() == list(range(start, end + 1))
    assert series.prices.tolist() == [price(asset, second) for second in range(start, end + 1)]


def test_all_rows_of_all_assets() -> None:
    # Upstream keeps one row a second whichever its asset, and so loses two thirds.
    async def work(made: Made) -> None:
        assert isinstance(made.source, PriceSource)
        found = await made.source.fetch(ASSETS, START, START + 99, 5)
        assert list(found) == list(ASSETS)
        for asset, series in found.items():
            check(series, asset, START, START + 99)
        assert len(made.api.queries) == 1
        assert made.api.queries[0] == {
            "assets": "btc,eth,tao_bittensor",
            "metrics": "ReferenceRateUSD",
            "frequency": "1s",
            "start_time": "2026-11-23T20:00:00.000000Z",
            "end_time": "2026-11-23T20:01:39.000000Z",
            "page_size": "10000",
        }
        assert requests(made.metrics, "ok") == 1

    with_api(work)


@pytest.mark.parametrize("page_rows", [7, 1000, 3333, 10_000])
def test_paging(page_rows: int) -> None:
    async def work(made: Made) -> None:
        made.api.page_rows = page_rows
        rows = 3 * 34 if page_rows == 7 else 3 * 3601
        end = START + rows // 3 - 1
        found = await made.source.fetch(ASSETS, START, end, 10)
        for asset in ASSETS:
            check(found[asset], asset, START, end)
        assert len(made.api.queries) == -(-rows // page_rows)
        assert len(made.api.connections) == 1  # kept for the next request

    with_api(work, api_requests=1000)


def test_the_same_page_again_and_again_ends() -> None:
    async def work(made: Made) -> None:
        made.api.faults.extend([raw(body([], next_page_token="a"))] * 5)
        with pytest.raises(SourceError, match="again and again"):
            await made.source.fetch(ASSETS, START, START + 9, 5)
        assert len(made.api.queries) == 2

    with_api(work)


def test_nothing_published_yet() -> None:
    async def work(made: Made) -> None:
        made.api.published = START - 1
        found = await made.source.fetch(ASSETS, START, START + 9, 5)
        assert {asset: len(series) for asset, series in found.items()} == dict.fromkeys(ASSETS, 0)

    with_api(work)


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (status(500), "server_error"),
        (status(502, text="<html>"), "server_error"),
        (status(503), "server_error"),
        (status(429, {"x-ratelimit-reset": "0"}), "rate_limited"),
        (drop, "dropped"),
        (drop_in_body, "dropped"),
        (raw(b""), "ok"),
        (raw(b"<html>"), "ok"),
        (raw(b'{"data":[{"asset":"btc"'), "ok"),
        (raw(b"[]"), "ok"),
        (raw(b'"text"'), "ok"),
        (raw(b"{}"), "ok"),
        (raw(b'{"data":null}'), "ok"),
        (raw(b'{"data":{}}'), "ok"),
        (raw(b'{"data":[],"next_page_token":7}'), "ok"),
        (raw(b"\xff\xfe\x00"), "ok"),
    ],
)
def test_a_passing_fault_is_met_with_another_attempt(fault: Fault, outcome: str) -> None:
    async def work(made: Made) -> None:
        await made.source.fetch(ASSETS, START, START + 1, 5)  # so that the connection is a kept one
        made.api.faults.extend([fault, fault])
        found = await made.source.fetch(ASSETS, START, START + 9, 8)
        for asset in ASSETS:
            check(found[asset], asset, START, START + 9)
        # Each arrival is one of our attempts: the HTTP library makes none of its own, which no budget would count.
        assert len(made.api.queries) == 4
        assert requests(made.metrics, outcome) == (4 if outcome == "ok" else 2)
        assert errors(made.metrics, "garbage_page") == (2 if outcome == "ok" else 0)

    with_api(work)


@pytest.mark.parametrize("fault", [hang, drip])
def test_an_answer_that_does_not_come_is_given_up(fault: Fault) -> None:
    async def work(made: Made) -> None:
        made.api.faults.append(fault)
        found = await made.source.fetch(ASSETS, START, START + 9, 8)
        check(found["btc"], "btc", START, START + 9)
        assert requests(made.metrics, "timeout") == 1

    with_api(work, api_timeout_s=1.0)


@pytest.mark.parametrize(
    ("fault", "said"),
    [(hang, "does not answer"), (status(500), "HTTP 500"), (drop, "dropped the connection"), (raw(b"{"), "garbage")],
)
def test_a_fault_that_stays_is_an_error_within_the_time_limit(fault: Fault, said: str) -> None:
    async def work(made: Made) -> None:
        made.api.faults.extend([fault] * 100)
        # The last attempt may have begun so late that no time was left for its answer.
        with pytest.raises(SourceError, match=f"{said}|does not answer|no time is left"):
            # The limit of one request is 60 s, of this test 20 s.
            await made.source.fetch(ASSETS, START, START + 9, 0.5)

    with_api(work, api_timeout_s=60.0)


def test_nobody_listens() -> None:
    async def work(made: Made) -> None:
        await made.api.__aexit__()
        # The last attempt may have begun so late that no time was left for it.
        with pytest.raises(SourceError, match=r"can't be connected to|no time is left"):
            await made.source.fetch(ASSETS, START, START + 9, 2)

    with_api(work)


@pytest.mark.parametrize(("code", "hint"), [(401, "api_key"), (404, "api_url"), (302, "api_url")])
def test_an_answer_that_stays_is_not_asked_for_again(code: int, hint: str) -> None:
    async def work(made: Made) -> None:
        made.api.faults.extend([status(code, {"Location": made.api.url})] * 2)
        with pytest.raises(SourceError, match=f"HTTP {code}; check the setting {hint}"):
            await made.source.fetch(ASSETS, START, START + 9, 5)
        assert len(made.api.queries) == 1

    with_api(work)


def test_a_body_without_end_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coinmetrics, "LARGEST_BODY", 10_000)

    async def work(made: Made) -> None:
        made.api.faults.append(raw(b" " * 20_000 + body([])))
        await made.source.fetch(ASSETS, START, START + 9, 5)
        assert requests(made.metrics, "dropped") == 1

    with_api(work)


def test_no_request_before_the_reset_of_a_429() -> None:
    async def work(made: Made) -> None:
        made.api.faults.append(status(429, {"x-ratelimit-reset": "1"}))
        await made.source.fetch(ASSETS, START, START + 9, 5)
        await made.source.fetch(ASSETS, START, START + 9, 5)
        assert made.api.arrivals[1] - made.api.arrivals[0] >= 1
        assert len(made.api.arrivals) == 3

    with_api(work)


@pytest.mark.parametrize(
    ("headers", "retry_after_s"),
    [
        ({"x-ratelimit-reset": "7"}, 7),
        ({"retry-after": "4"}, 4),
        ({}, 3),
        ({"x-ratelimit-reset": "soon"}, 3),
        ({"x-ratelimit-reset": "nan"}, 3),
        ({"x-ratelimit-reset": "-5"}, 3),
        ({"x-ratelimit-reset": "inf"}, 3),
    ],
)
def test_a_reset_that_comes_too_late_is_told(headers: dict[str, str], retry_after_s: float) -> None:
    async def work(made: Made) -> None:
        made.api.faults.append(status(429, headers))
        for _ in range(3):
            with pytest.raises(RateLimited) as refused:
                await made.source.fetch(ASSETS, START, START + 9, 2)
            assert refused.value.retry_after_s == pytest.approx(retry_after_s, abs=2)
        assert len(made.api.queries) == 1

    with_api(work, api_period_s=3.0)


def test_the_server_never_sees_more_than_the_rate_limit() -> None:
    async def work(made: Made) -> None:
        made.api.page_rows = 20
        made.api.faults.extend([status(500), drop, drop_in_body] * 2)
        await asyncio.gather(*(made.source.fetch(ASSETS, START, START + 19, 15) for _ in range(6)))
        times = made.api.arrivals
        assert len(times) == 6 * 3 + 6
        assert max(sum(begin <= time < begin + 0.3 for time in times) for begin in times) <= 5

    with_api(work, api_requests=5)


def test_one_unknown_asset_does_not_lose_the_others() -> None:
    # With upstream, one unknown asset loses all answers.
    async def work(made: Made) -> None:
        asked = ["btc", "nonesuch", "eth"]
        found = await made.source.fetch(asked, START, START + 9, 5)
        assert set(found) == {"btc", "eth"}
        for asset in found:
            check(found[asset], asset, START, START + 9)
        assert [query["assets"] for query in made.api.queries[1:]] == asked
        assert errors(made.metrics, "asset_refused") == 1
        found = await made.source.fetch(asked, START, START + 9, 5)
        assert set(found) == {"btc", "eth"}
        assert made.api.queries[4]["assets"] == "btc,eth"
        with pytest.raises(SourceError, match="refuses nonesuch"):
            await made.source.fetch(["nonesuch"], START, START + 9, 5)
        assert len(made.api.queries) == 5

    with_api(work)


def test_a_refused_asset_is_asked_for_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coinmetrics, "REFUSED_S", 0.2)

    async def work(made: Made) -> None:
        made.api.refused = {"eth"}
        assert set(await made.source.fetch(ASSETS, START, START + 9, 5)) == {"btc", "tao_bittensor"}
        assert set(await made.source.fetch(ASSETS, START, START + 9, 5)) == {"btc", "tao_bittensor"}
        made.api.refused = set()
        await asyncio.sleep(0.25)
        assert set(await made.source.fetch(ASSETS, START, START + 9, 5)) == set(ASSETS)

    with_api(work)


def test_where_all_are_refused_none_is_left_out() -> None:
    async def work(made: Made) -> None:
        made.api.faults.extend([status(403, text='{"error":{"message":"Not now."}}')] * 4)
        with pytest.raises(SourceError, match=r"HTTP 403: Not now\."):
            await made.source.fetch(ASSETS, START, START + 9, 5)
        assert set(await made.source.fetch(ASSETS, START, START + 9, 5)) == set(ASSETS)

    with_api(work)


BAD_ROWS: list[Any] = [
    row("btc", START, "nan"),
    row("btc", START, "inf"),
    row("btc", START, "-inf"),
    row("btc", START, "1e999"),
    row("btc", START, "-5"),
    row("btc", START, "0"),
    row("btc", START, ""),
    row("btc", START, "cheap"),
    row("btc", START, True),
    row("btc", START, [1]),
    row("btc", START, {"a": 1}),
    {**row("btc", START, "1.0"), "asset": "doge"},
    {**row("btc", START, "1.0"), "asset": None},
    {**row("btc", START, "1.0"), "asset": ["btc"]},
    {**row("btc", START, "1.0"), "time": None},
    {**row("btc", START, "1.0"), "time": START},
    {**row("btc", START, "1.0"), "time": "now"},
    {**row("btc", START, "1.0"), "time": "today"},
    {**row("btc", START, "1.0"), "time": "NaT"},
    {**row("btc", START, "1.0"), "time": "x" * 19 + "Z"},
    {**row("btc", START, "1.0"), "time": "2030-01-01T00:00:00.000000000Z"},
    {**row("btc", START, "1.0"), "time": "1970-01-01T00:00:00.000000000Z"},
    {**row("btc", START, "1.0"), "time": "9999-12-31T23:59:59.000000000Z"},
    row("btc", START - 1),
    row("btc", START + 10),
    {"asset": "btc", "time": row("btc", START)["time"]},
    {"asset": "btc", "ReferenceRateUSD": "1.0"},
    {"time": row("btc", START)["time"], "ReferenceRateUSD": "1.0"},
    {**row("btc", START), "ReferenceRateUSD": None},
    {},
    None,
    7,
    "row",
    ["btc"],
]


@pytest.mark.parametrize("bad", BAD_ROWS, ids=range(len(BAD_ROWS)))
def test_a_row_that_can_not_be_used_is_left_out_and_counted(bad: Any) -> None:
    good = [row(asset, second) for asset in ("btc", "eth") for second in range(START + 1, START + 4)]
    for rows in ([bad, *good], [*good, bad], [*good[:2], bad, *good[2:]]):
        page = parse(body(rows), ["btc", "eth"], START, START + 9)
        assert page.bad == 1
        assert page.codes.tolist() == [0, 0, 0, 1, 1, 1]
        assert page.times.tolist() == [START + 1, START + 2, START + 3] * 2
        assert page.prices.tolist() == [float(each["ReferenceRateUSD"]) for each in good]
    alone = parse(body([bad]), ["btc", "eth"], START, START + 9)
    assert (alone.bad, len(alone.codes)) == (1, 0)


def test_bad_rows_reach_the_metrics_and_the_good_ones_the_series() -> None:
    async def work(made: Made) -> None:
        made.api.faults.append(raw(body([*BAD_ROWS, row("btc", START + 2)])))
        found = await made.source.fetch(["btc"], START, START + 9, 5)
        check(found["btc"], "btc", START + 2, START + 2)
        assert errors(made.metrics, "bad_row") == len(BAD_ROWS)

    with_api(work)


@pytest.mark.parametrize(
    "written",
    ["2026-11-23T20:00:01Z", "2026-11-23T20:00:01.000Z", "2026-11-23T20:00:01.000000Z", "2026-11-23T20:00:01.5Z"],
)
@pytest.mark.parametrize("value", ["2.5", 2.5, "2.50"])
def test_ways_to_write_a_row(written: str, value: object) -> None:
    page = parse(body([{"asset": "btc", "time": written, "ReferenceRateUSD": value}]), ["btc"], START, START + 9)
    assert (page.bad, page.times.tolist(), page.prices.tolist()) == (0, [START + 1], [2.5])


def test_rows_in_any_order_and_twice() -> None:
    async def work(made: Made) -> None:
        seconds = [START + 3, START, START + 2, START, START + 1, START + 3]
        rows = [row(asset, second) for second in seconds for asset in ("eth", "btc")]
        made.api.faults.append(raw(body([row("btc", START + 3, "1.0"), *rows])))
        found = await made.source.fetch(["btc", "eth"], START, START + 9, 5)
        for asset in ("btc", "eth"):
            check(found[asset], asset, START, START + 3)
        assert errors(made.metrics, "bad_row") == 0

    with_api(work)


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
wild_rows = st.dictionaries(
    st.sampled_from(["asset", "time", "ReferenceRateUSD"]),
    json | st.sampled_from(["btc", "eth", "2026-11-23T20:00:01.000000000Z", "2026-11-23T20:00:01Z", "12.5"]),
)


@hypothesis_settings(max_examples=300, deadline=None)
@given(st.lists(wild_rows | json, max_size=6) | json, st.none() | json)
def test_whatever_comes_it_is_a_page_or_a_value_error(rows: Any, token: Any) -> None:
    try:
        page = parse(body(rows, next_page_token=token), ["btc", "eth"], START, START + 9)
    except ValueError:
        return
    except TypeError as error:  # of orjson in this test, whose integers have 64 bits
        assert "64-bit" in str(error)
        return
    assert page.bad + len(page.codes) == len(rows)
    assert len(page.codes) == len(page.times) == len(page.prices)
    assert np.isfinite(page.prices).all()
    assert (page.prices > 0).all()
    assert ((page.times >= START) & (page.times <= START + 9)).all()


def test_the_key_is_sent_and_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    shown: list[str] = []

    async def work(made: Made) -> None:
        echo = '{"error":{"message":"Bad key ' + KEY + ' of /x?api_key=s3cr3t%2Fkey%2B1."}}'
        everything: list[Fault] = [
            status(401, text=echo), status(404, text=echo), status(302, {"Location": f"{made.api.url}?api_key={KEY}"}),
            status(500), status(429, {"x-ratelimit-reset": "0"}), drop, drop_in_body, hang, raw(b"{"), no_http,
        ]  # fmt: skip
        for fault in everything:
            made.api.faults.extend([fault] * 100)
            with pytest.raises(SourceError) as failed:
                await made.source.fetch(ASSETS, START, START + 9, 0.3)
            shown.extend(_links(failed.value))
            made.api.faults.clear()
        made.api.faults.extend([status(400, text=echo)] * 4)
        with pytest.raises(SourceError, match=r"Bad key \*\*\*") as failed:
            await made.source.fetch(ASSETS, START, START + 9, 3)
        shown.extend(_links(failed.value))
        made.api.refused = {"eth"}
        await made.source.fetch(ASSETS, START, START + 9, 3)
        assert {query["api_key"] for query in made.api.queries} == {KEY}

    with caplog.at_level(logging.DEBUG):
        with_api(work, api_key=KEY, api_requests=10_000)
    assert "eth is left out" in caplog.text
    for text in (*shown, caplog.text):
        assert KEY not in text
        assert "s3cr3t" not in text


async def no_http(request: Any) -> Any:
    """Answer something that is no HTTP: the library's exception quotes the URL."""
    request.transport.write(b"HTTP/1.1 abc def\r\n\r\n")
    request.transport.close()
    await asyncio.sleep(30)


def _links(error: BaseException | None) -> list[str]:
    """Return what each exception of a chain says, also those that a traceback hides."""
    texts: list[str] = []
    while error is not None:
        texts.extend([str(error), repr(error), "".join(traceback.format_exception(error))])
        error = error.__cause__ or error.__context__
    return texts


def test_without_a_key_none_is_sent() -> None:
    async def work(made: Made) -> None:
        await made.source.fetch(ASSETS, START, START + 9, 5)
        assert "api_key" not in made.api.queries[0]

    with_api(work)


@pytest.mark.parametrize(("seconds", "in_loop"), [(10, True), (3300, False)])
def test_large_pages_are_parsed_in_a_thread(monkeypatch: pytest.MonkeyPatch, seconds: int, in_loop: bool) -> None:
    threads: list[bool] = []

    def parse_seen(*args: Any) -> Any:
        threads.append(threading.current_thread() is threading.main_thread())
        return parse(*args)

    monkeypatch.setattr(coinmetrics, "parse", parse_seen)

    async def work(made: Made) -> None:
        await made.source.fetch(ASSETS, START, START + seconds - 1, 5)
        assert threads == [in_loop]

    with_api(work)


def test_close_gives_back_the_connections_and_may_be_called_twice() -> None:
    async def work(made: Made) -> None:
        await made.source.fetch(ASSETS, START, START + 9, 5)
        (transport,) = made.api.connections
        await made.source.close()
        await made.source.close()
        while not transport.is_closing():  # type: ignore[attr-defined]
            await asyncio.sleep(0.005)
        with pytest.raises(SourceError, match="closed"):
            await made.source.fetch(ASSETS, START, START + 9, 5)

    with_api(work)


def test_close_ends_a_request_that_hangs() -> None:
    async def work(made: Made) -> None:
        hanging = asyncio.ensure_future(made.source.fetch(ASSETS, START, START + 9, 60))
        made.api.faults.append(hang)
        while not made.api.queries:
            await asyncio.sleep(0.005)
        await made.source.close()
        with pytest.raises(SourceError):
            await hanging

    with_api(work, api_timeout_s=60.0)


def test_close_before_the_first_request() -> None:
    async def work(made: Made) -> None:
        await made.source.close()

    with_api(work)
