"""Two instances behind one address: clients notice neither a rollout nor one that is drained, killed or stalls."""

from __future__ import annotations

from pathlib import Path

import pytest

BALANCE = Path(__file__).parents[2] / "balance.yml"
CONVERGE = Path(__file__).parents[2] / "converge.yml"
CONFIG = "/etc/precog-load-balancer.cfg"
BALANCER = "precog-load-balancer.service"
UNIT = f"/etc/systemd/system/{BALANCER}"
DRAIN = "/run/precog-miner/one/drain"
ONE = "precog-miner@one.service"
MARKET = {"engine": "simulator", "port": 8900}
BOTH = f"{ONE} precog-miner@two.service"


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
            out = balancer.until("one", "NOLB", 10)
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


def process_ids(host):
    return host.check_output(f"systemctl show --property=MainPID --value {BOTH}").split()


# By one program: another that has to be started to end a stall makes it longer, on a busy machine by seconds.
STALL = """import os, signal, sys, time
for _ in range(3):
    for number, seconds in ((signal.SIGSTOP, 1.5), (signal.SIGCONT, 1)):
        for pid in sys.argv[1:]:
            os.kill(int(pid), number)
        time.sleep(seconds)"""


@pytest.mark.full
def test_a_host_that_stalls_for_a_while_delays_requests_and_loses_none(host, balancer):
    """For longer than a check may take, so that one at least fails."""
    with balancer.asked() as told, balancer.watched() as seen:
        host.check_output("python3 -c %s %s %s", STALL, *process_ids(host))
    assert told["failures"] == []
    assert seen == [{"one": "UP", "two": "UP"}]


@pytest.mark.once
def test_a_process_that_hangs_is_left_alone_after_a_while(host, balancer):
    host.check_output(f"systemctl kill --kill-whom=main --signal=STOP {ONE}")
    try:
        balancer.until("one", "DOWN", 20)
    finally:
        host.check_output(f"systemctl kill --kill-whom=main --signal=CONT {ONE}")
    balancer.until("one", "UP", 30)


def instances(**variables):
    """The two instances as the inventory has them, with variables more."""
    own = {name: {"port": port, "variables": variables} for name, port in (("one", 8092), ("two", 8093))}
    return {"miner_service_instances": {"market": MARKET, **own}}


@pytest.mark.full
def test_a_rollout_is_noticed_by_nobody(host, play, balancer):
    """A release that differs in one variable."""
    before = process_ids(host)
    with balancer.asked() as told, balancer.watched() as seen:
        run = play(CONVERGE, instances(MOLECULE="1"))
    assert {run.settings[f"miner:{name}"]["status"] for name in ("one", "two")} == {"changed"}
    assert set(process_ids(host)).isdisjoint(before)
    assert told["failures"] == []
    assert told["answers"] > 100
    # Each was drained, and the other one had all requests meanwhile.
    assert {"one": "NOLB", "two": "UP"} in seen
    assert {"one": "UP", "two": "NOLB"} in seen
    assert [each for each in seen if "UP" not in each.values()] == []


OWN_MARKET = "molecule-market.service"
OWN_PORT = 8901
# "Ten minutes" of an outage are eleven seconds here.
OUTAGE = {"p99_ms": 1000, "p99_slack_ms": 500, "deadline_ms": 10000, "max_age_s": 10}
WAIT_UNTIL_OLD = """import http.client, json, time
for port in (8092, 8093):
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/readyz")
        if min(json.loads(connection.getresponse().read())["age_s"].values()) > 11:
            break
        time.sleep(0.2)"""


@pytest.fixture
def own_market(host, play):
    """A source of prices outside the releases, and two releases that ask it; yields what rolls out others."""
    run = "/opt/precog/env/miner/bin/precog-runtime simulate-market --rate-limit 0 --port"
    host.check_output(f"systemd-run --quiet --collect --unit={OWN_MARKET} {run} {OWN_PORT}")

    def roll(number="", *, code=0, **variables):
        own = instances(PRECOG_RUNTIME_API_URL=f"http://127.0.0.1:{OWN_PORT}/v4", OWN_MARKET=number)
        return play(CONVERGE, {**own, "miner_service_gate": OUTAGE, **variables}, code=code)

    try:
        roll("1")
        roll("2")
        yield roll
    finally:
        host.run(f"systemctl stop {OWN_MARKET}")
        play(CONVERGE, instances(MOLECULE="1"))


