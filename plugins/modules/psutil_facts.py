#!/usr/bin/python
# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ansible module: see DOCUMENTATION."""

from __future__ import annotations

DOCUMENTATION = r"""
module: psutil_facts
short_description: Facts of a host and of one service through psutil
description:
  - Returns processors, memory, swap, disks, network counters and the time of boot as psutil sees them.
  - Returns what the processes of a service really got, too, such as their limits and open files.
version_added: 0.1.0
author:
  - The precog-fleet authors (@precog-fleet)
requirements:
  - psutil for the Python that runs the module (python3-psutil on Debian)
options:
  subset:
    description: The facts to return. What is left out costs nothing.
    type: list
    elements: str
    choices: [cpu, virtual_memory, swap_memory, disks, net_io, boot_time]
    default: [cpu, virtual_memory, swap_memory, disks, net_io, boot_time]
  service:
    description:
      - A systemd unit whose main process and descendants are to be described, for instance V(cron.service).
      - One that doesn't exist or doesn't run is no error. The facts then say so.
    type: str
attributes:
  facts:
    description: Returns an C(ansible_facts) dictionary that sets facts of the host.
    support: full
seealso:
  - module: precog.fleet.host_preflight
notes:
  - Sizes are bytes, frequencies MHz, points in time seconds since the epoch.
  - In a container, processors, memory, swap and the time of boot are those of the machine underneath.
extends_documentation_fragment:
  - precog.fleet.attributes.read_only
  - precog.fleet.attributes.linux
"""

EXAMPLES = r"""
- name: Look at the memory
  precog.fleet.psutil_facts:
    subset: [virtual_memory, swap_memory]

- name: Look at a service only
  precog.fleet.psutil_facts:
    subset: []
    service: ssh.service

- name: Show the limits that the service got
  ansible.builtin.debug:
    msg: "{{ ansible_facts['precog_psutil']['service']['processes'][0]['rlimits']['nofile'] }}"
"""

RETURN = r"""
ansible_facts:
  description: The facts, all below one name.
  returned: success
  type: dict
  contains:
    precog_psutil:
      description: What was asked for.
      returned: success
      type: dict
      contains:
        cpu:
          description:
            - C(logical) and C(physical) count the processors.
            - C(frequency_mhz) has C(current), C(min), C(max), and is null where the host doesn't tell.
            - C(load_average) covers 1, 5 and 15 minutes, C(percent_since_boot) all time since boot.
          returned: when asked for
          type: dict
          sample:
            logical: 4
            physical: 2
            frequency_mhz: {current: 2400.0, min: 800.0, max: 3600.0}
            load_average: [0.1, 0.2, 0.1]
            percent_since_boot: 3.4
        virtual_memory:
          description: Memory in bytes, with C(percent) used.
          returned: when asked for
          type: dict
          sample: {total: 4093616128, available: 3312054272, used: 508624896, percent: 19.1}
        swap_memory:
          description: Swap in bytes, with C(percent) used. C(sin) and C(sout) went in and out since boot.
          returned: when asked for
          type: dict
          sample: {total: 1023406080, used: 0, free: 1023406080, percent: 0.0, sin: 0, sout: 0}
        disks:
          description:
            - File systems on disks, and the root whatever it is on, in bytes.
            - Network file systems, images and what can't be looked at are left out.
          returned: when asked for
          type: list
          elements: dict
          sample:
            - device: /dev/vda1
              mountpoint: /
              fstype: ext4
              options: rw,relatime
              total: 10434662400
              used: 2168832000
              free: 7713947648
              percent: 21.9
        net_io:
          description:
            - Counters of the network interfaces, in C(total) (the loopback included) and by name in C(nics).
          returned: when asked for
          type: dict
          sample:
            total: {bytes_sent: 840, bytes_recv: 840, packets_sent: 10, packets_recv: 10}
            nics:
              lo: {bytes_sent: 840, bytes_recv: 840, packets_sent: 10, packets_recv: 10}
        boot_time:
          description: When the kernel started, in seconds since the epoch.
          returned: when asked for
          type: float
          sample: 1767225600.0
        service:
          description:
            - The unit, its states, and its processes, the main one first.
            - C(running) is false and C(reason) says why where there is no process.
            - C(rlimits) are the limits in force by the names of limits.conf, in the units of setrlimit(2).
              V(-1) is unlimited.
            - C(open_files) counts open descriptors, and is null where only the owner may know. C(rss) is bytes.
          returned: when O(service) is given
          type: dict
          sample:
            unit: ssh.service
            running: true
            reason: null
            load_state: loaded
            active_state: active
            sub_state: running
            main_pid: 213
            control_group: /system.slice/ssh.service
            processes:
              - pid: 213
                name: sshd
                create_time: 1767225604.2
                threads: 1
                rss: 9437184
                open_files: 5
                rlimits:
                  nofile: {soft: 1024, hard: 524288}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.precog.fleet.plugins.module_utils._host import processes, psutil_facts
from ansible_collections.precog.fleet.plugins.module_utils._host.host import Host


def main() -> None:
    """Run the module."""
    subsets = list(psutil_facts.FACTS)
    module = AnsibleModule(
        argument_spec={
            "subset": {"type": "list", "elements": "str", "choices": subsets, "default": subsets},
            "service": {"type": "str"},
        },
        supports_check_mode=True,
    )
    try:
        psutil_facts.load()
        facts = psutil_facts.facts(module.params["subset"])
        if module.params["service"] is not None:
            facts["service"] = processes.service(Host(), module.params["service"])
    except psutil_facts.PsutilMissingError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, ansible_facts={"precog_psutil": facts})


if __name__ == "__main__":
    main()
