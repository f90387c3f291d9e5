# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What an operator wants of a host's miners: instances with their defaults, every value checked. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from .._host import rlimits as limits
from . import wallet as wallets
from .notes import Notes
from .parse import (
    AUTO,
    LAST_PORT,
    LOOPBACK,
    RUNTIME,
    SIMULATOR,
    UPSTREAM,
    arguments_of,
    cpus_of,
    host_of,
    limit_of,
    mapping,
    networks_of,
    number,
    optimize_of,
    port_of,
    secrets_of,
    size_of,
    variables_of,
    watchdog_of,
)
from .settings import Settings
from .together import (
    bound_memory,
    expect_compiled,
    expect_cpus,
    expect_memory,
    expect_ports,
    expect_resolvers,
    share_rate,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

ENGINES = (RUNTIME, UPSTREAM, SIMULATOR)
EVERYWHERE = "0.0.0.0"
# What an instance may say, and what it is if nothing says; None where that depends on the engine.
DEFAULTS: dict[str, Any] = {
    "engine": AUTO,
    "host": None,
    "port": None,
    "metrics_port": 0,
    "wallet": "",
    "hotkey": "default",
    "coldkey": "",
    "variables": {},
    "arguments": [],
    "optimize": AUTO,
    "nofile": "65536:65536",
    "nproc": "",
    "cpu_affinity": "",
    "nice": 0,
    "memory_high": "",
    "memory_max": AUTO,
    "oom_score_adjust": -500,
    "tasks_max": AUTO,
    "ip_deny": ["169.254.169.254", "fd00:ec2::254"],  # where clouds hand out the host's credentials
    "ip_allow": [],
    "restart_s": 1,
    "watchdog_s": 30,
}
PORTS = {RUNTIME: 8092, UPSTREAM: 8092, SIMULATOR: 8099}
# Upstream's axon listens at all addresses unless it is told otherwise.
HOSTS = {RUNTIME: LOOPBACK, UPSTREAM: EVERYWHERE, SIMULATOR: LOOPBACK}
METRICS_PORTS_ABOVE = 1000
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?")


def understand(params: Mapping[str, Any], notes: Notes) -> list[Settings]:
    """Merge instances over their defaults and check them; what is wrong is noted.

    :return: instances in the order given, simulators first; without those that are wrong.
    """
    given = params["instances"]
    if not given:
        notes.problems.append("instances: it is empty. Name one, such as main: {}, or set state to absent")
    defaults = _options("instance_defaults", params["instance_defaults"], notes)
    common = mapping("variables", params["variables"], notes)
    found = [_one(str(name), options, defaults, common, notes) for name, options in given.items()]
    secrets = mapping("secrets", params.get("secrets") or {}, notes)
    found = [
        one and one._replace(secrets=secrets_of(f"instances.{one.name}", secrets.get(one.name), notes)) for one in found
    ]
    instances = sorted((one for one in found if one), key=lambda one: one.engine != SIMULATOR)
    expect_ports(instances, notes)
    expect_cpus(instances, str(params.get("cpus", "")), notes)
    expect_compiled(instances, params.get("levels", ()), notes)
    expect_resolvers(instances, params.get("resolvers", ()), notes)
    return bound_memory(share_rate(instances), int(params.get("memory_mb", 0)), notes)


def engine_of(options: Mapping[str, Any]) -> str:
    """Return which engine merged options ask for."""
    engine = str(options["engine"])
    if engine == AUTO:
        return UPSTREAM if options["wallet"] else RUNTIME
    return engine


def merged(defaults: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return an instance's options over the defaults; a null brings a default of ours back."""
    found = {**DEFAULTS, **{name: value for name, value in defaults.items() if value is not None}}
    return {**found, **{name: DEFAULTS.get(name) if value is None else value for name, value in options.items()}}


def _options(place: str, options: Any, notes: Notes) -> dict[str, Any]:
    if not isinstance(options, dict):
        notes.refuse(place, options, "is no dictionary of options. Write {} for an instance with the defaults")
        return {}
    for name in options:
        if name not in DEFAULTS:
            notes.nearest(place, str(name), DEFAULTS)
    return {str(name): value for name, value in options.items() if name in DEFAULTS}


def _one(
    name: str, given: Any, defaults: Mapping[str, Any], common: Mapping[str, Any], notes: Notes
) -> Settings | None:
    """Return an instance, or None if something of it is wrong."""
    before = len(notes.problems)
    place = f"instances.{name}"
    if not _NAME.fullmatch(name):
        notes.refuse("instances", name, "is no name of an instance: up to 48 of a-z, 0-9 and inner hyphens are wanted")
    own = _options(place, given, notes)
    options = merged(defaults, own)
    engine = engine_of(options)
    if engine not in ENGINES:
        notes.nearest(f"{place}.engine", engine, (*ENGINES, AUTO))
        return None
    _only_of_upstream(place, engine, own, notes)
    layers = (common, *(mapping(f"{place}.variables", one.get("variables") or {}, notes) for one in (defaults, own)))
    settings = Settings(
        name=name,
        engine=engine,
        host=host_of(place, options["host"] or HOSTS[engine], notes),
        port=port_of(place, options["port"] or PORTS[engine], engine, notes),
        metrics_port=0,
        wallet="",
        hotkey="",
        coldkey="",
        variables=variables_of(place, layers, notes),
        secrets={},
        arguments=arguments_of(place, options["arguments"], engine, notes),
        optimize=optimize_of(place, options["optimize"], engine, notes),
        nofile=limit_of(place, limits.NOFILE, options["nofile"], notes),
        nproc=limit_of(place, limits.NPROC, options["nproc"], notes),
        cpu_affinity=cpus_of(place, options["cpu_affinity"], notes),
        nice=int(number(place, "nice", options["nice"], -20, 19, notes)),
        memory_high=size_of(place, "memory_high", options["memory_high"], notes),
        memory_max=size_of(place, "memory_max", options["memory_max"], notes),
        oom_score_adjust=int(number(place, "oom_score_adjust", options["oom_score_adjust"], -1000, 1000, notes)),
        tasks_max=size_of(place, "tasks_max", options["tasks_max"], notes),
        ip_deny=networks_of(place, "ip_deny", options["ip_deny"], notes),
        ip_allow=networks_of(place, "ip_allow", options["ip_allow"], notes),
        restart_s=number(place, "restart_s", options["restart_s"], 0.1, 3600, notes, whole=False),
        watchdog_s=watchdog_of(place, options["watchdog_s"], notes),
    )
    if engine == UPSTREAM:
        settings = _upstream(place, settings, options, notes)
    expect_memory(place, settings, notes)
    return settings if len(notes.problems) == before else None


def _only_of_upstream(place: str, engine: str, own: Mapping[str, Any], notes: Notes) -> None:
    """Refuse what another engine would pass over in silence; in instance_defaults it may well stand for others."""
    if engine == UPSTREAM:
        return
    if own.get("wallet"):
        notes.refuse(f"{place}.wallet", own["wallet"], f"is of no use: engine {engine} signs nothing. Leave one out")
    if own.get("metrics_port"):
        reason = f"is of no use: engine {engine} has its metrics at its port. Leave it out"
        notes.refuse(f"{place}.metrics_port", own["metrics_port"], reason)


def _upstream(place: str, settings: Settings, options: Mapping[str, Any], notes: Notes) -> Settings:
    """Return the settings with wallet and metrics."""
    names = {option: str(options[option]) for option in ("wallet", "hotkey")}
    for option, value in names.items():
        if not value:
            notes.refuse(f"{place}.{option}", value, "is empty: engine upstream signs its answers, give its name")
        elif not wallets.NAME.fullmatch(value):
            notes.refuse(f"{place}.{option}", value, "is no name: up to 64 letters, digits and ._- are wanted")
    coldkey = str(options["coldkey"])
    try:
        wallets.public_key(coldkey)
    except ValueError as error:
        hint = "Give the coldkey's public address, which the axon is announced with: `btcli wallet list` shows it"
        notes.refuse(f"{place}.coldkey", coldkey, f"{error}. {hint}")
    metrics = options["metrics_port"] or settings.port + METRICS_PORTS_ABOVE
    if not options["metrics_port"] and metrics > LAST_PORT:
        notes.refuse(f"{place}.metrics_port", 0, f"means port + 1000, which is {metrics}: give one up to {LAST_PORT}")
    else:
        metrics = port_of(place, metrics, UPSTREAM, notes, "metrics_port")
    if settings.optimize:
        notes.warnings.append(
            f"{place}.optimize: {settings.optimize} removes assertions from bittensor that it relies on, such as of "
            "what an answer about the external address is; upstream's engine gains nothing measurable by it"
        )
    return settings._replace(metrics_port=metrics, coldkey=coldkey, wallet=names["wallet"], hotkey=names["hotkey"])
