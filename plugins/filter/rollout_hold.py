# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Why a release has to wait: more miners can't be reached than the operator tolerates.

Runs on the control node, for playbooks/miner.yml.
"""

from __future__ import annotations

DOCUMENTATION = r"""
name: rollout_hold
short_description: Why a release has to wait for hosts that can't be reached
version_added: "0.1.0"
description:
  - Takes the names of the miners that could not be reached before a rollout, and returns why no release is rolled out
    to the others; an empty text where it may be.
options:
  _input:
    description: Names of the hosts.
    type: list
    elements: str
    required: true
  total:
    description: How many miners there are in all.
    type: int
    required: true
  tolerated:
    description: C(miner_rollout_tolerated), a number of hosts, or a share of all miners with a percent sign.
    type: raw
    required: true
"""

EXAMPLES = r"""
- name: Show whether a release has to wait
  ansible.builtin.debug:
    msg: "{{ ['miner-7'] | precog.fleet.rollout_hold(12, '5%') }}"
"""

RETURN = r"""
_value:
  description: Why it has to wait, and what to do; empty where it does not.
  type: str
"""

import re
from typing import TYPE_CHECKING, Any

from ansible.errors import AnsibleFilterError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SHOWN = 5  # hosts; of more, the number is given


def rollout_hold(unreached: Sequence[str], total: int, tolerated: Any) -> str:
    """Return why a release has to wait; "" where it does not.

    :raises AnsibleFilterError: *tolerated* is neither a number of hosts nor a share of them.
    """
    if len(unreached) <= allowed(tolerated, total):
        return ""
    names = ", ".join(unreached[:SHOWN])
    more = f" and {len(unreached) - SHOWN} more" if len(unreached) > SHOWN else ""
    left_out = ":!".join(["miners", *unreached])
    return (
        f"{len(unreached)} of {total} miners could not be reached ({names}{more}), and miner_rollout_tolerated is "
        f"{tolerated}. Repair them, leave them out with --limit '{left_out}', or allow as many with "
        f"-e miner_rollout_tolerated={len(unreached)}"
    )


def allowed(tolerated: Any, total: int) -> float:
    """Return how many hosts may be missing.

    :raises AnsibleFilterError: *tolerated* is neither a number of hosts nor a share of them.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(%?)", str(tolerated))
    if not found or isinstance(tolerated, bool):
        raise AnsibleFilterError(
            f"miner_rollout_tolerated is {tolerated!r}: give the number of hosts that may be missing (0, 2), or their "
            "share of all miners ('5%')"
        )
    return float(found[1]) * (total / 100 if found[2] else 1)


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return them by name."""
        return {"rollout_hold": rollout_hold}
