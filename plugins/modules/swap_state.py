#!/usr/bin/python
# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Turns swap areas off or on, now and at every boot, in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: swap_state
short_description: Turns swap off or on, now and at every boot
version_added: 0.1.0
author:
  - The precog-fleet authors (@precog-fleet)
description:
  - Turns all swap areas of a host off, if memory can take back what they hold, and keeps them off over a reboot.
  - Lines of C(/etc/fstab) are commented in place, with every other byte of it untouched. Swap units, those that
    C(zram-generator) and C(systemd-gpt-auto-generator) make included, are masked.
  - If memory does not allow it, the task fails with the figures, and all areas and files stay as they were.
  - Keeps the original state in a ledger on the host, and O(state=absent) gives it back. What others have changed in
    C(/etc/fstab) since stays; only this collection's marks are taken away.
  - Tells for each area what it is now, what the next boot gives, and what decides that.
  - In a container, swap belongs to the machine underneath and is left alone.
options:
  mode:
    description:
      - V(off) turns every area off, as the guide asks for, and is refused where memory does not allow it.
      - V(on) turns on the areas that the host's own configuration names.
      - V(untouched) changes nothing, and restores what an earlier run changed.
    type: str
    choices: ["off", "on", untouched]
    default: "off"
  memory_reserve_mb:
    description:
      - How much memory in MiB must stay available after all areas are turned off.
      - The default covers the kernel's own reserves, a login and one more process of a miner. With less, swapoff itself
        is the first process that the kernel kills when it runs out of memory.
    type: int
    default: 512
attributes:
  diff_mode:
    description: Shows the files, and the state of the areas.
requirements:
  - psutil for the facts in the report
extends_documentation_fragment:
  - precog.fleet.attributes
  - precog.fleet.attributes.tuning
  - precog.fleet.state
  - precog.fleet.on_unsupported
  - precog.fleet.shared_kernel
"""

EXAMPLES = r"""
- name: Turn swap off where at least 1 GiB of memory stays available
  precog.fleet.swap_state:
    memory_reserve_mb: 1024

- name: Give everything back
  precog.fleet.swap_state:
    state: absent
"""

RETURN = r"""
settings:
  description: One row for each area; a single one named V(swap) where there is no area, or the kernel is shared.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: V(swap:) and the area's device or file.
      type: str
    desired:
      description: V(off) or V(on); null where the original is restored.
      type: str
    before:
      description: The state before this run, V(off) or V(on pri=N).
      type: str
    after:
      description: The state read again after this run.
      type: str
    persisted_before:
      description: What the next boot would have given before this run.
      type: str
    persisted:
      description: What the next boot gives.
      type: str
    persisted_by:
      description: The file, with its line in C(/etc/fstab), that turns it on at boot or keeps it off.
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
  description:
    - Memory and swap of the host, V(before) and V(after) this run; C(error) in them tells where psutil is missing.
  returned: always
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.precog.fleet.plugins.module_utils._engine.module import tune
from ansible_collections.precog.fleet.plugins.module_utils._engine.options import specification
from ansible_collections.precog.fleet.plugins.module_utils._host import psutil_facts
from ansible_collections.precog.fleet.plugins.module_utils._host.host import Host
from ansible_collections.precog.fleet.plugins.module_utils._settings.swap import swap
from ansible_collections.precog.fleet.plugins.module_utils._settings.swap.options import OPTIONS

FACTS = ("virtual_memory", "swap_memory")


def main() -> None:
    """Run the module."""
    module = AnsibleModule(specification(OPTIONS), supports_check_mode=True)
    before = psutil_facts.facts(FACTS)
    tune(
        module,
        Host(),
        lambda: [swap.subsystem(module.params)],
        lambda changed: {"before": before, "after": psutil_facts.facts(FACTS) if changed else before},
    )


if __name__ == "__main__":
    main()
