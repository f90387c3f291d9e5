# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether a run can mean what was typed: its groups, its tags. Asked by a play's `hosts`, so before any host."""

from __future__ import annotations

DOCUMENTATION = r"""
name: fleet_group
short_description: Returns a group's name, if the inventory and the command line can be meant as they are
version_added: 0.2.0
author:
  - The precog-fleet authors (@precog-fleet)
description:
  - Ansible skips a play whose group does not exist, and each task whose tag was not asked for, and ends with 0. This
    filter is an error instead where the inventory has no host in the group C(precog), where it has a group
    C(miner) and none called C(miners), and where the command line names a tag that no task of this collection has.
  - Tags are looked at if the playbook is one of this collection; in another one, tasks of others may have them.
  - With C(--syntax-check) and the options that list something it only returns the name.
positional: _input, name
options:
  _input:
    description: The variable C(groups).
    type: dict
    required: true
  name:
    description: The group to return.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Tune the hosts
  hosts: "{{ groups | precog.fleet.fleet_group('precog') }}"
"""

RETURN = r"""
_value:
  description: The name.
  type: str
"""

import os
from typing import TYPE_CHECKING, Any

from ansible import context
from ansible_collections.precog.fleet.plugins.plugin_utils import _names as names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

FLEET = "precog"
MINERS = "miners"


def fleet_group(groups: Mapping[str, Sequence[str]], name: str) -> str:
    """Return the name of a group.

    Ends the run where the inventory or the command line is mistyped.
    """
    arguments = context.CLIARGS
    if names.is_listing():
        return name
    problems = group_problems(groups)
    if all(is_ours(str(playbook)) for playbook in arguments.get("args") or ()):
        problems += tag_problems([*(arguments.get("tags") or ()), *(arguments.get("skip_tags") or ())])
    if problems:
        names.stop("\n".join([*problems, "Nothing was touched."]))
    return name


def group_problems(groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Return what is wrong with the groups of an inventory. Pure."""
    found = []
    for group in (FLEET, MINERS):
        alike = [name for name in groups if names.mistyped(name, group) and groups[name]]
        if not groups.get(group) and alike:
            found.append(f"The inventory has a group {alike[0]}, but no host in a group {group}: rename it to {group}.")
        elif group == FLEET and not groups.get(group):
            told = ", ".join(sorted(set(groups) - {"all", "ungrouped"})) or "none"
            found.append(f"The inventory has no host in the group {FLEET} (its groups: {told}): put the hosts there.")
    return found


def tag_problems(tags: Iterable[str]) -> list[str]:
    """Return which tags no task has. Pure."""
    known = names.tags()
    listed = ", ".join(sorted(known - names.SPECIAL_TAGS))
    given = [tag.strip() for text in tags for tag in str(text).split(",") if tag.strip()]
    return [f"No task has the tag {tag} (the tags: {listed})." for tag in given if tag not in known]


def is_ours(playbook: str) -> bool:
    """Tell whether a playbook, as the command line names it, is one of this collection or its repository."""
    if playbook.startswith("precog.fleet."):
        return True
    path, top = os.path.realpath(playbook), str(names.COLLECTION)
    return os.path.dirname(path) == os.path.join(top, "playbooks") or path == os.path.join(top, "site.yml")


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by their names."""
        return {"fleet_group": fleet_group}
