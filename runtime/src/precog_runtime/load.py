"""`precog-runtime load`: asks a running `serve` as validators do, all at once, and checks every answer.

Open loop: a request is sent when its time has come, whether or not earlier ones were answered. In a burst all are sent
at once, each over a connection of its own that was opened before; its time counts from its own sending. At a steady
rate it counts from the moment at which the request was due, so that a server that stalls can't hide it
(Tene's "coordinated omission").
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import signal
import sys
import time
from array import array
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import reduce
from types import TracebackType
from typing import Any

import aiohttp
import numpy as np

from precog_runtime import timestamps
from precog_runtime.errors import RequestRefused
from precog_runtime.types import Floats

URL = "http://127.0.0.1:8092"
ASSETS = ("btc", "eth", "tao_bittensor")
STALE_S = 2.0  # an answer from prices older than this counts as stale
PERCENTILES = (50, 90, 95, 99, 100)
PROGRESS_S = 5.0
ERRORS_TOLD = 1000  # of a result, so that one of a server that is gone stays readable
AFTER_MARK_S = 0.01  # timers may end a little early, and the mark must have come
IN_FLIGHT = 4096  # requests under way at a steady rate before new ones are counted as not sent
KINDS = {
    asyncio.TimeoutError: "timeout",
    aiohttp.ClientConnectorError: "not connected",
    aiohttp.ClientPayloadError: "cut off",
    aiohttp.ServerDisconnectedError: "dropped",
    aiohttp.ClientOSError: "dropped",
}
WRONG, USAGE = 1, 2

Clock = Callable[[], float]

# Seconds. The event loop's own clock stands still while uvloop works through what is ready, and counts milliseconds.
_clock = time.perf_counter


@dataclass(frozen=True)
class Failures:
    """The failures of one kind.

    :ivar first: when the first one was noticed, seconds since the epoch.
    :ivar last: when the last one was.
    """

    count: int
    first: float
    last: float

    def plus(self, other: Failures) -> Failures:
        """Return both together."""
        return Failures(self.count + other.count, min(self.first, other.first), max(self.last, other.last))


@dataclass(frozen=True, eq=False)
class Result:
    """What came of a number of requests.

    :ivar requests: how many were due.
    :ivar latencies_s: from sending to the whole answer, seconds, of the right answers only; shape (n,).
    :ivar failures: the others, by kind: "timeout", "not connected", "dropped", "cut off", "not sent", "http <status>",
        or what is wrong with the answer.
    :ivar stale: how many right answers used prices older than STALE_S.
    :ivar degraded: how many right answers say that they are not what they are on a good day.
    :ivar seconds: how long it took, pauses between bursts not counted.
    :ivar errors: the first ERRORS_TOLD failures one by one: when it was noticed, seconds since the epoch, and its kind.
    """

    requests: int = 0
    latencies_s: Floats = field(default_factory=lambda: np.empty(0))
    failures: Mapping[str, Failures] = field(default_factory=dict)
    stale: int = 0
    degraded: int = 0
    seconds: float = 0.0
    errors: tuple[tuple[float, str], ...] = ()

    @property
    def failed(self) -> int:
        """How many requests have no right answer."""
        return sum(each.count for each in self.failures.values())

    def percentile_ms(self, percent: float) -> float:
        """Return the latency that so many percent of the right answers don't exceed, ms; NaN if there is none."""
        return float(np.percentile(self.latencies_s, percent)) * 1000 if len(self.latencies_s) else math.nan

    def plus(self, other: Result) -> Result:
        """Return both together, one after the other."""
        return self._with(other, self.seconds + other.seconds)

    def beside(self, other: Result) -> Result:
        """Return both together, which ran at the same time."""
        return self._with(other, max(self.seconds, other.seconds))

    def _with(self, other: Result, seconds: float) -> Result:
        failures = dict(self.failures)
        for kind, more in other.failures.items():
            failures[kind] = failures[kind].plus(more) if kind in failures else more
        return Result(
            self.requests + other.requests,
            np.concatenate([self.latencies_s, other.latencies_s]),
            failures,
            self.stale + other.stale,
            self.degraded + other.degraded,
            seconds,
            tuple(sorted(self.errors + other.errors)[:ERRORS_TOLD]),
        )

    def summary(self) -> dict[str, Any]:
        """Return the figures as JSON has them; latencies are null if no answer was right."""
        known = {name: self.percentile_ms(percent) for name, percent in _names().items()}
        return {
            "requests": self.requests,
            "right": len(self.latencies_s),
            "failed": self.failed,
            "latency_ms": {name: None if math.isnan(value) else round(value, 3) for name, value in known.items()},
            "requests_per_s": round(self.requests / self.seconds, 2) if self.seconds else None,
            "seconds": round(self.seconds, 3),
            "failures": {
                kind: {
                    "count": each.count,
                    "first": timestamps.text(int(each.first)),
                    "last": timestamps.text(int(each.last)),
                }
                for kind, each in sorted(self.failures.items())
            },
            "errors": [{"at": _moment(at), "failure": kind} for at, kind in self.errors],
            "stale": self.stale,
            "degraded": self.degraded,
        }


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _names() -> dict[str, int]:
    return {"max" if percent == 100 else f"p{percent}": percent for percent in PERCENTILES}


