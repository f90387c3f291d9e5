"""What tells systemd whether the axon answers; for a whole miner under it see test_forward.py."""

import asyncio
import socket
import threading

import psutil
import pytest
from axon.loopback import free_port
from processes import Manager

from precog_runtime.axon import answering


@pytest.fixture
def manager(monkeypatch, tmp_path):
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    with Manager(str(tmp_path / "notify")) as made:
        monkeypatch.setenv("NOTIFY_SOCKET", made.address)
        yield made


def report(metrics_port=0):
    """Run it to its end, which has to come."""
    asyncio.run(asyncio.wait_for(answering.report(metrics_port), 20))


def test_without_systemd_nothing_is_looked_for(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setattr(answering, "listeners", None)
    report()


@pytest.mark.usefixtures("axon")
def test_without_a_watchdog_all_is_told_once_the_axon_answers(manager):
    report()
    assert manager.hear()["READY"] == "1"
    assert manager.hear(within_s=0.1) == {}


def test_an_axon_that_listens_and_does_not_answer_yet_is_not_ready(monkeypatch, manager):
    looks = []

    async def answers(_address):
        looks.append(manager.hear(within_s=0.05))
        return len(looks) == 3

    monkeypatch.setattr(answering, "listeners", lambda _metrics_port: [("127.0.0.1", 8091)])
    monkeypatch.setattr(answering, "answers", answers)
    report()
    assert looks == [{}, {}, {}]
    assert manager.hear() == {"READY": "1", "STATUS": "The axon answers at port 8091"}


def test_what_keeps_it_from_looking_is_logged(monkeypatch, caplog, manager):
    def refused(_metrics_port):
        raise psutil.AccessDenied

    monkeypatch.setattr(answering, "listeners", refused)
    report()
    assert "systemd hears no more of this miner" in caplog.text
    assert manager.hear(within_s=0.1) == {}


def test_listeners_are_those_of_this_process_but_the_metrics():
    with socket.create_server(("0.0.0.0", 0)) as axon, socket.create_server(("127.0.0.1", 0)) as metrics:
        port, metrics_port = axon.getsockname()[1], metrics.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as caller:
            found = answering.listeners(metrics_port)
        assert ("127.0.0.1", port) in found
        assert not {metrics_port, caller.fileno()} & {each for _, each in found}
        assert ("127.0.0.1", metrics_port) in answering.listeners(port)


SAID = [(b"HTTP/1.1 500 Internal Server Error\r\n", True), (b"220 a mail server\r\n", False), (b"", False)]


@pytest.mark.parametrize(("said", "wanted"), SAID, ids=str)
def test_any_status_is_an_answer_and_nothing_else_is(said, wanted):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def speak():
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(said)

        threading.Thread(target=speak).start()
        assert asyncio.run(answering.answers(server.getsockname())) is wanted


def test_silence_and_a_closed_port_are_no_answer():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert not asyncio.run(answering.answers(silent.getsockname(), within_s=0.1))
    assert not asyncio.run(answering.answers(("127.0.0.1", free_port())))
