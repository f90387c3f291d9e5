"""What the control node does with secrets: whose they are, where they come from, and that no output shows them.

The role runs for real, by ansible-playbook -vvv; instead of the module a stand-in says what it was given.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ansible.parsing.vault import VaultLib, VaultSecret
from ansible_collections.precog.fleet.tests.places import ROOT

PASSWORD = "open sesame"
STAND_IN = """\
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.precog.fleet.plugins.module_utils._miner.options import OPTIONS

module = AnsibleModule(OPTIONS, supports_check_mode=True)
secrets = module.params["secrets"]
if secrets:
    module.exit_json(seen=f"<{sorted(secrets)}, {len(str(secrets))}>", given=module.params["variables"], settings=[])
keys = {name: type(key).__name__ for name, key in module.params["hotkeys"].items()}
if "fail" in module.params["variables"]:
    module.fail_json(msg=f"no: {module.params['hotkeys']}")
module.exit_json(seen=f"<{sorted(keys.items())}>", number=[1, "1"], settings=[])
"""


def secret(name: str) -> str:
    """A hotkey file with a seed that nothing else is like."""
    return json.dumps({"secretSeed": f"0x{hashlib.sha256(name.encode()).hexdigest()}", "cryptoType": 1})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder to run playbooks in, with the collection but for its module."""
    place = tmp_path_factory.mktemp("action")
    collection = place / "collections/ansible_collections/precog/fleet"
    for part in (
        "plugins/action",
        "plugins/plugin_utils",
        "plugins/filter",
        "plugins/module_utils",
        "roles/miner_service",
        "roles/python_env",
        "meta",
    ):
        shutil.copytree(ROOT / part, collection / part)
    shutil.copy(ROOT / "galaxy.yml", collection)
    (collection / "plugins/modules").mkdir()
    (collection / "plugins/modules/miner_service.py").write_text(STAND_IN)
    (place / "ansible.cfg").write_text("[connection]\npipelining = True\n")
    (place / "password").write_text(PASSWORD)
    vault = VaultLib([("default", VaultSecret(PASSWORD.encode()))])
    inline = vault.encrypt(secret("inline")).decode().replace("\n", "\n    ")
    (place / "open.yml").write_text(f"inline: !vault |\n    {inline}\nbare: '{secret('bare')}'\n")
    (place / "closed.yml").write_bytes(vault.encrypt(f"whole: '{secret('whole')}'\n"))
    return place


def playbook(place: Path, *words: str) -> str:
    """What ansible-playbook -vvv says on a host that is this machine, all of it."""
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(place / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(place / "collections"),
        "ANSIBLE_VAULT_PASSWORD_FILE": str(place / "password"),
        "ANSIBLE_HOME": str(place / "home"),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_FORCE_COLOR": "0",
    }
    argv = [sys.executable, "-m", "ansible", "playbook", "-vvv", "-i", "localhost,", "-c", "local", *words]
    done = subprocess.run(argv, cwd=place, env=environment, text=True, capture_output=True, check=False, timeout=120)
    return done.stdout + done.stderr


def play(place: Path, hotkeys: str, **variables: object) -> str:
    """The output of a run of the role with -vvv.

    :param hotkeys: as YAML, indented by 6.
    """
    names = {name: {} for name in re.findall(r"^ {6}(\w+):", hotkeys, re.MULTILINE) if name != "stranger"}
    shown = {"miner_service_instances": names, **variables}
    lines = "\n".join(f"    {name}: {json.dumps(value)}" for name, value in shown.items())
    (place / "play.yml").write_text(
        "- hosts: localhost\n  gather_facts: false\n  vars_files: [open.yml, closed.yml]\n  vars:\n"
        f"    ansible_python_interpreter: {sys.executable}\n{lines}\n    miner_service_hotkeys:\n{hotkeys}\n"
        "  roles: [precog.fleet.miner_service]\n"
    )
    return playbook(place, "-e", "ansible_become=false", "play.yml")


@pytest.fixture(scope="module")
def run(folder):
    """Runs the role with hotkeys that came from everywhere that they may come from."""
    hotkeys = """\
      inline: "{{ inline }}"
      whole: "{{ whole }}"
      bare: "{{ bare }}"
      object: "{{ bare | from_json }}"
      stranger: "{{ inline }}"
"""
    return play(folder, hotkeys, miner_service_api_key="a-key-of-the-api", miner_service_environment="/opt/env")


def leaks(output: str) -> list[str]:
    """The secrets that an output shows."""
    seeds = {name: json.loads(secret(name))["secretSeed"] for name in ("inline", "whole", "bare")}
    return [name for name, seed in seeds.items() if seed[2:] in output] + re.findall("a-key-of-the-api", output)


def test_a_host_gets_the_hotkeys_of_its_own_instances_as_text(run):
    assert "<[('bare', 'str'), ('inline', 'str'), ('object', 'str'), ('whole', 'str')]>" in run, run