@dataclass(frozen=True)
class Verdict:
    """What is to be said of one answer.

    :ivar failure: what is wrong, "" if nothing is.
    """

    failure: str = ""
    stale: bool = False
    degraded: bool = False


def judge(status: int, body: bytes, assets: Sequence[str], timestamp: int | None) -> Verdict:
    """Check an answer: each asset, and no other, has a point within its interval, all finite and above 0.

    :param timestamp: what was asked for, and must be in the answer; None if nothing was.
    """
    if status != 200:
        return Verdict(f"http {status}")
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return Verdict("not JSON")
    try:
        return Verdict(
            _wrong(answer, assets, timestamp),
            any(float(age) > STALE_S for age in answer.get("age_s", {}).values()),
            any(answer.get("degraded", {}).values()),
        )
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError, RequestRefused):
        return Verdict("wrong structure")


def _wrong(answer: Any, assets: Sequence[str], timestamp: int | None) -> str:
    predictions, intervals = answer["predictions"], answer["intervals"]
    if timestamp is not None and timestamps.parse(answer["timestamp"]) != timestamp:
        return "wrong timestamp"
    if set(assets) - set(predictions) or set(assets) - set(intervals):
        return "asset not answered"
    if set(predictions) | set(intervals) != set(assets):
        return "wrong asset"
    for asset in assets:
        point, (low, high) = predictions[asset], intervals[asset]
        if not all(math.isfinite(value) and value > 0 for value in (point, low, high)):
            return "not a price"
        if not low <= point <= high:
            return "point outside its interval"
    return ""


@dataclass(frozen=True)
class _Reply:
    """What came of one request: a status and a body, or a failure."""

    seconds: float
    at: float
    status: int = 0
    body: bytes = b""
    failure: str = ""


class _Tally:
    """Adds up replies; 8 bytes for each, so that a long run fits."""

    def __init__(self) -> None:
        self._requests = self._stale = self._degraded = 0
        self._latencies = array("d")
        self._failures: dict[str, Failures] = {}
        self._errors: list[tuple[float, str]] = []

    def add(self, reply: _Reply, assets: Sequence[str], asked: int | None) -> None:
        """Check a reply and count it."""
        self._requests += 1
        verdict = Verdict(reply.failure) if reply.failure else judge(reply.status, reply.body, assets, asked)
        if verdict.failure:
            one = Failures(1, reply.at, reply.at)
            known = self._failures.get(verdict.failure)
            self._failures[verdict.failure] = known.plus(one) if known else one
            if len(self._errors) < ERRORS_TOLD:
                self._errors.append((reply.at, verdict.failure))
            return
        self._latencies.append(reply.seconds)
        self._stale += verdict.stale
        self._degraded += verdict.degraded

    def result(self, seconds: float) -> Result:
        """Return what there is after so many seconds."""
        latencies = np.array(self._latencies)
        failures, errors = dict(self._failures), tuple(self._errors)
        return Result(self._requests, latencies, failures, self._stale, self._degraded, seconds, errors)


