# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What an operator wants of a host's miners: instances with their defaults, every value checked. Pure."""

from __future__ import annotations

import ipaddress
import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from .._host import rlimits as limits
from . import wallet as wallets

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

RUNTIME, UPSTREAM, SIMULATOR = "runtime", "upstream", "simulator"
AUTO = "auto"
ENGINES = (RUNTIME, UPSTREAM, SIMULATOR)
LOOPBACK = "127.0.0.1"
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
# Our code is tested under -O; of bittensor, which upstream runs on, -O removes checks that it relies on.
OPTIMIZE = {RUNTIME: 1, UPSTREAM: 0, SIMULATOR: 1}
METRICS_PORTS_ABOVE = 1000
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
LAST_PORT = 65535
FIRST_UNPRIVILEGED = 1024

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_WORD = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?", re.ASCII)
_CPUS = re.compile(r"[0-9]+(-[0-9]+)?([, ]+[0-9]+(-[0-9]+)?)*", re.ASCII)
_SIZE = re.compile(r"(?P<number>[0-9]{1,15})(?P<unit>[KMGT]?)|(?P<percent>[0-9]{1,3})%|infinity", re.ASCII)
_LAST_CPU = 8191  # of Linux
_SECRET_VARIABLE = re.compile(
    r"API_?KEY|SECRET|PASSW(OR)?D|PASSPHRASE|MNEMONIC|TOKEN|(?<!HASH)SEED|PRIVATE_?KEY|ACCESS_?KEY|CREDENTIAL|^AWS_|"
    r"DATABASE_URL|(^|_)DSN$|COOKIE",
    re.IGNORECASE,
)
_SECRET_ARGUMENT = re.compile(
    r"--?[a-z._-]*(api[._-]?key|secret|passw(or)?d|passphrase|mnemonic|token|seed|private[._-]?key|access[._-]?key|"
    r"credential|database[._-]?url|dsn)",
    re.IGNORECASE,
)
# A password or a key in an address.
_SECRET_VALUE = re.compile(
    r"[a-z+]+://[^/@\s]*:[^/@\s]+@|[?&][a-z._-]*(api[._-]?key|token|secret|passw(or)?d)=", re.IGNORECASE
)

# What the service itself says; by option, what to give instead.
_RESERVED = {
    "PRECOG_MINER_DIGEST": "it tells which release a process is of",
    "PRECOG_RUNTIME_STATE_DIR": "it is the instance's folder below state_root",
    "PRECOG_RUNTIME_METRICS_PORT": "set metrics_port of the instance",
    "PYTHONOPTIMIZE": "set optimize of the instance",
    "PYTHONPATH": "code comes from the environment and the release alone",
    "PYTHONSAFEPATH": "code comes from the environment and the release alone",
    "PYTHONHOME": "code comes from the environment and the release alone",
    "HOME": "it is the instance's folder below state_root",
    "NOTIFY_SOCKET": "systemd sets it",
    "LISTEN_FDS": "systemd sets it",
    "LISTEN_PID": "systemd sets it",
    "RUNTIME_DIRECTORY": "systemd sets it",
    "WATCHDOG_USEC": "systemd sets it",
}
# The dynamic loader's, and others that name files with code in them.
_LOADER = "LD_"
_CODE = ("GCONV_PATH", "PYTHONSTARTUP", "PYTHONUSERBASE", "BASH_ENV", "ENV")
_OWN_ARGUMENTS = {
    RUNTIME: {
        "--host": "host",
        "--port": "port",
        "--assets": "PRECOG_RUNTIME_ASSETS in variables, by which the gate knows them",
        "--state-dir": "nothing: it is the instance's folder below state_root",
    },
    SIMULATOR: {"--host": "host", "--port": "port"},
    UPSTREAM: {
        "--neuron.name": "the instance's name",
        "--wallet.name": "wallet",
        "--wallet.hotkey": "hotkey",
        "--wallet.path": "nothing: it is the instance's folder below /etc/precog-miner",
        "--axon.port": "port",
        "--axon.ip": "host",
        "--subtensor.chain_endpoint": "chain_endpoint of upstream",
        "--netuid": "netuid of upstream",
        "--logging.level": "logging_level of upstream",
        "--timeout": "timeout of upstream",
        "--vpermit_tao_limit": "vpermit_tao_limit of upstream",
        "--forward_function": "nothing: it is our drop-in",
    },
}


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


