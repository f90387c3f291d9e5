"""Which versions of ansible-core the collection is for: what says so agrees."""

from __future__ import annotations

import re

import pytest
import pythons
import yaml
from ansible_collections.precog.fleet.tests.places import ROOT

OLDEST = next(iter(pythons.CORES))


def pins(lock):
    """The versions of ansible-core in a lock, by their markers."""
    text = (ROOT / "requirements" / lock).read_text()
    return {
        marker or "": version for version, marker in re.findall(r"^ansible-core==(\S+)(?: ; (.*?))? \\$", text, re.M)
    }


def test_oldest_version_is_the_same_everywhere():
    assert yaml.safe_load((ROOT / "meta/runtime.yml").read_text())["requires_ansible"] == f">={OLDEST}.0"
    assert f"`ansible-core` {OLDEST} or later" in (ROOT / "README.md").read_text()
    for path in ROOT.glob("roles/*/meta/main.yml"):
        assert yaml.safe_load(path.read_text())["galaxy_info"]["min_ansible_version"] == OLDEST


@pytest.mark.parametrize("version", pythons.CORES)
def test_each_version_has_a_lock_of_its_own(version):
    (pinned,) = pins(f"core-{version}.txt").values()
    assert pinned.startswith(f"{version}.")


@pytest.mark.parametrize("lock", ["control.txt", "test.txt", "bench.txt"])
def test_lock_pins_the_oldest_for_python_3_11_and_the_newest_for_later(lock):
    pinned = {marker: version.rpartition(".")[0] for marker, version in pins(lock).items()}
    newest = list(pythons.CORES)[-1]
    assert pinned == {"python_full_version < '3.12'": OLDEST, "python_full_version >= '3.12'": newest}


def test_version_without_a_python_of_this_machine_has_no_environment(monkeypatch, tmp_path):
    monkeypatch.setitem(pythons.CORES, OLDEST, ("0.1",))
    assert pythons.core(OLDEST, tmp_path) is None
