# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What cpu_governor can be given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._engine.options import SHARED_KERNEL, STATE

if TYPE_CHECKING:
    from ..._engine.options import Options

OPTIONS: Options = {
    **STATE,
    "governor": {"type": "str", "default": "performance"},
    "energy_performance_preference": {"type": "str", "default": "unmanaged"},
    "scaling_min_freq": {"type": "int"},
    "scaling_max_freq": {"type": "int"},
    "boost": {"type": "str", "choices": ["unmanaged", "enabled", "disabled"], "default": "unmanaged"},
    "required": {"type": "bool", "default": False},
    **SHARED_KERNEL,
}
