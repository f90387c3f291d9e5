"""`serve` and `simulate-market` as systemd runs them: readiness, watchdog, a socket that outlives them, the end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
from processes import HAND_OVER, SOURCE, Manager, call, done, environment, running, wait_until, words

from precog_runtime import serve, service
from precog_runtime.metrics import Metrics
from precog_runtime.settings import Settings
from precog_runtime.types import Answer

EVERYTHING = {"btc", "eth", "tao_bittensor"}
NOWHERE = "http://127.0.0.1:9/v4"  # refused


@pytest.fixture(scope="module")
def market():
    with running("simulate-market", "--port", 0, "--rate-limit", 0) as command:
        yield command.url


@pytest.fixture
def manager(tmp_path):
    with Manager(str(tmp_path / "notify")) as made:
        yield made


@pytest.fixture
def listener():
    # As many as the role's socket units let wait: those who ask while no process runs.
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as made:
        yield made


def options(url, *more):
    return ("serve", "--port", 0, "--api-url", url, "--window-s", 600, "--log-level", "error", *more)


@pytest.mark.parametrize("name", ["{}/notify", "@precog-runtime-test-{}"], ids=["path", "abstract"])
def test_a_message_reaches_systemd(monkeypatch, tmp_path, name):
    with Manager(name.format(tmp_path)) as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
        service.notify("READY=1", "STATUS=of two words")
        assert service.managed()
        assert manager.hear() == {"READY": "1", "STATUS": "of two words"}


def test_without_systemd_nothing_is_told_and_one_that_has_gone_is_survived(monkeypatch, tmp_path, caplog):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not service.managed()
    service.notify("READY=1")
    assert not caplog.records
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    service.notify("READY=1")
    assert "could not be told READY=1" in caplog.text


OURS = "ours"  # stands for our process id, which would make the tests' names differ from run to run
WATCHDOGS = [
    ({}, 0),
    ({"WATCHDOG_USEC": "30000000"}, 10),
    ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": OURS}, 10),
    ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0),
    ({"WATCHDOG_USEC": "soon"}, 0),
    ({"WATCHDOG_USEC": ""}, 0),
]


@pytest.mark.parametrize(("variables", "every_s"), WATCHDOGS, ids=str)
def test_the_watchdog_is_told_at_a_third_of_its_limit_if_it_asks_us(monkeypatch, variables, every_s):
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, str(os.getpid()) if value == OURS else value)
    assert service.watchdog_s() == every_s


@pytest.mark.parametrize(("asked_of", "count"), [("1", "1"), ("", "1"), (OURS, "0"), (OURS, "")])
def test_no_socket_for_us_is_none_and_the_variables_are_cleared(monkeypatch, asked_of, count):
    for name, value in {"LISTEN_PID": asked_of, "LISTEN_FDS": count, "LISTEN_FDNAMES": "x"}.items():
        monkeypatch.setenv(name, str(os.getpid()) if value == OURS else value)
    assert service.inherited() is None
    assert not {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} & set(os.environ)


def handed(descriptor, *prefix):
    """Hand a descriptor to `serve`; return its exit code and what it complains of."""
    command = [*prefix, sys.executable, "-SE", "-c", HAND_OVER, str(descriptor), *words(*options(NOWHERE))]
    ended = subprocess.run(
        command, env=environment(), pass_fds=[descriptor], stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    return ended.returncode, ended.stderr


def test_what_is_no_listening_tcp_socket_is_refused(tmp_path):
    connected, other = socket.socketpair()
    with connected, other, (tmp_path / "file").open("w") as file:
        for descriptor, told in ((connected.fileno(), "no listening TCP socket"), (file.fileno(), "can't be used")):
            code, error = handed(descriptor)
            assert (code, told in error, error.count("\n")) == (2, True, 1)


def test_more_than_one_socket_is_refused(monkeypatch):
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "2")
    with pytest.raises(serve.SettingError, match="LISTEN_FDS is 2: one socket is served"):
        service.inherited()


def test_it_is_ready_when_it_can_answer_and_tells_its_end(manager):
    with (
        running("simulate-market", "--port", 0, "--latency-ms", 700) as slow,
        running(*options(slow.url), NOTIFY_SOCKET=manager.address) as command,
    ):
        assert call(f"{command.url}/healthz")[0] == 200
        assert manager.hear() == {"READY": "1", "STATUS": f"Listening at {command.url}"}
        assert call(f"{command.url}/readyz")[0] == 200
        assert command.end() == 0
        assert manager.hear()["STOPPING"] == "1"


def test_a_source_that_is_away_does_not_keep_it_from_being_ready(manager):
    with running(*options(NOWHERE), NOTIFY_SOCKET=manager.address) as command:
        assert manager.hear()["READY"] == "1"
        assert call(f"{command.url}/readyz")[0] == 503


def test_a_source_that_hangs_is_waited_for_no_longer_than_the_bound(monkeypatch):
    monkeypatch.setattr(serve, "FIRST_PRICES_S", 0.05)

    async def scene():
        hanging = SimpleNamespace(attempted=asyncio.Event())
        await asyncio.wait_for(serve._first_prices(hanging, asyncio.Event()), 10)

    asyncio.run(scene())


def test_the_watchdog_hears_of_it_until_the_event_loop_hangs(market, manager):
    with running(*options(market), NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="300000") as command:
        manager.wait_for("READY")
        for _ in range(5):
            assert manager.hear() == {"WATCHDOG": "1"}
        command.process.send_signal(signal.SIGSTOP)
        wait_until(lambda: not manager.hear(within_s=1.0))
        command.process.send_signal(signal.SIGCONT)
        assert manager.hear() == {"WATCHDOG": "1"}


def test_the_market_tells_systemd_and_health_without_using_up_its_limit(manager):
    with running("simulate-market", "--port", 0, "--rate-limit", 1, NOTIFY_SOCKET=manager.address) as command:
        assert manager.hear()["READY"] == "1"
        root = command.url.removesuffix("/v4")
        for _ in range(3):
            assert call(f"{root}/healthz")[1]["status"] == "ok"
        assert (
            call(f"{command.url}/timeseries/asset-metrics?assets=btc&metrics=ReferenceRateUSD&frequency=1s")[0] == 200
        )
        assert command.end() == 0
        assert manager.hear() == {"STOPPING": "1"}


def test_draining_is_told_by_readyz_and_requests_are_still_answered(market, tmp_path):
    drain = tmp_path / "drain"
    with running(*options(market), RUNTIME_DIRECTORY=f"{tmp_path}:/elsewhere") as command:
        wait_until(lambda: call(f"{command.url}/readyz")[0] == 200)
        drain.touch()
        code, told = call(f"{command.url}/readyz")
        assert (code, told["ready"], told["draining"]) == (404, False, True)
        assert call(f"{command.url}/predict", {})[0] == 200
        drain.unlink()
        code, told = call(f"{command.url}/readyz")
        assert (code, told["ready"], told["draining"]) == (200, True, False)


def test_what_is_loaded_is_left_out_of_pythons_collections(market, tmp_path):
    told = tmp_path / "frozen"
    at_the_end = f"print(gc.get_freeze_count(), file=open({str(told)!r}, 'w'))"
    (tmp_path / "sitecustomize.py").write_text(f"import atexit, gc\natexit.register(lambda: {at_the_end})\n")
    with Manager(str(tmp_path / "notify")) as manager:
        path = f"{tmp_path}:{SOURCE}"
        with running(*options(market), NOTIFY_SOCKET=manager.address, PYTHONPATH=path) as command:
            manager.wait_for("READY")
            assert command.end() == 0
    assert int(told.read_text()) > 10_000


def test_who_asks_while_no_process_runs_is_answered_by_the_next_one(market, listener):
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with running(*options(market, "--host", "127.1.2.3"), listener=listener) as first:
        assert first.url == url
        assert call(f"{url}/predict", {})[0] == 200
        assert first.end() == 0
    answers = []
    asking = [threading.Thread(target=lambda: answers.append(call(f"{url}/predict", {}))) for _ in range(16)]
    for each in asking:
        each.start()
    # The kernel has connected them all: what is asked waits in the socket's queue.
    wait_until(lambda: queued(listener) == len(asking))
    assert not answers
    with running(*options(market), listener=listener):
        for each in asking:
            each.join(20)
    assert [(code, set(answer["predictions"])) for code, answer in answers] == [(200, EVERYTHING)] * len(asking)


def queued(listener):
    """How many connections wait to be accepted: tcpi_unacked of a listening socket."""
    return int.from_bytes(listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)[24:28], sys.byteorder)


def test_under_a_steady_load_restarts_lose_no_request(market, listener, tmp_path):
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    command = words("load", url, "--rate", 40, "--duration-s", 600, "--json")
    load = None
    for _ in range(4):
        with running(*options(market, "--state-dir", tmp_path), listener=listener) as server:
            load = load or subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment()
            )
            wait_until(lambda url=url: answered(url) >= 40)
            assert server.end() == 0
    with running(*options(market, "--state-dir", tmp_path), listener=listener):
        load.send_signal(signal.SIGTERM)
        summary = json.loads(load.communicate(timeout=30)[0])
    assert (summary["failures"], summary["failed"], load.returncode) == ({}, 0, 0)
    assert summary["right"] >= 160


def answered(url):
    """How many requests the process that runs has answered."""
    lines = call(f"{url}/metrics")[1].splitlines()
    return sum(float(each.split()[-1]) for each in lines if each.startswith("precog_request_duration_seconds_count"))


class Engine:
    """An engine whose answers wait until the test lets them go."""

    def __init__(self):
        self.came, self.go = asyncio.Semaphore(0), asyncio.Event()
        self.model = "a model"

    def clock(self):
        return time.monotonic()

    def ages(self):
        return {}

    def ready(self, _request, _front):
        return None

    async def answer(self, _request, _front):
        self.came.release()
        await self.go.wait()
        return Answer(None, {}, {"btc": "there is no price"})


class Caller:
    """A client that keeps its connection open."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    def send(self, what=b"POST /predict"):
        self.writer.write(what + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")

    async def head(self):
        """Return the head of the next answer, b"" if the connection ends without one."""
        try:
            head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 20)
        except asyncio.IncompleteReadError as error:
            return error.partial
        length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
        await self.reader.readexactly(int(length.split(b":")[1]))
        return head

    async def closed(self):
        return await asyncio.wait_for(self.reader.read(), 20) == b""


