#!/usr/bin/python
# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Rolls a release of the miner out on a host, and back where its gate fails, in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: miner_service
short_description: Rolls a release of the miner out on a host, and back where its gate fails
version_added: 0.2.0
author:
  - The precog-fleet authors (@precog-fleet)
description:
  - Makes a release of what the arguments say (instances, their variables, limits and units, the Python environment,
    the checkout of upstream) in a folder of its own, and switches the host to it atomically.
  - Only what differs is started again, one instance after the other, each through a gate. Its unit is active,
    C(/readyz) says so, every asset is answered rightly, within the deadline and from fresh prices, predictions are near
    what the source of the prices says itself, and errors and p99 over a few seconds are no worse than they were before.
  - A release that was good before only has to answer rightly and from fresh prices. Without a source no new release
    begins.
  - Where the gate fails, the host goes back to its previous release by itself and is measured again. The task then
    fails and says which instance, which check, and which figures.
  - Sockets are systemd's, so that requests wait while an instance starts again; none is refused.
  - A run with nothing to do is one look at the host, whatever the number of instances.
  - Tells of each instance what its process really got, such as its limits.
options:
  state:
    description:
      - V(present) runs the instances.
      - V(absent) stops them and removes units, releases, secrets and the users that this module made. What the
        instances wrote is kept.
  environment:
    description: The Python environment of a new release, as M(precog.fleet.python_env) returns it.
    type: path
    default: ""
  release:
    description:
      - A release that is kept on the host, by its name or its label, or V(previous), to go back to. V(previous) is the
        one before the release that was rolled out last; a host that has already gone back from that one stays as it is.
      - Without it the release is made of the other options. One that the host went back from because this option said
        so is not rolled out again, until the other options make another one or O(allow_withdrawn) names it.
    type: str
    default: ""
  label:
    description:
      - What the release is called besides its name, such as V(2026-12 wider intervals). It is not part of the release,
        so changing it restarts nothing.
      - O(release) takes it too.
    type: str
    default: ""
  allow_withdrawn:
    description: The name of a withdrawn release that may be rolled out again.
    type: str
    default: ""
  hold:
    description:
      - Why no other release may be rolled out now. The host then keeps its release, which is repaired where it has
        drifted, and the release that has to wait is reported.
      - C(playbooks/miner.yml) sets it where more miners can't be reached than C(miner_rollout_tolerated) allows.
        O(release) is not affected.
    type: str
    default: ""
  instances:
    description:
      - The instances by name, each with the options that differ from O(instance_defaults).
      - The options are C(engine) (C(auto), C(runtime), C(upstream), C(simulator)), C(host), C(port), C(metrics_port),
        C(wallet), C(hotkey), C(coldkey), C(variables), C(arguments), C(optimize), C(nofile), C(nproc), C(cpu_affinity),
        C(nice), C(memory_high), C(memory_max), C(oom_score_adjust), C(tasks_max), C(ip_deny), C(ip_allow), C(restart_s)
        and C(watchdog_s).
      - C(auto) is upstream's engine where a wallet is given, and the runtime's own server elsewhere.
    type: dict
    default:
      main: {}
  instance_defaults:
    description: Options of all instances; V(null) in an instance restores the module's own default.
    type: dict
    default: {}
  hotkeys:
    description:
      - The text of each instance's hotkey file, by the instance's name. Encrypt it with Ansible Vault.
      - A host gets only those of its own instances. A hotkey that comes from no vault is a warning.
    type: dict
    default: {}
  api_key:
    description: Key of the paid Coin Metrics API. Encrypt it with Ansible Vault.
    type: str
    default: ""
  variables:
    description:
      - Environment variables of all instances; those of an instance go before them. V(null) takes one out.
      - C(PRECOG_RUNTIME_...) are the settings of the runtime.
      - A secret one, by its name (such as C(DATABASE_URL), C(WALLET_SEED) and C(AWS_...)), by a password in its value,
        or because O(secret_variables) names it, is kept out of the release and of every output; only root can read its
        file. Encrypt it with Ansible Vault.
    type: dict
    default: {}
  secret_variables:
    description: Names of variables that are secrets though their names don't look like it.
    type: list
    elements: str
    default: []
  secrets:
    description: The secret variables of each instance as JSON. The action plugin sets it.
    type: dict
    default: {}
  upstream:
    description:
      - For upstream's engine C(repository), C(version) (a full commit, a tag or a branch), C(netuid),
        C(chain_endpoint), C(logging_level), C(timeout) and C(vpermit_tao_limit).
      - What is not given is as in upstream's Makefile for finney, at the commit of v3.0.0.
    type: dict
    default: {}
  gate:
    description: The limits of the gate that differ from its defaults.
    type: dict
    default: {}
  peers:
    description:
      - What this module returned as RV(answers) on other hosts a few minutes ago. A new release whose predictions are
        too far from theirs is rejected.
      - An instance whose source of prices is on its own host is not compared.
    type: list
    elements: dict
    default: []
  keep:
    description: How many good releases are kept, at least 1.
    type: int
    default: 3
  root:
    description: The folder of releases and checkouts.
    type: path
    default: /opt/precog
  state_root:
    description: The folder of what the instances write, below C(/var/lib).
    type: path
    default: /var/lib/precog-miner
  user:
    description:
      - >-
        The prefix of the users that the instances run as: V(precog-miner) gives C(precog-miner-main) and so on, each
        with a group of its name. They are created without a shell where they are missing.
      - A user that is somebody's login, or another service's, is refused; one that existed before is kept when O(state)
        is V(absent).
    type: str
    default: precog-miner
  minimum_memory_mb:
    description:
      - Memory in MB that an engine requires. A smaller host gets a warning with the figures.
      - A host may have 7 % less, which firmware and kernel keep, so that one sold with 8 GB has 8192 here.
    type: dict
    default:
      upstream: 8192
  minimum_cpus:
    description: CPUs that an engine requires. A smaller host gets a warning with the figures.
    type: dict
    default:
      upstream: 2
  minimum_disk_mb:
    description: Free space in MB below O(root) that a new release requires.
    type: int
    default: 64
  on_unsupported:
    description: Whether a limit that the host did not give to a process fails the task.
