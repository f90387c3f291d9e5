# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What swap_state can be given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._engine.options import ON_UNSUPPORTED, SHARED_KERNEL, STATE

if TYPE_CHECKING:
    from ..._engine.options import Options

OPTIONS: Options = {
    **STATE,
    "mode": {"type": "str", "choices": ["off", "on", "untouched"], "default": "off"},
    # What the kernel's own reserves, a login and one more process of a miner take; below it, swapoff is in danger.
    "memory_reserve_mb": {"type": "int", "default": 512},
    **ON_UNSUPPORTED,
    **SHARED_KERNEL,
}
