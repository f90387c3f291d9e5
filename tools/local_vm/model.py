"""What a fleet of virtual machines is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from local_fleet.model import FleetError, Problem, check_name, check_suite

# All that the guide tunes, and a reserve for turning swap off, fit into this.
DEFAULT_MEMORY = 1024
LEAST_MEMORY = 256


@dataclass(frozen=True)
class VmSpec:
    """A machine as the user asks for it: its name, the Debian suite it runs, and its memory in MiB."""

    name: str
    suite: str
    memory: int = DEFAULT_MEMORY


def parse_specs(words: Sequence[str]) -> list[VmSpec]:
    """Turns ``NAME=SUITE`` and ``NAME=SUITE,MEMORY`` words into specifications.

    Raises FleetError naming everything that is wrong with them at once.
    """
    specs: dict[str, VmSpec] = {}
    problems: list[Problem] = []
    for word in words:
        name, equals, rest = word.partition("=")
        suite, comma, memory = rest.partition(",")
        if not equals:
            problems.append(Problem(f"{word!r} is not NAME=SUITE[,MEMORY]", f"For example {word}=bookworm,1024."))
            continue
        problems += check_name("machine", name) + check_suite(suite)
        if name in specs:
            problems.append(Problem(f"machine {name!r} is named twice", "Give each machine a name of its own."))
        if comma and not (memory.isdecimal() and int(memory) >= LEAST_MEMORY):
            problems.append(Problem(f"{word!r}: {memory!r} is no memory", f"MiB, {LEAST_MEMORY} or more."))
            continue
        specs[name] = VmSpec(name, suite, int(memory) if comma else DEFAULT_MEMORY)
    if problems:
        raise FleetError(*problems)
    return list(specs.values())
