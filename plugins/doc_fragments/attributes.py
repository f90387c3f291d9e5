# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the modules support."""

from __future__ import annotations


class ModuleDocFragment:
    """Attributes of a module that changes a host. The others combine READ_ONLY with LINUX or CONTROL_NODE."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    support: full
    description: Plans without applying.
  diff_mode:
    support: full
    description: Shows the files.
  platform:
    support: full
    platforms: linux
    description: Linux with systemd.
"""

    READ_ONLY = r"""
options: {}
attributes:
  check_mode:
    support: full
    description: Nothing is ever changed.
  diff_mode:
    support: none
    description: There is nothing to show.
"""

    LINUX = r"""
options: {}
attributes:
  platform:
    support: full
    platforms: linux
    description: Linux; systemd is not required.
"""

    CONTROL_NODE = r"""
options: {}
attributes:
  platform:
    support: full
    platforms: all
    description: It runs on the control node.
"""

    TUNING = r"""
options: {}
attributes:
  action_group:
    support: full
    description: Use C(group/precog.fleet.tuning) in C(module_defaults) for the options that the tuning modules share.
    membership: [precog.fleet.tuning]
"""
