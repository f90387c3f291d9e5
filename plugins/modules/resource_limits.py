#!/usr/bin/python
# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Brings the limits of logins and services to a profile in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: resource_limits
short_description: Brings the limits of logins, of all services and of single ones to a profile, and makes them last
version_added: 0.1.0
author:
  - The precog-fleet authors (@precog-fleet)
description:
  - Writes the limits of logins to one file of its own in C(/etc/security/limits.d), the defaults of all services to one
    in C(/etc/systemd/system.conf.d), and those of single services to a drop-in of each.
  - Tells for each limit what it is, what the next boot gives, and which line decides that.
  - Refuses open files above C(fs.nr_open), of now and of the next boot, before anything is written.
  - Compares with the limits of running processes and tells what a restart would change. It restarts nothing.
  - Keeps the original files in a ledger on the host, and O(state=absent) gives them back.
options:
  profile:
    description:
      - V(guide) has the open files of the Precog performance guide, 65536 soft and hard, for V(*), for root (whom V(*)
        does not cover) and for all services.
      - V(none) has no values.
    type: str
    choices: [guide, none]
    default: guide
  parameters:
    description:
      - Limits of logins, by domain of limits.conf (a user, C(@group), C(*) or a range of numbers) and item, merged over
        the profile.
      - A value is a number for soft and hard, V(unlimited), V(soft:hard), or a dictionary of C(soft) and C(hard), in
        the unit that limits.conf has for the item, here and in the other options.
      - V(null) for an item or a domain takes it out of the profile.
    type: dict
    default: {}
  systemd:
    description: Default limits of all services by item, merged over the profile. V(null) takes one out.
    type: dict
    default: {}
  services:
    description: Limits by service and item, in a drop-in of each service. The service must exist; it is not restarted.
    type: dict
    default: {}
requirements:
  - psutil for the facts in the report
extends_documentation_fragment:
  - precog.fleet.attributes
  - precog.fleet.attributes.tuning
  - precog.fleet.state
  - precog.fleet.on_unsupported
"""

EXAMPLES = r"""
- name: The guide's limits, more locked memory for one user, and limits of one service
  precog.fleet.resource_limits:
    parameters:
      miner:
        memlock: unlimited
        nproc: "4096:8192"
    services:
      precog-miner.service:
        nofile: {soft: 65536, hard: 131072}

- name: Give everything back
  precog.fleet.resource_limits:
    state: absent
"""

RETURN = r"""
settings:
  description: One row for each limit.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: V(pam:DOMAIN:ITEM), V(systemd:DefaultLimitITEM) or V(unit:NAME:LimitITEM).
      type: str
    desired:
      description: >-
        The expected value as V(soft:hard), of logins in the units of limits.conf, of services in the kernel's; null
        where the original is restored.
      type: str
    before:
      description: What a login got, or systemd had loaded, before this run.
      type: str
    after:
      description: The same, read again after this run.
      type: str
    persisted_before:
      description: What the next boot would have given before this run; null where no file says.
      type: str
    persisted:
      description: What the next boot gives.
      type: str
    persisted_by:
      description: File and line that decide it.
      type: str
    status:
      description: One of ok, changed, drifted, overridden, unsupported, unknown, refused.
      type: str
    reason:
      description: Why, and what to do.
      type: str
summary:
  description: How many settings have each status.
  returned: always
  type: dict
psutil:
  description: >-
    Of each service in O(services) its processes with their limits and open files; C(error) tells where psutil is
    missing.
  returned: always
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.precog.fleet.plugins.module_utils._engine.module import tune
from ansible_collections.precog.fleet.plugins.module_utils._engine.options import specification
from ansible_collections.precog.fleet.plugins.module_utils._host.host import Host
from ansible_collections.precog.fleet.plugins.module_utils._settings.limits import limits
from ansible_collections.precog.fleet.plugins.module_utils._settings.limits.options import OPTIONS


def main() -> None:
    """Run the module."""
    module = AnsibleModule(specification(OPTIONS), supports_check_mode=True)
    host = Host()
    tune(module, host, lambda: limits.subsystems(module.params), lambda _changed: limits.facts(host, module.params))


if __name__ == "__main__":
    main()
