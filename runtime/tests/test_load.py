"""The load generator against real servers of its own: right, wrong, slow, refusing, dropping."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from precog_runtime import load, timestamps

SRC = Path(load.__file__).parents[1]
TIMESTAMP = 1_795_467_900
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def right(asked: dict[str, Any]) -> dict[str, Any]:
    assets = asked["assets"]
    return {
        "timestamp": asked.get("timestamp", timestamps.text(TIMESTAMP)),
        "predictions": dict.fromkeys(assets, 100.0),
        "intervals": {asset: [99.0, 101.0] for asset in assets},
        "age_s": dict.fromkeys(assets, 0.0),
        "models": dict.fromkeys(assets, "default"),
        "degraded": {},
        "refused": {},
    }


async def answer(request: web.Request) -> web.StreamResponse:
    return web.json_response(right(await request.json()))


async def healthy(_request: web.Request) -> web.StreamResponse:
    return web.Response(text="ok")


@contextlib.asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    application = web.Application()
    application.router.add_post("/predict", handler)
    application.router.add_get("/healthz", healthy)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def burst(handler: Handler, k: int = 4, **options: Any) -> load.Result:
    async def scene() -> load.Result:
        async with serving(handler) as url:
            return await load.burst(url, k, **options)

    return asyncio.run(scene())


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_burst_has_all_requests_under_way_at_once_over_connections_opened_before() -> None:
    async def scene() -> tuple[load.Result, set[Any], set[Any]]:
        all_there, waiting = asyncio.Event(), 0
        opened: set[Any] = set()
        used: set[Any] = set()

        async def barrier(request: web.Request) -> web.StreamResponse:
            nonlocal waiting
            waiting += 1
            if request.transport is not None:
                used.add(request.transport.get_extra_info("peername"))
            if waiting == 64:
                all_there.set()
            await all_there.wait()
            return await answer(request)

        async def noted(request: web.Request) -> web.StreamResponse:
            if request.transport is not None:
                opened.add(request.transport.get_extra_info("peername"))
            return web.Response()

        application = web.Application()
        application.router.add_post("/predict", barrier)
        application.router.add_get("/healthz", noted)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            result = await load.burst(f"http://127.0.0.1:{runner.addresses[0][1]}", 64, deadline_s=10)
        finally:
            await runner.cleanup()
        return result, opened, used

    result, opened, used = asyncio.run(scene())
    assert (result.requests, len(result.latencies_s), result.failed) == (64, 64, 0)
    assert len(opened) == 64
    assert used == opened


def test_connections_stay_open_between_bursts() -> None:
    async def scene() -> int:
        peers: set[Any] = set()

        async def noted(request: web.Request) -> web.StreamResponse:
            if request.transport is not None:
                peers.add(request.transport.get_extra_info("peername"))
            return await answer(request)

        async with serving(noted) as url, load.Callers(url, 3) as callers:
            for _ in range(3):
                assert (await callers.burst()).failed == 0
        return len(peers)

    assert asyncio.run(scene()) == 3


def test_it_asks_what_it_is_told_to() -> None:
    seen: list[dict[str, Any]] = []

    async def noted(request: web.Request) -> web.StreamResponse:
        seen.append(await request.json())
        return web.json_response(right(seen[-1]))

    assert burst(noted, 1, assets=("eth", "sol"), timestamp=TIMESTAMP).failed == 0
    assert burst(noted, 1, assets=("btc",)).failed == 0
    assert seen == [{"assets": ["eth", "sol"], "timestamp": timestamps.text(TIMESTAMP)}, {"assets": ["btc"]}]


def with_changes(**changes: Any) -> bytes:
    return json.dumps({**right({"assets": ["btc", "eth"], "timestamp": TIMESTAMP}), **changes}).encode()


INTERVALS = {"btc": [99, 101], "eth": [99, 101]}
WRONG = [
    (500, b"", "http 500"),
    (403, with_changes(), "http 403"),
    (200, b"<html>", "not JSON"),
    (200, b"[" * 100_000, "not JSON"),
    (200, b"[]", "wrong structure"),
    (200, b"{}", "wrong structure"),
    (200, with_changes(timestamp=TIMESTAMP + 1), "wrong timestamp"),
    (200, with_changes(timestamp=None), "wrong structure"),
    (200, with_changes(predictions={"btc": 100}), "asset not answered"),
    (200, with_changes(intervals={"btc": [99, 101]}), "asset not answered"),
    (200, with_changes(predictions={"btc": 100, "eth": 100, "sol": 100}), "wrong asset"),
    (200, with_changes(predictions={"btc": 100, "eth": float("nan")}), "not a price"),
    (200, with_changes(predictions={"btc": 100, "eth": -100}), "not a price"),
    (200, with_changes(intervals={**INTERVALS, "eth": [99, float("inf")]}), "not a price"),
    (200, with_changes(intervals={**INTERVALS, "eth": [101, 102]}), "point outside its interval"),
    (200, with_changes(intervals={**INTERVALS, "eth": [101, 99]}), "point outside its interval"),
    (200, with_changes(intervals={**INTERVALS, "eth": [99]}), "wrong structure"),
    (200, with_changes(predictions={"btc": 100, "eth": "100"}), "wrong structure"),
    (200, with_changes(predictions={"btc": 100, "eth": 10**400}), "wrong structure"),
    (200, with_changes(age_s=[1]), "wrong structure"),
]


@pytest.mark.parametrize(("status", "body", "failure"), WRONG)
def test_a_wrong_answer_is_told(status: int, body: bytes, failure: str) -> None:
    assert load.judge(status, body, ("btc", "eth"), TIMESTAMP).failure == failure


def test_right_stale_and_degraded_answers_are_told_apart() -> None:
    assert load.judge(200, with_changes(), ("btc", "eth"), TIMESTAMP) == load.Verdict()
    assert load.judge(200, with_changes(age_s={"btc": 2.0, "eth": 3.0}), ("btc", "eth"), None).stale
    assert load.judge(200, with_changes(degraded={"eth": "stale"}), ("btc", "eth"), None).degraded
    assert not load.judge(200, with_changes(degraded={"eth": ""}), ("btc", "eth"), None).degraded


@given(st.binary(max_size=200) | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(json.dumps))
def test_no_answer_is_too_odd_to_be_judged(body: bytes | str) -> None:
    raw = body if isinstance(body, bytes) else body.encode()
    assert load.judge(200, raw, ("btc",), None).failure in ("not JSON", "wrong structure")


def test_failures_of_connections_and_deadlines_are_told() -> None:
    async def dropping(request: web.Request) -> web.StreamResponse:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    async def cutting(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"{")
        if request.transport is not None:
            request.transport.close()
        return response

    async def hanging(_request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        return web.Response()

    assert {kind: each.count for kind, each in burst(dropping).failures.items()} == {"dropped": 4}
    assert {kind: each.count for kind, each in burst(cutting).failures.items()} == {"cut off": 4}
    late = burst(hanging, deadline_s=0.2)
    assert {kind: each.count for kind, each in late.failures.items()} == {"timeout": 4}
    assert len(late.latencies_s) == 0
    refused = asyncio.run(load.burst(f"http://127.0.0.1:{closed_port()}", 4))
    assert {kind: each.count for kind, each in refused.failures.items()} == {"not connected": 4}


def test_one_bad_answer_in_a_burst_leaves_the_others_right() -> None:
    turn = 0

    async def sometimes(request: web.Request) -> web.StreamResponse:
        nonlocal turn
        turn += 1
        return web.Response(status=500) if turn == 2 else await answer(request)

    result = burst(sometimes, 8, now=lambda: 1000.0)
    assert (result.requests, len(result.latencies_s), result.failed) == (8, 7, 1)
    assert result.failures == {"http 500": load.Failures(1, 1000.0, 1000.0)}
    assert result.errors == ((1000.0, "http 500"),)


def test_a_latency_holds_the_wait_for_the_answer() -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.2)
        return await answer(request)

    assert min(burst(slow, 2).latencies_s) >= 0.2


@given(st.lists(st.floats(0.001, 10), min_size=1, max_size=50), st.lists(st.floats(0.001, 10), max_size=50))
def test_results_add_up(one: list[float], other: list[float]) -> None:
    first = load.Result(len(one) + 2, np.array(one), {"timeout": load.Failures(2, 5, 9)}, 1, 2, 0.5)
    more = {"timeout": load.Failures(1, 3, 3), "http 500": load.Failures(4, 6, 8)}
    both = first.plus(load.Result(len(other) + 5, np.array(other), more, 3, 4, 1.5))
    assert both.requests == len(one) + len(other) + 7
    assert both.failed == 7
    assert both.failures == {"timeout": load.Failures(3, 3, 9), "http 500": load.Failures(4, 6, 8)}
    assert (both.stale, both.degraded, both.seconds) == (4, 6, 2.0)
    assert both.percentile_ms(100) == pytest.approx(max(one + other) * 1000)


def test_the_summary_is_json_even_when_nothing_was_right() -> None:
    errors = ((0.0, "timeout"), (60.0, "timeout"))
    summary = load.Result(2, np.empty(0), {"timeout": load.Failures(2, 0, 60)}, 0, 0, 4.0, errors).summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == {
        "requests": 2,
        "right": 0,
        "failed": 2,
        "latency_ms": {"p50": None, "p90": None, "p95": None, "p99": None, "max": None},
        "requests_per_s": 0.5,
        "seconds": 4.0,
        "failures": {
            "timeout": {"count": 2, "first": "1970-01-01T00:00:00.000000Z", "last": "1970-01-01T00:01:00.000000Z"}
        },
        "errors": [
            {"at": "1970-01-01T00:00:00.000Z", "failure": "timeout"},
            {"at": "1970-01-01T00:01:00.000Z", "failure": "timeout"},
        ],
        "stale": 0,
        "degraded": 0,
    }


def test_a_steady_rate_goes_on_while_the_server_stalls_and_counts_from_when_requests_were_due() -> None:
    """The server answers nothing until 20 requests have come: a closed loop would wait for ever."""

    async def scene() -> load.Result:
        enough, came = asyncio.Event(), 0

        async def stalled(request: web.Request) -> web.StreamResponse:
            nonlocal came
            came += 1
            if came == 20:
                enough.set()
            await enough.wait()
            return await answer(request)

        async with serving(stalled) as url:
            return await load.steady(url, rate=100, duration_s=0.2, deadline_s=10)

    result = asyncio.run(scene())
    assert (result.requests, result.failed) == (20, 0)
    assert max(result.latencies_s) >= 0.15


def test_a_stall_of_the_generator_itself_counts_too() -> None:
    stalls = iter([0.3])

    def stalled() -> float:
        time.sleep(next(stalls, 0.0))
        return 0.0

    async def scene() -> load.Result:
        async with serving(answer) as url:
            return await load.steady(url, rate=100, duration_s=0.05, now=stalled)

    result = asyncio.run(scene())
    assert result.requests == 5
    assert min(result.latencies_s) >= 0.25


def test_a_steady_rate_tells_when_a_rollout_failed_first_and_last() -> None:
    clock = iter(range(1000, 2000))
    turn = 0

    async def restarting(request: web.Request) -> web.StreamResponse:
        nonlocal turn
        turn += 1
        return web.Response(status=503) if 3 <= turn <= 5 else await answer(request)

    async def scene() -> load.Result:
        async with serving(restarting) as url:
            return await load.steady(url, rate=50, duration_s=0.2, now=lambda: float(next(clock)))

    result = asyncio.run(scene())
    assert result.requests == 10
    assert {kind: each.count for kind, each in result.failures.items()} == {"http 503": 3}
    assert 1000 <= result.failures["http 503"].first < result.failures["http 503"].last


def test_of_many_errors_the_first_ones_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "ERRORS_TOLD", 3)

    async def broken(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=500)

    clock = itertools.count(1.0)
    one = burst(broken, 8, now=lambda: next(clock))
    assert (one.failed, len(one.errors)) == (8, 3)
    earlier = load.Result(1, errors=((0.5, "timeout"),))
    assert [kind for _, kind in one.beside(earlier).errors] == ["timeout", "http 500", "http 500"]
    assert one.beside(load.Result(seconds=9.0)).seconds == 9.0


def test_a_steady_rate_asks_for_the_latest_mark() -> None:
    seen: list[object] = []

    async def noted(request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        seen.append(asked.get("timestamp"))
        return web.json_response(right(asked))

    async def scene() -> None:
        async with serving(noted) as url:
            await load.steady(url, 50, 0.04, mark_s=300, now=lambda: 1234.5)
            await load.steady(url, 50, 0.02, mark_s=0)

    asyncio.run(scene())
    assert seen == [timestamps.text(1200)] * 2 + [None]


def test_requests_that_cannot_be_sent_in_time_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "IN_FLIGHT", 2)
    monkeypatch.setattr(load, "PROGRESS_S", 0.02)
    told: list[load.Result] = []

    async def hanging(_request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        return web.Response()

    async def scene() -> load.Result:
        async with serving(hanging) as url:
            return await load.steady(url, 100, 0.1, deadline_s=5, progress=told.append)

    result = asyncio.run(scene())
    assert {kind: each.count for kind, each in result.failures.items()} == {"timeout": 2, "not sent": 8}
    assert told
    assert told[0].requests < result.requests == 10


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    load.add(parser)
    return parser.parse_args(words)


class Command:
    """The command in a process of its own, against a server in this one."""

    script = (
        "import argparse, sys; from precog_runtime import load; parser = argparse.ArgumentParser(); load.add(parser);"
        "args = parser.parse_args(); sys.exit(args.run(args))"
    )

    async def __call__(self, *words: str) -> tuple[int, str, str]:
        process = await self.started(*words)
        out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()

    async def started(self, *words: str) -> asyncio.subprocess.Process:
        flags = ["-O"] if sys.flags.optimize else []
        environment = {**os.environ, "PYTHONPATH": str(SRC)}
        return await asyncio.create_subprocess_exec(
            sys.executable, *flags, "-c", self.script, *words, stdout=-1, stderr=-1, env=environment
        )


command = Command()


def test_the_command_runs_bursts_and_says_what_came_of_them() -> None:
    seen: set[str] = set()

    async def scene() -> tuple[int, str, str]:
        async def noted(request: web.Request) -> web.StreamResponse:
            asked = await request.json()
            seen.add(asked["timestamp"])
            return web.json_response(right(asked))

        async with serving(noted) as url:
            words = ("-k", "4", "--bursts", "3", "--interval-s", "0.01", "--timestamp-step", "60")
            words += ("--mark-s", "86400", "--json")
            return await command(f"{url}/", *words)

    code, out, err = asyncio.run(scene())
    summary = json.loads(out)
    assert code == 0
    assert (summary["requests"], summary["right"], summary["failed"]) == (12, 12, 0)
    assert len(err.splitlines()) == 3
    assert err.startswith("burst 1/3: 4 of 4 right")
    moments = sorted(timestamps.parse(each) for each in seen)
    assert moments[-1] % 86400 == 0
    assert [later - earlier for earlier, later in itertools.pairwise(moments)] == [60, 60]


def test_bursts_at_marks_ask_for_the_mark_that_has_just_come() -> None:
    seen: list[tuple[int, float]] = []

    async def scene() -> int:
        async def noted(request: web.Request) -> web.StreamResponse:
            asked = await request.json()
            seen.append((timestamps.parse(asked["timestamp"]), time.time()))
            return web.json_response(right(asked))

        async with serving(noted) as url:
            return (await command(url, "-k", "1", "--bursts", "2", "--mark-s", "1", "--at-marks"))[0]

    assert asyncio.run(scene()) == 0
    assert seen[1][0] > seen[0][0]
    assert all(moment >= mark for mark, moment in seen)


def test_the_command_fails_when_an_answer_is_wrong_or_too_slow() -> None:
    async def scene() -> tuple[tuple[int, str, str], tuple[int, str, str]]:
        async def broken(_request: web.Request) -> web.StreamResponse:
            return web.Response(status=500)

        async with serving(broken) as url:
            wrong = await command(url, "-k", "2", "--bursts", "1")
        async with serving(answer) as url:
            slow = await command(url, "-k", "2", "--bursts", "1", "--max-p99-ms", "0.001")
        return wrong, slow

    (wrong, out, err), (slow, _, told) = asyncio.run(scene())
    assert wrong == 1
    assert "2 x http 500, first " in out
    assert "0 of 2 right, 2 http 500" in err
    assert slow == 1
    assert "above 0.001 ms" in told


def test_several_servers_are_asked_at_once_and_told_apart() -> None:
    async def scene() -> tuple[tuple[int, str, str], str, str]:
        async def broken(_request: web.Request) -> web.StreamResponse:
            return web.Response(status=500)

        async with serving(answer) as good, serving(broken) as bad:
            words = (good, bad, "--duration-s", "0.2", "--rate", "50")
            return await command(*words, "--json"), (await command(*words))[1], good

    (code, out, _), table, good = asyncio.run(scene())
    summary = json.loads(out)
    assert code == 1
    assert (summary["requests"], summary["right"], summary["failed"]) == (20, 10, 10)
    assert [each["failure"] for each in summary["errors"]] == ["http 500"] * 10
    assert [each["right"] for each in summary["servers"].values()] == [10, 0]
    assert summary["servers"][good]["failed"] == 0
    assert f"{good}: 10 of 10 right" in table


def test_a_steady_command_that_is_ended_still_says_what_came_of_it() -> None:
    async def scene() -> tuple[int | None, bytes]:
        came = asyncio.Event()

        async def noted(request: web.Request) -> web.StreamResponse:
            came.set()
            return await answer(request)

        async with serving(noted) as url:
            process = await command.started(url, "--duration-s", "600", "--rate", "50", "--json")
            await came.wait()
            process.send_signal(signal.SIGTERM)
            out, _ = await process.communicate()
        return process.returncode, out

    code, out = asyncio.run(scene())
    assert code == 0
    assert json.loads(out)["right"] >= 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["ftp://x"], "no URL"),
        (["--assets", ","], "--assets is empty"),
        (["--duration-s", "5"], "go together"),
        (["--rate", "5"], "go together"),
        (["--mark-s", "0", "--at-marks"], "need marks"),
        (["http://a", "ftp://b"], "ftp://b is no URL"),
        (["http://a", "http://b"], "to ask several"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    args = parsed(*words)
    assert args.run(args) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("words", [["-k", "0"], ["--bursts", "-1"], ["--rate", "nan"], ["--mark-s", "-300"]])
def test_numbers_out_of_range_are_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed(*words)
    assert ended.value.code == 2


def test_help_is_there() -> None:
    done = subprocess.run(
        [sys.executable, "-c", Command.script, "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SRC)},
        check=True,
    )
    assert "--max-p99-ms" in done.stdout
