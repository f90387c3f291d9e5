"""In which batches the playbooks go over the fleet, and where they stop: real runs, on hosts that are this machine.

The roles are stand-ins: they tell which host they came to, and fail or find no host where they are told to.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from dataclasses import dataclass

import pytest
import yaml
from ansible_collections.precog.fleet.tests.places import ROOT

HERE = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_become": False}
LOST = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
# Not yet known by its name while the batches are made, so who was in one is asked of the inventory.
DEAD = ["m1", pytest.param("m4", marks=pytest.mark.full)]  # of four hosts: the canary, and the last
CALLBACK = """\
from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "batches"

    def v2_playbook_on_play_start(self, play):
        hosts = play.get_variable_manager()._inventory.get_hosts(play.hosts)
        self._display.display(f"BATCH {play.get_name()}: {' '.join(str(host) for host in hosts)}")
"""
ROLE = [
    {"name": "Came here", "ansible.builtin.raw": "true"},  # by the host's shell: Python takes a second to start
    {"name": "Fail", "ansible.builtin.fail": {"msg": "as wanted"}, "when": "bad | default(false)"},
    {
        "name": "Lose",
        "ansible.builtin.raw": "true",
        "vars": {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1},
        "when": "lost_midway | default(false)",
    },
    {"name": "Hold", "ansible.builtin.debug": {"msg": "HOLD {{ miner_service_hold | default('') }}"}},
    {"name": "Tell", "ansible.builtin.debug": {"msg": "DONE {{ inventory_hostname }}"}},
]


@dataclass(frozen=True)
class Run:
    """A run of a playbook."""

    code: int
    output: str

    def batches(self, play: str) -> list[list[str]]:
        """The hosts of each batch of a play, by its name."""
        return [found.split() for found in re.findall(rf"^BATCH {play}: (.*)$", self.output, re.MULTILINE)]

    @property
    def done(self) -> set[str]:
        """The hosts on which all went well."""
        return set(re.findall(r"DONE ([\w-]+)", self.output))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder to run playbooks in, with the collection but for what its roles do."""
    folder = tmp_path_factory.mktemp("playbooks")
    collection = folder / "collections/ansible_collections/precog/fleet"
    shutil.copytree(ROOT / "playbooks", collection / "playbooks")
    # All hosts of these tests are this machine; the inventory says which it stands for.
    reach = collection / "playbooks/tasks/unreached.yml"
    read = "argv: [cat, /etc/machine-id, /proc/sys/kernel/random/boot_id]"
    assert read in reach.read_text()
    stands_for = "argv: [echo, '{{ machine | default(inventory_hostname) }}']"
    reach.write_text(reach.read_text().replace(read, stands_for))
    shutil.copytree(ROOT / "meta", collection / "meta")
    for part in ("filter", "plugin_utils"):
        shutil.copytree(ROOT / "plugins" / part, collection / "plugins" / part)
    for kind in ("action", "modules"):
        (collection / "plugins" / kind).mkdir()
        for name in ("inventory_check", "audit_verdict"):
            shutil.copy(ROOT / f"plugins/{kind}/{name}.py", collection / "plugins" / kind)
    shutil.copy(ROOT / "galaxy.yml", collection)
    for role in (ROOT / "roles").iterdir():
        tasks = collection / "roles" / role.name / "tasks"
        tasks.mkdir(parents=True)
        (tasks / "main.yml").write_text(yaml.safe_dump(ROLE))
    (folder / "callbacks").mkdir()
    (folder / "callbacks/batches.py").write_text(CALLBACK)
    (folder / "ansible.cfg").write_text("[defaults]\ncallback_plugins = callbacks\ncallbacks_enabled = batches\n")
    return folder


