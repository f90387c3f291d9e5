"""The module python_env and its action: what they say to Ansible, and what is brought to a host."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.module_utils.testing import patch_module_args
from ansible_collections.precog.fleet.plugins.action import python_env as action
from ansible_collections.precog.fleet.plugins.module_utils._environment import plan as environment
from ansible_collections.precog.fleet.plugins.module_utils._environment.options import OPTIONS
from ansible_collections.precog.fleet.plugins.module_utils._host.host import HostError
from ansible_collections.precog.fleet.plugins.modules import python_env
from ansible_collections.precog.fleet.plugins.plugin_utils import _packages
from ansible_collections.precog.fleet.plugins.plugin_utils._brief import raw
from ansible_collections.precog.fleet.tests.places import ROOT
from ansible_collections.precog.fleet.tests.unit.made_environment import make_wheel, pin, sha256
from jinja2 import Environment, StrictUndefined

PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "made-up"
version = "0.1.0"
requires-python = ">=3.10"
[tool.hatch.build.targets.wheel]
packages = ["src/made_up"]
"""


# -- the module --------------------------------------------------------------------------------------------------------


def test_the_role_gives_all_arguments():
    (task,) = yaml.safe_load((ROOT / "roles/python_env/tasks/main.yml").read_text())
    assert set(task["precog.fleet.python_env"]) == set(OPTIONS)


@pytest.mark.parametrize(
    ("variables", "pattern"),
    [
        ({}, "/opt/precog/releases/*/environment"),
        ({"miner_service_root": "/srv/precog"}, "/srv/precog/releases/*/environment"),
    ],
)
def test_the_releases_are_those_of_the_miners(variables, pattern):
    (given,) = yaml.safe_load((ROOT / "roles/python_env/defaults/main.yml").read_text())["python_env_in_use"]
    assert Environment(undefined=StrictUndefined, autoescape=False).from_string(given).render(variables) == pattern


