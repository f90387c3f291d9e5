#!/usr/bin/python
# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The documentation of the action of this name, which runs on the control node alone."""

from __future__ import annotations

DOCUMENTATION = r"""
module: audit_verdict
short_description: Says whether a host is as wanted, once all of it has been looked at
version_added: 0.1.0
author:
  - The precog-fleet authors (@precog-fleet)
description:
  - Fails on a host of which something is not as expected, or could not be looked at. A host that was lost on the way is
    reported as unreachable instead, so that C(ansible-playbook) ends with 4 there.
  - Nothing is asked of the host.
options:
  found:
    description: What is not as wanted, a text for each; an empty one says nothing.
    type: list
    elements: str
    default: []
  unseen:
    description: Why something could not be looked at, a text for each; an empty one says nothing.
    type: list
    elements: str
    default: []
  lost:
    description: Why the host could not be reached any more, a text for each; an empty one says nothing.
    type: list
    elements: str
    default: []
extends_documentation_fragment:
  - precog.fleet.attributes.read_only
  - precog.fleet.attributes.control_node
"""

EXAMPLES = r"""
- name: Say whether this host is as wanted
  precog.fleet.audit_verdict:
    found: ["{{ audit_result.msg if audit_result.unclean else '' }}"]
"""

RETURN = r"""
msg:
  description: What was found, and what could not be looked at.
  returned: always
  type: str
"""
