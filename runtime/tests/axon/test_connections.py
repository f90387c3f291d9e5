"""Slow and many connections to a real axon: what bounds them, set by the drop-in."""

import http.client
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import bittensor
import pytest
from axon.loopback import EVERYTHING, Letter, free_port, new_axon, start, wait_until
from axon.test_forward import let_start, told, upstream_like
from uvicorn import config

from precog_runtime.axon.connections import bound_connections
from precog_runtime.connections import Connections

HEAD = b"POST /Challenge HTTP/1.1\r\nHost: x\r\n"  # without its end
WHOLE = HEAD + b"Content-Length: 2\r\n\r\n{}"


@pytest.fixture
def bounded(monkeypatch):
    """Start axons whose connections are bounded; returns the axon and the kinds of those that were closed."""
    monkeypatch.setitem(config.HTTP_PROTOCOLS, "auto", config.HTTP_PROTOCOLS["auto"])
    started = []

    def begin(most, receive_s):
        kinds = []
        assert bound_connections(lambda: Connections(most, receive_s, kinds.append))
        started.append(start(new_axon()))
        return started[-1], kinds

    yield begin
    for axon in started:
        axon.stop()


def opened(axon, sent):
    connection = socket.create_connection(("127.0.0.1", axon.port), timeout=20)
    connection.sendall(sent)
    return connection


def answered(connection):
    """Read an answer, and return its status."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    response.read()
    return response.status


def descriptors(miner):
    return len(list(Path(f"/proc/{miner.pid}/fd").iterdir()))


def half(letter):
    """Return a signed letter without the end of its body."""
    headers = "".join(f"{name}: {value}\r\n" for name, value in letter.headers.items())
    return HEAD + f"{headers}Content-Length: 1000\r\n\r\n{{".encode()


def closed(connection):
    """Whether the other side closes a connection, maybe after an answer."""
    try:
        while connection.recv(10_000):
            pass
    except ConnectionResetError:
        return True
    return True


def test_half_a_request_is_closed_in_time_and_one_that_is_kept_open_stays(bounded):
    axon, kinds = bounded(most=10, receive_s=0.5)
    kept = opened(axon, WHOLE)
    assert answered(kept)
    for sent in (b"", b"P", HEAD):
        assert closed(opened(axon, sent))
    assert set(kinds) == {"slow_caller"}
    kept.sendall(WHOLE)
    assert answered(kept)


def test_one_too_many_closes_the_slowest(bounded):
    axon, kinds = bounded(most=3, receive_s=30)
    slow = [opened(axon, each) for each in (HEAD, b"", b"P")]
    wait_until(lambda: len(axon.fast_server.server_state.connections) == 3)
    new = opened(axon, WHOLE)
    assert answered(new)
    assert closed(slow[0])
    assert kinds == ["crowded"]


def test_three_hundred_half_sent_requests_stop_no_validator(tmp_path):
    port = free_port()
    variables = {"PRECOG_RUNTIME_RECEIVE_S": "3", "PRECOG_RUNTIME_MONITOR_S": "0"}
    with upstream_like(tmp_path, port, descriptors=256, **variables) as miner:
        threading.Thread(target=lambda: [None for _ in miner.stderr], daemon=True).start()
        let_start(miner)
        assert told(miner)["answered"][0] == 200
        wallets = str(tmp_path / "home/wallets")
        key = bittensor.Wallet(name="validator", hotkey="default", path=wallets).hotkey
        hotkey = bittensor.Wallet(name="miner", hotkey="default", path=wallets).hotkey.ss58_address
        axon = SimpleNamespace(port=port)
        before, flood = descriptors(miner), []
        for number in range(6):
            signed = half(Letter(axon, key, uuid=f"half {number}", receiver=hotkey))
            flood += [opened(axon, each) for each in [b"", b"P", HEAD, HEAD, HEAD] * 10 + [signed]]
            began = time.monotonic()
            status, answer = Letter(axon, key, uuid=f"{number}", receiver=hotkey).send()
            assert (status, set(answer["predictions"])) == (200, set(EVERYTHING))
            assert time.monotonic() - began < 5
            assert descriptors(miner) < 200
        wait_until(lambda: descriptors(miner) <= before + 3, within_s=15)
        assert all(closed(each) for each in flood)