@pytest.fixture
def run(monkeypatch, capsys):
    """Run main() with a look at the host that ends as it is told; return what it told Ansible."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    def call(outcome, **arguments):
        def end(_host, asked, *, check_mode):
            if isinstance(outcome, Exception):
                raise outcome
            return {**outcome, "name": asked.name, "check_mode": check_mode}

        monkeypatch.setattr(python_env, "present", end)
        monkeypatch.setattr(python_env, "absent", end)
        with patch_module_args({"lock": "x", "uv_lock": "y", **arguments}), pytest.raises(SystemExit):
            python_env.main()
        return json.loads(capsys.readouterr().out)

    return call


def test_a_result_is_told(run):
    told = run({"changed": False}, name="other", _ansible_check_mode=True)
    assert (told["changed"], told["name"], told["check_mode"]) == (False, "other", True)


def test_what_is_missing_is_told_to_the_action(run):
    told = run(environment.Missing(["git"], ["abc"]))
    assert told["failed"]
    assert told["needs"] == {"debian": ["git"], "wheels": ["abc"]}


def test_errors_are_told(run):
    assert run(HostError("no such thing"))["msg"] == "no such thing"
    assert run({}, keep=0)["msg"].startswith("keep is 0")


def test_without_root_the_remedy_is_told(run, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "run with become: true" in run({})["msg"]


def test_the_password_of_an_index_is_in_no_output(tmp_path):
    """As ansible-playbook says most of all that it does."""
    url = "http://fleet:s3cret-of-the-index@127.0.0.1:9/simple"
    (tmp_path / "lock.txt").write_text(pin(make_wheel(tmp_path, "one", "1.0")))
    given = {"index_url": url, "root": str(tmp_path / "env"), "installer": "pip", "lock": str(tmp_path / "lock.txt")}
    variables = {f"python_env_{name}": value for name, value in {**given, "packages": []}.items()}
    variables["ansible_python_interpreter"] = sys.executable
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "roles": ["precog.fleet.python_env"]}
    (tmp_path / "play.yml").write_text(json.dumps([{**play, "vars": variables}]))
    command = ["ansible-playbook", "-vvvv", "--inventory", "localhost,", str(tmp_path / "play.yml")]
    config = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_PIPELINING": "1"}
    env = {**os.environ, **config, "ANSIBLE_HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert "the package index can't be reached" in done.stdout
    assert "index_url" in done.stdout
    assert "s3cret" not in done.stdout + done.stderr


# -- the action --------------------------------------------------------------------------------------------------------


class Made(action.ActionModule):
    """The action on a host that answers as it is told, with what it did to it."""

    def __init__(self, args, answers, apt=None):
        self._task = SimpleNamespace(args=args, check_mode=False)
        self._connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="", join_path=lambda *parts: "/".join(parts)))
        self._loader = SimpleNamespace(path_dwim=lambda name: f"/playbook/{name}")
        self.answers = list(answers)
        self.apt = apt or {"changed": True}
        self.calls = []

    def _find_needle(self, _folder, name):
        if not Path(name).is_file():
            raise AnsibleError(f"could not find {name}")
        return name

    def _execute_module(self, module_name, module_args, task_vars):
        self.calls.append((module_name, json.loads(json.dumps(module_args))))
        return dict(self.apt) if module_name.endswith("apt") else dict(self.answers.pop(0))

    def _make_tmp_path(self):
        return "/remote"

    def _transfer_file(self, local, remote):
        self.calls.append(("transfer", f"{local} {remote}"))

    def _fixup_perms2(self, paths):
        self.calls.append(("readable", paths))

    def _remove_tmp_path(self, path):
        self.calls.append(("removed", path))

    def go(self):
        """Run, and return the whole result without Ansible's keys; *calls* has all calls but the folder's removal."""
        result = raw(action.ActionModule.run(self, task_vars={}))
        result = {
            key: value for key, value in result.items() if not key.startswith("_ansible_") and key != "invocation"
        }
        self.calls = [call for call in self.calls if call[0] != "removed"]
        return result


@pytest.fixture(autouse=True)
def _bare(monkeypatch, tmp_path):
    monkeypatch.setattr(_packages.ActionBase, "run", lambda *_words: {})
    monkeypatch.setenv("PRECOG_FLEET_CACHE", str(tmp_path / "cache"))


OK = {"changed": False, "environment": "/e"}


def test_a_host_with_nothing_to_do_is_asked_once(tmp_path):
    wheel = make_wheel(tmp_path, "one", "1.0")
    made = Made({"packages": [str(wheel)]}, [OK])
    assert made.go() == OK
    ((name, args),) = made.calls
    assert name == "precog.fleet.python_env"
    assert args["lock"] == (ROOT / "roles/python_env/files/runtime.txt").read_text()
    assert args["uv_lock"] == (ROOT / "roles/python_env/files/uv.txt").read_text()
    assert [(one["name"], one["version"], one["sha256"], one["path"]) for one in args["packages"]] == [
        ("one", "1.0", sha256(wheel), "")
    ]


def test_what_a_host_lacks_is_brought(tmp_path):
    wheel = make_wheel(tmp_path, "one", "1.0")
    digest = sha256(wheel)
    needs = {"failed": True, "needs": {"debian": ["pypy3"], "wheels": [digest]}}
    made = Made({"packages": [str(wheel)]}, [needs, OK])
    assert made.go() == {**OK, "changed": True}
    _first, apt, transfer, _readable, (_name, args) = made.calls
    assert (apt[0], apt[1]["name"]) == ("ansible.builtin.apt", ["pypy3"])
    assert transfer == ("transfer", f"{wheel} /remote/{digest[:12]}.whl")
    assert args["packages"][0]["path"] == f"/remote/{digest[:12]}.whl"


def test_a_debian_package_that_can_not_be_installed_is_told():
    needs = {"failed": True, "needs": {"debian": ["python3.99"], "wheels": []}}
    made = Made({"packages": []}, [needs], apt={"failed": True, "msg": "No package matching"})
    told = made.go()
    assert told["failed"]
    assert "needs the Debian package python3.99, which could not be installed: No package matching" in told["msg"]


def test_check_mode_brings_nothing():
    needs = {"failed": True, "msg": "lacks", "needs": {"debian": ["git"], "wheels": []}}
    made = Made({"packages": []}, [needs])
    made._task.check_mode = True
    assert (made.go()["failed"], len(made.calls)) == (True, 1)


def test_a_host_that_never_has_enough_fails_in_the_end():
    needs = {"failed": True, "msg": "lacks", "needs": {"debian": ["git"], "wheels": []}}
    made = Made({"packages": []}, [needs] * 9)
    assert made.go()["failed"]
    assert len(made.answers) == 9 - _packages.MOST_ROUNDS


class Down(Made):
    """A host that goes down before one of the calls."""

    def __init__(self, args, answers, before):
        super().__init__(args, answers)
        self.before = before

    def _lost(self, call):
        if call == self.before:
            raise AnsibleConnectionFailure("Failed to connect to the host via ssh: timed out")

    def _execute_module(self, module_name, module_args, task_vars):
        self._lost(module_name)
        return super()._execute_module(module_name, module_args, task_vars)

    def _transfer_file(self, local, remote):
        self._lost("transfer")

    def _remove_tmp_path(self, path):
        self._lost("remove")


@pytest.mark.parametrize("before", ["precog.fleet.python_env", "ansible.builtin.apt", "transfer"])
def test_a_host_that_is_down_has_failed_so_that_a_rollout_stops(tmp_path, before):
    wheel = make_wheel(tmp_path, "one", "1.0")
    needs = {"debian": ["git"] if before != "transfer" else [], "wheels": [sha256(wheel)]}
    told = Down({"packages": [str(wheel)]}, [{"failed": True, "needs": needs}, OK], before).go()
    assert (told["failed"], told.get("unreachable")) == (True, None)
    assert "this host can't be reached: Failed to connect to the host via ssh: timed out" in told["msg"]


def test_a_host_that_goes_down_in_the_end_has_what_it_was_to_have():
    assert Down({"packages": []}, [OK], "remove").go() == OK


@pytest.mark.parametrize(
    ("given", "told"), [("curl", ["curl"]), ("curl, jq", ["curl", "jq"]), (["curl"], ["curl"]), ("", []), (None, [])]
)
def test_text_is_a_list_as_ansible_has_it(given, told):
    made = Made({"system_packages": given, "packages": []}, [OK])
    made.go()
    assert made.calls[0][1]["system_packages"] == told


def test_a_wheel_named_as_text(tmp_path):
    one, two = make_wheel(tmp_path, "one", "1.0"), make_wheel(tmp_path, "two", "2.0")
    made = Made({"packages": f"{one},{two}"}, [OK])
    made.go()
    assert [package["name"] for package in made.calls[0][1]["packages"]] == ["one", "two"]


@pytest.mark.parametrize("given", [7, {"curl": "latest"}, ["curl", 7], [["curl"]]])
@pytest.mark.parametrize("name", ["system_packages", "packages"])
def test_what_is_no_list_is_told(name, given):
    made = Made({"packages": [], name: given}, [OK])
    told = made.go()
    assert (told["failed"], made.calls) == (True, [])
    assert told["msg"] == f"python_env_{name} is {given!r}: a list of texts is expected, such as [git, jq]"


def test_to_remove_nothing_is_read_or_made():
    made = Made({"state": "absent", "packages": ["/nowhere.whl"], "lock": "/nowhere"}, [OK])
    made.go()
    assert made.calls[0][1] == {"state": "absent", "packages": [], "lock": ""}


def test_upstreams_miner_wants_git():
    made = Made({"lock": "upstream", "packages": []}, [OK])
    made.go()
    assert made.calls[0][1]["system_packages"] == ["git"]


def test_pip_needs_no_lock_of_uv():
    made = Made({"installer": "pip", "packages": []}, [OK])
    made.go()
    assert "uv_lock" not in made.calls[0][1]


def test_a_lock_of_ones_own(tmp_path):
    (tmp_path / "own.txt").write_text("mine==1")
    made = Made({"lock": str(tmp_path / "own.txt"), "packages": []}, [OK])
    made.go()
    assert made.calls[0][1]["lock"] == "mine==1"


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({"lock": "/nowhere.txt"}, "could not find /nowhere.txt"),
        ({"packages": ["/nowhere.whl"]}, "could not find /nowhere.whl"),
        ({"packages": ["project"]}, "names project, which is neither a wheel nor a folder with pyproject.toml"),
    ],
)
def test_what_the_control_node_lacks_is_told(args, told):
    made = Made({"packages": [], **args}, [OK])
    assert told in made.go()["msg"]
    assert made.calls == []


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Make the action look like that of an installed collection; return the folder of the role's files."""
    files = tmp_path / "roles/python_env/files"
    files.mkdir(parents=True)
    for name in ("runtime", "uv"):
        (files / f"{name}.txt").write_text("")
    monkeypatch.setattr(action, "COLLECTION", tmp_path)
    monkeypatch.setattr(action, "LOCKS", files)
    return files


