"""What tools/build_collection.py puts into the artifact."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile

import build_collection
import pytest
import sanity
import yaml
from ansible_collections.precog.fleet.plugins.action import python_env as action
from ansible_collections.precog.fleet.tests.places import ROOT


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("PRECOG_FLEET_CACHE", str(tmp_path / "cache"))


def wheels_of(artifact):
    """The name and the bytes of each wheel in an artifact."""
    with tarfile.open(artifact) as archive:
        members = [member for member in archive if member.name.endswith(".whl")]
        return {member.name: archive.extractfile(member).read() for member in members}


def test_artifact_holds_what_it_should_and_the_wheel_that_a_checkout_makes(tmp_path):
    made_here = action.built(ROOT / "runtime")
    artifact = build_collection.build(tmp_path / "dist")
    assert wheels_of(artifact) == {f"roles/python_env/files/{made_here.name}": made_here.read_bytes()}
    with tarfile.open(artifact) as archive:
        assert sanity.content_problems({member.name for member in archive if not member.isdir()}) == []


def test_requirements_name_the_artifact_and_nothing_from_galaxy(tmp_path):
    artifact = build_collection.build(tmp_path / "dist")
    shutil.copy(ROOT / "requirements.yml", tmp_path)
    (wanted,) = yaml.safe_load((tmp_path / "requirements.yml").read_text())["collections"]
    assert wanted == {"name": f"dist/{artifact.name}", "type": "file"}
    command = ["ansible-galaxy", "collection", "install", "-r", "requirements.yml", "-p", "collections"]
    env = {**os.environ, "ANSIBLE_GALAXY_SERVER": "http://127.0.0.1:9", "ANSIBLE_HOME": str(tmp_path / "home")}
    subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True)
    assert (tmp_path / "collections/ansible_collections/precog/fleet/MANIFEST.json").is_file()


def test_the_commands_in_requirements_install_the_collection(tmp_path):
    """As they are written there, in the checkout, whose own link is found before anything that is installed."""
    text = (ROOT / "requirements.yml").read_text()
    script = "\n".join(line[1:].strip() for line in text.splitlines() if line.startswith("#   "))
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    env = {**kept, "ANSIBLE_GALAXY_SERVER": "http://127.0.0.1:9", "ANSIBLE_HOME": str(tmp_path / "home")}
    (tmp_path / "folder").mkdir()
    script = script.replace("FOLDER", str(tmp_path / "folder"))
    subprocess.run(["sh", "-e", "-c", script], cwd=ROOT, env=env, check=True, capture_output=True)
    assert (tmp_path / "home/collections/ansible_collections/precog/fleet/MANIFEST.json").is_file()


def test_the_readmes_command_installs_what_is_built_and_it_names_where_that_comes_from(tmp_path):
    readme = (ROOT / "README.md").read_text()
    assert "The collection is not on Galaxy" in readme
    assert "[its repository](" + yaml.safe_load((ROOT / "galaxy.yml").read_text())["repository"] in readme
    (command,) = [line for line in readme.splitlines() if line.startswith("ansible-galaxy collection install ")]
    artifact = build_collection.build(tmp_path / "dist")
    assert command.split()[3:] == [artifact.name]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    env = {**kept, "ANSIBLE_GALAXY_SERVER": "http://127.0.0.1:9", "ANSIBLE_HOME": str(tmp_path / "home")}
    subprocess.run(command.split(), cwd=artifact.parent, env=env, check=True, capture_output=True)
    assert (tmp_path / "home/collections/ansible_collections/precog/fleet/MANIFEST.json").is_file()


def test_failed_step_is_shown_with_its_last_lines(tmp_path):
    with pytest.raises(build_collection.BuildError, match=r"failed with code 3:\nwhy"):
        build_collection.run(["sh", "-c", "echo why >&2; exit 3"], tmp_path)


def test_wheel_does_not_depend_on_times_and_umask(tmp_path):
    first = action.built(ROOT / "runtime").read_bytes()
    tree = tmp_path / "tree"
    tree.mkdir()
    build_collection.export(tree)
    for path in (tree / "runtime").rglob("*"):
        if path.is_file():
            path.chmod(0o600)
            path.touch()
    build_collection.add_wheel(tree)
    (wheel,) = (tree / build_collection.WHEELS).glob("*.whl")
    assert wheel.read_bytes() == first
