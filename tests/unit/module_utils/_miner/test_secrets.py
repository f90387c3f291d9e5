"""The secrets of a host's miners as files: where they lie, whose they are, and that they go when nobody wants them."""

from __future__ import annotations

import os
import stat

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._host.host import Host
from ansible_collections.precog.fleet.plugins.module_utils._miner import compare
from ansible_collections.precog.fleet.plugins.module_utils._miner.model import Instance, Secret
from ansible_collections.precog.fleet.plugins.module_utils._miner.options import OPTIONS
from ansible_collections.precog.fleet.plugins.module_utils._miner.place import Places
from ansible_collections.precog.fleet.plugins.module_utils._miner.store import Release
from ansible_collections.precog.fleet.plugins.module_utils._miner.systemd import Live

ONE = Instance("one", "runtime", "127.0.0.1", 8092, "127.0.0.1", 8092, (), "11")
TWO = Instance("two", "upstream", "0.0.0.0", 8093, "127.0.0.1", 9093, (), "22")
RELEASE = Release("new", {}, (ONE, TWO))
RUNS = Live("active", "active (running)", 7, True, 0, "11")
USERS = {"-two": 990, "-three": 992, "": 989}
HOTKEY = "/etc/precog-miner/two/wallets/two-and-one/hotkeys/h"
VARIABLES = "/etc/precog-miner/one.env"
PASSWD = "".join(f"precog-miner{name}:x:{number}:991::/:/usr/sbin/nologin\n" for name, number in USERS.items())
WANTED = {HOTKEY: Secret(b"key", "miner"), VARIABLES: Secret(b"A=b", "root")}
PARAMS = {name: argument.get("default") for name, argument in OPTIONS.items()}

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(PASSWD)
    return tmp_path


@pytest.fixture
def work(tree):
    """The places of secrets on the host of the tree."""
    return Places(Host(str(tree)), PARAMS["user"])


@pytest.fixture
def placed(work):
    for path, secret in WANTED.items():
        work.secret(path, secret)


def about(tree, path):
    found = (tree / path.lstrip("/")).lstat()
    return stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid


def compared(tree, wanted):
    """What has to be done on the host for its instances to run with some secrets, all else as it should be."""
    host = Host(str(tree))
    secrets = {**wanted, **compare.unwanted(host, wanted)}
    live = {"one": RUNS, "two": RUNS._replace(digest="22")}
    seen = compare.Seen("new", live, {}, {path: compare.content(host, path) for path in secrets})
    return secrets, seen, compare.compare(RELEASE, secrets, seen)


@pytest.mark.usefixtures("placed")
def test_folders_of_secrets_are_roots_and_a_hotkey_is_read_by_the_miner(tree):
    assert about(tree, HOTKEY) == (0o400, 990, 991)
    assert about(tree, VARIABLES) == (0o400, 0, 0)
    assert about(tree, "/etc/precog-miner") == (0o700, 0, 0)
    for folder in ("two", "two/wallets", "two/wallets/two-and-one", "two/wallets/two-and-one/hotkeys"):
        assert about(tree, f"/etc/precog-miner/{folder}") == (0o750, 0, 991), folder


@pytest.mark.usefixtures("placed")
def test_what_is_wanted_and_there_is_no_work(tree):
    assert compared(tree, WANTED)[2].idle


@pytest.mark.usefixtures("placed")
@pytest.mark.parametrize(("gone", "started"), [(VARIABLES, ("one",)), (HOTKEY, ("two",))])
def test_what_is_there_and_not_wanted_is_work_for_who_had_it(tree, gone, started):
    _, _, todo = compared(tree, {path: secret for path, secret in WANTED.items() if path != gone})
    assert (todo.secrets, todo.start) == ((gone,), started)


@pytest.mark.usefixtures("placed")
def test_a_secret_of_an_instance_that_is_no_more_starts_none(tree, work):
    other = "/etc/precog-miner/three/wallets/one/hotkeys/two"
    work.secret(other, Secret(b"key", "miner"))
    _, _, todo = compared(tree, WANTED)
    assert (todo.secrets, todo.start) == ((other,), ())


@pytest.mark.usefixtures("placed")
def test_variables_go_before_the_start_and_a_wallet_after_the_gate(tree, work):
    secrets, _, todo = compared(tree, {})
    for path in todo.secrets:
        work.secret(path, secrets[path])
    assert not (tree / VARIABLES.lstrip("/")).exists()
    assert (tree / HOTKEY.lstrip("/")).exists()
    work.remove_secrets(todo.secrets)
    assert list((tree / "etc/precog-miner").iterdir()) == []


@pytest.mark.usefixtures("placed")
def test_going_back_brings_what_was_taken_away(tree, work):
    secrets, seen, todo = compared(tree, {})
    work.remove_secrets(todo.secrets)
    for path, data in seen.secrets.items():
        work.restore(path, data, secrets[path].owner)
    assert compared(tree, WANTED)[2].idle
    assert (about(tree, HOTKEY), about(tree, VARIABLES)) == ((0o400, 990, 991), (0o400, 0, 0))


def test_what_a_killed_run_left_of_a_secret_goes_too(tree):
    host = Host(str(tree))
    host.stage(VARIABLES, b"A=b")
    (left,) = compare.unwanted(host, WANTED)
    assert left != VARIABLES
    assert (tree / left.lstrip("/")).read_bytes() == b"A=b"


TEMPLATE = {"precog-miner@.service": b"[Service]\nUser=precog-miner\nGroup=precog-miner\n"}
OWN = {**TEMPLATE, "precog-miner@two.service.d/10-instance.conf": b"[Service]\nUser=precog-miner-two\n"}


@pytest.mark.usefixtures("placed")
def test_a_wallet_is_for_the_user_of_the_unit_that_starts(tree, work):
    """In releases of before all instances had one user, and the way back is one of them."""
    for units, owner in ((TEMPLATE, 989), (OWN, 990)):
        work.give_wallet("two", RELEASE._replace(units=units))
        assert about(tree, HOTKEY) == (0o400, owner, 991)
        assert (tree / HOTKEY.lstrip("/")).read_bytes() == b"key"
    work.give_wallet("one", RELEASE._replace(units=OWN))
    assert about(tree, VARIABLES) == (0o400, 0, 0)