def test_installed_collection_without_runtime_project_takes_its_own_wheel(installed):
    wheel = make_wheel(installed, "precog_runtime", "0.1.0")
    made = Made({}, [OK])
    made.go()
    (about,) = made.calls[0][1]["packages"]
    assert (about["name"], about["sha256"]) == ("precog_runtime", sha256(wheel))


@pytest.mark.parametrize("versions", [[], ["0.1.0", "0.2.0"]])
def test_installed_collection_without_exactly_one_wheel_is_refused(installed, versions):
    for version in versions:
        make_wheel(installed, "precog_runtime", version)
    msg = Made({}, [OK]).go()["msg"]
    assert "python_env_packages names runtime" in msg
    assert "tools/build_collection.py" in msg


def test_checkout_prefers_its_runtime_project_to_a_wheel(installed, project):
    make_wheel(installed, "precog_runtime", "0.1.0")
    project.rename(action.COLLECTION / "runtime")
    made = Made({}, [OK])
    made.go()
    assert made.calls[0][1]["packages"][0]["name"] == "made-up"


def test_what_is_no_wheel_is_told(tmp_path):
    path = tmp_path / "one-1-py3-none-any.whl"
    path.write_bytes(b"no zip")
    with pytest.raises(ValueError, match="is no wheel"):
        action.describe(path)


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "made-up"
    (folder / "src/made_up").mkdir(parents=True)
    (folder / "tests").mkdir()
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "src/made_up/__init__.py").write_text("")
    return folder


