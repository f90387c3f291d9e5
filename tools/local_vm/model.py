"""What a fleet of virtual machines is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from local_fleet import model
from local_fleet.model import FleetError, HostSpec, Problem

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
    cut = [word.partition(",") for word in words]
    problems = [
        Problem(f"{word!r}: {memory!r} is no memory", f"MiB, {LEAST_MEMORY} or more.")
        for word, (_, comma, memory) in zip(words, cut, strict=True)
        if comma and not (memory.isdecimal() and int(memory) >= LEAST_MEMORY)
    ]
    hosts: list[HostSpec] = []
    try:
        hosts = model.parse_specs([host for host, _, _ in cut])
    except FleetError as error:
        problems += error.problems
    if problems:
        raise FleetError(*problems)
    return [
        VmSpec(host.name, host.suite, int(memory) if memory else DEFAULT_MEMORY)
        for host, (_, _, memory) in zip(hosts, cut, strict=True)
    ]
