# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What python_env can be given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._engine.options import STATE

if TYPE_CHECKING:
    from .._engine.options import Options

OPTIONS: Options = {
    **STATE,
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