def test_a_project_is_made_into_its_wheel_once(project, monkeypatch):
    wheel = action.built(project)
    about = action.describe(wheel)
    assert (about["name"], about["version"], about["requires_python"]) == ("made-up", "0.1.0", ">=3.10")
    monkeypatch.setattr(action, "build", None)
    (project / "tests/test_it.py").write_text("")
    (project / "src/made_up/__pycache__").mkdir()
    (project / "src/made_up/__pycache__/x.pyc").write_text("")
    assert action.built(project) == wheel


def test_the_same_files_make_the_same_wheel(project, tmp_path):
    first = sha256(action.built(project))
    (project / "src/made_up/__init__.py").write_text("X = 1\n")
    assert sha256(action.built(project)) != first
    (project / "src/made_up/__init__.py").write_text("")
    for wheel in (tmp_path / "cache").rglob("*.whl"):
        wheel.unlink()
    assert sha256(action.built(project)) == first


def test_a_project_that_can_not_be_made_is_told(project):
    (project / "pyproject.toml").write_text(PROJECT.replace("version", "vision"))
    with pytest.raises(AnsibleError, match="no wheel could be made of"):
        action.built(project)


def test_a_control_node_without_hatchling_is_told_what_to_install(project, tmp_path, monkeypatch):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv/bin/python"))
    with pytest.raises(AnsibleError, match=r"No module named hatchling.*\(requirements/control\.txt\)"):
        action.built(project)


def test_the_runtimes_own_wheel_can_be_made():
    about = action.describe(action.built(ROOT / "runtime"))
    assert about["name"] == "precog-runtime"
    assert re.fullmatch(r"precog_runtime-[\d.]+-py3-none-any\.whl", about["file"])
