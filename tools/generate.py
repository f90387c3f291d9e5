"""Writes from each declaration of options (options.py of a package, preflight_options.py) all that repeats it.

These are the options and returned rows of the module's documentation, the documentation fragments, and of the role its
defaults, argument specs, the call of its module, what the audit gives that module, and its README.

`python tools/generate.py` writes them; with --check it only names those that are stale, and exits 1 if any is.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import role_docs
import yaml

ROOT = Path(__file__).resolve().parent.parent
UTILS = "ansible_collections.precog.fleet.plugins.module_utils"
WIDTH = 120
NOTICE = "# Written by tools/generate.py from plugins/module_utils/{}.py: change that, and run it."
# What argument specs have, in the order in which it is written.
FIELDS = ("type", "elements", "choices", "default", "no_log")
FRAGMENTS = ("state", "on_unsupported", "shared_kernel")

Option = dict[str, Any]
# Given the repository's root and the files that earlier sources want, returns more files with their content.
Source = Callable[[Path, Mapping[Path, str]], dict[Path, str]]


class Module(NamedTuple):
    """A module that has a role of its own.

    :ivar options: the module below module_utils that declares its options.
    """

    name: str
    role: str
    options: str

    @property
    def declared(self) -> dict[str, Option]:
        """Its options by name."""
        found: dict[str, Option] = import_module(f"{UTILS}.{self.options}").OPTIONS
        return found

    @property
    def rows(self) -> dict[str, Any]:
        """The descriptions of its returned rows that differ from the common ones; empty: documented by hand."""
        return dict(getattr(import_module(f"{UTILS}.{self.options}"), "ROWS", {}))


MODULES = (
    Module("host_preflight", "preflight", "_settings.preflight_options"),
    Module("sysctl_profile", "kernel_tuning", "_settings.sysctl.options"),
    Module("resource_limits", "limits", "_settings.limits.options"),
    Module("cpu_governor", "cpu_governor", "_settings.sysfs.options"),
    Module("swap_state", "swap", "_settings.swap.options"),
    Module("python_env", "python_env", "_environment.options"),
    Module("miner_service", "miner_service", "_miner.options"),
)


# -- YAML as one writes it by hand -------------------------------------------------------------------------------------


def is_plain(text: str, *, inline: bool = False) -> bool:
    """Tell whether YAML reads a text without quotes as itself.

    :param inline: in an inline list too, where commas and brackets have a meaning.
    """
    try:
        alone = yaml.safe_load(f"x: {text}") == {"x": text}
        return bool(alone and (not inline or yaml.safe_load(f"[{text}]") == [text]))
    except yaml.YAMLError:
        return False


def inline(value: object) -> str:
    """Return a value in YAML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {inline(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    if isinstance(value, str):
        return value if is_plain(value, inline=True) else json.dumps(value, ensure_ascii=False)
    return json.dumps(value)


def field(name: str, value: object, indent: int) -> list[str]:
    """Return the lines of one key with its value; those of a dictionary that holds something below it."""
    pad = " " * indent
    if isinstance(value, dict) and value:
        return [f"{pad}{name}:", *(f"{pad}  {key}: {inline(one)}" for key, one in value.items())]
    return [f"{pad}{name}: {inline(value)}"]


def wrapped(text: str, first: str, rest: str) -> list[str]:
    """Return a text in lines of at most 120 characters."""
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)


def prose(name: str, text: str | list[str], indent: int) -> list[str]:
    """Return the lines of a description: a text, or a list of paragraphs."""
    pad = " " * indent
    if isinstance(text, list):
        return [f"{pad}{name}:", *(line for one in text for line in _paragraph(one, f"{pad}  - ", f"{pad}    "))]
    if len(line := f"{pad}{name}: {text}") <= WIDTH and is_plain(text):
        return [line]
    return [f"{pad}{name}: >-", *wrapped(text, f"{pad}  ", f"{pad}  ")]


def _paragraph(text: str, first: str, rest: str) -> list[str]:
    return wrapped(text, first, rest) if is_plain(text) else [f"{first}>-", *wrapped(text, rest, rest)]


# -- what is said of an option -----------------------------------------------------------------------------------------


def fragment(name: str) -> Option:
    """Return the option that a documentation fragment is about."""
    found: Option = getattr(import_module(f"{UTILS}._engine.options"), name.upper())[name]
    return found


def module_options(options: dict[str, Option]) -> list[str]:
    """Return the lines of a module's options in its documentation, without what its fragments say."""
    lines = []
    for name, option in options.items():
        shared = fragment(name) if name in FRAGMENTS else None
        if option == shared:
            continue
        lines += [f"  {name}:", *prose("description", option["description"], 4)]
        if shared is None:
            lines += [
                line for key in FIELDS if key in option and key != "no_log" for line in field(key, option[key], 4)
            ]
    return lines


def module_rows(told: dict[str, Any]) -> list[str]:
    """Return the lines of `settings` in what a module returns."""
    common: dict[str, str] = import_module(f"{UTILS}._engine.options").ROW
    lines = [*prose("description", told["settings"], 2), "  returned: always", "  type: list", "  elements: dict"]
    lines.append("  contains:")
    for name, text in common.items():
        lines += [f"    {name}:", *prose("description", told.get(name, text), 6), "      type: str"]
    return lines


class Variable(NamedTuple):
    """A variable of a role that gives an option of its module."""

    name: str
    option: Option

    @property
    def default(self) -> object:
        """Its value when nothing sets it."""
        return self.option.get("default")


def variables(module: Module) -> dict[str, Variable]:
    """Return the variables of a module's role, by the module's option."""
    found = {}
    for name, option in module.declared.items():
        differs = option.get("role", {})
        if differs is None or ("variable" in differs and differs["variable"] is None):
            continue
        own = {key: value for key, value in differs.items() if key not in ("variable", "value", "comment")}
        merged = {key: value for key, value in {**option, **own}.items() if key != "role"}
        found[name] = Variable(f"{module.role}_{differs.get('variable', name)}", merged)
    return found


def in_role(text: str | list[str], names: dict[str, str]) -> str | list[str]:
    """Return a description of a module's option as that of its role's variable.

    :param names: the role's variables by the module's options.
    """
    if isinstance(text, list):
        return [str(in_role(one, names)) for one in text]

    def variable(found: re.Match[str]) -> str:
        name, equals, value = found[1].partition("=")
        return f"C({names.get(name, name)}{equals and ': '}{value})"

    text = re.sub(r"\bO\(([^)]*)\)", variable, text)
    return re.sub(r"\b(?:V|E|RV)\(", "C(", text)


def specs(module: Module) -> list[str]:
    """Return the lines of a role's options in its argument specs."""
    found = variables(module)
    names = {name: one.name for name, one in found.items()}
    lines = []
    for name, option in found.values():
        lines.append(f"      {name}:")
        for key in FIELDS:
            if key == "default":
                lines += field(key, option.get("default"), 8)
            elif option.get(key) is not None and option.get(key) is not False:
                lines += field(key, option[key], 8)
        lines += prose("description", in_role(option["description"], names), 8)
    return lines


def call(module: Module, indent: int, *, audit: bool = False) -> list[str]:
    """Return the lines that give a module its arguments by the role's variables.

    :param audit: where the role's defaults are not known, so that what nothing sets is left to the module.
    """
    pad, found, lines = " " * indent, variables(module), []
    for name, option in module.declared.items():
        differs = option.get("role", {})
        if differs is None:
            continue
        value = differs.get("value") or found[name].name
        if audit:
            value = _where_set(value, found[name]) if name in found else value
        if "comment" in differs:
            lines.append(f"{pad}# {differs['comment']}")
        if "\n" in value:
            lines += [f"{pad}{name}: >-", *(f"{pad}  {line}" for line in value.splitlines())]
        elif name in found:
            line = f'{pad}{name}: "{{{{ {value} }}}}"'
            lines += [line] if len(line) <= WIDTH else [f"{pad}{name}: >-", f"{pad}  {{{{ {value} }}}}"]
        else:
            lines.append(f"{pad}{name}: {value}")
    return lines


def _where_set(value: str, variable: Variable) -> str:
    """Return an expression that leaves a variable that is not set to the module's own default.

    Not by the filter `default`: it would hide a variable that is set to a template with a typo.
    """
    default = "omit" if value == variable.name else inline(variable.default)
    return value.replace(variable.name, f"lookup('ansible.builtin.vars', '{variable.name}', default={default})")


# -- files -------------------------------------------------------------------------------------------------------------


def between(text: str, begin: str, end: str, lines: list[str], *, what: str) -> str:
    """Return a text with other lines between one that `begin` matches and the next one that `end` matches.

    :raises SpecError: there is no such place.
    """
    found = re.search(rf"(?ms)({begin})(.*?)(?=^(?:{end})|\Z)", text)
    if not found:
        raise role_docs.SpecError(f"{what} has no place for what is written there ({begin!r})")
    return text[: found.end(1)] + "".join(f"{line}\n" for line in lines) + text[found.end() :]


def module_file(module: Module, path: Path) -> str:
    """Return a module's source with its documentation."""
    text = path.read_text(encoding="utf-8")
    text = between(text, r"^options:\n", r'\S|"""', module_options(module.declared), what=path.name)
    if module.rows:
        text = between(text, r"^settings:\n", r'\S|"""', module_rows(module.rows), what=path.name)
    return text


def fragment_file(name: str, path: Path) -> str:
    """Return a documentation fragment's source."""
    option = fragment(name)
    lines = [f"  {name}:", *prose("description", option["description"], 4)]
    lines += [line for key in FIELDS if key in option for line in field(key, option[key], 4)]
    return between(path.read_text(encoding="utf-8"), r"^options:\n", '"""', lines, what=path.name)


def role_files(module: Module, folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files of a role that repeat its options."""
    notice = NOTICE.format(module.options.replace(".", "/"))
    defaults = [line for name, option in variables(module).values() for line in field(name, option.get("default"), 0)]
    yield folder / "defaults/main.yml", "\n".join(["---", notice, *defaults, ""])
    path = folder / "meta/argument_specs.yml"
    lines = [f"      {notice}", *specs(module)]
    yield path, between(path.read_text(encoding="utf-8"), r"^    options:\n", r"\Z", lines, what=str(path))
    path = folder / "tasks/main.yml"
    begin = rf"^  precog\.fleet\.{module.name}:\n"
    yield path, between(path.read_text(encoding="utf-8"), begin, r" {0,3}\S|\n", call(module, 4), what=str(path))


def audit_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files of the role audit that give the tuning modules' arguments."""
    path = folder / "tasks/main.yml"
    text = path.read_text(encoding="utf-8")
    tuning = import_module(f"{UTILS}._settings.parts").TUNING
    for module in MODULES:
        if module.role in tuning:
            begin = rf"^    {module.role}:\n"
            text = between(text, begin, r" {0,5}\S", call(module, 6, audit=True), what=str(path))
    yield path, text
    path = folder / "vars/main.yml"
    preflight = next(module for module in MODULES if module.role == "preflight")
    lines = call(preflight, 2, audit=True)
    yield path, between(path.read_text(encoding="utf-8"), r"^__audit_preflight:\n", r"\S", lines, what=str(path))


def declared(root: Path, _wanted: Mapping[Path, str]) -> dict[Path, str]:
    """Return each file that repeats declared options, with the content it should have.

    :raises SpecError: a file has no place for it.
    """
    wanted = {}
    for name in FRAGMENTS:
        path = root / f"plugins/doc_fragments/{name}.py"
        wanted[path] = fragment_file(name, path)
    for module in MODULES:
        path = root / f"plugins/modules/{module.name}.py"
        wanted[path] = module_file(module, path)
        wanted.update(role_files(module, root / "roles" / module.role))
    wanted.update(audit_files(root / "roles/audit"))
    return wanted


def stale(wanted: dict[Path, str]) -> list[Path]:
    """Return the files that have another content."""
    return [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]


def write(wanted: dict[Path, str], root: Path) -> None:
    """Write what is stale, and tell."""
    for path in stale(wanted):
        path.write_text(wanted[path], encoding="utf-8")
        print(f"Wrote {path.relative_to(root)}")


# In this order: a README says what the argument specs say.
SOURCES = (declared, role_docs.documents)


def main(arguments: list[str], root: Path = ROOT, sources: Sequence[Source] = SOURCES) -> int:
    """Write the files, or check them; returns 1 if one is stale or has no place for what is written there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is stale")
    check = parser.parse_args(arguments).check
    try:
        wanted: dict[Path, str] = {}
        for source in sources:
            wanted.update(source(root, wanted))
    except role_docs.SpecError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    if not check:
        write(wanted, root)
    found = stale(wanted)
    for path in found:
        print(f"{path.relative_to(root)} is stale: run `python tools/generate.py`", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / ".ansible/collections"))
    sys.exit(main(sys.argv[1:]))