def test_hotkeys_that_come_from_no_vault_are_warned_of(run):
    told = set(re.findall(r"miner_service_hotkeys\.(\w+) does not come from Ansible Vault", run))
    assert told == {"bare", "object"}, run


def test_no_output_shows_a_secret(run):
    assert "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER" in run
    assert leaks(run) == []


def test_what_is_no_secret_is_shown_as_it_is(run):
    """Of an object in a hotkey's place, Ansible would mask every 1 that it prints."""
    assert re.search(r'"number": \[\s*1,\s*"1"\s*\]', run), run


def test_no_failure_shows_a_secret(folder):
    told = play(folder, '      main: "{{ inline }}"\n', miner_service_variables={"fail": 1})
    assert '"msg": "no: ' in told, told
    assert leaks(told) == []


@pytest.mark.parametrize("wrong", [str, lambda seed: [seed]], ids=["text", "a list"])
def test_what_the_roles_arguments_refuse_is_not_shown_either(folder, wrong):
    given = wrong(json.loads(secret("bare"))["secretSeed"])
    (folder / "wrong.json").write_text(json.dumps({"miner_service_hotkeys": given}))
    (folder / "wrong.yml").write_text(
        "- hosts: localhost\n  gather_facts: false\n  vars_files: [wrong.json]\n  roles: [precog.fleet.miner_service]\n"
    )
    told = playbook(folder, "wrong.yml")
    assert "Validation of arguments failed" in told, told
    assert "miner_service_hotkeys" in told
    assert leaks(told) == []


def test_a_host_that_can_not_be_reached_has_failed(folder):
    """An unreachable one would not count for max_fail_percentage, and the rollout would go on to the next batch."""
    (folder / "far.yml").write_text(
        "- hosts: localhost\n  gather_facts: false\n  max_fail_percentage: 0\n  roles: [precog.fleet.miner_service]\n"
        "  vars: {ansible_connection: ssh, ansible_host: 127.0.0.1, ansible_port: 1}\n"
    )
    told = playbook(folder, "far.yml")
    assert "this host can't be reached: " in told, told
    assert re.search(r"unreachable=0 +failed=1 ", told), told


SECRETS = {
    "DATABASE_URL": "hush-database",
    "WALLET_SEED": "hush-seed",
    "AWS_ACCESS_KEY_ID": "hush-aws",
    "PLAIN": "postgres://me:hush-url@db.example/prices",
    "MARKED": "hush-marked",
}


def test_a_variable_that_is_a_secret_is_in_no_output(folder):
    shown = {**SECRETS, "PRECOG_RUNTIME_DEADLINE_S": 5}
    given = {"miner_service_variables": shown, "miner_service_secret_variables": ["MARKED"]}
    told = play(folder, "      {}\n", **given, miner_service_instances={"one": {"variables": {"TOKEN": "hush-own"}}})
    assert "<['one'], " in told, told
    assert re.search(r'"given": \{\s*"PRECOG_RUNTIME_DEADLINE_S": 5\s*\}', told), told
    assert "hush" not in told


UNSAFE = {
    "a hotkey": ({}, "miner_service_hotkeys", '      main: "{{ inline }}"\n'),
    "a key": ({"miner_service_api_key": "a-key-of-the-api"}, "miner_service_api_key", "      {}\n"),
    "a variable": ({"miner_service_variables": {"WALLET_SEED": "hush"}}, "miner_service_variables", "      {}\n"),
}


@pytest.mark.parametrize(("given", "named", "hotkeys"), UNSAFE.values(), ids=UNSAFE)
def test_without_pipelining_no_secret_is_sent(folder, given, named, hotkeys):
    """Ansible would write it to a file on the host, which a run that is cut leaves there."""
    told = play(folder, hotkeys, ansible_pipelining=False, miner_service_instances={"main": {}}, **given)
    assert f"{named}: not sent, because pipelining is off for this host" in told, told
    assert "AnsiballZ" not in told
    assert leaks(told) == []


def test_without_pipelining_what_has_no_secret_is_sent(folder):
    told = play(folder, "      {}\n", ansible_pipelining=False, miner_service_instances={"main": {}})
    assert '"seen": "<[]>"' in told, told


def test_without_pipelining_no_password_of_an_index_is_sent(folder):
    (folder / "index.yml").write_text(
        "- hosts: localhost\n  gather_facts: false\n  roles: [precog.fleet.python_env]\n  vars:\n"
        "    {python_env_index_url: 'https://me:hush@index.example/simple', python_env_packages: [],\n"
        "     ansible_pipelining: false, ansible_become: false}\n"
    )
    told = playbook(folder, "index.yml")
    assert "python_env_index_url: not sent, because pipelining is off for this host" in told, told
    assert "hush" not in told


def test_to_take_miners_away_no_secret_is_sent(folder):
    """Nor is pipelining needed for it."""
    given = {"miner_service_state": "absent", "miner_service_api_key": "a-key-of-the-api", "ansible_pipelining": False}
    told = play(folder, '      main: "{{ inline }}"\n', **given)
    assert '"seen": "<[]>"' in told, told
    assert leaks(told) == []