@pytest.mark.full
def test_outage_of_the_source_stops_neither_repair_nor_going_back_nor_answers(host, balancer, own_market):
    unit = f"/etc/systemd/system/{ONE}.d/10-instance.conf"
    host.check_output(f"systemctl stop {OWN_MARKET}")
    host.check_output("python3 -c %s", WAIT_UNTIL_OLD)
    with balancer.asked() as told, balancer.watched() as seen:
        # A new release does not begin.
        before = process_ids(host)
        run = own_market("3", code=2)
        assert "source of its prices (PRECOG_RUNTIME_API_URL) is down" in run.output
        assert process_ids(host) == before
        # A repair starts one of the two again.
        host.check_output(f"echo '# by hand' >> {unit}")
        run = own_market("2")
        assert run.settings["miner:one"]["status"] == "changed"
        assert process_ids(host)[0] != before[0]
        # Going back starts both again.
        before = process_ids(host)
        run = own_market(miner_service_release="previous")
        assert set(process_ids(host)).isdisjoint(before)
        # It lasts: the inventory still makes the release that was left.
        before = process_ids(host)
        assert "was withdrawn on this host" in own_market("2", code=2).output
        assert process_ids(host) == before
    assert told["failures"] == []
    assert told["answers"] > 100
    assert [each for each in seen if "UP" not in each.values()] == []


@pytest.fixture
def taken(host, balancer):
    """The balancer is stopped, and another has its address; called, that one ends. In the end the balancer runs."""
    free = "systemctl stop molecule-taken.service"
    take = "systemd-run --quiet --collect --unit=molecule-taken python3 -m http.server --bind 127.0.0.1"
    listens = f"timeout 20 sh -c 'until ss -ltn | grep -q :{balancer.bind}; do sleep 0.1; done'"
    try:
        host.check_output(f"systemctl stop {BALANCER} && {take} {balancer.bind} && {listens}")
        yield lambda: host.check_output(free)
    finally:
        host.run(free)
        host.check_output(f"systemctl start {BALANCER}")


@pytest.mark.full
def test_an_address_that_is_taken_is_waited_for(host, balancer, taken):
    """For longer than systemd would try by itself: five starts in ten seconds."""
    host.check_output(f"systemctl start --no-block {BALANCER}")
    host.check_output(
        f"for _ in $(seq 60); do [ $(systemctl show -P NRestarts {BALANCER}) -gt 5 ] && exit; sleep 1; done; exit 1"
    )
    taken()
    host.check_output(f"for _ in $(seq 60); do systemctl -q is-active {BALANCER} && exit; sleep 0.5; done; exit 1")
    balancer.until("one", "UP", 30)


@pytest.mark.parametrize("path", ["/metrics", "/", "/predict/x"])
def test_what_is_one_instances_own_is_not_balanced(balancer, path):
    assert balancer.get(path) == 404


@pytest.mark.once
def test_the_balancer_tells_whether_anything_is_behind_it(host, balancer):
    assert balancer.get("/readyz") == 200
    drains = f"{DRAIN} {DRAIN.replace('one', 'two')}"
    host.check_output(f"touch {drains}")
    try:
        balancer.until("one", "NOLB", 5)
        balancer.until("two", "NOLB", 5)
        assert balancer.get("/readyz") == 503
        # None is ready, and each could answer.
        assert balancer.predict() == 200
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


@pytest.mark.once
@pytest.mark.parametrize(("variables", "told"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_leaves_the_balancer_as_it_is(host, play, variables, told):
    before = host.check_output(f"sha256sum {CONFIG} {UNIT}")
    assert told in play(BALANCE, variables, code=2).output
    assert host.check_output(f"sha256sum {CONFIG} {UNIT}") == before
    assert host.service("precog-load-balancer").is_running


@pytest.mark.full
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
