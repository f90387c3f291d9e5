# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How long the load balancers of a fleet take to see that an instance is drained, and that it is back.

Runs on the control node, for the role miner_service, which knows nothing of the role load_balancer but its variables.
"""

from __future__ import annotations

DOCUMENTATION = r"""
name: load_balancer_timing
short_description: How long load balancers take to see a change
version_added: "0.1.0"
description:
  - Takes the variables of the hosts that a load balancer runs on and returns the options of C(miner_service_gate) that
    make a rollout wait for the slowest of them. Without such a host it returns none.
options:
  _input:
    description: Variables of the hosts, as C(hostvars) has them.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Show how long a rollout waits
  ansible.builtin.debug:
    msg: "{{ groups['load_balancers'] | map('extract', hostvars) | precog.fleet.load_balancer_timing }}"
"""

RETURN = r"""
_value:
  description: C(drain_s) and C(rejoin_s), seconds; nothing where there is no balancer.
  type: dict
"""

from typing import TYPE_CHECKING, Any

from ansible.errors import AnsibleFilterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

# As the role load_balancer has them.
INTERVAL = ("load_balancer_check_interval_ms", 500)
CONNECT = ("load_balancer_connect_timeout_ms", 1000)
# Checks that it takes. In: `rise` of the role's template. Out: one, and less than another for the quick ones that
# follow the 503 of a release from before drained instances said 404.
CHECKS = 2


def load_balancer_timing(hosts: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return how long a rollout has to wait, as options of the gate.

    :raises AnsibleFilterError: a variable is no number.
    """
    balancers = [about for about in hosts if about.get("load_balancer_state", "present") == "present"]
    if not balancers:
        return {}
    slowest_s = max(map(_seconds, balancers))
    return {"drain_s": slowest_s, "rejoin_s": slowest_s}


def _seconds(about: Mapping[str, Any]) -> float:
    """Return how long a balancer takes; its last check may take as long as an answer may."""
    return (CHECKS * _amount(about, *INTERVAL) + _amount(about, *CONNECT)) / 1000


def _amount(about: Mapping[str, Any], name: str, default: int) -> float:
    value = about.get(name, default)
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        host = about.get("inventory_hostname", "a load balancer")
        raise AnsibleFilterError(f"{name} of {host} is {value!r}: give a number of milliseconds") from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return them by name."""
        return {"load_balancer_timing": load_balancer_timing}
