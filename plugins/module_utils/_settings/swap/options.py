# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options of swap_state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._engine.options import ON_UNSUPPORTED, SHARED_KERNEL, STATE

if TYPE_CHECKING:
    from ..._engine.options import Options

OPTIONS: Options = {
    **STATE,
    "mode": {
        "type": "str",
        "choices": ["off", "on", "untouched"],
        "default": "off",
        "description": [
            "V(off) turns every area off, as the guide asks for, and is refused where memory does not allow it.",
            "V(on) turns on the areas that the host's own configuration names.",
            "V(untouched) changes nothing, and restores what an earlier run changed.",
        ],
    },
    "memory_reserve_mb": {
        "type": "int",
        "default": 512,
        "description": [
            "How much memory in MiB must stay available after all areas are turned off.",
            "The default covers the kernel's own reserves, a login and one more process of a miner. With less, "
            "swapoff itself is the first process that the kernel kills when it runs out of memory.",
        ],
    },
    **ON_UNSUPPORTED,
    **SHARED_KERNEL,
}
ROWS = {
    "settings": "One row for each area; a single one named V(swap) where there is no area, or the kernel is shared.",
    "name": "V(swap:) and the area's device or file.",
    "desired": "V(off) or V(on); null where the original is restored.",
    "before": "The state before this run, V(off) or V(on pri=N).",
    "after": "The state read again after this run.",
    "persisted_before": "What the next boot would have given before this run.",
    "persisted_by": "The file, with its line in C(/etc/fstab), that turns it on at boot or keeps it off.",
}
