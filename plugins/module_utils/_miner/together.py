# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks and divides what the instances of one host share: ports, rate limits, memory, processors. Pure."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from .notes import Notes
from .parse import AUTO, LOOPBACK, RUNTIME, SIMULATOR, UPSTREAM, bytes_of, ranges_of
from .settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# What the runtime asks unless it is told otherwise, and how many requests that API takes in 6 s (settings.py there).
API_URL, API_REQUESTS = "PRECOG_RUNTIME_API_URL", "PRECOG_RUNTIME_API_REQUESTS"
COMMUNITY = "https://community-api.coinmetrics.io/v4"
COMMUNITY_REQUESTS = 10
GATES_REQUESTS = 1  # of them: while all of them are used, the gate gets no turn
# What `auto` gives: instances share this part of the host's memory, in per cent, so that one that leaks ends by itself
# instead of taking the host with it; and each may have so many threads and processes.
MEMORY_SHARE = 80
TASKS = 512
# MB that an engine takes with room to breathe: what it was measured at, and half as much again.
TAKES_MB = {RUNTIME: 128, UPSTREAM: 288, SIMULATOR: 64}


def expect_cpus(found: Iterable[Settings], there: str, notes: Notes) -> None:
    """Refuse CPUs that the host has not: systemd would start nothing, or pin to fewer than are named, without a word.

    :param there: the host's, as the kernel lists them; "" if it does not say.
    """
    if not there:
        return
    known = {cpu for ends in ranges_of(there) for cpu in range(ends[0], ends[-1] + 1)}
    for one in found:
        named = ranges_of(one.cpu_affinity) if one.cpu_affinity else []
        lacking = sorted({cpu for ends in named for cpu in range(ends[0], ends[-1] + 1)} - known)
        if lacking:
            reason = f"names CPU {lacking[0]}, which this host has not or has switched off: it has {there}"
            notes.refuse(f"instances.{one.name}.cpu_affinity", one.cpu_affinity, reason)


def expect_compiled(found: Iterable[Settings], levels: Sequence[int], notes: Notes) -> None:
    """Refuse a level that the environment was not compiled for: each start would compile all that it loads.

    :param levels: those that it was compiled for; none if it does not say.
    """
    for one in found:
        if levels and one.optimize not in levels:
            had = ", ".join(map(str, levels))
            wanted = ", ".join(map(str, sorted({*levels, one.optimize})))
            reason = f"is no level that the environment was compiled for: {had}. Set python_env_optimize: [{wanted}]"
            notes.refuse(f"instances.{one.name}.optimize", one.optimize, reason)


def expect_resolvers(found: Iterable[Settings], resolvers: Iterable[str], notes: Notes) -> None:
    """Refuse to cut an instance off from the host's DNS, which in some clouds is the address of the metadata.

    :param resolvers: the host's, as /etc/resolv.conf has them.
    """
    for one in found:
        for resolver in resolvers:
            inside = [network for network in one.ip_deny if _covers(network, resolver)]
            if inside and not one.ip_allow:
                reason = (
                    "covers this host's DNS server (/etc/resolv.conf), without which it resolves no name. Let "
                    "systemd-resolved ask that server for it (install it), or set ip_deny: []"
                )
                notes.refuse(f"instances.{one.name}.ip_deny", inside[0], reason)


def _covers(network: str, address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]) in ipaddress.ip_network(network)
    except ValueError:
        return False


def expect_memory(place: str, settings: Settings, notes: Notes) -> None:
    high, most = (bytes_of(amount) for amount in (settings.memory_high, settings.memory_max))
    if high and most and high > most:
        reason = f"is above memory_max ({settings.memory_max}), so that it would never slow the process down"
        notes.refuse(f"{place}.memory_high", settings.memory_high, reason)


def expect_ports(instances: Iterable[Settings], notes: Notes) -> None:
    """Note each two listeners that want one port at one address."""
    listeners: list[tuple[str, str, str, int]] = []
    for one in instances:
        listeners.append((one.name, "port", one.host, one.port))
        if one.metrics_port:
            listeners.append((one.name, "metrics_port", LOOPBACK, one.metrics_port))
    for position, (name, option, host, port) in enumerate(listeners):
        for other, others_option, other_host, other_port in listeners[:position]:
            if port == other_port and _overlap(host, other_host):
                reason = f"is already the {others_option} of instance {other} ({other_host}): give each one of its own"
                notes.refuse(f"instances.{name}.{option}", port, reason)


def share_rate(found: list[Settings]) -> list[Settings]:
    """Return instances with the community API's requests divided among those that ask it, less one for the gate.

    The API counts requests by address. If any instance sets its own number, nothing is changed.
    """
    asking = [one for one in found if _asks_community(one)]
    if len(asking) < 2 or any(_says(one, API_REQUESTS, "--api-requests") for one in asking):
        return found
    each, over = divmod(COMMUNITY_REQUESTS - GATES_REQUESTS, len(asking))
    shares = {one.name: str(max(1, each + (position < over))) for position, one in enumerate(asking)}
    return [
        one._replace(variables={**one.variables, API_REQUESTS: shares[one.name]}) if one.name in shares else one
        for one in found
    ]


def bound_memory(found: list[Settings], memory_mb: int, notes: Notes) -> list[Settings]:
    """Return instances with what `auto` means for their bounds.

    :param memory_mb: the host's; 0 if not known.
    """
    share = max(1, MEMORY_SHARE // len(found)) if found else 0
    for one in found:
        if one.memory_max == AUTO and memory_mb and memory_mb * share // 100 < TAKES_MB[one.engine]:
            notes.warnings.append(
                f"instances.{one.name}.memory_max: 'auto' is {share}% of this host's memory, "
                f"{memory_mb * share // 100} MB: {MEMORY_SHARE}% shared by {len(found)} instances. The engine "
                f"{one.engine} needs about {TAKES_MB[one.engine]} MB. Run fewer instances here, or set memory_max"
            )
    return [
        one._replace(
            memory_max=f"{share}%" if one.memory_max == AUTO else one.memory_max,
            tasks_max=str(TASKS) if one.tasks_max == AUTO else one.tasks_max,
        )
        for one in found
    ]


def _asks_community(one: Settings) -> bool:
    if one.engine == SIMULATOR or any(word.partition("=")[0] == "--api-url" for word in one.arguments):
        return False
    return {**one.variables, **one.secrets}.get(API_URL, COMMUNITY).rstrip("/") == COMMUNITY


def _says(one: Settings, variable: str, option: str) -> bool:
    return variable in {**one.variables, **one.secrets} or any(
        word.partition("=")[0] == option for word in one.arguments
    )


def _overlap(host: str, other: str) -> bool:
    """Tell whether two addresses can't be listened at with one port: the same, or one is every address."""
    one, two = ipaddress.ip_address(host), ipaddress.ip_address(other)
    if one.version == two.version:
        return one == two or one.is_unspecified or two.is_unspecified
    return any(address.version == 6 and address.is_unspecified for address in (one, two))  # :: is IPv4's too
