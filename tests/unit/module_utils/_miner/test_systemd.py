"""What is asked of systemd and of the machine: who holds a port, what stops in which order."""

import os
import socket
import subprocess
import sys

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._host import psutil_facts
from ansible_collections.precog.fleet.plugins.module_utils._host.host import Host
from ansible_collections.precog.fleet.plugins.module_utils._miner import systemd
from ansible_collections.precog.fleet.tests.unit.made_systemd import make_systemd

WORDS = r"""
import sys
sys.stdout.buffer.write(b"first\nbefore\nnot UTF-8: \xff\nbefore\nit ends\nhere\nnow\n")
"""


def test_memory_of_a_process_is_its_own_and_that_of_those_that_it_started():
    fill = "import sys; had = b'x' * (64 << 20); print(flush=True); sys.stdin.read()"
    child = [sys.executable, "-c", fill]
    here = Host()
    alone = systemd.memory(here, os.getpid())
    with subprocess.Popen(child, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as started:
        started.stdout.readline()
        with_it = systemd.memory(here, os.getpid())
        started.stdin.close()
    assert alone > 1 << 20
    assert with_it - alone > 60 << 20
    assert systemd.memory(here, started.pid) == 0


def test_who_holds_a_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            found = systemd.holders(port)
            assert list(found) == [os.getpid()]
            assert found[os.getpid()]
            assert systemd.holders(client.getsockname()[1]) == {}
    assert systemd.holders(port) == {}


def test_without_psutil_nobody_is_known(monkeypatch):
    def missing():
        raise psutil_facts.PsutilMissingError("psutil is missing")

    monkeypatch.setattr(psutil_facts, "load", missing)
    assert systemd.holders(22) == {}


def test_last_words_are_told_whatever_their_bytes(monkeypatch):
    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda _argv, **options: real([sys.executable, "-c", WORDS], **options))
    assert systemd.last_words(Host(), "main", 0) == r"not UTF-8: \xff | it ends | here | now"


@pytest.mark.parametrize("act", [lambda host: systemd.halt(host, "main"), lambda host: systemd.stop(host, ["main"])])
def test_what_is_not_there_is_not_stopped(memory, act):
    host = make_systemd(memory / "host")
    act(host)
    systemd.drop_socket(host, "main")
    assert not [line for line in host.asked if line.startswith(("systemctl stop", "systemctl --quiet disable"))]


def test_a_process_is_known_by_the_digest_that_it_was_started_with(memory):
    host = make_systemd(memory / "host")
    host.put("/proc/7/environ", "A=b\0PRECOG_MINER_DIGEST=0123456789ab\0")
    assert systemd.runs(host, 7, "0123456789ab")
    assert not systemd.runs(host, 7, "ffffffffffff")
    assert not systemd.runs(host, 8, "0123456789ab")
