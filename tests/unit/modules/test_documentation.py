"""What ansible-doc shows of each module is what it takes and returns."""

from __future__ import annotations

import importlib

import pytest
import yaml
from ansible_collections.precog.fleet.plugins.module_utils._engine import model
from ansible_collections.precog.fleet.plugins.module_utils._environment import options as environment_options
from ansible_collections.precog.fleet.plugins.module_utils._miner import options as miner_options
from ansible_collections.precog.fleet.plugins.module_utils._settings import parts
from ansible_collections.precog.fleet.tests.places import ROOT

PLUGINS = "ansible_collections.precog.fleet.plugins"
NAMES = sorted(path.stem for path in (ROOT / "plugins/modules").glob("*.py"))
TUNING = {
    "sysctl_profile": parts.TUNING["kernel_tuning"],
    "resource_limits": parts.TUNING["limits"],
    "cpu_governor": parts.TUNING["cpu_governor"],
    "swap_state": parts.TUNING["swap"],
}
# Those whose arguments are declared in a package.
OPTIONS = {
    **TUNING,
    "host_audit": parts.AUDIT,
    "host_preflight": parts.PARTS["preflight"],
    "miner_service": miner_options.OPTIONS,
    "python_env": environment_options.OPTIONS,
}
# What ansible-doc shows of an option, and the module's specification says too.
SHOWN = ("type", "choices", "default", "required", "elements")


def module(name):
    return importlib.import_module(f"{PLUGINS}.modules.{name}")


def fragment(name):
    """What a documentation fragment of ours says, such as precog.fleet.attributes.read_only."""
    _namespace, _collection, file, *section = name.split(".")
    found = importlib.import_module(f"{PLUGINS}.doc_fragments.{file}").ModuleDocFragment
    return yaml.safe_load(getattr(found, (section or ["documentation"])[0].upper()))


def documented(name):
    """A module's documentation, with its fragments; what it says itself goes before theirs, field by field."""
    told = yaml.safe_load(module(name).DOCUMENTATION)
    for part in ("options", "attributes"):
        own = told.setdefault(part, {})
        for one in map(fragment, told["extends_documentation_fragment"]):
            for key, fields in one.get(part, {}).items():
                own[key] = {**fields, **own.get(key, {})}
    return told


def shown(options):
    return {name: {field: option[field] for field in SHOWN if field in option} for name, option in options.items()}


@pytest.mark.parametrize("name", OPTIONS)
def test_documented_options_are_the_argument_spec(name):
    assert shown(documented(name)["options"]) == shown(OPTIONS[name])


@pytest.mark.parametrize("name", NAMES)
def test_every_module_has_its_attributes_and_says_its_action_group(name):
    attributes = documented(name)["attributes"]
    assert {"check_mode", "diff_mode", "platform"} <= set(attributes)
    groups = yaml.safe_load((ROOT / "meta/runtime.yml").read_text())["action_groups"]
    member = [f"precog.fleet.{group}" for group, names in groups.items() if name in names]
    assert attributes.get("action_group", {}).get("membership", []) == member


def test_modules_of_the_action_group_share_an_option():
    assert set.intersection(*(set(options) for options in TUNING.values())) == {"state"}


@pytest.mark.parametrize("name", [*TUNING, "python_env"])
def test_documented_rows_are_the_rows(name):
    rows = yaml.safe_load(module(name).RETURN)["settings"]["contains"]
    assert sorted(rows) == sorted(model.Change("x").row())


@pytest.mark.parametrize("name", TUNING)
def test_documented_statuses_are_all(name):
    rows = yaml.safe_load(module(name).RETURN)["settings"]["contains"]
    assert rows["status"]["description"] == f"One of {', '.join(model.STATUSES)}."


@pytest.mark.parametrize("name", NAMES)
def test_examples_use_options_that_exist(name):
    options = documented(name)["options"]
    key = f"precog.fleet.{name}"
    calls = [task[key] or {} for task in yaml.safe_load(module(name).EXAMPLES) if key in task]
    assert calls
    assert all(set(call) <= set(options) for call in calls)
