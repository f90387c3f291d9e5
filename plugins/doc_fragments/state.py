# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The option of every module that changes a host."""

from __future__ import annotations


class ModuleDocFragment:
    """The option `state`."""

    DOCUMENTATION = r"""
options:
  state:
    description:
      - V(present) applies what the other options ask for. What an earlier run managed and is no longer asked for is
        restored.
      - V(absent) restores all values and files as they were before the first run.
    type: str
    choices: [present, absent]
    default: present
"""