class Notes:
    """Problems and warnings, collected; each names the setting, its value, the reason and what to do."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.warnings: list[str] = []

    def refuse(self, setting: str, value: Any, reason: str) -> None:
        """Note that a setting can't be used."""
        self.problems.append(f"{setting}: {value!r} {reason}")

    def nearest(self, setting: str, unknown: str, known: Iterable[str]) -> None:
        """Note a name that there is not, with the nearest that there is."""
        from difflib import get_close_matches

        names = sorted(known)
        near = get_close_matches(unknown.lower(), names, 1)
        self.problems.append(
            f"{setting}: there is no {unknown!r}. "
            + (f"Is {near[0]} meant?" if near else f"There are {', '.join(names)}")
        )


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
        one and one._replace(secrets=_secrets(f"instances.{one.name}", secrets.get(one.name), notes)) for one in found
    ]
    instances = sorted((one for one in found if one), key=lambda one: one.engine != SIMULATOR)
    _ports(instances, notes)
    _cpus_there(instances, str(params.get("cpus", "")), notes)
    _compiled(instances, params.get("levels", ()), notes)
    _resolved(instances, params.get("resolvers", ()), notes)
    return _bounded(_sharing(instances), int(params.get("memory_mb", 0)), notes)


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


def mapping(place: str, value: Any, notes: Notes) -> dict[str, Any]:
    """Return a dictionary with its names as text; where it is none that is noted, and an empty one returned."""
    if isinstance(value, dict):
        return {str(name): one for name, one in value.items()}
    notes.refuse(place, value, "is no dictionary of names and values")
    return {}


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
        host=_host(place, options["host"] or HOSTS[engine], notes),
        port=_port(place, options["port"] or PORTS[engine], engine, notes),
        metrics_port=0,
        wallet="",
        hotkey="",
        coldkey="",
        variables=_variables(place, layers, notes),
        secrets={},
        arguments=_arguments(place, options["arguments"], engine, notes),
        optimize=_optimize(place, options["optimize"], engine, notes),
        nofile=_limit(place, limits.NOFILE, options["nofile"], notes),
        nproc=_limit(place, limits.NPROC, options["nproc"], notes),
        cpu_affinity=_cpus(place, options["cpu_affinity"], notes),
        nice=int(number(place, "nice", options["nice"], -20, 19, notes)),
        memory_high=_size(place, "memory_high", options["memory_high"], notes),
        memory_max=_size(place, "memory_max", options["memory_max"], notes),
        oom_score_adjust=int(number(place, "oom_score_adjust", options["oom_score_adjust"], -1000, 1000, notes)),
        tasks_max=_size(place, "tasks_max", options["tasks_max"], notes),
        ip_deny=_networks(place, "ip_deny", options["ip_deny"], notes),
        ip_allow=_networks(place, "ip_allow", options["ip_allow"], notes),
        restart_s=number(place, "restart_s", options["restart_s"], 0.1, 3600, notes, whole=False),
        watchdog_s=_watchdog(place, options["watchdog_s"], notes),
    )
    if engine == UPSTREAM:
        settings = _upstream(place, settings, options, notes)
    _memory(place, settings, notes)
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
        metrics = _port(place, metrics, UPSTREAM, notes, "metrics_port")
    if settings.optimize:
        notes.warnings.append(
            f"{place}.optimize: {settings.optimize} removes assertions from bittensor that it relies on, such as of "
            "what an answer about the external address is; upstream's engine gains nothing measurable by it"
        )
    return settings._replace(metrics_port=metrics, coldkey=coldkey, wallet=names["wallet"], hotkey=names["hotkey"])


# -- single values ----------------------------------------------------------------------------------------------------


def _host(place: str, value: Any, notes: Notes) -> str:
    try:
        return str(ipaddress.ip_address(str(value)))
    except ValueError:
        meant = f" Is {LOOPBACK} meant?" if value == "localhost" else ""
        notes.refuse(f"{place}.host", value, f"is no IP address to listen at, such as {LOOPBACK} or ::1.{meant}")
        return LOOPBACK


def _port(place: str, value: Any, engine: str, notes: Notes, option: str = "port") -> int:
    """Return a port; only of a socket unit may it be one for which privileges are needed."""
    lowest = 1 if engine == RUNTIME else FIRST_UNPRIVILEGED
    return int(number(place, option, value, lowest, LAST_PORT, notes))


def number(
    place: str, option: str, value: Any, lowest: float, highest: float, notes: Notes, *, whole: bool = True
) -> float:
    """Return a number within bounds; where it is none that is noted, and the lowest returned."""
    kind = "whole number" if whole else "number"
    text = "" if isinstance(value, bool) else str(value).strip()
    if not _WORD.fullmatch(text) or (whole and "." in text) or not lowest <= float(text) <= highest:
        notes.refuse(f"{place}.{option}", value, f"is no {kind} from {lowest:g} to {highest:g}")
        return lowest
    return float(text)


