"""The user that miners run as: made where it is missing, taken away only if it was made, never somebody's login."""

from __future__ import annotations

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._host.host import Host, HostError
from ansible_collections.precog.fleet.plugins.module_utils._miner import rollout, units, user
from ansible_collections.precog.fleet.plugins.module_utils._miner import run as miner
from ansible_collections.precog.fleet.plugins.module_utils._miner.options import OPTIONS
from ansible_collections.precog.fleet.tests.unit.module_utils._miner.test_plan import plan

PARAMS = {name: argument.get("default") for name, argument in OPTIONS.items()}
ROOT = "root:x:0:0:root:/root:/bin/bash"
DEPLOY = "deploy:x:1001:1001:,,,:/home/deploy:/bin/bash"
THEIRS = "precog-miner:x:990:991:A miner of old:/:/usr/sbin/nologin"


class MadeHost(Host):
    """A host that notes the commands that were run on it; useradd makes a user."""

    def __init__(self, root):
        super().__init__(str(root))
        self.asked = []

    def run(self, argv):
        self.asked.append(argv)
        if argv[0] == "useradd":
            comment = next(word for word in argv if word.startswith("--comment="))[len("--comment=") :]
            entries(self, ROOT, f"{argv[-1]}:x:990:990:{comment}:/:/usr/sbin/nologin", groups=(argv[-1],))
        return ""

    def commands(self, name):
        return [argv for argv in self.asked if argv[0] == name]

    def remember(self, *users):
        """Have users, and a group for each."""
        entries(self, ROOT, *users, groups=[one.partition(":")[0] for one in users])


def entries(host, *users, groups=()):
    lines = {"/etc/passwd": users, "/etc/group": [f"{name}:x:990:" for name in groups]}
    for path, found in lines.items():
        host.stage(path, "".join(f"{line}\n" for line in found).encode()).commit()


@pytest.fixture
def host(tmp_path):
    made = MadeHost(tmp_path)
    entries(made, ROOT, DEPLOY, groups=("root", "deploy"))
    return made


def test_a_user_that_was_made_is_taken_away(host):
    user.expect_user(host, "precog-miner")
    user.make_user(host, "precog-miner", "/var/lib/precog-miner")
    user.expect_user(host, "precog-miner")
    assert miner.withdraw(host, PARAMS, check_mode=False).changed
    assert host.commands("userdel") == [["userdel", "precog-miner"]]


@pytest.mark.parametrize("name", ["precog-miner", "deploy"])
def test_a_user_that_was_there_before_stays(host, name):
    entries(host, ROOT, DEPLOY, THEIRS, groups=("precog-miner",))
    assert not miner.withdraw(host, {**PARAMS, "user": name}, check_mode=False).changed
    assert host.commands("userdel") == []


def test_a_user_of_the_system_that_is_there_will_do(host):
    entries(host, ROOT, THEIRS, groups=("precog-miner",))
    user.expect_user(host, "precog-miner")


REFUSED = [
    (
        (ROOT, DEPLOY),
        ("deploy",),
        "deploy",
        "which is a login of this host .its shell is /bin/bash.: .* such as precog-",
    ),
    ((ROOT, "x:x:7:7::/:"), ("x",), "x", "its shell is /bin/sh"),
    ((ROOT,), ("precog-miner",), "precog-miner", "a group of that name without the user: `groupdel precog-miner`"),
    ((ROOT, THEIRS), (), "precog-miner", "but no group of its name"),
]


@pytest.mark.parametrize(("users", "groups", "name", "told"), REFUSED)
def test_what_can_be_no_user_of_the_miners_is_told(host, users, groups, name, told):
    entries(host, *users, groups=groups)
    with pytest.raises(HostError, match=f"miner_service_user is '{name}'.*{told}"):
        user.expect_user(host, name)
    with pytest.raises(HostError, match="miner_service_user"):
        miner.deploy(host, {**PARAMS, "user": name, "environment": "/opt/precog/env/x"}, check_mode=False)
    assert host.asked == []


def test_the_lock_lies_where_only_root_writes():
    """In /run/lock anyone may make a file, and hold it for ever."""
    assert rollout.LOCK.startswith("/var/lib/precog-fleet/")


MADE = f"990:990:{user.COMMENT}:/:/usr/sbin/nologin"


def test_each_instance_has_a_user_of_its_own():
    made = plan({"one": {}, "two": {"port": 9000}})
    for name in ("one", "two"):
        assert (
            f"User=precog-miner-{name}\nGroup=precog-miner-{name}\n".encode()
            in made.units[f"precog-miner@{name}.service.d/10-instance.conf"]
        )
        assert units.user_of(made.units, name) == f"precog-miner-{name}"


def test_a_users_name_is_one_that_useradd_takes():
    names = [units.user("precog-miner", letter * 48) for letter in "ab"]
    assert [len(name) for name in names] == [31, 31]
    assert len({name[-8:] for name in names}) == 2
    assert units.user("precog-miner", "x" * 18) == "precog-miner-" + "x" * 18


def test_users_that_are_missing_are_made(host):
    host.remember(f"precog-miner-one:x:{MADE}")
    miner._make_users(host, PARAMS, plan({"one": {}, "two": {"port": 9000}}), check_mode=False)
    ((*_words, name),) = host.commands("useradd")
    assert name == "precog-miner-two"
    assert "--home-dir=/var/lib/precog-miner/two" in host.commands("useradd")[0]


def test_all_users_that_were_made_are_taken_away_and_no_others(host):
    ours = ["precog-miner", "precog-miner-one", "old-prefix-two"]
    host.remember(*(f"{name}:x:{MADE}" for name in ours), DEPLOY, THEIRS.replace("-miner:", "-miner-theirs:"))
    assert miner.withdraw(host, PARAMS, check_mode=False).changed
    assert [argv[1] for argv in host.commands("userdel")] == ours


def test_a_login_by_an_instances_name_is_refused(host):
    host.remember(DEPLOY.replace("deploy:", "precog-miner-main:"))
    with pytest.raises(HostError, match=r"instances.main would run as 'precog-miner-main' .* is a login of this host"):
        user.expect_user(host, "precog-miner-main", "main")
