"""Every role keeps the rules of the house, and its README says what its specs say."""

from __future__ import annotations

import json

import generate
import pytest
import role_docs
import yaml
from ansible_collections.precog.fleet.plugins.plugin_utils._packages import APT
from ansible_collections.precog.fleet.tests.places import ROOT

ROLES = sorted(path for path in (ROOT / "roles").glob("*") if path.is_dir())
READMES = (role_docs.documents,)
PLATFORMS = {"Debian": {"bookworm", "trixie"}}


def load(path):
    """A YAML file's content; of one that is not there, nothing."""
    return (yaml.safe_load(path.read_text()) if path.exists() else None) or {}


def same(one, other):
    """Equality that tells 1 from true and from 1.0, as YAML does."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def default_problems(role):
    """What differs between a role's defaults and its argument specs."""
    defaults = load(role / "defaults/main.yml")
    options = load(role / "meta/argument_specs.yml").get("argument_specs", {}).get("main", {}).get("options", {})
    required = {name for name, option in options.items() if option.get("required")}
    problems = [f"{name}: in defaults, not in the specs" for name in defaults.keys() - options.keys()]
    problems += [f"{name}: in the specs, not in defaults" for name in options.keys() - required - defaults.keys()]
    problems += [f"{name}: required, but has a default" for name in required & defaults.keys()]
    for name in (defaults.keys() & options.keys()) - required:
        if not same(defaults[name], options[name].get("default")):
            problems.append(f"{name}: {defaults[name]!r} in defaults, {options[name].get('default')!r} in the specs")
    return problems


def name_problems(role):
    """Variables that don't carry the role's name: two roles' variables share one namespace."""
    public = load(role / "defaults/main.yml")
    private = load(role / "vars/main.yml")
    problems = [f"{name}: has to begin with {role.name}_" for name in public if not name.startswith(f"{role.name}_")]
    return problems + [
        f"{name}: has to begin with __{role.name}_" for name in private if not name.startswith(f"__{role.name}_")
    ]


def meta_problems(role):
    """What meta/main.yml lacks."""
    info = load(role / "meta/main.yml").get("galaxy_info", {})
    problems = [
        f"meta/main.yml: no {key}" for key in ("author", "description", "min_ansible_version") if not info.get(key)
    ]
    if info.get("license") != "GPL-3.0-or-later":
        problems.append(f"meta/main.yml: license is {info.get('license')}")
    platforms = {platform["name"]: set(platform["versions"]) for platform in info.get("platforms", ())}
    if platforms != PLATFORMS:
        problems.append(f"meta/main.yml: platforms are {platforms}")
    return problems


def problems_of(role):
    return sorted(default_problems(role) + name_problems(role) + meta_problems(role))


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_role_keeps_the_rules(role):
    assert problems_of(role) == []


def test_each_installation_waits_for_dpkgs_lock():
    """unattended-upgrades may hold it for minutes; without a word apt fails at once after a few seconds."""
    texts = [path.read_text() for role in ROLES for path in sorted((role / "tasks").glob("*.yml"))]
    waits = [
        task["ansible.builtin.apt"].get("lock_timeout")
        for text in texts
        for task in yaml.safe_load(text) or ()
        if "ansible.builtin.apt" in task
    ]
    assert waits == [300] * sum(text.count("ansible.builtin.apt:") for text in texts)
    assert waits
    assert APT["lock_timeout"] == 300


def test_each_command_on_a_host_has_a_timeout():
    """Modules bound their own; a playbook's command has none by itself."""
    folders = [ROOT / "playbooks/tasks", *(role / "tasks" for role in ROLES)]
    tasks = [
        task for folder in folders for path in folder.glob("*.yml") for task in yaml.safe_load(path.read_text()) or ()
    ]
    commands = [task for task in tasks if {"ansible.builtin.command", "ansible.builtin.shell"} & set(task)]
    assert commands
    assert [task["name"] for task in commands if not task.get("timeout")] == []


@pytest.fixture
def made_up(tmp_path):
    """A role that keeps every rule."""
    role = tmp_path / "roles/frobnicator"
    files = {
        "defaults/main.yml": {"frobnicator_state": "present", "frobnicator_sizes": [1, 2]},
        "vars/main.yml": {"__frobnicator_file": "/etc/frobnicator"},
        "meta/main.yml": {
            "galaxy_info": {
                "author": "somebody",
                "description": "something",
                "license": "GPL-3.0-or-later",
                "min_ansible_version": "2.19",
                "platforms": [{"name": "Debian", "versions": ["bookworm", "trixie"]}],
            }
        },
        "meta/argument_specs.yml": {
            "argument_specs": {
                "main": {
                    "short_description": "Frobnicates hosts",
                    "description": ["Does it well.", "See O(frobnicator_sizes)."],
                    "options": {
                        "frobnicator_state": {
                            "description": "V(absent) gives the original back.",
                            "default": "present",
                            "choices": ["present", "absent"],
                        },
                        "frobnicator_sizes": {
                            "description": ["Sizes a|b.", "In MiB."],
                            "type": "list",
                            "elements": "int",
                            "default": [1, 2],
                        },
                        "frobnicator_key": {
                            "description": "The key.",
                            "type": "dict",
                            "required": True,
                            "options": {"name": {"description": "Its name."}},
                        },
                    },
                }
            }
        },
    }
    for name, content in files.items():
        (role / name).parent.mkdir(parents=True, exist_ok=True)
        (role / name).write_text(yaml.safe_dump(content))
    return role


