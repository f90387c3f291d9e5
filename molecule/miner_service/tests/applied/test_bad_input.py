"""What can't be is named with its value, its reason and what to do; nothing is applied, and all goes on running."""

from __future__ import annotations

import json

import pytest

MANY = {
    "market": {"engine": "simulator", "port": 8900},
    "one": {"port": 8092},
    "two": {"port": 8092},
    "three": {"engine": "upstraem", "port": 8094},
    "four": {"wallet": "w", "coldkey": "5HQaP9gk7JEB4KQsc13LFjvgrA7UQdKpd8U8WfQE4zDmC7gD", "port": 8095},
}


@pytest.fixture
def pids(host, instances):
    """The instances' processes, which must be the same afterwards, and the current release."""
    return lambda: [*(one.pid(host) for one in instances), host.check_output("readlink /opt/precog/current")]


@pytest.fixture
def refused(converge, pids):
    """Runs the role with variables that can't be, and returns what it says."""

    def run(variables):
        before = pids()
        about = converge(variables, expect_failure=True)
        assert "Traceback" not in about.output
        assert pids() == before
        return " ".join(about.output.split())

    return run


@pytest.fixture
def on_svc_13(name):
    if name != "svc-13":
        pytest.skip("once is enough")


@pytest.mark.usefixtures("on_svc_13")
def test_all_problems_are_told_at_once(refused):
    told = refused({"miner_service_instances": MANY, "miner_service_hotkeys": {"four": "rubbish"}})
    assert "instances.two.port: 8092 is already the port of instance one" in told
    assert "there is no 'upstraem'. Is upstream meant?" in told
    assert "hotkeys.four: it is no hotkey file" in told
    assert "rubbish" not in told


@pytest.mark.usefixtures("on_svc_13")
def test_a_release_that_there_is_not(refused):
    told = refused({"miner_service_release": "0123456789ab"})
    assert "miner_service_release is '0123456789ab', which is not on this host. Kept here: " in told


@pytest.mark.usefixtures("on_svc_13")
def test_a_disk_too_full_for_a_new_release(refused):
    told = refused({"miner_service_minimum_disk_mb": 1 << 30, "miner_service_variables": {"MOLECULE_SAYS": "new"}})
    assert "there is no room for a new release" in told
    assert "what runs now was not touched" in told


@pytest.mark.usefixtures("on_svc_13")
def test_a_host_too_small_is_warned_of_with_the_figures(converge):
    about = converge({"miner_service_minimum_memory_mb": {"runtime": 99999999}, "miner_service_minimum_cpus": {}})
    assert about.stats["changed"] == 0
    told = " ".join(about.output.split())
    assert "MB of memory" in told
    assert "the engine runtime wants 99999999 MB" in told


def test_a_wallet_without_a_vault_is_warned_of(name, converge, vault):
    if name != "svc-12":
        pytest.skip("no wallet here")
    hotkeys = dict(vault["miner_service_hotkeys"])
    about = converge({"miner_service_hotkeys": hotkeys})
    assert about.stats["changed"] == 0
    told = " ".join(about.output.split())
    assert "miner_service_hotkeys" in told
    assert "Vault" in told
    for hotkey in hotkeys.values():
        assert json.loads(hotkey)["secretSeed"] not in told


def test_upstreams_version_that_there_is_not(name, refused):
    if name != "svc-12":
        pytest.skip("upstream's engine runs on svc-12")
    told = refused({"miner_service_upstream": {"repository": "/srv/upstream.git", "version": "v9"}})
    assert "upstream.version = v9: /srv/upstream.git has no such tag or branch" in told
