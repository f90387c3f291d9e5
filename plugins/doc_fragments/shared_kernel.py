# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The option of the modules whose settings belong to the kernel."""

from __future__ import annotations


class ModuleDocFragment:
    """The option `shared_kernel`."""

    DOCUMENTATION = r"""
options:
  shared_kernel:
    description: >-
      In a container, V(leave) leaves alone what belongs to the kernel of the machine underneath; V(apply) changes it.
    type: str
    choices: [leave, apply]
    default: leave
"""