attributes:
  check_mode:
    description: Looks and compares, and changes nothing.
  diff_mode:
    description: >-
      Shows the units, and the files and variables in which the release differs; of secrets, only that they differ.
requirements:
  - psutil for the facts in the report
extends_documentation_fragment:
  - precog.fleet.attributes
  - precog.fleet.state
  - precog.fleet.on_unsupported
"""

EXAMPLES = r"""
- name: Run one miner at port 8092
  precog.fleet.miner_service:
    environment: "{{ python_env_result.environment }}"

- name: Go back to the release before
  precog.fleet.miner_service:
    release: previous
"""

RETURN = r"""
release:
  description: The release that was wanted.
  returned: always
  type: str
answers:
  description: What the instances of a new release predicted at the gate that they passed; empty for none.
  returned: success or failure of a gate, and O(state) is V(present)
  type: dict
  contains:
    at:
      description: When, in seconds since the epoch.
      type: float
    predictions:
      description: USD by asset.
      type: dict
releases:
  description: The releases that are kept on the host.
  returned: success or failure of a gate, and O(state) is V(present)
  type: list
  elements: dict
  contains:
    name:
      description: Its name.
      type: str
    made:
      description: When it came to this host, in UTC.
      type: str
    label:
      description: Its label.
      type: str
    current:
      description: Whether the next start of an instance runs it.
      type: bool
settings:
  description:
    - A row for each instance, and for each limit that its unit names; one if files of the release had to be mended, and
      one for what failed if that is not of an instance.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description:
        - V(miner:) and the instance's name; of a limit, V(:) and its name too.
        - V(miner_release) for a release that takes the place of another, or whose files were damaged; V(miner_guard)
          if the guard was missing or changed; V(miner) for the host.
      type: str
    desired:
      description: What the instance is to run, and that it is active; soft and hard limit.
      type: str
    before:
      description: What it ran before this run.
      type: str
    after:
      description: What it runs after it, by its process's own environment.
      type: str
    persisted_before:
      description: The release that the next boot would have started before this run.
      type: str
    persisted:
      description: The release that the next boot starts.
      type: str
    persisted_by:
      description: The unit that decides it.
      type: str
    status:
      description: One of ok, changed, unsupported, refused.
      type: str
    reason:
      description: What was measured at the gate, or what failed there, and what runs now.
      type: str
    facts:
      description: In the row of an instance, what RV(psutil) has of it, so that it stands in the fleet's report.
      type: dict
needs:
  description: The Debian packages that are missing, by V(debian); the action plugin installs them.
  returned: when one is missing
  type: dict
summary:
  description: How many settings have each status.
  returned: always
  type: dict
psutil:
  description:
    - By instance, its process as psutil sees it (limits in force, open files, threads, memory), its engine, and the
      variables of Python that it was started with.
  returned: always
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.precog.fleet.plugins.module_utils._engine.options import specification
from ansible_collections.precog.fleet.plugins.module_utils._host.host import Host, HostError
from ansible_collections.precog.fleet.plugins.module_utils._miner.options import OPTIONS
from ansible_collections.precog.fleet.plugins.module_utils._miner.rollout import LOCK
from ansible_collections.precog.fleet.plugins.module_utils._miner.run import PackageMissing, deploy, withdraw


def main() -> None:
    """Run the module."""
    module = AnsibleModule(specification(OPTIONS), supports_check_mode=True)
    host = Host()
    act = deploy if module.params["state"] == "present" else withdraw
    try:
        with host.lock(LOCK):
            outcome = act(host, module.params, check_mode=module.check_mode)
    except PackageMissing as missing:
        module.exit_json(changed=True, settings=[], needs={"debian": list(missing.args)})
    except (HostError, OSError) as error:
        module.fail_json(msg=str(error), settings=[])
    for warning in outcome.warnings:
        module.warn(warning)
    if outcome.failure:
        module.fail_json(msg=outcome.failure, **outcome.result())
    module.exit_json(**outcome.result())


if __name__ == "__main__":
    main()