def _watchdog(place: str, value: Any, notes: Notes) -> float:
    """Return seconds; 0 is off, and below 5 a busy host's pause would be taken for a hang."""
    if str(value).strip() == "0":
        return 0.0
    return number(place, "watchdog_s", value, 5, 3600, notes, whole=False)


def _limit(place: str, item: str, value: Any, notes: Notes) -> limits.Pair | None:
    if value in ("", None):
        return None
    try:
        return limits.understand(item, value)
    except ValueError as error:
        notes.refuse(f"{place}.{item}", value, f"is no limit: {error}")
        return None


def _cpus(place: str, value: Any, notes: Notes) -> str:
    """Return CPUs as systemd takes them: numbers and ranges."""
    text = str(value).strip()
    if text == "":
        return ""
    ranges = _ranges(text) if _CPUS.fullmatch(text) else []
    if not ranges or any(ends[0] > ends[-1] or ends[-1] > _LAST_CPU for ends in ranges):
        notes.refuse(f"{place}.cpu_affinity", value, "is no list of CPUs, such as 0-3,6")
        return ""
    return " ".join("-".join(map(str, ends)) for ends in ranges)


def _ranges(text: str) -> list[list[int]]:
    """Return the first and the last CPU of each part of a list such as 0-3,6, which are the same for a lone one."""
    return [[int(end) for end in part.split("-")] for part in re.split("[, ]+", text)]


def _cpus_there(found: Iterable[Settings], there: str, notes: Notes) -> None:
    """Refuse CPUs that the host has not: systemd would start nothing, or pin to fewer than are named, without a word.

    :param there: the host's, as the kernel lists them; "" if it does not say.
    """
    if not there:
        return
    known = {cpu for ends in _ranges(there) for cpu in range(ends[0], ends[-1] + 1)}
    for one in found:
        named = _ranges(one.cpu_affinity) if one.cpu_affinity else []
        lacking = sorted({cpu for ends in named for cpu in range(ends[0], ends[-1] + 1)} - known)
        if lacking:
            reason = f"names CPU {lacking[0]}, which this host has not or has switched off: it has {there}"
            notes.refuse(f"instances.{one.name}.cpu_affinity", one.cpu_affinity, reason)


def _compiled(found: Iterable[Settings], levels: Sequence[int], notes: Notes) -> None:
    """Refuse a level that the environment was not compiled for: each start would compile all that it loads.

    :param levels: those that it was compiled for; none if it does not say.
    """
    for one in found:
        if levels and one.optimize not in levels:
            had = ", ".join(map(str, levels))
            wanted = ", ".join(map(str, sorted({*levels, one.optimize})))
            reason = f"is no level that the environment was compiled for: {had}. Set python_env_optimize: [{wanted}]"
            notes.refuse(f"instances.{one.name}.optimize", one.optimize, reason)


def _networks(place: str, option: str, value: Any, notes: Notes) -> tuple[str, ...]:
    """Return addresses and networks as systemd takes them."""
    if not isinstance(value, (list, tuple)):
        notes.refuse(f"{place}.{option}", value, "is no list of addresses and networks, such as [192.0.2.0/24]")
        return ()
    found = []
    for one in map(str, value):
        try:
            found.append(str(ipaddress.ip_network(one)))
        except ValueError as error:
            notes.refuse(f"{place}.{option}", one, f"is no address or network, such as 192.0.2.0/24: {error}")
    return tuple(found)


def _resolved(found: Iterable[Settings], resolvers: Iterable[str], notes: Notes) -> None:
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


def _size(place: str, option: str, value: Any, notes: Notes) -> str:
    """Return an amount as systemd takes it."""
    text = str(value).strip()
    if text in ("", AUTO if option in ("memory_max", "tasks_max") else ""):
        return text
    found = _SIZE.fullmatch(text)
    of_tasks = option == "tasks_max"
    wrong = not found or (of_tasks and bool(found["unit"])) or not 1 <= int(found["percent"] or 1) <= 100
    if isinstance(value, bool) or wrong or (found and found["number"] and int(found["number"]) == 0):
        example = "4096, 50% or infinity" if of_tasks else "800M, 2G, 50% or infinity"
        notes.refuse(f"{place}.{option}", value, f"is no amount, such as {example}")
        return ""
    return text


def _memory(place: str, settings: Settings, notes: Notes) -> None:
    high, most = (_bytes(amount) for amount in (settings.memory_high, settings.memory_max))
    if high and most and high > most:
        reason = f"is above memory_max ({settings.memory_max}), so that it would never slow the process down"
        notes.refuse(f"{place}.memory_high", settings.memory_high, reason)


