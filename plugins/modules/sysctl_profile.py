#!/usr/bin/python
# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Applies a whole profile of kernel values in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: sysctl_profile
short_description: Applies a profile of kernel values in one call, and makes it last
version_added: 0.1.0
author:
  - The precog-fleet authors (@precog-fleet)
description:
  - Brings a whole set of sysctl keys, and the mode of transparent huge pages, to the values wanted, now and at every
    boot, with one write for each key that differs.
  - Writes only the keys of the profile, in one file of its own in C(/etc/sysctl.d), and no other key is touched or
    reloaded.
  - Tells for each key what it is now, what the next boot gives, and which file decides that, for C(systemd-sysctl)
    and for C(sysctl --system).
  - Keeps the original values and files in a ledger on the host, and O(state=absent) gives them back.
  - In a container, what belongs to the kernel of the machine underneath is left alone.
options:
  profile:
    description:
      - V(guide) has the values of the Precog performance guide.
      - V(bandwidth_delay) computes socket buffers from the host's memory and the product of O(bandwidth_mbit) and
        O(round_trip_ms), never below what the kernel had.
      - V(none) has no values; only O(parameters) are applied.
    type: str
    choices: [guide, bandwidth_delay, none]
    default: guide
  parameters:
    description:
      - Keys and values merged over the profile, so that a file in host_vars changes one value and repeats no other. A
        value is a number, a text, or a list of fields.
      - V(null) takes a key out of the profile.
    type: dict
    default: {}
  bandwidth_mbit:
    description: For O(profile=bandwidth_delay), the bandwidth of the path in Mbit/s.
    type: int
    default: 1000
  round_trip_ms:
    description: For O(profile=bandwidth_delay), the round-trip time of the path in milliseconds.
    type: int
    default: 100
  transparent_hugepage:
    description: >-
      The mode of transparent huge pages. V(unmanaged), as the guide names no mode, leaves it alone, and restores it if
      an earlier run set it.
    type: str
    choices: [unmanaged, always, madvise, never]
    default: unmanaged
  name:
    description:
      - Name of the managed files in C(/etc/sysctl.d) and C(/etc/modules-load.d), without C(.conf).
      - It has to sort behind the files that it overrides. The default sorts behind C(99-sysctl.conf) of Debian.
    type: str
    default: 99-zz-precog-fleet
  only_file:
    description: >-
      Whether this module manages no other file on this host. A file by another O(name) is then a warning, and fails the
      task where O(state) is V(absent), as its values are still in force.
    type: bool
    default: false
attributes:
  check_mode:
    description: Plans without applying. What the kernel would refuse is tried in throw-away namespaces.
  diff_mode:
    description: Shows the files, and the values of the kernel.
requirements:
  - psutil for the facts in the report, and for O(profile=bandwidth_delay)
extends_documentation_fragment:
  - precog.fleet.attributes
  - precog.fleet.attributes.tuning
  - precog.fleet.state
  - precog.fleet.on_unsupported
  - precog.fleet.shared_kernel
"""

EXAMPLES = r"""
- name: Apply the guide's values, with one key changed and one left alone
  precog.fleet.sysctl_profile:
    parameters:
      vm.swappiness: 1
      net.ipv4.tcp_wmem: null

- name: Give everything back
  precog.fleet.sysctl_profile:
    state: absent
"""

RETURN = r"""
settings:
  description: One row for each setting.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: The key, or V(transparent_hugepage).
      type: str
    desired:
      description: The expected value; null where the original is restored.
      type: str
    before:
      description: The value before this run.
      type: str
    after:
      description: The value read again after this run.
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
  description: Memory, swap and network counters of the host; C(error) tells where psutil is missing.
  returned: always
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.precog.fleet.plugins.module_utils._engine.module import tune
from ansible_collections.precog.fleet.plugins.module_utils._engine.options import specification
from ansible_collections.precog.fleet.plugins.module_utils._host import psutil_facts
from ansible_collections.precog.fleet.plugins.module_utils._host.host import Host
from ansible_collections.precog.fleet.plugins.module_utils._settings.kernel_tuning import subsystems
from ansible_collections.precog.fleet.plugins.module_utils._settings.sysctl.options import OPTIONS


def main() -> None:
    """Run the module."""
    module = AnsibleModule(specification(OPTIONS), supports_check_mode=True)
    facts = psutil_facts.facts(["virtual_memory", "swap_memory", "net_io"])
    tune(module, Host(), lambda: subsystems(module.params, facts), lambda _changed: facts)


if __name__ == "__main__":
    main()
