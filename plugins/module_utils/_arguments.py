# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What preflight and the tuning modules can be given.

Apart from their code: the control node checks the audit's arguments by these, and loads nothing else for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

# Preflight loads this on a Python too old for the expression, to say that it is.
if TYPE_CHECKING:
    Arguments = dict[str, dict[str, Any]]

_STATE: Arguments = {"state": {"type": "str", "choices": ["present", "absent"], "default": "present"}}
_ON_UNSUPPORTED: Arguments = {"on_unsupported": {"type": "str", "choices": ["report", "fail"], "default": "report"}}
_SHARED_KERNEL: Arguments = {"shared_kernel": {"type": "str", "choices": ["leave", "apply"], "default": "leave"}}

PREFLIGHT: Arguments = {
    "minimum_disk_mb": {"type": "dict", "default": {"/etc": 16, "/var/lib": 512, "/tmp": 64}},
    "minimum_memory_mb": {"type": "int", "default": 512},
    "minimum_available_memory_mb": {"type": "int", "default": 64},
    "require_psutil": {"type": "bool", "default": False},
    "tolerate": {
        "type": "list",
        "elements": "str",
        "choices": ["os", "python", "privileges", "systemd", "proc_sys", "disk", "memory", "psutil"],
        "default": [],
    },
}

KERNEL_TUNING: Arguments = {
    **_STATE,
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
    **_ON_UNSUPPORTED,
    **_SHARED_KERNEL,
}

LIMITS: Arguments = {
    **_STATE,
    "profile": {"type": "str", "choices": ["guide", "none"], "default": "guide"},
    "parameters": {"type": "dict", "default": {}},
    "systemd": {"type": "dict", "default": {}},
    "services": {"type": "dict", "default": {}},
    **_ON_UNSUPPORTED,
}

CPU_GOVERNOR: Arguments = {
    **_STATE,
    "governor": {"type": "str", "default": "performance"},
    "energy_performance_preference": {"type": "str", "default": "unmanaged"},
    "scaling_min_freq": {"type": "int"},
    "scaling_max_freq": {"type": "int"},
    "boost": {"type": "str", "choices": ["unmanaged", "enabled", "disabled"], "default": "unmanaged"},
    "required": {"type": "bool", "default": False},
    **_SHARED_KERNEL,
}

SWAP: Arguments = {
    **_STATE,
    "mode": {"type": "str", "choices": ["off", "on", "untouched"], "default": "off"},
    # What the kernel's own reserves, a login and one more process of a miner take; below it, swapoff is in danger.
    "memory_reserve_mb": {"type": "int", "default": 512},
    **_ON_UNSUPPORTED,
    **_SHARED_KERNEL,
}

# What tunes, by the name of the role, in the order of site.yml; and the parts of an audit.
TUNING = {"kernel_tuning": KERNEL_TUNING, "limits": LIMITS, "cpu_governor": CPU_GOVERNOR, "swap": SWAP}
PARTS = {"preflight": PREFLIGHT, **TUNING}
AUDIT: Arguments = {part: {"type": "dict"} for part in PARTS}
