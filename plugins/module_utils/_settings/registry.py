# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Loads the subsystems of a role."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._engine import model


def subsystems(part: str, params: Any, facts: Mapping[str, Any]) -> list[model.Subsystem]:
    """Return what a role tunes, by the role's name; the code of the others is not even loaded.

    :param params: the checked arguments of its module.
    :param facts: of psutil.
    :raises HostError: an argument makes no sense.
    """
    if part == "kernel_tuning":
        from . import kernel_tuning

        return kernel_tuning.subsystems(params, facts)
    if part == "limits":
        from .limits import limits

        return limits.subsystems(params)
    if part == "cpu_governor":
        from .sysfs import cpufreq

        return [cpufreq.subsystem(params)]
    from .swap import swap

    return [swap.subsystem(params)]
