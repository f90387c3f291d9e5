"""The bounds of a miner's unit, met by processes that are moved into it: what a miner that turned bad would meet.

A process of ours in the unit's group of processes stands for one that the miner started: the kernel bounds the group.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

MINER = Path(__file__).parents[3] / "playbooks/miner.yml"
HERE = "127.0.0.1"
CLOUD, ALLOWED, ELSEWHERE = "169.254.169.254", "198.51.100.7", "203.0.113.7"  # addresses that the host gets here
SERVE = """
import socketserver
socketserver.ThreadingTCPServer(("0.0.0.0", 81), socketserver.BaseRequestHandler).serve_forever()
"""
CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 81), timeout=5).close()
    print("reached")
except (PermissionError, TimeoutError):
    print("blocked")
"""
GROW = """
held = []
while True:
    held.append(b"x" * (8 << 20))
"""
ANSWERS = """
import http.client, time
for _ in range(240):
    try:
        asked = http.client.HTTPConnection("127.0.0.1", 8092, timeout=20)
        asked.request("GET", "/readyz")
        if asked.getresponse().status == 200:
            break
    except OSError:
        pass
    time.sleep(1)
else:
    raise SystemExit("it is not ready")
"""


class Unit:
    """One instance's unit, as systemd and the kernel have it."""

    def __init__(self, host, name):
        self._host, self.name = host, f"precog-miner@{name}.service"

    def shown(self, *properties):
        """Its properties, by their names."""
        shown = self._host.check_output("systemctl show %s -p %s", self.name, ",".join(properties))
        return dict(line.split("=", 1) for line in shown.splitlines())

    @property
    def pid(self):
        return int(self.shown("MainPID")["MainPID"])

    def group(self):
        """The folder of its processes' group."""
        return f"/sys/fs/cgroup{self.shown('ControlGroup')['ControlGroup']}"

    def run_inside(self, program, *words):
        """Run a Python program as one of its processes; what the kernel lets it do is what it lets the miner do."""
        inside = shlex.join(["python3", "-c", program, *words])
        return self._host.run("sh -c %s", f"echo $$ > {shlex.quote(self.group())}/cgroup.procs && exec {inside}")


@pytest.fixture(scope="module")
def addresses(host):
    """Servers at addresses of the host's own, one of them that by which clouds hand out credentials."""
    given = [f"{address}/32" for address in (CLOUD, ALLOWED, ELSEWHERE)]
    host.check_output("systemd-run --quiet --collect --unit=molecule-server python3 -c %s", SERVE)
    try:
        for each in given:
            host.check_output("ip address add %s dev lo", each)
        host.check_output("timeout 30 sh -c 'until ss -ltn | grep -q :81; do sleep 0.2; done'")
        yield
    finally:
        for each in given:
            host.run("ip address del %s dev lo", each)
        host.check_output("systemctl stop molecule-server.service")


@pytest.mark.parametrize(
    ("name", "address", "result"),
    [
        ("main", CLOUD, "blocked"),
        ("main", ELSEWHERE, "reached"),
        ("main", HERE, "reached"),
        ("closed", CLOUD, "blocked"),
        ("closed", ELSEWHERE, "blocked"),
        ("closed", ALLOWED, "reached"),
        ("closed", HERE, "reached"),
    ],
)
@pytest.mark.usefixtures("addresses")
def test_a_miner_is_blocked_outside_its_allowed_addresses(host, name, address, result):
    assert host.check_output("python3 -c %s %s", CONNECT, address) == "reached"
    assert Unit(host, name).run_inside(CONNECT, address).stdout.strip() == result


def test_a_leak_is_killed_within_its_unit_which_starts_again_and_all_else_goes_on(host):
    main, others = Unit(host, "main"), [Unit(host, "market"), Unit(host, "closed")]
    bound = int(main.shown("MemoryMax")["MemoryMax"])
    assert 0 < bound < 1 << 30
    before, pids = main.pid, [one.pid for one in others]
    sleeper = host.check_output("systemctl show -P MainPID sleeper.service")
    killed = main.run_inside(GROW)
    assert killed.rc in (137, -9), killed
    line = "journalctl -k --no-pager -o cat | grep 'Memory cgroup out of memory.*Killed process'"
    host.check_output("timeout 60 sh -c %s", f"until {line}; do sleep 0.5; done")
    # systemd ends the whole unit after such a kill, and starts it again.
    again = f"until p=$(systemctl show -P MainPID {main.name}); [ $p -gt 0 ] && [ $p -ne {before} ]; do sleep 0.5; done"
    host.check_output("timeout 240 sh -c %s", again)
    host.check_output("python3 -c %s", ANSWERS)
    assert [one.pid for one in others] == pids
    assert host.check_output("systemctl show -P MainPID sleeper.service") == sleeper


def test_no_bound_is_told_to_be_missing(play):
    run = play(MINER)
    assert run.stats["changed"] == 0
    assert {name for name, row in run.settings.items() if row["status"] == "unsupported"} == set()
    assert run.settings["miner:main"]["status"] == "ok"
