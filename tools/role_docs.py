"""Each role's README.md, and the table of roles in the main one, from the roles' meta/argument_specs.yml."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

NAMESPACE = "precog.fleet"
NOTICE = "<!-- Written by tools/generate.py from meta/argument_specs.yml. -->"
TABLE_BEGIN, TABLE_END = "<!-- roles: written by tools/generate.py -->", "<!-- end of roles -->"

# What argument specs say in Ansible's markup, as Markdown: V(value), O(option), C(code), E(VARIABLE), RV(result)
# and B(bold), I(italic), U(url), L(text, url), M(module), P(plugin#type).
CODE = re.compile(r"\b(?:V|O|C|E|RV|M|P)\(((?:\\.|[^)\\])*)\)")
BOLD = re.compile(r"\bB\(([^)]*)\)")
ITALIC = re.compile(r"\bI\(([^)]*)\)")
LINK = re.compile(r"\bL\(([^,)]*), *([^)]*)\)")
URL = re.compile(r"\bU\(([^)]*)\)")


class SpecError(Exception):
    """A role's argument specs lack something; the message says what and where."""


def markdown(text: str) -> str:
    """Return a description's text with Ansible's markup as Markdown."""
    text = CODE.sub(lambda found: "`" + re.sub(r"\\(.)", r"\1", found[1]) + "`", text)
    text = BOLD.sub(r"**\1**", text)
    text = ITALIC.sub(r"*\1*", text)
    text = LINK.sub(r"[\1](\2)", text)
    return URL.sub(r"<\1>", text).strip()


def paragraphs(description: str | list[str]) -> list[str]:
    """Return a description, which may be one text or a list of them, as paragraphs of Markdown."""
    texts = [description] if isinstance(description, str) else description
    return [markdown(" ".join(str(text).split())) for text in texts]


def kind(option: dict[str, Any]) -> str:
    """Return an option's type, of a list that of its elements too, and what may be chosen."""
    name = str(option.get("type", "str"))
    if name == "list" and "elements" in option:
        name = f"list of {option['elements']}"
    choices = ", ".join(f"`{literal(choice)}`" for choice in option.get("choices", ()))
    return f"{name}: {choices}" if choices else name


def literal(value: object) -> str:
    """Return a value as one writes it in YAML, on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def default(option: dict[str, Any]) -> str:
    """Return what the default's cell holds."""
    if option.get("required"):
        return "**required**"
    return f"`{literal(option['default'])}`" if option.get("default") is not None else ""


def rows(options: dict[str, Any], above: str = "") -> list[str]:
    """Return a table's rows, those of a dictionary's own options below it."""
    lines: list[str] = []
    for name, option in options.items():
        cells = [f"`{above}{name}`", kind(option), default(option), " ".join(paragraphs(option["description"]))]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines += rows(option.get("options", {}), f"{above}{name}.")
    return lines


def example(role: str, options: dict[str, Any]) -> list[str]:
    """Return a play that uses the role: what it requires, and its state."""
    variables = {
        name: literal(option.get("default", "...")) for name, option in options.items() if option.get("required")
    }
    state = options.get(f"{role}_state")
    if state:
        variables[f"{role}_state"] = literal(state.get("default", "present"))
    body = [f"        {name}: {value}" for name, value in variables.items()]
    return [
        "```yaml",
        f"- name: Apply {NAMESPACE}.{role}",
        "  hosts: all",
        "  become: true",
        "  roles:",
        f"    - role: {NAMESPACE}.{role}",
        *(["      vars:", *body] if body else []),
        "```",
    ]


def readme(role: str, specs: dict[str, Any]) -> str:
    """Return a role's README.

    :param specs: the role's entry points, of which `main` is told.
    :raises SpecError: a description is missing.
    """
    main = specs["main"]
    try:
        lines = [f"# {NAMESPACE}.{role}", "", NOTICE, "", f"{sentence(main['short_description'])}", ""]
        for text in paragraphs(main["description"]):
            lines += [text, ""]
        options = main.get("options", {})
        if options:
            lines += ["## Options", "", "| name | type | default | description |", "| --- | --- | --- | --- |"]
            lines += [*rows(options), ""]
        lines += ["## Example", "", *example(role, options), ""]
    except KeyError as error:
        raise SpecError(f"roles/{role}/meta/argument_specs.yml: {error} is missing") from error
    if "absent" in options.get(f"{role}_state", {}).get("choices", ()):
        lines += [f"With `{role}_state: absent` the same play gives back what the role changed.", ""]
    return "\n".join(lines)


def sentence(text: str) -> str:
    """Return a short description with its full stop."""
    return markdown(text).rstrip(".") + "."


def table(specs: dict[str, dict[str, Any]]) -> str:
    """Return the table of roles for the main README."""
    lines = ["| role | what it does |", "| --- | --- |"]
    lines += [
        f"| [`{role}`](roles/{role}/README.md) | {sentence(spec['main']['short_description'])} |"
        for role, spec in specs.items()
    ]
    return "\n".join(lines)


def load(root: Path, wanted: Mapping[Path, str]) -> dict[str, dict[str, Any]]:
    """Return the argument specs of all roles, by role.

    :param wanted: content of files that is not written yet.

    :raises SpecError: a role has none, or none for its main entry point.
    """
    found: dict[str, dict[str, Any]] = {}
    for folder in sorted(path for path in (root / "roles").glob("*") if path.is_dir()):
        path = folder / "meta/argument_specs.yml"
        try:
            specs = yaml.safe_load(wanted.get(path) or path.read_text(encoding="utf-8"))["argument_specs"]
            found[folder.name] = {"main": dict(specs["main"])}
        except (OSError, KeyError, TypeError) as error:
            raise SpecError(f"roles/{folder.name}/meta/argument_specs.yml has no specs of `main`: {error}") from error
    return found


def documents(root: Path, wanted: Mapping[Path, str]) -> dict[Path, str]:
    """Return each file that is written from the specs, with the content it should have.

    :param wanted: content of files that is not written yet.

    :raises SpecError: a role's specs are incomplete.
    """
    specs = load(root, wanted)
    pages = {root / "roles" / role / "README.md": readme(role, spec) for role, spec in specs.items()}
    main = root / "README.md"
    text = main.read_text(encoding="utf-8") if main.exists() else ""
    if TABLE_BEGIN in text and TABLE_END in text:
        before, rest = text.split(TABLE_BEGIN, 1)
        after = rest.split(TABLE_END, 1)[1]
        pages[main] = f"{before}{TABLE_BEGIN}\n{table(specs)}\n{TABLE_END}{after}"
    return pages
