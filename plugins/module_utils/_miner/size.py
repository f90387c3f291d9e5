# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether a host is large enough for an engine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._host.host import Host
    from .model import Plan

TOLERANCE = 0.07  # of its memory a host's firmware and kernel keep for themselves


def small(host: Host, params: Mapping[str, Any], plan: Plan) -> list[str]:
    """Return a warning for each engine that this host is too small for, with the figures.

    :param params: `minimum_memory_mb` and `minimum_cpus`, as the plan has checked them.
    """
    memory_mb = int(host.read_text("/proc/meminfo").split("MemTotal:")[1].split()[0]) // 1024
    cpus = len(os.sched_getaffinity(0))
    found = []
    for engine in dict.fromkeys(instance.engine for instance in plan.instances):
        wanted_mb, wanted_cpus = (int(params[name].get(engine) or 0) for name in ("minimum_memory_mb", "minimum_cpus"))
        if memory_mb < wanted_mb * (1 - TOLERANCE) or cpus < wanted_cpus:
            found.append(
                f"this host has {memory_mb} MB of memory and {cpus} CPUs; the engine {engine} wants {wanted_mb} MB and "
                f"{wanted_cpus} (miner_service_minimum_memory_mb, of which {TOLERANCE:.0%} may lack, as firmware and "
                "kernel keep some; miner_service_minimum_cpus)"
            )
    return found
