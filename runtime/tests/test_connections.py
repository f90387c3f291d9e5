"""Slow and many connections: the book of them, and `serve` under them."""

from __future__ import annotations

import asyncio
import http.client
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import call, environment, running, wait_until
from world import run

from precog_runtime.connections import ANSWER_S, Connections, Stage, bounded
from precog_runtime.metrics import Metrics
from precog_runtime.settings import Settings

HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\n"  # without its end
BODY = HEAD + b"Content-Length: 20\r\n\r\n{"  # without the rest
WHOLE = HEAD + b"Content-Length: 2\r\n\r\n{}"


class Fake:
    """A connection whose stage a test sets."""

    def __init__(self, book):
        self.at, self.open, self._book = Stage.SENDING, True, book
        book.opened(self)

    def stage(self):
        return self.at

    def drop(self):
        self.open = False

    def move(self, stage):
        self.at = stage
        self._book.moved(self)


def scene(test, most=3, receive_s=10.0):
    """Run an async test with a book of connections, and return the kinds that were counted."""
    kinds = []

    async def begun():
        await test(Connections(most, receive_s, kinds.append))

    run(begun)
    return kinds


def test_one_too_many_closes_the_one_that_has_been_sending_the_longest():
    async def test(book):
        made = [Fake(book) for _ in range(3)]
        made[0].move(Stage.BUSY)
        made.append(Fake(book))
        assert [each.open for each in made] == [True, False, True, True]
        assert len(book) == 3

    assert scene(test) == ["crowded"]


def test_without_slow_ones_the_one_that_is_idle_the_longest_is_closed():
    async def test(book):
        made = [Fake(book) for _ in range(3)]
        for each in (made[1], made[0], made[2]):
            each.move(Stage.BUSY)
        made[1].at = made[0].at = Stage.IDLE  # answered: nothing came in
        made.append(Fake(book))
        assert [each.open for each in made] == [True, False, True, True]

    assert scene(test) == ["crowded"]


def test_where_all_are_being_answered_the_new_one_is_closed():
    async def test(book):
        made = [Fake(book) for _ in range(3)]
        for each in made:
            each.move(Stage.BUSY)
        made.append(Fake(book))
        assert [each.open for each in made] == [True, True, True, False]

    assert scene(test) == ["crowded"]


def test_who_sends_for_too_long_is_closed_and_no_other():
    async def test(book):
        slow, idle, busy = (Fake(book) for _ in range(3))
        idle.move(Stage.BUSY)
        idle.at = Stage.IDLE
        busy.move(Stage.BUSY)
        await asyncio.sleep(8)
        slow.move(Stage.SENDING)  # another byte of the same request
        busy.move(Stage.SENDING)  # the next request begins
        await asyncio.sleep(4)
        assert [each.open for each in (slow, idle, busy)] == [False, True, True]
        busy.move(Stage.BUSY)
        idle.move(Stage.SENDING)
        book.closed(idle)
        book.closed(idle)
        await asyncio.sleep(20)
        assert idle.open
        assert len(book) == 1

    assert scene(test) == ["slow_caller"]


def test_who_does_not_read_its_answer_is_closed_and_who_asks_again_and_again_is_not():
    async def test(book):
        deaf, lively = Fake(book), Fake(book)
        deaf.move(Stage.BUSY)
        for _ in range(int(ANSWER_S) + 3):
            lively.move(Stage.BUSY)
            await asyncio.sleep(1)
        assert (deaf.open, lively.open) == (False, True)
        book.closed(lively)

    assert scene(test) == ["slow_caller"]


