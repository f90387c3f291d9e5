#!/usr/bin/python
# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Tells whether a host is as the roles want it, in one round trip, changing nothing."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_audit
short_description: Tells whether a host is as the tuning roles want it, changing nothing
version_added: 0.1.0
author:
  - The precog-fleet authors (@precog-fleet)
description:
  - Makes the plan of every tuning role, with the same code as their modules, and carries none out.
  - Tells for each setting whether it is as wanted, has drifted at run time or on disk, is overridden by a file of
    somebody else, or can't be had on this host.
  - A host that can't be looked at is told as unreachable, so that C(ansible-playbook) ends with 4 there, and with 2
    where something drifted.
options:
  kernel_tuning:
    description: Arguments of M(precog.fleet.sysctl_profile). Without it that part is left out.
    type: dict
  limits:
    description: Arguments of M(precog.fleet.resource_limits). Without it that part is left out.
    type: dict
  cpu_governor:
    description: Arguments of M(precog.fleet.cpu_governor). Without it that part is left out.
    type: dict
  swap:
    description: Arguments of M(precog.fleet.swap_state). Without it that part is left out.
    type: dict
  fail_on_drift:
    description: Whether a setting that is not as wanted fails the task.
    type: bool
    default: true
attributes:
  check_mode:
    support: full
    description: Nothing is ever changed.
  diff_mode:
    support: none
    description: There is nothing to show.
  platform:
    support: full
    platforms: linux
    description: Linux with systemd.
requirements:
  - psutil for the facts in the report
"""

EXAMPLES = r"""
- name: Tell whether the guide's kernel values are in force
  precog.fleet.host_audit:
    kernel_tuning:
      profile: guide
"""

RETURN = r"""
schema:
  description: Version of this form; docs/report.schema.json describes it.
  returned: always
  type: int
settings:
  description: >-
    One row for each setting, as the tuning modules return it, with C(part), the role, and C(where), what drifted:
    run time, disk, or both.
  returned: always
  type: list
  elements: dict
summary:
  description: How many settings have each status.
  returned: always
  type: dict
unclean:
  description: The parts in which a run of the role would do something, or fail.
  returned: always
  type: list
  elements: str
errors:
  description: Why a part could not be looked at.
  returned: always
  type: dict
psutil:
  description: Memory, swap and network counters of the host.
  returned: always
  type: dict
"""

import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.precog.fleet.plugins.module_utils import _audit, _psutil
from ansible_collections.precog.fleet.plugins.module_utils._host import Host

ARGUMENTS: dict[str, Any] = {
    **{name: {"type": "dict"} for name in _audit.PARTS},
    "fail_on_drift": {"type": "bool", "default": True},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(ARGUMENTS, supports_check_mode=True)
    if os.geteuid() != 0:
        module.fail_json(msg="root is needed to see all of a host: run with become: true", settings=[], unclean=[])
    facts = _psutil.facts(["virtual_memory", "swap_memory", "net_io"])
    host = Host()
    wanted = {name: params for name, params in module.params.items() if name in _audit.PARTS and params is not None}
    findings = {name: _audit.look(host, name, _checked(module, name, wanted[name]), facts) for name in wanted}
    for warning in [warning for finding in findings.values() for warning in finding.warnings]:
        module.warn(warning)
    result = {**_audit.result(findings), "psutil": facts}
    if result["errors"]:
        module.fail_json(msg="; ".join(dict.fromkeys(result["errors"].values())), **result)
    if result["unclean"] and module.params["fail_on_drift"]:
        module.fail_json(msg=_audit.told(result["settings"]), **result)
    module.exit_json(**result)


def _checked(module: AnsibleModule, name: str, params: dict[str, Any]) -> dict[str, Any]:
    """Return a part's arguments with defaults, checked as its own module would."""
    from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

    checked = ArgumentSpecValidator(_audit.PARTS[name].arguments).validate(params)
    if checked.error_messages:
        module.fail_json(msg=f"{name}: {'; '.join(checked.error_messages)}", settings=[], unclean=[])
    return dict(checked.validated_parameters)


if __name__ == "__main__":
    main()