def _bytes(amount: str) -> int:
    """Return how many bytes an amount is, 0 where that depends on the host."""
    found = _SIZE.fullmatch(amount)
    return int(found["number"]) * 1024 ** " KMGT".index(found["unit"] or " ") if found and found["number"] else 0


def _optimize(place: str, value: Any, engine: str, notes: Notes) -> int:
    text = str(value)
    if text == AUTO:
        return OPTIMIZE[engine]
    if text not in ("0", "1", "2"):
        notes.refuse(f"{place}.optimize", value, f"is no level of Python's: {AUTO}, 0, 1 or 2 is wanted")
        return 0
    return int(text)


# -- words for the process --------------------------------------------------------------------------------------------


def unfit(text: str) -> str:
    """Tell why systemd would not take a text into an environment or a command line, or ""."""
    for letter in text:
        code = ord(letter)
        if (code < 0x20 and letter != "\t") or code == 0x7F:
            return "holds a line break or another control character"
        if 0xD800 <= code <= 0xDFFF or 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE:
            return "is no text in UTF-8 as systemd takes it"
    return ""


def _variables(place: str, layers: Iterable[Mapping[str, Any]], notes: Notes) -> dict[str, str]:
    """Return variables merged; a null takes one out."""
    found: dict[str, str] = {}
    for layer in layers:
        for name, value in layer.items():
            where = f"{place}.variables"
            found.pop(name, None)
            if not _VARIABLE.fullmatch(name):
                notes.refuse(where, name, "is no name of a variable: letters, digits and underscores are wanted")
            elif name in _RESERVED:
                notes.refuse(where, name, f"is set by the service: {_RESERVED[name]}")
            elif name.startswith(_LOADER) or name in _CODE:
                notes.refuse(where, name, "makes each start load code from elsewhere. Take it out")
            elif isinstance(value, bool) or not isinstance(value, (str, int, float, type(None))):
                notes.refuse(f"{where}.{name}", value, "is neither text nor a number: write it in quotes")
            elif value is not None:
                _take(f"{where}.{name}", name, str(value), found, notes)
    return dict(sorted(found.items()))


def _take(where: str, name: str, value: str, found: dict[str, str], notes: Notes) -> None:
    objection = unfit(value)
    if objection:
        notes.problems.append(f"{where}: its value {objection}. Give one line of text")
        return
    found[name] = value


def _secrets(place: str, text: Any, notes: Notes) -> dict[str, str]:
    """Return an instance's secret variables; no message has the value of one.

    :param text: them as a JSON object; "" for none.
    """
    return _variables(place, [json.loads(text)] if text else [], notes)


def is_loopback(host: str) -> bool:
    """Tell whether a name or an address is of the host itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_secret_variable(name: str) -> bool:
    """Tell whether a variable's name says that its value is a secret."""
    return bool(_SECRET_VARIABLE.search(name))


def is_secret_value(value: Any) -> bool:
    """Tell whether a value is an address that holds a password or a key."""
    return isinstance(value, str) and bool(_SECRET_VALUE.search(value))


def is_secret_argument(option: str) -> bool:
    """Tell whether an option's name says that its value is a secret."""
    return bool(_SECRET_ARGUMENT.match(option))


def _arguments(place: str, value: Any, engine: str, notes: Notes) -> tuple[str, ...]:
    """Return further words for the command line, none of which is a secret or said already."""
    where = f"{place}.arguments"
    if not isinstance(value, (list, tuple)) or any(isinstance(word, (dict, list, type(None))) for word in value):
        notes.refuse(where, value, "is no list of words, such as ['--log-level', debug]")
        return ()
    words = tuple(str(word) for word in value)
    for word in words:
        option = word.partition("=")[0]
        own = _OWN_ARGUMENTS[engine].get(option)
        seed = engine == SIMULATOR and option == "--seed"  # of its made-up prices
        if is_secret_value(word) or (is_secret_argument(option) and not seed):
            option = option if option.startswith("-") else "a word"
            notes.problems.append(
                f"{where}: {option} looks like a secret, and everyone on the host can read a command line. "
                "Use a variable of the environment"
            )
        elif own:
            notes.refuse(where, option, f"is what the service itself sets: use {own}")
        elif unfit(word):
            notes.problems.append(f"{where}: a word {unfit(word)}. Give words of one line")
    return words


# -- all together -----------------------------------------------------------------------------------------------------


def _ports(instances: Iterable[Settings], notes: Notes) -> None:
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


def _sharing(found: list[Settings]) -> list[Settings]:
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


def _bounded(found: list[Settings], memory_mb: int, notes: Notes) -> list[Settings]:
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