@asynccontextmanager
async def ended(callers):
    """Serve, connect callers, yield them with the engine and what tells the server to end."""
    engine, end = Engine(), asyncio.Event()
    runtime = SimpleNamespace(engine=engine, settings=Settings(), metrics=Metrics(), trouble=str)
    opened = asyncio.get_running_loop().create_future()

    async def served():
        async with serve.listening(runtime, "127.0.0.1", 0) as url:
            opened.set_result(int(url.rpartition(":")[2]))
            await end.wait()

    serving = asyncio.ensure_future(served())
    port = await opened
    made = [Caller(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(callers)]
    yield engine, port, end, made
    await asyncio.wait_for(serving, 20)
    for each in made:
        each.writer.close()


async def stops_listening(port):
    """Wait until nobody listens there."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return
        writer.close()
        await asyncio.sleep(0.005)


def test_at_the_end_what_is_under_way_is_answered_and_its_connection_closed():
    async def scene():
        async with ended(2) as (engine, port, end, (busy, idle)):
            busy.send()
            await engine.came.acquire()
            end.set()
            await stops_listening(port)
            assert await idle.closed()
            engine.go.set()
            head = await busy.head()
            assert head.startswith(b"HTTP/1.1 503")
            assert b"\r\nConnection: close\r\n" in head
            assert await busy.closed()

    asyncio.run(scene())


def test_at_the_end_a_request_over_a_connection_that_was_kept_open_is_answered(monkeypatch):
    monkeypatch.setattr(serve, "PARTING_S", 20.0)  # the test has all of them closed itself

    async def scene():
        async with ended(2) as (engine, port, end, (kept, fresh)):
            engine.go.set()
            kept.send()
            assert b"Connection: close" not in await kept.head()
            end.set()
            late = Caller(*await asyncio.open_connection("127.0.0.1", port))  # until then nobody has to wait
            for each, what, code in (
                (late, b"GET /readyz", b"404"),
                (kept, b"POST /predict", b"503"),
                (fresh, b"POST /predict", b"503"),
            ):
                assert not each.reader.at_eof()
                each.send(what)
                head = await each.head()
                assert head.startswith(b"HTTP/1.1 " + code)
                assert b"\r\nConnection: close\r\n" in head
                assert await each.closed()
            await stops_listening(port)
            late.writer.close()

    asyncio.run(scene())


def test_at_the_end_a_connection_that_stays_idle_is_waited_for_no_longer_than_said(monkeypatch):
    monkeypatch.setattr(serve, "PARTING_S", 0.05)
    monkeypatch.setattr(serve, "LINGER_S", 0.05)

    async def scene():
        async with ended(1) as (_engine, port, end, (idle,)):
            end.set()
            await stops_listening(port)
            assert await idle.closed()

    asyncio.run(scene())


SHOWING = [
    ("doctor", "--offline"),
    ("doctor", "--offline", "--json"),
    ("doctor", "--list-settings"),
    ("doctor", "--api-url", NOWHERE),
    ("serve", "--help"),
]


@pytest.mark.parametrize("command", SHOWING, ids=" ".join)
def test_the_key_in_the_environment_is_shown_by_no_command(command):
    ended = done(*command, PRECOG_RUNTIME_API_KEY="s3cret-key")
    assert "s3cret-key" not in ended.stdout + ended.stderr
    assert ended.stdout
