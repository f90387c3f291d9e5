# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What resource_limits can be given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._engine.options import ON_UNSUPPORTED, STATE

if TYPE_CHECKING:
    from ..._engine.options import Options

OPTIONS: Options = {
    **STATE,
    "profile": {"type": "str", "choices": ["guide", "none"], "default": "guide"},
    "parameters": {"type": "dict", "default": {}},
    "systemd": {"type": "dict", "default": {}},
    "services": {"type": "dict", "default": {}},
    **ON_UNSUPPORTED,
}
