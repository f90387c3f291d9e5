#!/usr/bin/python
# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ansible module: see DOCUMENTATION."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_preflight
short_description: Tells whether a host is fit to be tuned
description:
  - Looks at everything that the roles of this collection rely on, in one call, and changes nothing.
  - Fails after looking at all of it, with a list of what is wrong and what to do about each.
  - Names other tools that tune the same settings (tuned, ufw's sysctl file, TLP and others) as warnings.
  - Works on a host where psutil is not installed.
version_added: 0.1.0
author:
  - The precog-fleet authors (@precog-fleet)
requirements:
  - Python 3.9 or later on the host; an earlier one is named as an error.
options:
  require_psutil:
    description:
      - Whether a missing psutil is an error. Otherwise it is a warning, as the role P(precog.fleet.preflight#role)
        installs it next.
      - For a Python that is not the system's own it is always an error, as no Debian package serves it.
    type: bool
    default: false
  minimum_disk_mb:
    description:
      - Required free space, in MB (1024 * 1024 bytes), by folder. A folder need not exist yet.
      - C(/etc) holds the managed files, C(/var/lib) the original values, packages and Python environments, C(/tmp)
        temporary files of Ansible and pip.
    type: dict
    default:
      /etc: 16
      /var/lib: 512
      /tmp: 64
  minimum_memory_mb:
    description: Required memory of the host, in MB.
    type: int
    default: 512
  minimum_available_memory_mb:
    description: Required memory that is available without swapping, in MB.
    type: int
    default: 64
  tolerate:
    description: Checks whose errors are reported as warnings.
    type: list
    elements: str
    choices: [os, python, privileges, systemd, proc_sys, disk, memory, psutil]
    default: []
seealso:
  - module: precog.fleet.psutil_facts
extends_documentation_fragment:
  - precog.fleet.attributes.read_only
  - precog.fleet.attributes.linux
"""

EXAMPLES = r"""
- name: Check that the host is fit to be tuned
  precog.fleet.host_preflight:

- name: Ask for more memory, and put up with another system
  precog.fleet.host_preflight:
    minimum_memory_mb: 4096
    tolerate: [os]
"""

RETURN = r"""
checks:
  description: Everything that was looked at. Also returned on failure.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: What was looked at, for instance V(os), V(disk:/tmp) or V(rivals:tuned).
      type: str
      returned: always
    ok:
      description: Whether it is as wanted.
      type: bool
      returned: always
    found:
      description: What is there.
      type: str
      returned: always
    wanted:
      description: What should be there.
      type: str
      returned: always
    severity:
      description: V(error) or V(warning), what it means, or would mean, that the check is not ok.
      type: str
      returned: always
    remedy:
      description: What to do where it isn't ok.
      type: str
      returned: always
  sample:
    - name: memory:total
      ok: true
      found: 3904 MB in all
      wanted: 512 MB in all
      severity: error
      remedy: ""
psutil:
  description: Whether the Python that runs the modules has psutil.
  returned: always
  type: dict
  contains:
    installed:
      description: Whether psutil can be imported.
      type: bool
      returned: always
    version:
      description: Its version, or null.
      type: str
      returned: always
    remedy:
      description: What to do about a missing one in one line, otherwise null.
      type: str
      returned: always
    previewable:
      description:
        - Whether M(ansible.builtin.apt) could say in check mode what it would install, as python3-apt is there.
      type: bool
      returned: always
"""

import importlib.util

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.precog.fleet.plugins.module_utils._engine.options import specification
from ansible_collections.precog.fleet.plugins.module_utils._host import psutil_facts
from ansible_collections.precog.fleet.plugins.module_utils._host.host import Host, HostError
from ansible_collections.precog.fleet.plugins.module_utils._settings import preflight
from ansible_collections.precog.fleet.plugins.module_utils._settings.preflight_options import OPTIONS


def psutil_state(facts: preflight.Facts) -> dict[str, object]:
    """Return what the role needs to know to install psutil."""
    return {
        "installed": facts.psutil is not None,
        "version": facts.psutil,
        "remedy": None if facts.psutil else psutil_facts.MISSING_REMEDY,
        "previewable": importlib.util.find_spec("apt") is not None,
    }


def warn(module: AnsibleModule, warnings: list[preflight.Check], facts: preflight.Facts) -> None:
    """Show the warnings, save that of a psutil that the role installs next; a check run says so instead."""
    installs = facts.psutil_packaged and not module.params["require_psutil"]
    for check in warnings:
        if not (installs and check.name == "psutil"):
            module.warn(preflight.describe(check))
        elif module.check_mode:
            module.warn("psutil is missing; a run without --check installs it")


def main() -> None:
    """Run the module."""
    module = AnsibleModule(specification(OPTIONS), supports_check_mode=True)
    try:
        wanted = preflight.understand(module.params)
    except HostError as error:
        module.fail_json(msg=str(error), settings=[])
    facts = preflight.collect(Host(), wanted.disk)
    checks = preflight.judge(facts, wanted)
    warn(module, preflight.failed(checks, preflight.WARNING), facts)
    result = {"checks": [check._asdict() for check in checks], "psutil": psutil_state(facts)}
    errors = preflight.failed(checks, preflight.ERROR)
    if errors:
        module.fail_json(msg=preflight.summary(errors), settings=[], **result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
