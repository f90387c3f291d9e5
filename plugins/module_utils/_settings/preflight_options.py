# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options of host_preflight."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .._engine.options import Options

OPTIONS: Options = {
    "require_psutil": {
        "type": "bool",
        "default": False,
        "description": [
            "Whether a missing psutil is an error. Otherwise it is a warning, as the role "
            "P(precog.fleet.preflight#role) installs it next.",
            "For a Python that is not the system's own it is always an error, as no Debian package serves it.",
        ],
        "role": {
            "variable": "install_psutil",
            "default": True,
            "description": (
                "Whether a missing psutil is installed from Debian's packages. Otherwise it is an error that names the "
                "remedy."
            ),
            "value": "not preflight_install_psutil | bool",
        },
    },
    "minimum_disk_mb": {
        "type": "dict",
        "default": {"/etc": 16, "/var/lib": 512, "/tmp": 64},
        "description": [
            "Required free space, in MB (1024 * 1024 bytes), by folder. A folder need not exist yet.",
            "C(/etc) holds the managed files, C(/var/lib) the original values, packages and Python environments, "
            "C(/tmp) temporary files of Ansible and pip.",
        ],
    },
    "minimum_memory_mb": {"type": "int", "default": 512, "description": "Required memory of the host, in MB."},
    "minimum_available_memory_mb": {
        "type": "int",
        "default": 64,
        "description": "Required memory that is available without swapping, in MB.",
    },
    "tolerate": {
        "type": "list",
        "elements": "str",
        "choices": ["os", "python", "privileges", "systemd", "proc_sys", "disk", "memory", "psutil"],
        "default": [],
        "description": "Checks whose errors are reported as warnings.",
    },
}