async def _ask(
    session: aiohttp.ClientSession, url: str, body: bytes, deadline_s: float, due: float, now: Clock
) -> _Reply:
    """Send one request; its time counts from `due` on _clock."""
    status, answer, failure = 0, b"", ""
    headers = {"Content-Type": "application/json"}
    try:
        async with session.post(f"{url}/predict", data=body, headers=headers, timeout=_limit(deadline_s)) as response:
            status, answer = response.status, await response.read()
    except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
        failure = next((kind for each, kind in KINDS.items() if isinstance(error, each)), type(error).__name__)
    return _Reply(_clock() - due, now(), status, answer, failure)


def _limit(deadline_s: float) -> aiohttp.ClientTimeout:
    # Above the threshold aiohttp would wait until the next whole second.
    return aiohttp.ClientTimeout(total=deadline_s, ceil_threshold=deadline_s)


def _body(assets: Sequence[str], timestamp: int | None) -> bytes:
    asked: dict[str, Any] = {"assets": list(assets)}
    if timestamp is not None:
        asked["timestamp"] = timestamps.text(timestamp)
    return json.dumps(asked).encode()


def _session(connections: int) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(limit=connections, keepalive_timeout=600)
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())


class Callers:
    """A number of callers, each with one connection that is kept open between bursts; an async context manager.

    :param url: root of the server, without a slash at the end.
    :param k: how many.
    :param now: tells the wall clock, for the times of failures.
    """

    def __init__(self, url: str, k: int = 64, now: Clock = time.time) -> None:
        self._url, self._now = url, now
        # One pool would reuse the first connection that is free again instead of opening the next one.
        self._sessions = [_session(1) for _ in range(k)]

    async def __aenter__(self) -> Callers:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(session.close() for session in self._sessions))

    async def burst(
        self, assets: Sequence[str] = ASSETS, timestamp: int | None = None, deadline_s: float = 10.0
    ) -> Result:
        """Open what is not open, then send all requests at once and check the answers when all are there.

        :param timestamp: what is asked for, seconds since the epoch; None leaves it to the server.
        :param deadline_s: a request without its whole answer after so many seconds has failed.
        """
        await asyncio.gather(*(self._open(session, deadline_s) for session in self._sessions))
        body = _body(assets, timestamp)

        async def one(session: aiohttp.ClientSession) -> _Reply:
            return await _ask(session, self._url, body, deadline_s, _clock(), self._now)

        begin = _clock()
        replies = await asyncio.gather(*(one(session) for session in self._sessions))
        seconds, tally = _clock() - begin, _Tally()
        for reply in replies:
            tally.add(reply, assets, timestamp)
        return tally.result(seconds)

    async def _open(self, session: aiohttp.ClientSession, deadline_s: float) -> None:
        try:
            async with session.get(f"{self._url}/healthz", timeout=_limit(deadline_s)) as response:
                await response.read()
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError):
            pass  # the request itself will tell


async def burst(
    url: str,
    k: int = 64,
    assets: Sequence[str] = ASSETS,
    timestamp: int | None = None,
    deadline_s: float = 10.0,
    now: Clock = time.time,
) -> Result:
    """Send `k` requests at once over connections opened before; see `Callers.burst`."""
    async with Callers(url, k, now) as callers:
        return await callers.burst(assets, timestamp, deadline_s)


