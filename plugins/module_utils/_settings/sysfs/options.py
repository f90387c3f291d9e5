# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options of cpu_governor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._engine.options import SHARED_KERNEL, STATE

if TYPE_CHECKING:
    from ..._engine.options import Options

OPTIONS: Options = {
    **STATE,
    "governor": {
        "type": "str",
        "default": "performance",
        "description": [
            "The governor of every policy. V(unmanaged) leaves it alone, and restores it if an earlier run set it.",
            "In active mode (C(intel_pstate), C(amd-pstate-epp)) only V(performance) and V(powersave) exist. "
            "Elsewhere the kernel may load a governor that it does not list yet.",
        ],
    },
    "energy_performance_preference": {
        "type": "str",
        "default": "unmanaged",
        "description": [
            "The energy preference (EPP) of every policy, one of the words that the driver lists.",
            "In active mode O(governor=performance) holds it at V(performance), and any other is refused.",
            "V(unmanaged) leaves it alone, and restores it if an earlier run set it.",
        ],
    },
    "scaling_min_freq": {
        "type": "int",
        "description": "Lower limit of the frequency in kHz. Without it, the limit is left alone.",
    },
    "scaling_max_freq": {
        "type": "int",
        "description": "Upper limit of the frequency in kHz. Without it, the limit is left alone.",
    },
    "boost": {
        "type": "str",
        "choices": ["unmanaged", "enabled", "disabled"],
        "default": "unmanaged",
        "description": [
            "Frequencies above the nominal one (turbo), for all processors.",
            "V(unmanaged) leaves it alone, and restores it if an earlier run set it.",
        ],
    },
    "required": {
        "type": "bool",
        "default": False,
        "description": (
            "Whether a host without frequency scaling of its own (a container, most virtual machines) fails the task."
        ),
    },
    **SHARED_KERNEL,
}
ROWS = {
    "settings": [
        "One row for each setting of each policy, as V(policy0:governor), and one for V(boost).",
        "Where there is no frequency scaling, one row V(cpufreq).",
    ],
    "persisted_before": "What our unit would have set at the next boot before this run; null where it does not say.",
    "persisted": "What our unit sets at the next boot.",
    "persisted_by": "File and line that set it.",
}