def test_the_bound_is_a_share_of_the_file_descriptors(monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    assert bounded(Settings(), Metrics()).most == 128
    assert bounded(Settings(max_connections=20), Metrics()).most == 20
    assert bounded(Settings(), Metrics(), share=8).most == 32


@pytest.fixture(scope="module")
def market():
    with running("simulate-market", "--port", 0, "--rate-limit", 0) as command:
        yield command.url


@contextmanager
def served(market, *more, descriptors=0, stderr=None):
    options = ("--port", 0, "--api-url", market, "--window-s", 600, *more)
    with running("serve", *options, descriptors=descriptors, stderr=stderr) as command:
        wait_until(lambda: call(f"{command.url}/readyz")[0] == 200)
        yield command


def opened(command, *sent):
    """Connect once for each text, and send it."""
    host, port = command.url.removeprefix("http://").split(":")
    made = [socket.create_connection((host, int(port)), timeout=20) for _ in sent]
    for each, text in zip(made, sent, strict=True):
        each.sendall(text)
    return made


def closed(connection):
    """Whether the other side closes a connection without an answer."""
    try:
        return connection.recv(100) == b""
    except ConnectionResetError:
        return True


def answered(connection):
    """Read an answer, and return its status."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    response.read()
    return response.status


def errors(command, kind):
    name = f'precog_errors_total{{kind="{kind}"}} '
    lines = call(f"{command.url}/metrics")[1].splitlines()
    return next((float(line.removeprefix(name)) for line in lines if line.startswith(name)), 0.0)


def descriptors_of(command):
    return len(list(Path(f"/proc/{command.process.pid}/fd").iterdir()))


def test_three_hundred_half_sent_requests_stop_nobody_else(market, tmp_path):
    log = tmp_path / "log"
    with log.open("w") as stderr, served(market, "--receive-s", 10, descriptors=256, stderr=stderr) as command:
        before = descriptors_of(command)
        flood = []
        for _ in range(6):
            flood += opened(command, *[b"", b"P", HEAD, BODY, BODY] * 10)
            began = time.monotonic()
            assert call(f"{command.url}/predict", {})[0] == 200
            assert time.monotonic() - began < 10
        assert errors(command, "crowded") >= 300 - 128
        # All of them are closed in time, though their callers keep them open, and go on with a byte now and then.
        for each in flood:
            each.setblocking(False)

        def given_back():
            for each in flood[-20:]:
                try:
                    each.send(b" ")
                except OSError:
                    continue
            return descriptors_of(command) <= before + 3

        wait_until(given_back, within_s=40)
        assert errors(command, "slow_caller") >= 100
        for each in flood:
            each.close()
    assert "ERROR" not in log.read_text()


def test_a_connection_that_is_kept_open_between_requests_stays(market):
    with served(market, "--receive-s", 0.5) as command:
        kept, slow = opened(command, WHOLE, WHOLE)
        assert answered(kept) == answered(slow) == 200
        slow.sendall(HEAD)
        assert closed(slow)
        kept.sendall(WHOLE)
        assert answered(kept) == 200


# In a process of its own, as what is loaded once stays loaded.
EXHAUSTED = """
import logging, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from precog_runtime.simulator.prices import prices
found = [prices("btc", 0, 21600, 1, regime) for regime in ("calm", "noisy", "reverting", "jumps")]
from precog_runtime.forecast.model import load
from precog_runtime.metrics import Metrics
from precog_runtime.monitor import Monitor
model, told, metrics = load("default"), [], Metrics()
monitor = Monitor(metrics, 1.0, warn=told.append)
alarm = lambda: metrics.registry.get_sample_value("precog_monitor_warning", {"figure": "process_fds_ratio"})
monitor.sample(0.0)
held = []
try:
    while True:
        held.append(open("/dev/null"))
except OSError:
    pass
monitor.sample(1.0)
for series in found:
    model.forecast("btc", 21600, series)
print(alarm(), told)
"""


def test_without_a_free_file_descriptor_the_model_works_and_the_alarm_is_raised():
    command = [sys.executable, "-c", EXHAUSTED]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert ended.stdout == "1.0 ['process_fds_ratio is 1: above 0.8']\n", ended.stderr
