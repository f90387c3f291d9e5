"""Two instances behind one address: both answer, and neither being drained nor being killed is noticed by clients."""

from __future__ import annotations

from pathlib import Path

import pytest

BALANCE = Path(__file__).parents[2] / "balance.yml"
CONFIG = "/etc/precog-load-balancer.cfg"
UNIT = "/etc/systemd/system/precog-load-balancer.service"
DRAIN = "/run/precog-miner/one/drain"
ONE = "precog-miner@one.service"


def counted(before, after, name):
    return after[name]["total"] - before[name]["total"]


def test_both_instances_answer(balancer):
    before = balancer.servers()
    with balancer.asked() as told:
        pass
    after = balancer.servers()
    assert told["failures"] == []
    assert told["answers"] >= 100
    assert min(counted(before, after, name) for name in ("one", "two")) > told["answers"] // 10


def test_an_instance_that_is_drained_is_left_alone_and_nobody_notices(host, balancer):
    with balancer.asked() as told:
        try:
            host.check_output(f"touch {DRAIN}")
            out = balancer.until("one", "DOWN", 2)
            host.check_output("! python3 /var/lib/molecule/servers.py one UP 1")
            later = balancer.servers()
        finally:
            host.check_output(f"rm {DRAIN}")
        balancer.until("one", "UP", 5)
    assert counted(out, later, "one") == 0
    assert counted(out, later, "two") > 0
    assert told["failures"] == []


def test_an_instance_that_is_killed_loses_what_it_holds_at_most(host, balancer):
    with balancer.asked() as told:
        host.check_output(f"systemctl kill --kill-whom=main --signal=KILL {ONE}")
        killed = float(host.check_output("date +%s.%N"))
        balancer.until("one", "UP", 30)
    # Each client has one request under way: what failed had been sent before the kill.
    assert len(told["failures"]) <= balancer.clients
    assert [each for each in told["failures"] if each[0] > killed] == []


@pytest.mark.parametrize("path", ["/metrics", "/", "/predict/x"])
def test_what_is_one_instances_own_is_not_balanced(balancer, path):
    assert balancer.get(path) == 404


def test_the_balancer_tells_whether_anything_is_behind_it(host, balancer):
    assert balancer.get("/readyz") == 200
    drains = f"{DRAIN} {DRAIN.replace('one', 'two')}"
    host.check_output(f"touch {drains}")
    try:
        balancer.until("one", "DOWN", 5)
        balancer.until("two", "DOWN", 5)
        assert balancer.get("/readyz") == 503
    finally:
        host.check_output(f"rm {drains}")


def test_only_root_can_tell_it_what_to_do(host):
    socket = host.file("/run/precog-load-balancer/admin.sock")
    assert (socket.user, socket.mode) == ("root", 0o600)
    assert host.file("/run/precog-load-balancer").mode == 0o700


def test_its_workers_are_locked_in(host):
    worker = host.check_output("pgrep --newest --exact --uid haproxy haproxy")
    assert host.check_output(f"readlink /proc/{worker}/root") == "/var/lib/haproxy"


def test_the_service_of_the_package_is_not_used(host):
    assert not host.service("haproxy").is_running
    assert not host.service("haproxy").is_enabled
    assert host.service("precog-load-balancer").is_running
    assert host.service("precog-load-balancer").is_enabled


# -- what can't be -----------------------------------------------------------------------------------------------------

MARKET = {"engine": "simulator", "port": 8900}
REFUSED = {
    "an axon": (
        {"miner_service_instances": {"market": MARKET, "one": {"engine": "upstream", "port": 8092}}},
        "an axon is one hotkey at one address, so it can't be balanced",
    ),
    "a wallet": (
        {"miner_service_instances": {"market": MARKET, "one": {"wallet": "cold", "port": 8092}}},
        "an axon is one hotkey at one address, so it can't be balanced",
    ),
    "nothing": ({"load_balancer_group": "nobody"}, "there is no instance to balance"),
    "a name that nobody knows": (
        {"load_balancer_backends": [{"name": "a", "address": "nowhere.invalid", "port": 1}]},
        "nowhere.invalid",
    ),
    "no port": ({"load_balancer_bind": "127.0.0.1"}, "load_balancer_bind is 127.0.0.1 (ADDRESS:PORT)"),
    "no time at all": ({"load_balancer_response_timeout_s": 0}, "load_balancer_response_timeout_s 0 (1 to 600)"),
}


@pytest.mark.parametrize(("variables", "told"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_leaves_the_balancer_as_it_is(host, play, variables, told):
    before = host.check_output(f"sha256sum {CONFIG} {UNIT}")
    assert told in play(BALANCE, variables, code=2).output
    assert host.check_output(f"sha256sum {CONFIG} {UNIT}") == before
    assert host.service("precog-load-balancer").is_running


def test_a_change_of_settings_is_taken_over_while_clients_ask(host, play, balancer):
    process = "systemctl show -P MainPID precog-load-balancer"
    before = host.check_output(process)
    with balancer.asked() as told:
        assert play(BALANCE, {"load_balancer_max_connections": 1000}).stats["changed"] == 2
        assert "maxconn 1000" in host.file(CONFIG).content_string
        assert play(BALANCE).stats["changed"] == 2
    assert told["failures"] == []
    assert host.check_output(process) == before
    assert play(BALANCE).stats["changed"] == 0
