#!/usr/bin/python
# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The documentation of the action of this name, which runs on the control node alone."""

from __future__ import annotations

DOCUMENTATION = r"""
module: inventory_check
short_description: Refuses variables of the inventory that can only be mistakes
version_added: 0.2.0
author:
  - The precog-fleet authors (@precog-fleet)
description:
  - Fails if a host of the play has a variable that begins with the name of a role of this collection, or nearly so, and
    that the role does not have. The message says which of its variables is nearest, and in which file the name is.
  - Fails if a variable of a role has a value of another kind than the role takes.
  - Variables that tasks have registered, private ones (C(__name)) and Ansible's own are left out. A variable of your
    own that begins like a role is let through if the list C(precog_known_variables) has its name; a C(*) at the end
    stands for any rest.
  - Nothing is asked of a host, and with C(run_once) all hosts of the play are looked at in one task.
extends_documentation_fragment:
  - precog.fleet.attributes.read_only
  - precog.fleet.attributes.control_node
"""

EXAMPLES = r"""
- name: Refuse variables that nothing reads
  precog.fleet.inventory_check:
  run_once: true
"""

RETURN = r"""
msg:
  description: Each variable that can only be a mistake, with its file where that is known, and the hosts.
  returned: always
  type: str
"""
