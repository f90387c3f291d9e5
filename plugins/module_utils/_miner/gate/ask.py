# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Probes an instance: is it ready, and are its answers right and in time?

It asks over HTTP at a steady rate, and judges every answer. Prices are compared with the source's own
(`source`), never with those of the release that is left. What it asks of an engine:

runtime
    `GET /readyz`, then `POST /predict`, in turn for all assets at the time of the request, and as validators ask: for
    assets by name, at the last mark of five minutes.
upstream
    the same at the port of its metrics, and any answer at all from the axon, which answers validators only: to what
    is no request, as it logs an error for each that names no synapse. That its axon hands a request to our forward
    function is not seen by that.
simulator
    `GET /control`, and once for prices: it allows few requests, and they are for those who need prices.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING, Any, NamedTuple

from .judge import Demand, Figures, Judgement, Sample, figures, growth, judge
from .limits import Limits
from .values import as_number, as_object, as_table, shortened
from .verdict import baseline_of, verdict, wrong_p99

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ..model import Instance

MOST_AT_ONCE = 32  # requests in flight; where all of them are, the next ones of the rate are left out
LARGEST_BODY = 1 << 20  # bytes; an answer of 32 assets has less than 8 KiB
MARK_S = 300  # validators ask for predictions at the full five minutes
CLOCK_S = 2.0  # by how much an answer's timestamp may be off the time of its request
POLL_S = 0.1  # between looks at whether an instance is ready
PATIENCE_S = 1.0  # for one such look: a socket of systemd takes a connection whether or not a process will answer it
NUDGE_S = 1.0  # between requests that have an instance fetch newer prices than it has
CONTROL = "/control"
NO_REQUEST = b"?\r\n\r\n"
PRICES = "/v4/timeseries/asset-metrics?assets=*&metrics=ReferenceRateUSD&frequency=1s&limit_per_asset=1"
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}
FAULTS = ("latency", "hang", "drop", "429", "500", "cut", "garbage", "late")  # of a simulator: shares of requests


class Reply(NamedTuple):
    """What came of one exchange."""

    status: int  # 0 if there is no whole answer
    body: bytes
    seconds: float
    fault: str  # why there is none
    late: bool  # whether it was given up at its deadline