@pytest.fixture
def play(place, tmp_path):
    """Runs playbooks/NAME.yml, or a playbook of another path, on an inventory."""

    def run(name: str, inventory: dict, *options: str) -> Run:
        (tmp_path / "hosts.yml").write_text(yaml.safe_dump(inventory))
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "PRECOG_"))}
        playbook = name if "/" in name else f"precog.fleet.{name}"
        done = subprocess.run(
            ["ansible-playbook", "-i", str(tmp_path / "hosts.yml"), playbook, *options],
            cwd=place,
            env={
                **kept,
                "ANSIBLE_CONFIG": str(place / "ansible.cfg"),
                "ANSIBLE_COLLECTIONS_PATH": str(place / "collections"),
                "ANSIBLE_HOME": str(place / "home"),
                "ANSIBLE_PIPELINING": "1",
                "ANSIBLE_SSH_RETRIES": "0",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        return Run(done.returncode, done.stdout + done.stderr)

    return run


def fleet(count: int, *, group: dict | None = None, **hosts: dict) -> dict:
    """An inventory of miners m1, m2, ..., with variables of the group, and of hosts."""
    names = [f"m{number}" for number in range(1, count + 1)]
    miners = {"hosts": {name: {**HERE, **hosts.get(name, {})} for name in names}, "vars": group or {}}
    return {"precog": {"children": {"miners": miners}}}


def sizes(run: Run, play: str) -> list[int]:
    """How many hosts each batch of a play had."""
    return [len(batch) for batch in run.batches(play)]


# -- batches ----------------------------------------------------------------------------------------------------------

PLAYS = {
    "miner": ("Run the miner", "miner_rollout_batches", [1, 2, 5]),
    "tune": ("Tune the hosts", "precog_batches", [1, 7]),
}
# No task is run: only the batches are of interest.
NOTHING = ("--tags", "load_balancer", "--skip-tags", "always")


@pytest.fixture(params=PLAYS)
def batched(request, play):
    """Runs a playbook without its tasks; returns its batches' sizes. Gives the variable's name, and its default too."""
    name, variable, default = PLAYS[request.param]

    def run(inventory: dict, *options: str) -> list[int]:
        done = play(request.param, inventory, *NOTHING, *options)
        assert done.code == 0, done.output
        return sizes(done, name)

    return run, variable, default


def test_without_a_word_a_canary_comes_first(batched):
    run, _variable, default = batched
    assert run(fleet(8)) == default


@pytest.mark.parametrize(("value", "expected"), [([2, "50%", 6], [2, 4, 2]), (4, [4, 4]), (["100%"], [8])], ids=str)
def test_the_group_says_the_batches(batched, value, expected):
    run, variable, _default = batched
    assert run(fleet(8, group={variable: value})) == expected


@pytest.mark.full
def test_the_command_line_says_more(batched):
    run, variable, _default = batched
    assert run(fleet(8, group={variable: [2, 6]}), "--extra-vars", json.dumps({variable: [3, 5]})) == [3, 5]
    assert run(fleet(8), "--extra-vars", f"{variable}=4") == [4, 4]


def test_a_part_of_the_fleet_has_its_batches_too(batched):
    run, variable, _default = batched
    assert run(fleet(8, group={variable: [2, 6]}), "--limit", "m4,m5,m6") == [2, 1]


def test_a_fleet_without_miners_is_no_error(batched):
    run, _variable, _default = batched
    assert sum(run({"precog": {"hosts": {"x": HERE}}})) in (0, 1)


# -- what can only be a mistake ----------------------------------------------------------------------------------------

OTHER = {"other": {"hosts": {"x": HERE}}}
MISTAKES = [
    (OTHER, (), "The inventory has no host in the group precog (its groups: other): put the hosts there."),
    ({"precog": {"children": {"miners": {}}}}, (), "The inventory has no host in the group precog"),
    ({"precogs": OTHER["other"]}, (), "a group precogs, but no host in a group precog: rename it to precog"),
    ({"precog": {"children": {"miner": OTHER["other"]}}}, (), "group miners: rename it to miners"),
    (None, ("--tags", "kernel_tunning"), "No task has the tag kernel_tunning (the tags: cpu_governor, kernel_tuning"),
    (None, ("--skip-tags", "miner,swop"), "No task has the tag swop"),
]


@pytest.mark.parametrize(
    ("playbook", "mistake"),
    [
        *(("tune", mistake) for mistake in MISTAKES),
        *((playbook, MISTAKES[2]) for playbook in ("miner", "audit", "rollback", "site")),
    ],
)
def test_a_mistyped_group_or_tag_is_an_error_before_any_host(play, playbook, mistake):
    inventory, options, told = mistake
    run = play(playbook, inventory or fleet(2), *options)
    assert run.code == 2, run.output
    assert told in run.output
    assert "Nothing was touched." in run.output
    assert (run.done, "TASK" in run.output) == (set(), False)


@pytest.mark.full
@pytest.mark.parametrize("option", ["--syntax-check", "--list-hosts", "--list-tasks", "--list-tags"])
def test_what_only_lists_minds_no_inventory(play, option):
    assert play("site", OTHER, option).code == 0


def test_a_playbook_of_others_may_have_tags_of_its_own(play, place):
    own = {"hosts": "all", "gather_facts": False, "tasks": [{"ansible.builtin.ping": None, "tags": ["mine"]}]}
    (place / "mine.yml").write_text(yaml.safe_dump([own, {"ansible.builtin.import_playbook": "precog.fleet.rollback"}]))
    assert play(str(place / "mine.yml"), fleet(2), "--tags", "mine").code == 0


@pytest.mark.parametrize("playbook", ["audit", "site", "miner", "rollback"])
def test_a_limit_that_leaves_no_host_is_an_error(play, playbook):
    run = play(playbook, {**fleet(1), **OTHER}, "--limit", "x")
    assert run.code == 2
    assert (
        "Nothing was done: --limit x names no host of the fleet. The first hosts of the group precog: m1" in run.output
    )


# -- hosts that fail, or are lost --------------------------------------------------------------------------------------


def test_a_release_reaches_every_host(play):
    run = play("miner", fleet(4))
    assert run.code == 0, run.output
    assert run.done == {"m1", "m2", "m3", "m4"}


def test_a_host_that_fails_stops_the_rollout(play):
    run = play("miner", fleet(8, m3={"bad": True}))
    assert run.code == 2
    assert sizes(run, "Run the miner") == [1, 2]


def test_a_host_that_is_lost_midway_stops_the_rollout(play):
    """The two others of its batch are done; without a word of ours the five after it would be too."""
    run = play("miner", fleet(8, m3={"lost_midway": True}))
    assert "UNREACHABLE" in run.output
    assert run.code != 0
    assert run.done == {"m1", "m2"}
    told = "m3 could not be reached or failed earlier in this run, so this release goes to no further host."
    assert told in " ".join(run.output.split())
    assert "--limit 'miners:!m3'" in run.output


@pytest.mark.full
def test_one_part_of_a_release_is_stopped_too(play):
    run = play("miner", fleet(8, m3={"lost_midway": True}), "--tags", "python_env")
    assert run.done == {"m1", "m2"}


def held(run: Run) -> set[str]:
    """What miner_service was given as the reason to hold a release, on all hosts."""
    return set(re.findall(r'"?msg"?: "?HOLD ?(.*?)"?$', run.output, re.MULTILINE))


@pytest.mark.parametrize("dead", DEAD)
def test_a_dead_host_holds_the_release_and_the_others_are_repaired(play, dead):
    run = play("miner", fleet(4, **{dead: LOST}))
    assert run.code == 4
    assert run.done == {"m1", "m2", "m3", "m4"} - {dead}
    (reason,) = held(run) - {""}
    assert f"1 of 4 miners could not be reached ({dead}), and miner_rollout_tolerated is 0" in reason
    assert f"--limit 'miners:!{dead}'" in reason


@pytest.mark.parametrize("tolerated", [1, "20%"])
def test_dead_hosts_that_are_tolerated_hold_no_release(play, tolerated):
    run = play("miner", fleet(5, m1=LOST), "--extra-vars", json.dumps({"miner_rollout_tolerated": tolerated}))
    assert run.code == 4
    assert run.done == {"m2", "m3", "m4", "m5"}
    assert held(run) == {""}
    # A canary still comes first: the batches are made of those that can be reached.
    assert sizes(run, "Run the miner") == [1, 1, 2]


def test_a_host_left_out_by_the_limit_holds_nothing(play):
    run = play("miner", fleet(4, m2=LOST), "--limit", "miners:!m2")
    assert run.code == 0
    assert held(run) == {""}


def test_a_tolerance_that_is_no_number_is_refused_before_a_host_is_touched(play):
    run = play("miner", fleet(2), "--extra-vars", "miner_rollout_tolerated=some")
    assert run.code == 2
    assert "miner_rollout_tolerated is 'some': give the number of hosts that may be missing" in run.output


MACHINE = "{{ machine | default(inventory_hostname) }}"
FOUND = {"unclean": ["preflight", "swap"], "msg": "swap has drifted", "machine": MACHINE}
# Registered, as the role audit does it, which for a lost host is there too, without what was found.
LOOKED_AT = [
    {"name": "Reach", "ansible.builtin.ping": None, "register": "audit_result"},
    {"name": "Look", "ansible.builtin.set_fact": {"audit_result": FOUND}},
]


@pytest.fixture
def site(play, place):
    """Runs site.yml with an audit that finds something to do on every host that it can reach."""
    tasks = place / "collections/ansible_collections/precog/fleet/roles/audit/tasks/main.yml"
    kept = tasks.read_text()
    tasks.write_text(yaml.safe_dump(LOOKED_AT))
    yield lambda inventory, *options: play("site", inventory, *options)
    tasks.write_text(kept)


@pytest.mark.parametrize("dead", DEAD)
def test_one_dead_host_keeps_nothing_from_the_others(site, dead):
    """Tuning, drift repair of the miners and the closing audit go on; the host is reported, and the run ends with 4."""
    run = site(fleet(5, **{dead: LOST}))
    others = {f"m{number}" for number in range(1, 6)} - {dead}
    assert run.code == 4, run.output
    assert run.done == others, run.output
    tuned = run.batches("Tune the hosts")
    assert [len(batch) for batch in tuned] == [1, 3]
    assert {name for batch in tuned for name in batch} == others
    assert [set(batch) for batch in run.batches("Tell what is not as wanted")][-1] >= others
    assert f"({dead})" in " ".join(held(run))


@pytest.mark.parametrize("tag", ["kernel_tuning", "swap"])
def test_with_a_tag_the_closing_audit_fails_for_that_part_alone(site, tag):
    """It looks again: what it says is of after the run, in which the stand-in for a role repairs nothing."""
    run = site(fleet(1), "--tags", tag)
    assert run.code == (2 if tag == "swap" else 0), run.output
    assert len(run.batches("Audit the hosts")) == 1
    assert run.output.count("TASK [precog.fleet.audit : Look]") == 2


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("playbook", ["site", "miner", "rollback", "audit"])
def test_one_machine_under_two_names_is_refused_before_anything_is_done(play, playbook):
    run = play(playbook, fleet(4, m2={"machine": "x"}, m4={"machine": "x"}), "-e", "rollback_all=yes")
    assert run.code == 2
    assert run.done == set()
    assert "m2, m4 are one machine" in run.output


@pytest.mark.parametrize("module", ["host_audit", "sysctl_profile", "python_env", "miner_service"])
def test_a_host_that_can_not_be_written_to_has_failed_and_is_not_unreachable(module, tmp_path):
    """Ansible takes it for unreachable, of which no batch counts any."""
    argv = ["ansible", "-i", "h,", "all", "-c", "local", "-m", f"precog.fleet.{module}"]
    argv += ["-e", "ansible_remote_tmp=/dev/null/none ansible_pipelining=false"]
    environ = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_HOME": str(tmp_path)}
    done = subprocess.run(argv, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "the disk is full or read-only" in " ".join(done.stdout.split())


def test_a_host_lost_while_it_is_tuned_stops_the_rollout(site):
    run = site(fleet(4, m3={"lost_midway": True}))
    assert run.code != 0
    assert "m3 could not be reached or failed earlier in this run" in " ".join(run.output.split())
    assert "Run the miner" in run.output
    assert held(run) <= {""}


def test_what_is_no_rollout_minds_no_lost_host(play):
    assert play("miner", fleet(8, m3=LOST), "--tags", "kernel_tuning").code == 0


def test_a_host_that_hangs_is_lost_within_a_minute():
    """As ssh itself understands what ansible.cfg gives it."""
    config = ConfigParser()
    config.read(ROOT / "ansible.cfg")
    argv = ["ssh", "-G", *config["ssh_connection"]["ssh_args"].split(), "miner-1"]
    shown = dict(line.split(" ", 1) for line in subprocess.check_output(argv, text=True).splitlines() if " " in line)
    assert int(shown["serveraliveinterval"]) * int(shown["serveralivecountmax"]) == 60
    assert shown["controlmaster"] == "auto"


# -- the order of things ----------------------------------------------------------------------------------------------


def balanced(**balancer: object) -> dict:
    """Two miners behind a balancer of its own."""
    return {**fleet(2), "load_balancers": {"hosts": {"lb": {**HERE, **balancer}}}}


def order(run: Run) -> list[str]:
    """The hosts in the order in which they were done, each once."""
    return list(dict.fromkeys(re.findall(r"DONE ([\w-]+)", run.output)))


def test_the_balancer_learns_of_a_release_at_the_end(play):
    run = play("miner", balanced())
    assert run.code == 0, run.output
    assert order(run) == ["m1", "m2", "lb"]


def test_a_rollout_that_fails_leaves_the_balancer_as_it_is(play):
    run = play("miner", {**balanced(), **fleet(2, m2={"bad": True})})
    assert "lb" not in run.done


def test_a_rollback_begins_with_the_balancer(play):
    run = play("rollback", balanced(), "--extra-vars", "rollback_all=yes")
    assert run.code == 0, run.output
    assert order(run)[0] == "lb"
    assert run.done == {"lb", "m1", "m2"}


def test_a_rollback_of_everything_has_to_be_asked_for(play):
    run = play("rollback", balanced())
    assert run.code == 2
    assert run.done == set()
    assert "takes away the miners and the tuning of all 3 hosts. Nothing was done." in run.output
    assert "-e rollback_all=yes" in run.output


@pytest.mark.parametrize(
    ("options", "done"),
    [
        pytest.param(("--limit", "m2"), {"m2"}, id="limit"),
        pytest.param(("--tags", "swap"), {"m1", "m2"}, id="tag", marks=pytest.mark.full),
        pytest.param(("--tags", "load_balancer"), {"lb"}, id="tag of the balancer", marks=pytest.mark.full),
    ],
)
def test_a_rollback_of_a_part_needs_no_confirmation(play, options, done):
    run = play("rollback", balanced(), *options)
    assert run.code == 0, run.output
    assert run.done == done


@pytest.mark.parametrize("dead", DEAD)
def test_a_dead_host_keeps_no_other_from_being_rolled_back(play, dead):
    run = play("rollback", fleet(4, **{dead: LOST}), "--extra-vars", "rollback_all=yes")
    assert run.code == 4, run.output
    assert run.done == {"m1", "m2", "m3", "m4"} - {dead}


def test_a_rollback_goes_in_batches_and_stops_where_it_fails(play):
    run = play("rollback", fleet(8, m3={"bad": True}), "--extra-vars", "rollback_all=yes")
    assert run.code == 2
    assert run.batches("Take the miners away") == [["m1"], ["m2", "m3"]]
    assert run.batches("Roll the hosts back") == []


@pytest.mark.parametrize(
    ("group", "expected"), [pytest.param({}, [1, 3], marks=pytest.mark.full), ({"precog_batches": [2, 2]}, [2, 2])]
)
def test_a_rollback_of_the_hosts_goes_in_batches_too(play, group, expected):
    run = play("rollback", fleet(4, group=group), "--extra-vars", "rollback_all=yes")
    assert run.code == 0, run.output
    assert sizes(run, "Roll the hosts back") == expected


# -- the audit --------------------------------------------------------------------------------------------------------

LOOKED = "has been looked at"


def looks(result: str, **found: object) -> list[dict]:
    """A role that looks at a host, and returns what it finds under a name; `found` is what stands in it."""
    told = {"name": "Tell", "ansible.builtin.debug": {"msg": f"{result} {LOOKED}"}}
    return [told, {"name": "Look", "ansible.builtin.set_fact": {result: found}}]


@pytest.fixture
def audit(play, place):
    """Runs the audit with roles that find something, or fail; what they do is put back afterwards."""
    roles = place / "collections/ansible_collections/precog/fleet/roles"
    clean = {
        "audit": looks("audit_result", unclean=[], msg="No."),
        "python_env": looks("python_env_result", changed=False),
        "miner_service": looks("miner_service_result", changed=False),
        "load_balancer": looks("load_balancer_result", changed=False),
    }
    kept = {role: (roles / role / "tasks/main.yml").read_text() for role in clean}

    def run(*options: str, **roles_tasks: list[dict]) -> Run:
        for role, tasks in {**clean, **roles_tasks}.items():
            (roles / role / "tasks/main.yml").write_text(yaml.safe_dump(tasks))
        return play("audit", balanced(), *options)

    yield run
    for role, text in kept.items():
        (roles / role / "tasks/main.yml").write_text(text)


DRIFT = looks("audit_result", unclean=["swap"], msg="swap has drifted")
UNSEEN = [{"name": "Look", "ansible.builtin.fail": {"msg": "the store is damaged"}}]


def test_an_audit_of_a_fleet_as_wanted_ends_with_0(audit):
    assert audit().code == 0


def test_a_host_that_has_drifted_has_its_miners_looked_at_too(audit):
    run = audit(audit=DRIFT)
    assert run.code == 2
    assert run.output.count(f"miner_service_result {LOOKED}") == 2
    assert run.output.count("swap has drifted") >= 2


def test_all_findings_of_a_host_are_told(audit):
    run = audit(audit=DRIFT, miner_service=looks("miner_service_result", changed=True))
    assert run.code == 2
    assert "swap has drifted" in run.output
    assert "playbooks/miner.yml brings them there" in run.output


def test_a_miner_that_could_not_be_looked_at_is_no_drift(audit):
    run = audit(audit=DRIFT, miner_service=UNSEEN)
    assert run.code == 2
    assert "Could not be looked at: the store is damaged" in run.output
    assert "swap has drifted" in run.output


def test_exit_code_4_is_for_a_host_that_was_lost(audit, place):
    """Its action has to fail, as a rollout would go on past an unreachable host; the audit tells the two apart."""
    folder = place / "collections/ansible_collections/precog/fleet/plugins/modules"
    module = 'import json\nprint(json.dumps({"failed": True, "unreached": True, "msg": "went down"}))\n'
    (folder / "lost.py").write_text(f"#!/usr/bin/python\n# WANT_JSON\n{module}")
    run = audit(miner_service=[{"name": "Look", "precog.fleet.lost": None}])
    assert run.code == 4
    assert "Could not be looked at: went down" in run.output


def test_a_balancer_that_differs_is_told(audit):
    run = audit(load_balancer=looks("load_balancer_result", changed=True))
    assert run.code == 2
    assert "playbooks/load_balancer.yml brings it there" in run.output


def test_one_part_of_an_audit_tells_of_that_part(audit):
    assert audit("--tags", "miner", audit=DRIFT).code == 0
    assert audit("--tags", "miner", miner_service=looks("miner_service_result", changed=True)).code == 2
