# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What host_preflight can be given."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .._engine.options import Options

OPTIONS: Options = {
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
