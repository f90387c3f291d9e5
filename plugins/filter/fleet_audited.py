# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether a run had a host at all: Ansible skips plays without one, and ends with 0."""

from __future__ import annotations

DOCUMENTATION = r"""
name: fleet_audited
short_description: Returns the pattern of the hosts that an audit reports on
version_added: 0.2.0
author:
  - The precog-fleet authors (@precog-fleet)
description:
  - An error if no play of this run had a host, so that a run that did nothing does not pass for a good one.
positional: _input, has_looked
options:
  _input:
    description: The variable C(groups).
    type: dict
    required: true
  has_looked:
    description: Whether a play had a host, which is when Ansible has the variable C(hostvars).
    type: bool
    required: true
"""

EXAMPLES = r"""
- name: Audit
  hosts: "{{ groups | precog.fleet.fleet_audited(hostvars is defined) }}"
"""

RETURN = r"""
_value:
  description: A pattern of groups.
  type: str
"""

from typing import TYPE_CHECKING, Any

from ansible import context
from ansible_collections.precog.fleet.plugins.plugin_utils._names import is_listing, stop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

FLEET = "precog"
MINERS = "miners"
BALANCERS = "load_balancers"
MOST = 5  # hosts that an error names


def fleet_audited(groups: Mapping[str, Sequence[str]], has_looked: bool) -> str:
    """Return the pattern of the hosts that an audit reports on.

    Ends the run where none had, so that nothing was audited.

    :param has_looked: whether a play of this run had a host.
    """
    if not has_looked and not is_listing():
        limit = context.CLIARGS.get("subset")
        some = ", ".join(list(groups.get(FLEET) or ())[:MOST]) or "none"
        reason = f"--limit {limit} names no host of the fleet" if limit else "no play has a host"
        stop(f"Nothing was done: {reason}. The first hosts of the group {FLEET}: {some}.")
    return ":".join([FLEET, MINERS, *(group for group in (BALANCERS,) if group in groups)])


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filter by its name."""
        return {"fleet_audited": fleet_audited}