def edit(path, change):
    content = load(path)
    change(content)
    path.write_text(yaml.safe_dump(content))


def test_a_good_role_has_no_problems(made_up):
    assert problems_of(made_up) == []


@pytest.mark.parametrize(
    ("file", "change", "problem"),
    [
        ("defaults", lambda d: d.pop("frobnicator_sizes"), "frobnicator_sizes: in the specs, not in defaults"),
        ("defaults", lambda d: d.update(frobnicator_more=1), "frobnicator_more: in defaults, not in the specs"),
        ("defaults", lambda d: d.update(frobnicator_key={}), "frobnicator_key: required, but has a default"),
        (
            "defaults",
            lambda d: d.update(frobnicator_sizes=[True, 2]),
            "frobnicator_sizes: [True, 2] in defaults, [1, 2] in the specs",
        ),
        ("vars", lambda d: d.update(frobnicator_x=1), "frobnicator_x: has to begin with __frobnicator_"),
        ("meta", lambda d: d["galaxy_info"].pop("author"), "meta/main.yml: no author"),
        ("meta", lambda d: d["galaxy_info"].update(license="MIT"), "meta/main.yml: license is MIT"),
        ("meta", lambda d: d["galaxy_info"].pop("platforms"), "meta/main.yml: platforms are {}"),
    ],
)
def test_a_broken_rule_is_told(made_up, file, change, problem):
    edit(made_up / file / "main.yml", change)
    assert problem in problems_of(made_up)


def test_a_public_variable_without_the_roles_name_is_told(made_up):
    edit(made_up / "defaults/main.yml", lambda d: d.update(size=1))
    assert "size: has to begin with frobnicator_" in problems_of(made_up)


def test_readme_has_title_options_and_a_play(made_up):
    root = made_up.parents[1]
    assert generate.main([], root, READMES) == 0
    text = (made_up / "README.md").read_text()
    assert text.startswith("# precog.fleet.frobnicator\n")
    assert "Frobnicates hosts.\n" in text
    assert "See `frobnicator_sizes`." in text
    assert (
        "| `frobnicator_state` | str: `present`, `absent` | `present` | `absent` gives the original back. |\n" in text
    )
    assert "| `frobnicator_sizes` | list of int | `[1, 2]` | Sizes a\\|b. In MiB. |\n" in text
    assert "| `frobnicator_key` | dict | **required** | The key. |\n" in text
    assert "| `frobnicator_key.name` | str |  | Its name. |\n" in text
    play = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert play[0]["roles"] == [
        {"role": "precog.fleet.frobnicator", "vars": {"frobnicator_state": "present", "frobnicator_key": "..."}}
    ]
    assert "`frobnicator_state: absent`" in text


def test_check_tells_a_stale_readme_and_writes_nothing(made_up, capsys):
    root = made_up.parents[1]
    readme = made_up / "README.md"
    assert generate.main(["--check"], root, READMES) == 1
    assert not readme.exists()
    generate.main([], root, READMES)
    assert generate.main(["--check"], root, READMES) == 0
    edit(
        made_up / "meta/argument_specs.yml",
        lambda d: d["argument_specs"]["main"].update(short_description="Something else"),
    )
    capsys.readouterr()
    assert generate.main(["--check"], root, READMES) == 1
    assert "roles/frobnicator/README.md is stale" in capsys.readouterr().err


def test_the_main_readme_lists_the_roles_and_keeps_its_text(made_up):
    root = made_up.parents[1]
    main = root / "README.md"
    main.write_text(f"before\n{role_docs.TABLE_BEGIN}\nold\n{role_docs.TABLE_END}\nafter\n")
    generate.main([], root, READMES)
    assert main.read_text() == (
        f"before\n{role_docs.TABLE_BEGIN}\n| role | what it does |\n| --- | --- |\n"
        "| [`frobnicator`](roles/frobnicator/README.md) | Frobnicates hosts. |\n"
        f"{role_docs.TABLE_END}\nafter\n"
    )


@pytest.mark.parametrize("key", ["short_description", "description"])
def test_a_missing_description_names_the_file(made_up, key, capsys):
    edit(made_up / "meta/argument_specs.yml", lambda d: d["argument_specs"]["main"].pop(key))
    assert generate.main([], made_up.parents[1], READMES) == 1
    error = capsys.readouterr().err
    assert "roles/frobnicator/meta/argument_specs.yml" in error
    assert key in error


def test_a_role_without_specs_is_told(made_up, capsys):
    (made_up / "meta/argument_specs.yml").unlink()
    assert generate.main([], made_up.parents[1], READMES) == 1
    assert "roles/frobnicator/meta/argument_specs.yml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("V(absent) and O(role_x)", "`absent` and `role_x`"),
        (r"C(f(x\))", "`f(x)`"),
        ("B(bold) and I(italic)", "**bold** and *italic*"),
        ("L(here, docs/a.md) or U(docs/b.md)", "[here](docs/a.md) or <docs/b.md>"),
        ("IPV(6) is no markup", "IPV(6) is no markup"),
    ],
)
def test_markup_becomes_markdown(text, expected):
    assert role_docs.markdown(text) == expected
