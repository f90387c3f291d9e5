"""What a host lacks for a release, and what is ours on it. The rollout itself is proven on hosts: molecule/rollout."""

import dataclasses

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._host.host import Host
from ansible_collections.precog.fleet.plugins.module_utils._miner import compare, size, user
from ansible_collections.precog.fleet.plugins.module_utils._miner.model import Instance, Secret
from ansible_collections.precog.fleet.plugins.module_utils._miner.store import Release
from ansible_collections.precog.fleet.plugins.module_utils._miner.systemd import Live

ONE = Instance("one", "runtime", "127.0.0.1", 8092, "127.0.0.1", 8092, (), "11")
TWO = Instance("two", "upstream", "0.0.0.0", 8093, "127.0.0.1", 9093, (), "22")
UNITS = {
    "precog-miner@.service": b"template",
    "precog-miner@one.service.d/10-instance.conf": b"one",
    "precog-miner@one.socket": b"socket",
    "precog-miner@two.service.d/10-instance.conf": b"two",
}
RELEASE = Release("new", UNITS, (ONE, TWO))
HOTKEY = "/etc/precog-miner/two/wallets/w/hotkeys/h"
VARIABLES = "/etc/precog-miner/one.env"
SECRETS = {HOTKEY: Secret(b"key", "miner"), VARIABLES: Secret(b"A=b", "root")}
RUNS = Live("active", "active (running)", 7, True, 0, "11")
SEEN = compare.Seen(
    "new",
    {"one": RUNS, "two": RUNS._replace(digest="22")},
    UNITS,
    {path: secret.data for path, secret in SECRETS.items()},
)


def work(**differs):
    return compare.compare(RELEASE, SECRETS, SEEN._replace(**differs))


def live(**differs):
    return {**SEEN.live, "one": RUNS._replace(**differs)}


def test_what_is_as_wanted_is_left_alone():
    assert work().idle


@pytest.mark.parametrize(
    "differs",
    [
        {"current": "old"},
        {"live": live(digest="10")},
        {"live": live(active="failed")},
        {"live": live(active="inactive", digest="", pid=0)},
        {"live": live(enabled=False)},
        {"live": {**SEEN.live, "three": RUNS}},
        {"units": {**UNITS, "precog-miner@.service": b"other"}},
        {"units": {**UNITS, "precog-miner@three.socket": b"socket"}},
        {"units": {}},
        {"secrets": {**SEEN.secrets, HOTKEY: b"other"}},
        {"secrets": dict.fromkeys(SECRETS)},
    ],
)
def test_any_difference_is_work(differs):
    assert not work(**differs).idle


@pytest.mark.parametrize(
    ("differs", "started"),
    [
        ({"current": "old"}, ()),
        ({"live": live(digest="10")}, ("one",)),
        ({"live": live(active="failed")}, ("one",)),
        ({"live": live(enabled=False)}, ()),
        ({"units": {**UNITS, "precog-miner@.service": b"other"}}, ("one", "two")),
        ({"units": {**UNITS, "precog-miner@.timer": b"other"}}, ()),
        ({"units": {**UNITS, "precog-miner@two.service.d/10-instance.conf": b"other"}}, ("two",)),
        ({"units": {**UNITS, "precog-miner@one.socket": b"other"}}, ("one",)),
        ({"secrets": {**SEEN.secrets, HOTKEY: b"other"}}, ("two",)),
        ({"secrets": {**SEEN.secrets, "/etc/precog-miner/one.env": None}}, ("one",)),
        ({"live": {}, "units": {}, "secrets": dict.fromkeys(SECRETS), "current": ""}, ("one", "two")),
    ],
)
def test_only_what_differs_is_started_again(differs, started):
    assert work(**differs).start == started


def test_another_socket_is_told_from_the_same():
    assert work(units={**UNITS, "precog-miner@one.socket": b"other"}).sockets == {"one"}
    assert work(live=live(digest="10")).sockets == frozenset()


def test_what_runs_but_would_not_after_a_boot_is_enabled():
    assert work(live=live(enabled=False)).enable == ("one",)
    assert work(live=live(enabled=False, digest="10")).enable == ()


def test_instances_that_are_wanted_no_more_are_stopped_and_their_units_removed():
    found = work(
        live={**SEEN.live, "three": RUNS},
        units={**UNITS, "precog-miner@three.socket": b"", "precog-miner@three.service.d/10-instance.conf": b""},
    )
    assert found.stop == ("three",)
    assert found.start == ()
    assert found.units == {"precog-miner@three.socket": None, "precog-miner@three.service.d/10-instance.conf": None}


@pytest.mark.parametrize(
    ("done", "now", "started"),
    [
        ({"live": live(digest="10")}, {"live": live(digest="99")}, ("one",)),
        ({"live": live(digest="10")}, {"live": live(active="failed")}, ("one",)),
        ({"current": "old"}, {"current": "other"}, ()),
        ({"secrets": {**SEEN.secrets, HOTKEY: b"other"}}, {}, ("two",)),
        ({"secrets": {**SEEN.secrets, HOTKEY: b"other"}}, {"live": live(digest="99")}, ("one", "two")),
    ],
)
def test_going_back_starts_what_differs_and_what_had_another_secret(done, now, started):
    found = compare.undoing(work(**done), RELEASE, SEEN._replace(**now))
    assert found.start == started
    assert found.secrets == ()


def test_ours_are_the_units_of_our_names_and_no_drop_in_of_others(tmp_path):
    folder = tmp_path / "etc/systemd/system"
    for name in (*UNITS, "precog-miner@one.service.d/20-own.conf", "ssh.service", "multi-user.target.wants/x.service"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(UNITS.get(name, b"of another"))
    assert compare.ours(Host(str(tmp_path))) == UNITS
    assert compare.names_in(UNITS) == ["one", "two"]


def test_a_user_is_found_by_its_name(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nprecog-miner:x:990:991::/:/usr/sbin/nologin\n")
    assert user.user(Host(str(tmp_path)), "precog-miner") == (990, 991)
    assert user.user(Host(str(tmp_path)), "precog") is None


@pytest.mark.parametrize(
    ("memory_mb", "cpus", "warns"),
    [(8192, 2, False), (7800, 2, False), (7600, 2, True), (16000, 1, True), (4096, 1, True)],
)
def test_a_host_that_is_too_small_is_told_with_figures(tmp_path, monkeypatch, memory_mb, cpus, warns):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: {memory_mb * 1024} kB\nMemFree: 1 kB\n")
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(cpus)))
    params = {"minimum_memory_mb": {"upstream": "8192", "runtime": None}, "minimum_cpus": {"upstream": 2}}
    found = size.small(Host(str(tmp_path)), params, dataclasses.make_dataclass("Made", ["instances"])((ONE, TWO)))
    assert bool(found) == warns
    assert all(f"{memory_mb} MB of memory and {cpus} CPUs" in told for told in found)
    assert all("of which 7% may lack" in told for told in found)
