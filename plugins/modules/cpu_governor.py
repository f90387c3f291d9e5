#!/usr/bin/python
# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Sets the CPU governor and what goes with it, for every cpufreq policy in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cpu_governor
short_description: Sets CPU governor, energy preference, frequency limits and boost, and makes them last
version_added: 0.1.0
author:
  - The precog-fleet authors (@precog-fleet)
description:
  - Brings every cpufreq policy (the processors that share one frequency) to the governor wanted, now and at every boot,
    and where asked to an energy preference, frequency limits, and boost.
  - Makes them last by a unit of its own, C(precog-fleet-cpu.service), which runs after the other tools that set
    frequencies.
  - Names such tools (tuned, power-profiles-daemon, TLP, auto-cpufreq and others) where they set the governor again.
  - Keeps the original values in a ledger on the host, and O(state=absent) gives them back.
  - In a container, the frequencies are those of the machine underneath and are left alone.
options:
  governor:
    description:
      - The governor of every policy. V(unmanaged) leaves it alone, and restores it if an earlier run set it.
      - In active mode (C(intel_pstate), C(amd-pstate-epp)) only V(performance) and V(powersave) exist. Elsewhere the
        kernel may load a governor that it does not list yet.
    type: str
    default: performance
  energy_performance_preference:
    description:
      - The energy preference (EPP) of every policy, one of the words that the driver lists.
      - In active mode O(governor=performance) holds it at V(performance), and any other is refused.
      - V(unmanaged) leaves it alone, and restores it if an earlier run set it.
    type: str
    default: unmanaged
  scaling_min_freq:
    description: Lower limit of the frequency in kHz. Without it, the limit is left alone.
    type: int
  scaling_max_freq:
    description: Upper limit of the frequency in kHz. Without it, the limit is left alone.
    type: int
  boost:
    description:
      - Frequencies above the nominal one (turbo), for all processors.
      - V(unmanaged) leaves it alone, and restores it if an earlier run set it.
    type: str
    choices: [unmanaged, enabled, disabled]
    default: unmanaged
  required:
    description: >-
      Whether a host without frequency scaling of its own (a container, most virtual machines) fails the task.
    type: bool
    default: false
attributes:
  check_mode:
    description: Plans without applying. What only the kernel knows, as whether a governor has a module, is not told.
  diff_mode:
    description: Shows the files, and the values of the kernel.
requirements:
  - psutil for the facts in the report
seealso:
  - module: precog.fleet.sysctl_profile
extends_documentation_fragment:
  - precog.fleet.attributes
  - precog.fleet.attributes.tuning
  - precog.fleet.state
  - precog.fleet.shared_kernel
"""

EXAMPLES = r"""
- name: Run at full speed
  precog.fleet.cpu_governor:

- name: Fail where that is not possible, and turn turbo off for even answer times
  precog.fleet.cpu_governor:
    required: true
    boost: disabled

- name: Let the hardware choose, with a preference
  precog.fleet.cpu_governor:
    governor: powersave
    energy_performance_preference: balance_performance

- name: Give everything back
  precog.fleet.cpu_governor:
    state: absent
"""

RETURN = r"""
settings:
  description:
    - One row for each setting of each policy, as V(policy0:governor), and one for V(boost).
    - Where there is no frequency scaling, one row V(cpufreq).
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: The setting.
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
      description: What our unit would have set at the next boot before this run; null where it does not say.
      type: str
    persisted:
      description: What our unit sets at the next boot.
      type: str
    persisted_by:
      description: File and line that set it.
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
    - Frequencies in MHz as psutil sees them, with C(current), C(min) and C(max), in C(before) and C(after).
    - These are null where the host has none; C(error) tells where psutil is missing.
  returned: always
  type: dict
  sample:
    cpu_freq:
      before: {current: 1200.0, min: 800.0, max: 3600.0}
      after: {current: 3600.0, min: 800.0, max: 3600.0}
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.precog.fleet.plugins.module_utils._engine.module import tune
from ansible_collections.precog.fleet.plugins.module_utils._engine.options import specification
from ansible_collections.precog.fleet.plugins.module_utils._host import psutil_facts
from ansible_collections.precog.fleet.plugins.module_utils._host.host import Host
from ansible_collections.precog.fleet.plugins.module_utils._settings.sysfs import cpufreq
from ansible_collections.precog.fleet.plugins.module_utils._settings.sysfs.options import OPTIONS


def frequencies(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Return what the report tells of psutil, from its facts `cpu` before and after the run."""
    if "error" in before:
        return before
    return {"cpu_freq": {"before": before["cpu"]["frequency_mhz"], "after": after["cpu"]["frequency_mhz"]}}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(specification(OPTIONS), supports_check_mode=True)
    before = psutil_facts.facts(["cpu"])
    tune(
        module,
        Host(),
        lambda: [cpufreq.subsystem(module.params)],
        lambda changed: frequencies(before, psutil_facts.facts(["cpu"]) if changed else before),
    )


if __name__ == "__main__":
    main()