class Place:
    """An address that answers HTTP, with connections that are kept from request to request. For several threads.

    :param host: an address; that of all interfaces stands for this machine.
    :param timeout_s: what a request has from the first byte sent to the last byte received.
    """

    def __init__(self, host: str, port: int, timeout_s: float) -> None:
        bare = host.strip("[]")
        self._host, self._port, self._timeout_s = ANYWHERE.get(bare, bare), port, timeout_s
        self._idle: deque[HTTPConnection] = deque()

    @property
    def name(self) -> str:
        """The address as it is shown."""
        return f"[{self._host}]:{self._port}" if ":" in self._host else f"{self._host}:{self._port}"

    def ask(self, method: str, path: str, body: bytes | None = None) -> Reply:
        """Send a request and return what came of it. It never raises, and a failed request is not repeated."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        began = time.monotonic()
        status, content, fault = self._exchange(connection, method, path, body)
        seconds = time.monotonic() - began
        late = seconds >= self._timeout_s
        if late:
            fault = f"{self.name} gave no answer to {path.partition('?')[0]} within {self._timeout_s * 1000:g} ms"
        if fault:
            connection.close()
            return Reply(0, b"", seconds, fault, late)
        self._idle.append(connection)
        return Reply(status, content, seconds, "", False)

    def heard(self) -> str:
        """Return "" if HTTP is answered here, with whatever status, or why not; on a connection of its own."""
        try:
            with socket.create_connection((self._host, self._port), self._timeout_s) as connection:
                connection.sendall(NO_REQUEST)
                head = connection.recv(64)
        except OSError as error:
            return f"{self.name}: {_told(error)}"
        return "" if head.startswith(b"HTTP/") else f"{self.name} does not answer HTTP, but {shortened(head)!r}"

    def _exchange(
        self, connection: HTTPConnection, method: str, path: str, body: bytes | None
    ) -> tuple[int, bytes, str]:
        """Return status, body, and why there are none."""
        deadline = threading.Timer(self._timeout_s, lambda: None)
        try:
            if connection.sock is None:
                connection.connect()
            # The socket's own time-out begins anew with each byte.
            deadline = threading.Timer(self._timeout_s, _end, (connection.sock,))
            deadline.start()
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            response = connection.getresponse()
            content = response.read(LARGEST_BODY + 1)
        except (OSError, HTTPException, ValueError) as error:
            return 0, b"", f"{self.name}: {_told(error)}"
        finally:
            deadline.cancel()
        if len(content) > LARGEST_BODY:
            return 0, b"", f"{self.name}: an answer of more than {LARGEST_BODY} bytes"
        if response.length:
            return 0, b"", f"{self.name}: an answer that ends {response.length} bytes too soon"
        return response.status, content, ""

    def close(self) -> None:
        """Give the connections back."""
        while self._idle:
            self._idle.pop().close()

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def _end(connected: socket.socket) -> None:
    """End a connection under whoever waits for it in another thread."""
    try:
        connected.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it has ended by itself


def _told(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[:1].lower() + error.strerror[1:]
    return f"{type(error).__name__}: {shortened(str(error))}" if str(error) else type(error).__name__


def _web(instance: Instance, timeout_s: float) -> Place:
    return Place(instance.http_host, instance.http_port, timeout_s)


def wait_ready(instance: Instance, limits: Limits, alive: Callable[[], str], demand: Demand) -> str:
    """Wait until an instance says that it is ready, for the `ready_s` of its engine at most.

    Where fresh prices are demanded, each asset has to have one that is newer than this call: what its process had from
    the one before it proves nothing of it.

    :param alive: returns "", or why the instance can't become ready any more.
    :returns: "", or why it is not ready.
    """
    ready_s = limits.ready_for(instance.engine)
    began = nudged = time.monotonic()
    with _web(instance, PATIENCE_S) as web, Place(instance.host, instance.port, PATIENCE_S) as axon:
        while True:
            seen = _unready(instance, web, axon, demand, limits, time.monotonic() - began)
            dead = alive() if seen else ""
            if not seen or dead:
                return dead
            if time.monotonic() + POLL_S >= began + ready_s:
                return f"not ready after {ready_s:g} s (gate ready_s): {seen}"
            if demand.fresh and instance.engine != "simulator" and time.monotonic() >= nudged + NUDGE_S:
                web.ask("POST", "/predict", b"{}")  # which has it look for newer prices
                nudged = time.monotonic()
            time.sleep(POLL_S)


def _unready(instance: Instance, web: Place, axon: Place, demand: Demand, limits: Limits, passed_s: float) -> str:
    """Return "" if an instance is ready now, or why not.

    :param passed_s: for how long its process has lived at least.
    """
    if instance.engine == "simulator":
        return _unanswered(web, CONTROL, web.ask("GET", CONTROL))
    reply = web.ask("GET", "/readyz")
    seen = _unanswered(web, "/readyz", reply)
    told = as_object(reply.body)
    if not demand.fresh and reply.status == 503 and "ready" in told:
        seen = ""  # it runs, and lacks prices
    if demand.fresh and not seen:
        seen = _unfresh(instance, as_table(told, "age_s"), limits, passed_s)
    return axon.heard() if not seen and instance.engine == "upstream" else seen


def _unfresh(instance: Instance, ages: Mapping[str, Any], limits: Limits, passed_s: float) -> str:
    """Return "" if each asset has a fresh price that came after the process began, or what tells that one has none."""
    for asset in instance.assets or tuple(ages):
        age_s = as_number(ages.get(asset))
        if age_s is None:
            return f"{asset} has no price"
        if age_s > limits.max_age_s:
            limit = f"the limit is {limits.max_age_s:g} s (gate max_age_s)"
            return f"the newest price of {asset} is {age_s:.0f} s old; {limit}"
        # Ages are whole seconds, rounded down.
        if age_s + 1 > passed_s:
            return f"{asset} got no price in the {passed_s:.0f} s since the start; its newest is {age_s:.0f} s old"
    return "" if ages else "/readyz does not say how old its prices are"


def measure(instance: Instance, limits: Limits, seconds: float, memory: Callable[[], int] | None = None) -> Figures:
    """Ask an instance at the gate's rate for some seconds, and at least once each way; judge the answers.

    It takes `seconds` and three deadlines at most.

    :param memory: tells how many bytes the instance's processes have now.
    """
    if instance.engine == "simulator":
        return figures(list(_look_at_simulator(instance, limits)))
    with _web(instance, limits.deadline_ms / 1000) as web:
        model = as_object(web.ask("GET", "/readyz").body).get("model")
        now = _sample(web, instance.assets)
        named = instance.assets or tuple(now.judgement.prices)
        samples = [now, _sample_of_mark(web, named)]

        def ask(number: int) -> Sample:
            return _sample_of_mark(web, named) if number % 2 else _sample(web, instance.assets)

        had: list[int] = []
        samples += _steadily(ask, limits.rate_hz, seconds, lambda: had.append(memory()) if memory else None)
    if instance.engine == "upstream":
        with Place(instance.host, instance.port, limits.deadline_ms / 1000) as axon:
            samples.append(Sample(None, axon.heard(), kind="to the axon"))
    return figures(samples)._replace(model=model if isinstance(model, str) else "", growth=growth(had))


def soak(
    instance: Instance,
    before: Figures | None,
    limits: Limits,
    demand: Demand,
    memory: Callable[[], int] | None = None,
) -> tuple[Figures, list[str]]:
    """Measure an instance for `soak_s`; return the figures, and what speaks against the release.

    It takes `rejoin_s` at least: load balancers have the instance back then, before another one is drained.

    Where that is nothing but the p99, it is measured once more, and that counts: a host that was busy for a moment is
    not a slow release, and a slow release is slow again.

    :param memory: tells how many bytes the instance's processes have now.
    """
    after = measure(instance, limits, max(limits.soak_s, limits.rejoin_s), memory)
    problems = verdict(instance, before, after, limits, demand)
    if problems and problems == wrong_p99(baseline_of(before), after, limits):
        after = measure(instance, limits, limits.soak_s, memory)
        problems = verdict(instance, before, after, limits, demand)
    return after, problems


def _sample(web: Place, assets: Sequence[str]) -> Sample:
    """Ask for all assets, now."""
    sent = time.time()
    reply = web.ask("POST", "/predict", b"{}")
    return _judged(web, reply, assets, sent - CLOCK_S, time.time() + CLOCK_S)._replace(kind="for now")


def _sample_of_mark(web: Place, assets: Sequence[str]) -> Sample:
    """Ask for assets by name at the last mark, as validators do; where none is known, for all of them."""
    mark = int(time.time()) // MARK_S * MARK_S
    moment = datetime.fromtimestamp(mark, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    asked = {"timestamp": moment, **({"assets": list(assets)} if assets else {})}
    reply = web.ask("POST", "/predict", json.dumps(asked).encode())
    return _judged(web, reply, assets, mark, mark)._replace(kind="for the last mark")


def _judged(web: Place, reply: Reply, assets: Sequence[str], earliest: float, latest: float) -> Sample:
    fault = _unanswered(web, "/predict", reply)
    if fault:
        priceless = reply.status == 503 and bool(as_table(as_object(reply.body), "refused"))
        return Sample(reply.seconds if reply.late or reply.status else None, fault, priceless=priceless)
    return Sample(reply.seconds, "", judge(reply.body, assets, earliest, latest))


def _steadily(ask: Callable[[int], Sample], rate_hz: float, seconds: float, look: Callable[[], None]) -> list[Sample]:
    """Ask at a steady rate, whether or not earlier requests are answered; return what came of all of them.

    :param ask: makes the request of a number, counted from 0.
    :param look: is called before each request.
    """
    slots = threading.BoundedSemaphore(MOST_AT_ONCE)
    began = time.monotonic()
    asked = []
    with ThreadPoolExecutor(MOST_AT_ONCE) as threads:
        for number in range(int(rate_hz * seconds)):
            time.sleep(max(0.0, began + number / rate_hz - time.monotonic()))
            look()
            if slots.acquire(blocking=False):
                asked.append(threads.submit(ask, number))
                asked[-1].add_done_callback(lambda _done: slots.release())
    return [each.result() for each in asked]


def _look_at_simulator(instance: Instance, limits: Limits) -> Iterator[Sample]:
    """Look whether a stand-in for the market works. Its speed is its settings' matter, and so are its faults."""
    with _web(instance, limits.ready_s) as web:
        control = web.ask("GET", CONTROL)
        faults = as_object(control.body)
        yield Sample(None, _unanswered(web, CONTROL, control))
        if control.status != 200 or any(as_number(faults.get(name)) for name in FAULTS):
            return
        prices = web.ask("GET", PRICES)
        if prices.status == 429:
            return  # it works, and allows no more requests for now
        lacking = {} if as_object(prices.body).get("data") else {"the market has no prices": shortened(prices.body)}
        yield Sample(None, _unanswered(web, PRICES, prices), Judgement(lacking, {}, 0.0))


def _unanswered(web: Place, path: str, reply: Reply) -> str:
    """Return "" where a reply has status 200, or what it has instead."""
    told = f"{web.name}{path.partition('?')[0]} answers {reply.status} {shortened(reply.body)}"
    return reply.fault or ("" if reply.status == 200 else told)
