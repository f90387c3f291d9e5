# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The validated settings of one instance."""

from __future__ import annotations

from typing import NamedTuple

from .._host import rlimits as limits


class Settings(NamedTuple):
    """One instance, all of it decided.

    :ivar host, port: where it serves: HTTP, or the axon.
    :ivar metrics_port: where upstream's engine has its metrics; 0 for the other engines.
    :ivar coldkey: the coldkey's SS58 address; "" but for upstream.
    :ivar variables: environment variables by name.
    :ivar secrets: those that are kept out of the release, and shown to nobody.
    :ivar optimize: Python's level of optimisation, 0 to 2.
    :ivar nofile, nproc: soft and hard limit; None where nothing says.
    :ivar cpu_affinity, memory_high, memory_max, tasks_max: as systemd takes them; "" where nothing says.
    :ivar ip_deny, ip_allow: networks that it can't reach; if there are any, those alone that it can.
    :ivar restart_s, watchdog_s: seconds; no watchdog at 0.
    """

    name: str
    engine: str
    host: str
    port: int
    metrics_port: int
    wallet: str
    hotkey: str
    coldkey: str
    variables: dict[str, str]
    secrets: dict[str, str]
    arguments: tuple[str, ...]
    optimize: int
    nofile: limits.Pair | None
    nproc: limits.Pair | None
    cpu_affinity: str
    nice: int
    memory_high: str
    memory_max: str
    oom_score_adjust: int
    tasks_max: str
    ip_deny: tuple[str, ...]
    ip_allow: tuple[str, ...]
    restart_s: float
    watchdog_s: float
