#!/usr/bin/python
# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Builds or checks a Python environment, in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: python_env
short_description: Builds a Python environment from a lock with hashes, or checks it
version_added: 0.1.0
author:
  - The precog-fleet authors (@precog-fleet)
description:
  - Builds an environment in a folder of its own below O(root), named after a digest of all that it is made of, checks
    it, compiles its bytecode for each level of O(optimize), and then switches the link O(name) to it.
  - What is there already is verified against the list of files written when it was made. One that is damaged is built
    again; one that was never finished is swept.
  - Only wheels are installed, each proved by a hash of the lock. Where anything fails, the link stays as it was.
  - Wheels are made of projects on the control node, and Debian packages that building takes are installed by it, only
    when a host says that it lacks them. A run with nothing to do is one call on the host.
options:
  state:
    description:
      - V(present) brings the environment into place.
      - V(absent) removes all environments of this name, and what only they needed. It is refused while one is in use,
        but not in check mode, as what uses it may be removed first.
  name:
    description: The name of the link below O(root) that leads to the environment in use.
    type: str
    default: miner
  root:
    description: The folder of the environments.
    type: path
    default: /opt/precog/env
  interpreter:
    description:
      - The interpreter, by its name or path. Another build of it makes another environment.
      - V(python3), V(python3.N) and V(pypy3) are installed from Debian where they are missing.
    type: str
    default: python3
  installer:
    description: What installs packages. With V(uv), uv itself is fetched by its own lock first.
    type: str
    choices: [uv, pip]
    default: uv
  lock:
    description:
      - V(runtime), V(upstream) (with bittensor and what upstream's miner needs), or a file on the control node. Without
        it, V(runtime).
      - Every requirement in it must have its hashes.
    type: str
    default: ""
  uv_lock:
    description: >-
      The lock of uv itself: V(uv), also without it, or a file on the control node.
    type: str
    default: ""
  packages:
    description:
      - Wheels on the control node that are installed besides the lock's requirements, or folders of projects, whose
        wheels are built by hatchling.
      - V(runtime), also without it, is the project in this repository's folder of that name, or the wheel that an
        installed collection brings.
    type: list
    elements: raw
    default: []
  optimize:
    description: The levels of E(PYTHONOPTIMIZE) for which bytecode is compiled.
    type: list
    elements: int
    default: [0, 1]
  verify:
    description: Whether a finished environment is checked by the sizes of its files, or by their content.
    type: str
    choices: [quick, full]
    default: quick
  keep:
    description: How many environments of this name are kept, the one in use included.
    type: int
    default: 2
  in_use:
    description:
      - Patterns of links. An environment that one of them leads to is never removed, nor one that a process runs from.
      - By default they are the links of the miner's releases.
    type: list
    elements: str
    default: [/opt/precog/releases/*/environment]
  index_url:
    description:
      - The package index, such as a mirror. It takes the place of what pip or uv are configured to use on the host.
      - It may contain a name and a password (keep it in Ansible Vault); it is kept out of arguments, output and logs.
      - Without it pip uses the host's C(/etc/pip.conf), and uv C(/etc/uv/uv.toml).
    type: str
    default: ""
  system_packages:
    description: Debian packages that must be installed as well, such as C(git).
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Nothing is brought, built or switched; the path that the environment would have is told.
  diff_mode:
    description: Shows where the link leads.
  platform:
    description: Debian, or any Linux that has the interpreter and the wheel of pip that belongs to it.
extends_documentation_fragment:
  - precog.fleet.attributes
  - precog.fleet.state
"""

EXAMPLES = r"""
- name: Build the environment of the runtime
  precog.fleet.python_env:
    lock: runtime
    packages: [runtime]
  register: made

- name: Build one for upstream's miner by pip
  precog.fleet.python_env:
    name: upstream
    lock: upstream
    packages: [dist/precog_runtime-0.1.0-py3-none-any.whl]
    installer: pip
    system_packages: [git]

- name: Remove them
  precog.fleet.python_env:
    state: absent
"""

RETURN = r"""
settings:
  description: One row, named V(python_env:) and O(name).
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: V(python_env:) and the name.
      type: str
    desired:
      description: The folder of the expected environment; null where it is removed.
      type: str
    before:
      description: The folder that the link led to before this run.
      type: str
    after:
      description: The folder that the link leads to now.
      type: str
    persisted_before:
      description: The same as V(before).
      type: str
    persisted:
      description: The same as V(after).
      type: str
    persisted_by:
      description: The link.
      type: str
    status:
      description: V(ok) or V(changed).
      type: str
    reason:
      description: What was found damaged, missing or left over.
      type: str
environment:
  description: The path of the environment; in check mode, where it depends on an interpreter not there yet, the link's.
  returned: success
  type: str
environment_variables:
  description: What a process needs in its environment to start without compiling, by the level of optimisation.
  returned: success
  type: dict
interpreter:
  description: The interpreter's path, implementation, version and what it says of its build.
  returned: success
  type: dict
seconds:
  description: How long this took, by step and in all.
  returned: success
  type: dict
needs:
  description: What the control node has to bring, Debian packages and the SHA-256 of wheels; it does so by itself.
  returned: when something is missing
  type: dict
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.precog.fleet.plugins.module_utils._engine.options import specification
from ansible_collections.precog.fleet.plugins.module_utils._environment.options import OPTIONS
from ansible_collections.precog.fleet.plugins.module_utils._environment.plan import Missing, request
from ansible_collections.precog.fleet.plugins.module_utils._environment.run import absent, present
from ansible_collections.precog.fleet.plugins.module_utils._host.host import NOT_ROOT, Host, HostError


def main() -> None:
    """Run the module."""
    module = AnsibleModule(specification(OPTIONS), supports_check_mode=True)
    try:
        if os.geteuid() != 0:
            raise HostError(NOT_ROOT)
        asked = request(module.params)
        run = present if module.params["state"] == "present" else absent
        result = run(Host(), asked, check_mode=module.check_mode)
    except Missing as missing:
        needs = {"debian": missing.debian, "wheels": missing.wheels}
        module.fail_json(msg=f"this host lacks {missing}", settings=[], needs=needs)
    except HostError as error:
        module.fail_json(msg=str(error), settings=[])
    module.exit_json(**result)


if __name__ == "__main__":
    main()
