# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The option of the modules whose settings a host may not have."""

from __future__ import annotations


class ModuleDocFragment:
    """The option `on_unsupported`."""

    DOCUMENTATION = r"""
options:
  on_unsupported:
    description: Whether a setting that this host does not have, or that belongs to a shared kernel, fails the task.
    type: str
    choices: [report, fail]
    default: report
"""
