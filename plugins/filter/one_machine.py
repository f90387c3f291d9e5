# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which hosts of an inventory are one machine: each run would undo what the run before did under the other name.

Runs on the control node, for the playbooks' tasks/one_machine.yml.
"""

from __future__ import annotations

DOCUMENTATION = r"""
name: one_machine
short_description: Which hosts of an inventory are one machine
version_added: "0.1.0"
description:
  - Takes what identifies the machine of each host, and returns the message for the operator if several hosts are the
    same machine, or an empty text.
options:
  _input:
    description: What identifies the machine of each host, by the name in the inventory; empty where it is not known.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show which hosts are one machine
  ansible.builtin.debug:
    msg: "{{ {'miner-1': audit_result.machine} | precog.fleet.one_machine }}"
"""

RETURN = r"""
_value:
  description: Which names stand for one machine, and what to do; empty where none do.
  type: str
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def one_machine(machines: Mapping[str, str]) -> str:
    """Return which names of the inventory are one machine, and what to do; "" where none are."""
    names: dict[str, list[str]] = {}
    for name, machine in machines.items():
        if machine:
            names.setdefault(machine, []).append(name)
    twins = [sorted(group) for group in names.values() if len(group) > 1]
    if not twins:
        return ""
    lines = [f"{', '.join(group)} are one machine (same machine id and boot)" for group in sorted(twins)]
    return "\n".join(
        [
            *lines[:7],
            *([f"and {len(lines) - 7} more machines"] if len(lines) > 7 else []),
            "Each name would undo what the other sets. Nothing was done. Keep one name of each in the inventory.",
        ]
    )


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return them by name."""
        return {"one_machine": one_machine}
