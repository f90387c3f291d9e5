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
  - Fails nothing because of what it found. It fails where the host can't be looked at.
options:
  preflight:
    description:
      - Arguments of M(precog.fleet.host_preflight). Without it that part is left out.
      - Where that module would fail, or psutil is to be installed, nothing else is looked at, and all parts are told
        as C(unclean). What it would warn of is a warning here too.
    type: dict
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
attributes:
  platform:
    description: Linux with systemd.
requirements:
  - psutil for the facts in the report
extends_documentation_fragment:
  - precog.fleet.attributes.read_only
  - precog.fleet.attributes.linux
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
  description: The parts in which a run of the role would do something, or fail, as far as was looked.
  returned: always
  type: list
  elements: str
errors:
  description: Why a part could not be looked at.
  returned: always
  type: dict
machine:
  description: What tells this machine from any other while it runs; empty where that is not known.
  returned: always
  type: str
psutil:
  description: Memory, swap and network counters of the host.
  returned: always
  type: dict
"""

import base64
import importlib
import json
import os
import sys
from typing import Any

# Ansible puts the arguments here as JSON (its module style JSONARGS). No JSON has three quotes in a row.
ARGUMENTS = r"""<<INCLUDE_ANSIBLE_MODULE_JSON_ARGS>>"""
CODE = "ansible_collections.precog.fleet.plugins.module_utils"


def main() -> None:
    """Run the module, with code of the collection alone, which the action plugin sends along.

    Loading what an AnsibleModule needs takes longer on the host than the audit, and choosing what of Ansible has to be
    sent takes longer on the control node.
    """
    arguments: dict[str, Any] = json.loads(ARGUMENTS)
    # A file without a name: nothing is left on the host, whatever happens.
    archive = os.memfd_create("host_audit")
    with open(archive, "wb", closefd=False) as file:
        file.write(base64.b64decode(arguments["code"]))
    sys.path.insert(0, f"/proc/self/fd/{archive}")
    audit = importlib.import_module(f"{CODE}._settings.audit")
    result = audit.run(arguments["parts"])
    text = json.dumps(result, ensure_ascii=False)
    # Names of files need not be text.
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").encode())


def declare() -> None:
    """Tell ansible-test, which holds them against the documentation, which arguments there are."""
    specification = importlib.import_module(f"{CODE}._settings.parts").AUDIT
    importlib.import_module("ansible.module_utils.basic").AnsibleModule(specification, supports_check_mode=True)


if __name__ == "__main__":
    main() if ARGUMENTS.startswith("{") else declare()
