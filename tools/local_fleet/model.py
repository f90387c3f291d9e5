"""What a fleet is made of, and the one kind of error its commands end with."""

from __future__ import annotations

import re
from dataclasses import dataclass

SUITES = ("bullseye", "bookworm", "trixie")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and what the user does about it."""

    what: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.what}\n  {self.remedy}" if self.remedy else self.what


class FleetError(Exception):
    """One or more problems the user can act on; never shown as a traceback."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


@dataclass(frozen=True, order=True)
class HostSpec:
    """A host as the user asks for it: its name and the Debian suite it runs."""

    name: str
    suite: str


@dataclass(frozen=True, order=True)
class Host:
    """A host as it is: a container, its place in a fleet and where its sshd listens on 127.0.0.1."""

    fleet: str
    name: str
    suite: str
    port: int
    image: str
    container: str
    running: bool


def check_name(kind: str, name: str) -> list[Problem]:
    """The problems with *name* as the name of a fleet or host (*kind* says which); empty when it is fine."""
    if _NAME.fullmatch(name):
        return []
    return [
        Problem(f"{name!r} can't be the name of a {kind}", "Use up to 40 lower-case letters, digits and inner hyphens.")
    ]


def parse_specs(words: list[str]) -> list[HostSpec]:
    """Turns ``NAME=SUITE`` words into host specifications.

    Raises FleetError naming every malformed word, unknown suite and duplicate at once.
    """
    specs: dict[str, HostSpec] = {}
    problems: list[Problem] = []
    for word in words:
        name, equals, suite = word.partition("=")
        if not equals:
            problems.append(Problem(f"{word!r} is not NAME=SUITE", f"For example {word}={SUITES[-1]}."))
            continue
        problems += check_name("host", name) + check_suite(suite)
        if name in specs:
            problems.append(Problem(f"host {name!r} is named twice", "Give each host a name of its own."))
        specs[name] = HostSpec(name, suite)
    if problems:
        raise FleetError(*problems)
    return list(specs.values())


def check_suite(suite: str) -> list[Problem]:
    """The problems with *suite* as the name of a Debian release; empty when it is fine."""
    if suite in SUITES:
        return []
    return [Problem(f"{suite!r} is no suite this tool builds", f"Use one of: {', '.join(SUITES)}.")]
