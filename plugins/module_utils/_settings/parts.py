# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options of preflight and the tuning modules by role, in the order of site.yml.

Apart from the registry, as an audited host needs none of it: the control node checks an audit's arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import preflight_options
from .limits import options as limits_options
from .swap import options as swap_options
from .sysctl import options as sysctl_options
from .sysfs import options as sysfs_options

if TYPE_CHECKING:
    from .._engine.options import Options

TUNING = {
    "kernel_tuning": sysctl_options.OPTIONS,
    "limits": limits_options.OPTIONS,
    "cpu_governor": sysfs_options.OPTIONS,
    "swap": swap_options.OPTIONS,
}
PARTS = {"preflight": preflight_options.OPTIONS, **TUNING}
AUDIT: Options = {part: {"type": "dict"} for part in PARTS}
