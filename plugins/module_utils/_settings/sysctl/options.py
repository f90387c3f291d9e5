# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options of sysctl_profile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._engine.options import ON_UNSUPPORTED, SHARED_KERNEL, STATE

if TYPE_CHECKING:
    from ..._engine.options import Options

OPTIONS: Options = {
    **STATE,
    "profile": {
        "type": "str",
        "choices": ["guide", "bandwidth_delay", "none"],
        "default": "guide",
        "description": [
            "V(guide) has the values of the Precog performance guide.",
            "V(bandwidth_delay) computes socket buffers from the host's memory and the product of O(bandwidth_mbit) "
            "and O(round_trip_ms), never below what the kernel had.",
            "V(none) has no values; only O(parameters) are applied.",
        ],
    },
    "parameters": {
        "type": "dict",
        "default": {},
        "description": [
            "Keys and values merged over the profile, so that a file in host_vars changes one value and repeats no "
            "other. A value is a number, a text, or a list of fields.",
            "V(null) takes a key out of the profile.",
        ],
    },
    "bandwidth_mbit": {
        "type": "int",
        "default": 1000,
        "description": "For O(profile=bandwidth_delay), the bandwidth of the path in Mbit/s.",
    },
    "round_trip_ms": {
        "type": "int",
        "default": 100,
        "description": "For O(profile=bandwidth_delay), the round-trip time of the path in milliseconds.",
    },
    "transparent_hugepage": {
        "type": "str",
        "choices": ["unmanaged", "always", "madvise", "never"],
        "default": "unmanaged",
        "description": (
            "The mode of transparent huge pages. V(unmanaged), as the guide names no mode, leaves it alone, and "
            "restores it if an earlier run set it."
        ),
    },
    "name": {
        "type": "str",
        "default": "99-zz-precog-fleet",
        "description": [
            "Name of the managed files in C(/etc/sysctl.d) and C(/etc/modules-load.d), without C(.conf).",
            "It has to sort behind the files that it overrides. The default sorts behind C(99-sysctl.conf) of Debian.",
        ],
        "role": {"variable": "file_name"},
    },
    "only_file": {
        "type": "bool",
        "default": False,
        "description": (
            "Whether this module manages no other file on this host. A file by another O(name) is then a warning, and "
            "fails the task where O(state) is V(absent), as its values are still in force."
        ),
        "role": {"variable": None, "value": "true"},
    },
    **ON_UNSUPPORTED,
    **SHARED_KERNEL,
}
ROWS = {"settings": "One row for each setting.", "name": "The key, or V(transparent_hugepage)."}