async def steady(
    url: str,
    rate: float,
    duration_s: float,
    assets: Sequence[str] = ASSETS,
    mark_s: int = 0,
    deadline_s: float = 10.0,
    now: Clock = time.time,
    stop: asyncio.Event | None = None,
    progress: Callable[[Result], None] | None = None,
) -> Result:
    """Send `rate` requests a second for `duration_s` seconds, whatever becomes of earlier ones.

    :param mark_s: the timestamp asked for is the latest multiple of it; 0 asks for none.
    :param stop: ends it early when set.
    :param progress: called with what there is so far every PROGRESS_S seconds.
    """
    stop = stop or asyncio.Event()
    begin, tally = _clock(), _Tally()
    tell = begin + PROGRESS_S
    under_way: set[asyncio.Task[None]] = set()

    async def one(due: float) -> None:
        asked = _mark(now(), mark_s)
        tally.add(await _ask(session, url, _body(assets, asked), deadline_s, due, now), assets, asked)

    async with _session(0) as session:
        for number in range(math.ceil(rate * duration_s)):
            due = begin + number / rate
            await _until(due, stop)
            if stop.is_set():
                break
            if len(under_way) < IN_FLIGHT:
                task = asyncio.ensure_future(one(due))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
            else:
                tally.add(_Reply(0.0, now(), failure="not sent"), assets, None)
            if progress and _clock() >= tell:
                tell += PROGRESS_S
                progress(tally.result(_clock() - begin))
        await asyncio.gather(*under_way)
    return tally.result(_clock() - begin)


def _mark(now: float, mark_s: int) -> int | None:
    return int(now // mark_s * mark_s) if mark_s else None


async def _until(due: float, stop: asyncio.Event) -> None:
    """Wait until `due` on _clock, or until `stop` is set."""
    pause = due - _clock()
    try:
        await asyncio.wait_for(stop.wait(), max(pause, 0.0))
    except asyncio.TimeoutError:
        # It is due. A wait of nothing doesn't let others run, and answers must be read.
        await asyncio.sleep(0)


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "urls",
        nargs="*",
        metavar="url",
        help=f"of the server; several are asked at a steady --rate each (default {URL})",
    )
    parser.add_argument("-k", "--requests", type=_whole, default=64, help="of a burst (default %(default)s)")
    parser.add_argument("--bursts", type=_whole, default=5, help="how many (default %(default)s)")
    parser.add_argument("--interval-s", type=_number, default=1.0, help="from burst to burst (default %(default)s)")
    parser.add_argument("--at-marks", action="store_true", help="a burst at each multiple of --mark-s instead")
    parser.add_argument("--assets", default=",".join(ASSETS), help="by commas (default %(default)s)")
    parser.add_argument(
        "--mark-s",
        type=_natural,
        default=300,
        help="ask for the latest multiple of so many seconds; 0: name no timestamp (default %(default)s)",
    )
    parser.add_argument(
        "--timestamp-step",
        type=_natural,
        default=0,
        metavar="S",
        help="each burst asks for a timestamp so many seconds before the last one's (default %(default)s)",
    )
    parser.add_argument("--deadline-s", type=_number, default=10.0, help="of a request (default %(default)s)")
    parser.add_argument("--duration-s", type=_number, help="send at a steady --rate for so long instead of bursts")
    parser.add_argument("--rate", type=_number, help="requests a second")
    parser.add_argument("--max-p99-ms", type=_number, help="exit with 1 if the 99th percentile is above it")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.set_defaults(run=run)


