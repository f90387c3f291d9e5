"""What a run of miner_service looks for in the Python environment that it is given."""

from __future__ import annotations

import json

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._host.host import Host, HostError
from ansible_collections.precog.fleet.plugins.module_utils._miner import run, upstream
from ansible_collections.precog.fleet.plugins.module_utils._miner.options import OPTIONS

ENVIRONMENT = "/opt/precog/env/miner-0123456789ab"
COLDKEY = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
HOTKEY = '{"secretSeed": "0x00"}'
LINK = "/opt/precog/env/miner"
PARAMS = {name: argument.get("default") for name, argument in OPTIONS.items()}


@pytest.fixture
def host(tmp_path):
    """A host with an environment as python_env leaves it, compiled for the levels 0 and 1."""
    made = Host(str(tmp_path))
    notes = {"layout": 1, "optimize": [0, 1], "made": 1, "files": {"lib/x.py": [2, "ab"]}}
    made.stage(f"{ENVIRONMENT}/environment.json", json.dumps(notes, separators=(",", ":")).encode()).commit()
    made.stage(f"{ENVIRONMENT}/bin/python", b"").commit()
    made.replace_link(LINK, "miner-0123456789ab")
    for path in ("/etc/passwd", "/etc/group"):
        made.stage(path, b"").commit()
    return made


def planned(host, *, check_mode=False, environment=LINK, **options):
    params = {**PARAMS, "environment": environment, "instances": {"main": options}, "hotkeys": {"main": HOTKEY}}
    return run._planned(host, params, check_mode=check_mode)


def test_the_environment_is_the_one_that_the_link_leads_to(host):
    made, links = planned(host)
    assert links == {"environment": ENVIRONMENT}
    assert made.instances[0].name == "main"


def test_levels_are_those_of_the_environments_own_notes(host):
    with pytest.raises(HostError, match=r"2 is no level that the environment was compiled for: 0, 1"):
        planned(host, optimize=2)


@pytest.mark.parametrize("notes", [None, b"", b"{"])
def test_an_environment_without_notes_takes_every_level(host, notes):
    host.remove(f"{ENVIRONMENT}/environment.json")
    if notes is not None:
        host.stage(f"{ENVIRONMENT}/environment.json", notes).commit()
    assert planned(host, optimize=2)


def test_a_python_that_upstream_is_not_for_is_among_the_warnings(host, monkeypatch):
    """All but git is real here: which checkout there is."""
    host.stage("/opt/checkout/source/pyproject.toml", b'[project]\nrequires-python = "<3.12"\n').commit()
    host.stage(f"{ENVIRONMENT}/pyvenv.cfg", b"version = 3.13.5\n").commit()
    host.stage("/usr/bin/git", b"").commit()
    monkeypatch.setattr(upstream, "ensure", lambda *_about: "/opt/checkout")
    made, links = planned(host, wallet="w", coldkey=COLDKEY)
    assert links["upstream"] == "/opt/checkout"
    (told,) = made.warnings
    assert "has Python 3.13.5, and upstream's package says that it is for <3.12" in told


def test_an_environment_that_is_not_there_is_refused_before_anything_is_begun(host):
    with pytest.raises(HostError, match="is '/opt/precog/env/mienr', where there is no Python environment"):
        planned(host, environment="/opt/precog/env/mienr")


def test_a_run_that_only_looks_takes_one_that_is_to_be_built(host):
    assert planned(host, environment="/opt/precog/env/new", check_mode=True)
