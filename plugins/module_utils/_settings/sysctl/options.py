# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What sysctl_profile can be given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._engine.options import ON_UNSUPPORTED, SHARED_KERNEL, STATE

if TYPE_CHECKING:
    from ..._engine.options import Options

OPTIONS: Options = {
    **STATE,
    "profile": {"type": "str", "choices": ["guide", "bandwidth_delay", "none"], "default": "guide"},
    "parameters": {"type": "dict", "default": {}},
    "bandwidth_mbit": {"type": "int", "default": 1000},
    "round_trip_ms": {"type": "int", "default": 100},
    "transparent_hugepage": {
        "type": "str",
        "choices": ["unmanaged", "always", "madvise", "never"],
        "default": "unmanaged",
    },
    "name": {"type": "str", "default": "99-zz-precog-fleet"},
    "only_file": {"type": "bool", "default": False},
    **ON_UNSUPPORTED,
    **SHARED_KERNEL,
}