def _number(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _natural(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return number


def _whole(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return number


def run(args: argparse.Namespace) -> int:
    """Run the load and print what came of it; returns 0 if all was right, 1 if not, 2 for impossible arguments."""
    args.assets = tuple(dict.fromkeys(part.strip() for part in args.assets.split(",") if part.strip()))
    args.urls = list(dict.fromkeys(url.rstrip("/") for url in args.urls or [URL]))
    refused = _refused(args)
    if refused:
        print(f"Error: {refused}", file=sys.stderr)
        return USAGE
    results = _runner()(_steady(args) if args.duration_s else _bursts(args))
    result = reduce(Result.beside, results.values())
    servers = {url: each.summary() for url, each in results.items()}
    print(json.dumps({**result.summary(), "servers": servers}) if args.json else _table(result, servers))
    p99 = result.percentile_ms(99)
    if args.max_p99_ms and not p99 <= args.max_p99_ms:
        print(f"The 99th percentile, {p99:.1f} ms, is above {args.max_p99_ms:g} ms", file=sys.stderr)
        return WRONG
    return WRONG if result.failed or not result.requests else 0


def _refused(args: argparse.Namespace) -> str:
    for url in args.urls:
        if not url.startswith(("http://", "https://")):
            return f"{url} is no URL. Give one like {URL}"
    if not args.assets:
        return "--assets is empty. Name at least one, for instance btc"
    if (args.duration_s is None) != (args.rate is None):
        return "--duration-s and --rate go together. Give both, or neither for bursts"
    if len(args.urls) > 1 and args.rate is None:
        return "bursts go to one server. Give --duration-s and --rate to ask several, or one URL"
    if args.mark_s == 0 and (args.at_marks or args.timestamp_step):
        return "--at-marks and --timestamp-step need marks. Give --mark-s above 0"
    return ""


def _runner() -> Callable[[Coroutine[Any, Any, dict[str, Result]]], dict[str, Result]]:
    """Return what runs a coroutine: on uvloop, which takes less of the time measured, where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run
    return uvloop.run


def _stopped() -> asyncio.Event:
    """Return what SIGINT and SIGTERM set, so that a run that is ended still says what came of it."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def _bursts(args: argparse.Namespace, now: Clock = time.time) -> dict[str, Result]:
    url = args.urls[0]
    stop, result = _stopped(), Result()
    begin = _clock()
    async with Callers(url, args.requests, now) as callers:
        for number in range(args.bursts):
            due = begin + number * args.interval_s
            if args.at_marks:
                due = _clock() + -now() % args.mark_s + AFTER_MARK_S
            await _until(due, stop)
            if stop.is_set():
                break
            mark = _mark(now(), args.mark_s)
            asked = None if mark is None else mark - number * args.timestamp_step
            one = await callers.burst(args.assets, asked, args.deadline_s)
            print(f"burst {number + 1}/{args.bursts}: {_line(one)}", file=sys.stderr)
            result = result.plus(one)
    return {url: result}


async def _steady(args: argparse.Namespace, now: Clock = time.time) -> dict[str, Result]:
    stop = _stopped()

    def progress(url: str) -> Callable[[Result], None]:
        told = f"{url}, " if len(args.urls) > 1 else ""
        return lambda result: print(
            f"{told}{result.seconds:.0f}/{args.duration_s:g} s: {_line(result)}", file=sys.stderr
        )

    def one(url: str) -> Coroutine[Any, Any, Result]:
        asked = (args.rate, args.duration_s, args.assets, args.mark_s, args.deadline_s)
        return steady(url, *asked, now, stop, progress(url))

    return dict(zip(args.urls, await asyncio.gather(*map(one, args.urls)), strict=True))


def _line(result: Result) -> str:
    right = len(result.latencies_s)
    latencies = f", p50 {result.percentile_ms(50):.1f} p99 {result.percentile_ms(99):.1f} ms" if right else ""
    kinds = "".join(f", {each.count} {kind}" for kind, each in sorted(result.failures.items()))
    return f"{right} of {result.requests} right{latencies}{kinds}"


def _table(result: Result, servers: Mapping[str, Mapping[str, Any]]) -> str:
    figures = result.summary()
    rows = [(name, figures[name]) for name in ("requests", "right", "failed", "stale", "degraded", "requests_per_s")]
    rows += [(f"{name} ms", value) for name, value in figures["latency_ms"].items()]
    lines = [f"{name:<16}{'-' if value is None else value:>12}" for name, value in rows]
    lines += [
        f"{each['count']} x {kind}, first {each['first']}, last {each['last']}"
        for kind, each in figures["failures"].items()
    ]
    if len(servers) > 1:
        lines += [
            f"{url}: {each['right']} of {each['requests']} right, p99 {each['latency_ms']['p99'] or '-'} ms"
            for url, each in servers.items()
        ]
    return "\n".join(lines)
