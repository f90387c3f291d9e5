"""What the checks of this scenario share: the balancer as it tells of itself, and clients that keep asking it."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

BIND = 8080
PATIENCE_S = 30  # for requests to come through: they do within a second
CLIENTS = 8
STOP = "/run/molecule-stop"
UNWATCH = "/run/molecule-unwatch"

ASK = """import http.client, sys
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
connection.request(sys.argv[3], sys.argv[2], "{}" if sys.argv[3] == "POST" else None)
print(connection.getresponse().status)"""


class Balancer:
    """The load balancer of a host."""

    bind, clients = BIND, CLIENTS

    def __init__(self, host):
        self._host = host

    def get(self, path):
        """The status that it answers with."""
        return int(self._host.check_output("python3 -c %s %s %s GET", ASK, str(BIND), path))

    def predict(self):
        """The status that it answers a request for predictions with."""
        return int(self._host.check_output("python3 -c %s %s /predict POST", ASK, str(BIND)))

    def servers(self):
        """What each server is at: status, and how many requests it got."""
        return json.loads(self._host.check_output("python3 /var/lib/molecule/servers.py"))

    def until(self, server, status, seconds=30):
        """Wait until a server has a status; return the servers, and in "waited" how long it took."""
        command = "python3 /var/lib/molecule/servers.py %s %s %s"
        return json.loads(self._host.check_output(command, server, status, str(seconds)))

    @contextmanager
    def watched(self):
        """Look at the servers without a break; yield what will hold their statuses afterwards, each change of them."""
        seen = []
        self._host.check_output(f"rm -f {UNWATCH}")
        with ThreadPoolExecutor(1) as thread:
            watching = thread.submit(self._host.check_output, f"python3 /var/lib/molecule/servers.py watch {UNWATCH}")
            try:
                yield seen
            finally:
                self._host.check_output(f"touch {UNWATCH}")
            seen += json.loads(watching.result())

    @contextmanager
    def asked(self):
        """Have clients ask without a break; yield what will hold `answers` and `failures` afterwards."""
        told = {}
        command = f"python3 /var/lib/molecule/clients.py {BIND} {CLIENTS} {STOP}"
        self._host.check_output(f"rm -f {STOP}")
        with ThreadPoolExecutor(1) as thread:
            asking = thread.submit(self._host.check_output, command)
            try:
                self._wait_for_requests()
                yield told
                self._wait_for_requests()
            finally:
                self._host.check_output(f"touch {STOP}")
            told.update(json.loads(asking.result()))

    def _wait_for_requests(self, more=50):
        def total():
            return sum(server["total"] for name, server in self.servers().items() if name != "waited")

        before, end = total(), time.monotonic() + PATIENCE_S
        while (now := total()) < before + more:  # each look takes a round trip over SSH
            before = min(before, now)  # a balancer that reloads begins to count anew
            assert time.monotonic() < end, f"only {now - before} requests came through in {PATIENCE_S} s"


@pytest.fixture
def balancer(host):
    """The balancer, with both instances in."""
    found = Balancer(host)
    for name in ("one", "two"):
        found.until(name, "UP")
    return found
