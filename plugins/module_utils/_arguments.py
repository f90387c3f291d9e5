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
    "only_file": {"type": "bool", "default": False},
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

PYTHON_ENV: Arguments = {
    **_STATE,
    "name": {"type": "str", "default": "miner"},
    "root": {"type": "path", "default": "/opt/precog/env"},
    "interpreter": {"type": "str", "default": "python3"},
    "installer": {"type": "str", "choices": ["uv", "pip"], "default": "uv"},
    "lock": {"type": "str", "default": ""},
    "uv_lock": {"type": "str", "default": ""},
    # The action takes paths, and gives the module what it has to know of them.
    "packages": {"type": "list", "elements": "raw", "default": []},
    "system_packages": {"type": "list", "elements": "str", "default": []},
    "optimize": {"type": "list", "elements": "int", "default": [0, 1]},
    "verify": {"type": "str", "choices": ["quick", "full"], "default": "quick"},
    "keep": {"type": "int", "default": 2},
    "in_use": {"type": "list", "elements": "str", "default": ["/opt/precog/releases/*/environment"]},
    "index_url": {"type": "str", "default": "", "no_log": True},
}

GATE: Arguments = {
    "ready_s": {"type": "float", "default": 60.0},
    "soak_s": {"type": "float", "default": 3.0},
    "rate_hz": {"type": "float", "default": 20.0},
    "deadline_ms": {"type": "float", "default": 2000.0},
    "p99_ms": {"type": "float", "default": 500.0},
    "p99_factor": {"type": "float", "default": 2.0},
    "p99_slack_ms": {"type": "float", "default": 50.0},
    "error_rate": {"type": "float", "default": 0.0},
    "price_tolerance": {"type": "float", "default": 0.05},
    "max_age_s": {"type": "float", "default": 60.0},
    # The default model's are 0.05 % to 45 % wide, from a currency's to that of the liveliest asset.
    "interval_min": {"type": "float", "default": 0.0001},
    "interval_max": {"type": "float", "default": 0.5},
    "growth_kb": {"type": "float", "default": 512.0},
    "drain_s": {"type": "float", "default": 0.0},
    "rejoin_s": {"type": "float", "default": 0.0},
}

MINER_SERVICE: Arguments = {
    **_STATE,
    "environment": {"type": "path", "default": ""},
    "release": {"type": "str", "default": ""},
    "allow_withdrawn": {"type": "str", "default": ""},
    "label": {"type": "str", "default": ""},
    "hold": {"type": "str", "default": ""},
    "instances": {"type": "dict", "default": {"main": {}}},
    "instance_defaults": {"type": "dict", "default": {}},
    "hotkeys": {"type": "dict", "default": {}, "no_log": True},
    "api_key": {"type": "str", "default": "", "no_log": True},
    "variables": {"type": "dict", "default": {}},
    "secret_variables": {"type": "list", "elements": "str", "default": [], "no_log": False},
    # The action moves secret variables here: by instance, as one JSON text.
    "secrets": {"type": "dict", "default": {}, "no_log": True},
    "upstream": {"type": "dict", "default": {}},
    "gate": {"type": "dict", "default": {}},
    "peers": {"type": "list", "elements": "dict", "default": []},
    "keep": {"type": "int", "default": 3},
    "root": {"type": "path", "default": "/opt/precog"},
    "state_root": {"type": "path", "default": "/var/lib/precog-miner"},
    "user": {"type": "str", "default": "precog-miner"},
    "minimum_memory_mb": {"type": "dict", "default": {"upstream": 8192}},
    "minimum_cpus": {"type": "dict", "default": {"upstream": 2}},
    "minimum_disk_mb": {"type": "int", "default": 64},
    **_ON_UNSUPPORTED,
}

# What tunes, by the name of the role, in the order of site.yml; and the parts of an audit.
TUNING = {"kernel_tuning": KERNEL_TUNING, "limits": LIMITS, "cpu_governor": CPU_GOVERNOR, "swap": SWAP}
PARTS = {"preflight": PREFLIGHT, **TUNING}
AUDIT: Arguments = {part: {"type": "dict"} for part in PARTS}
