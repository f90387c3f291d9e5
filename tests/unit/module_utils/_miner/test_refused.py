"""What would let a miner, or somebody else on the host, run code as another or read a key: refused."""

from __future__ import annotations

import configparser
import os

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._host.host import Host, HostError
from ansible_collections.precog.fleet.plugins.module_utils._miner import systemd, user
from ansible_collections.precog.fleet.tests import places
from ansible_collections.precog.fleet.tests.unit.made_systemd import make_systemd
from ansible_collections.precog.fleet.tests.unit.module_utils._miner.test_plan import plan, problems
from ansible_collections.precog.fleet.tests.unit.module_utils._miner.test_user import ROOT, THEIRS, entries, host  # noqa: F401

API = "PRECOG_RUNTIME_API_URL"


@pytest.mark.parametrize("place", ["/var/lib/precog-miner", "/var/lib/precog-miner/main/x"])
@pytest.mark.parametrize("name", ["root", "environment"])
def test_code_inside_the_miners_own_folder_is_refused(name, place):
    (told,) = problems({"main": {}}, **{name: place})
    assert told.startswith(f"{name}: {place!r} is inside state_root (/var/lib/precog-miner)")


def test_a_folder_whose_name_only_begins_alike_is_fine():
    assert plan({"main": {}}, root="/var/lib/precog-miner-code").instances


@pytest.mark.parametrize("name", ["LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "GCONV_PATH", "PYTHONUSERBASE"])
def test_a_variable_that_loads_code_from_elsewhere_is_refused(name):
    (told,) = problems({"main": {"variables": {name: "/tmp/x"}}})
    assert told == f"instances.main.variables: {name!r} makes each start load code from elsewhere. Take it out"


CLEAR = {
    "a variable": {"variables": {API: "http://prices.example/v4"}},
    "an argument": {"arguments": ["--api-url=http://prices.example/v4"]},
    "two words": {"arguments": ["--api-url", "http://10.0.0.1:8900/v4"]},
}


@pytest.mark.parametrize("options", CLEAR.values(), ids=CLEAR)
def test_the_apis_key_is_not_sent_in_clear_over_a_network(options):
    (told,) = problems({"main": options}, api_key="hush")
    assert told.startswith(f"instances.main: {API} is an address at ")
    assert "hush" not in told
    assert plan({"main": options}).instances, "without a key there is nothing to read"


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8900/v4", "http://[::1]:1/v4", "http://localhost/", "https://x.example/"]
)
def test_to_loopback_or_encrypted_it_is(url):
    assert plan({"main": {"variables": {API: url}}}, api_key="hush").instances


def test_a_key_among_the_secret_variables_counts_too():
    given = {"main": {"variables": {API: "http://prices.example/v4"}}}
    assert problems(given, secrets={"main": '{"PRECOG_RUNTIME_API_KEY": "hush"}'})


# -- on the host ------------------------------------------------------------------------------------------------------

DEBIANS = [("www-data", 33), ("backup", 34), ("nobody", 65534), ("daemon", 1)]


@pytest.mark.parametrize(("name", "number"), DEBIANS)
def test_a_user_of_debians_is_refused(host, name, number):  # noqa: F811
    entries(host, ROOT, f"{name}:x:{number}:{number}:{name}:/:/usr/sbin/nologin", groups=(name,))
    with pytest.raises(
        HostError, match=rf"miner_service_user is '{name}', which is one of Debian's own users .ID {number}"
    ):
        user.expect_user(host, name)


@pytest.mark.parametrize(
    ("cgroup", "refused"),
    [
        ("0::/system.slice/postgresql.service\n", True),
        ("0::/system.slice/system-precog\\x2dminer.slice/precog-miner@main.service\n", False),
    ],
)
def test_a_user_that_something_else_runs_as_is_refused(host, cgroup, refused):  # noqa: F811
    entries(host, ROOT, THEIRS, groups=("precog-miner",))
    host.stage("/proc/7/status", b"Name:\tx\nUid:\t990\t990\t990\t990\n").commit()
    host.stage("/proc/7/cgroup", cgroup.encode()).commit()
    host.stage("/proc/8/status", b"Name:\ty\nUid:\t99\t990\t990\t990\n").commit()
    if not refused:
        user.expect_user(host, "precog-miner")
        return
    with pytest.raises(HostError, match=r"other processes run as that user .process 7."):
        user.expect_user(host, "precog-miner")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize(("owner", "mode", "refused"), [(990, 0o755, True), (0, 0o777, True), (0, 0o1777, False)])
def test_a_folder_that_others_can_change_is_refused(tmp_path, owner, mode, refused):
    folder = tmp_path / "srv"
    (folder / "precog").mkdir(parents=True)
    folder.chmod(mode)
    os.chown(folder, owner, owner)
    if not refused:
        user.expect_roots(Host(str(tmp_path)), "miner_service_root", "/srv/precog")
        return
    with pytest.raises(HostError, match=r"miner_service_root is '/srv/precog', but /srv can be changed by others"):
        user.expect_roots(Host(str(tmp_path)), "miner_service_root", "/srv/precog")


def test_the_interpreter_on_a_host_is_roots_and_not_what_a_login_finds_first():
    config = configparser.ConfigParser(interpolation=None)
    assert config.read(places.ROOT / "ansible.cfg")
    assert config["defaults"]["interpreter_python"] == "/usr/bin/python3"


def test_last_words_are_the_units_own_and_nobody_elses(memory, monkeypatch):
    """Everyone can log under the unit's identifier; the unit's name is journald's own to add."""
    made = make_systemd(memory / "host")
    asked = []
    monkeypatch.setattr(made, "run", lambda argv: asked.append(argv) or "it ends\n")
    assert systemd.last_words(made, "main", 0) == "it ends"
    assert "_SYSTEMD_UNIT=precog-miner@main.service" in asked[0]
    assert not [word for word in asked[0] if word.startswith(("-t", "--identifier"))]
