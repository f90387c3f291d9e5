"""What repeats a declaration of options is written from it: nothing is stale, and a new option is declared once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import generate
import pytest
import yaml
from ansible_collections.precog.fleet.tests.places import ROOT

NEW_KEY = "kernel.made_up_for_this_test"
OPTIONS = "plugins/module_utils/_settings/sysctl/options.py"
NEW = """    "jitter_ms": {
        "type": "int",
        "default": 7,
        "description": ["For O(profile=bandwidth_delay): how much it varies.", "V(0) is a steady path."],
    },
"""


@pytest.fixture
def scratch(tmp_path):
    """A copy of what is read and written."""
    for part in ("plugins", "roles", "meta", "README.md", "galaxy.yml", "tools/generate.py", "tools/role_docs.py"):
        source, target = ROOT / part, tmp_path / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    link = tmp_path / ".ansible/collections/ansible_collections/precog/fleet"
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path)
    return tmp_path


def run(folder, *arguments):
    argv = [sys.executable, str(folder / "tools/generate.py"), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def test_nothing_in_the_repository_is_stale():
    assert generate.main(["--check"]) == 0


def test_new_option_is_declared_once(scratch):
    path = scratch / OPTIONS
    text = path.read_text()
    place = text.index('    "transparent_hugepage": {')
    path.write_text(text[:place] + NEW + text[place:])

    told = run(scratch, "--check")
    assert told.returncode == 1
    written = [
        "plugins/modules/sysctl_profile.py",
        "roles/audit/tasks/main.yml",
        "roles/kernel_tuning/README.md",
        "roles/kernel_tuning/defaults/main.yml",
        "roles/kernel_tuning/meta/argument_specs.yml",
        "roles/kernel_tuning/tasks/main.yml",
    ]
    assert sorted(line.split()[0] for line in told.stderr.splitlines()) == written

    assert run(scratch).returncode == 0
    assert run(scratch, "--check").returncode == 0
    role = scratch / "roles/kernel_tuning"
    assert yaml.safe_load((role / "defaults/main.yml").read_text())["kernel_tuning_jitter_ms"] == 7
    spec = yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    assert spec["kernel_tuning_jitter_ms"] == {
        "type": "int",
        "default": 7,
        "description": ["For C(kernel_tuning_profile: bandwidth_delay): how much it varies.", "C(0) is a steady path."],
    }
    (task,) = yaml.safe_load((role / "tasks/main.yml").read_text())
    assert task["precog.fleet.sysctl_profile"]["jitter_ms"] == "{{ kernel_tuning_jitter_ms }}"
    (audit,) = yaml.safe_load((scratch / "roles/audit/tasks/main.yml").read_text())
    given = audit["precog.fleet.host_audit"]["kernel_tuning"]
    assert given["jitter_ms"] == "{{ lookup('ansible.builtin.vars', 'kernel_tuning_jitter_ms', default=omit) }}"
    source = (scratch / "plugins/modules/sysctl_profile.py").read_text()
    documentation = yaml.safe_load(source.split('DOCUMENTATION = r"""')[1].split('"""')[0])
    assert documentation["options"]["jitter_ms"]["default"] == 7
    assert "| `kernel_tuning_jitter_ms` | int | `7` |" in (role / "README.md").read_text()


def test_sysctl_of_the_profile_is_one_line_and_one_expected_line(scratch):
    """CONTRIBUTING's recipe, in the copy: with the first edit alone its test fails, with both it passes."""
    for part in ("tests", "pyproject.toml"):
        source = ROOT / part
        (shutil.copytree if source.is_dir() else shutil.copy)(source, scratch / part)
    sysctl = "module_utils/_settings/sysctl"
    profiles, test = scratch / f"plugins/{sysctl}/profiles.py", scratch / f"tests/unit/{sysctl}/test_profiles.py"
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not full", str(test)]
    # All that runs the profile: the engine's scenarios and the module.
    argv += [
        str(scratch / f"tests/unit/{part}")
        for part in ("module_utils/_engine/test_run.py", "modules/test_sysctl_profile.py")
    ]
    argv += ["-k", "guide or apply_again"]
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}

    def edit(path, line, more):
        text = path.read_text()
        assert line in text
        path.write_text(text.replace(line, f"{line}{more}", 1))
        return subprocess.run(argv, cwd=scratch, env=alone, capture_output=True, text=True, check=False)

    assert NEW_KEY not in profiles.read_text()
    assert edit(profiles, '    "vm.vfs_cache_pressure": 50,\n', f'    "{NEW_KEY}": 15,\n').returncode == 1
    told = edit(test, "vm.vfs_cache_pressure = 50\n", f"{NEW_KEY} = 15\n")
    assert told.returncode == 0, told.stdout


def test_file_without_its_place_is_named(scratch):
    path = scratch / "roles/swap/tasks/main.yml"
    path.write_text("---\n- name: Nothing\n")
    told = run(scratch, "--check")
    assert told.returncode == 1
    assert told.stderr.startswith(f"Error: {path} has no place for what is written there")


@pytest.mark.parametrize(
    "value",
    ["plain", "off", "yes", "12", "", "a: b", "a # b", "*", "[x]", "{{ one | default('x') }}", 'say "x"', "~", "x, y"],
)
def test_text_is_read_back_as_it_was(value):
    assert yaml.safe_load("\n".join(generate.field("x", value, 0))) == {"x": value}
    assert yaml.safe_load("\n".join(generate.field("x", [value], 2))) == {"x": [value]}
    assert yaml.safe_load("\n".join(generate.field("x", {"y": value}, 0))) == {"x": {"y": value}}


@pytest.mark.parametrize("text", ["Short.", "One: two.", "C(x) is long. " * 30, "A colon: here. " * 30, "# no comment"])
def test_description_is_read_back_as_it_was(text):
    text = text.strip()
    for given in (text, [text, "Next."]):
        lines = generate.prose("description", given, 4)
        assert max(map(len, lines)) <= 120
        read = yaml.safe_load("\n".join(lines))["description"]
        assert ([one.strip() for one in read] if isinstance(given, list) else read.strip()) == given
