# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Parses and validates each option of an instance. Pure."""

from __future__ import annotations

import ipaddress
import json
import re
from typing import TYPE_CHECKING, Any

from .._host import rlimits as limits
from .notes import Notes
from .secrecy import is_secret_argument, is_secret_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

RUNTIME, UPSTREAM, SIMULATOR = "runtime", "upstream", "simulator"
AUTO = "auto"
LOOPBACK = "127.0.0.1"
# Our code is tested under -O; of bittensor, which upstream runs on, -O removes checks that it relies on.
OPTIMIZE = {RUNTIME: 1, UPSTREAM: 0, SIMULATOR: 1}
LAST_PORT = 65535
FIRST_UNPRIVILEGED = 1024
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_WORD = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?", re.ASCII)
_CPUS = re.compile(r"[0-9]+(-[0-9]+)?([, ]+[0-9]+(-[0-9]+)?)*", re.ASCII)
_SIZE = re.compile(r"(?P<number>[0-9]{1,15})(?P<unit>[KMGT]?)|(?P<percent>[0-9]{1,3})%|infinity", re.ASCII)
_LAST_CPU = 8191  # of Linux
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


def mapping(place: str, value: Any, notes: Notes) -> dict[str, Any]:
    """Return a dictionary with its names as text; where it is none that is noted, and an empty one returned."""
    if isinstance(value, dict):
        return {str(name): one for name, one in value.items()}
    notes.refuse(place, value, "is no dictionary of names and values")
    return {}


def host_of(place: str, value: Any, notes: Notes) -> str:
    try:
        return str(ipaddress.ip_address(str(value)))
    except ValueError:
        meant = f" Is {LOOPBACK} meant?" if value == "localhost" else ""
        notes.refuse(f"{place}.host", value, f"is no IP address to listen at, such as {LOOPBACK} or ::1.{meant}")
        return LOOPBACK


def port_of(place: str, value: Any, engine: str, notes: Notes, option: str = "port") -> int:
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


def watchdog_of(place: str, value: Any, notes: Notes) -> float:
    """Return seconds; 0 is off, and below 5 a busy host's pause would be taken for a hang."""
    if str(value).strip() == "0":
        return 0.0
    return number(place, "watchdog_s", value, 5, 3600, notes, whole=False)


def limit_of(place: str, item: str, value: Any, notes: Notes) -> limits.Pair | None:
    if value in ("", None):
        return None
    try:
        return limits.understand(item, value)
    except ValueError as error:
        notes.refuse(f"{place}.{item}", value, f"is no limit: {error}")
        return None


def cpus_of(place: str, value: Any, notes: Notes) -> str:
    """Return CPUs as systemd takes them: numbers and ranges."""
    text = str(value).strip()
    if text == "":
        return ""
    ranges = ranges_of(text) if _CPUS.fullmatch(text) else []
    if not ranges or any(ends[0] > ends[-1] or ends[-1] > _LAST_CPU for ends in ranges):
        notes.refuse(f"{place}.cpu_affinity", value, "is no list of CPUs, such as 0-3,6")
        return ""
    return " ".join("-".join(map(str, ends)) for ends in ranges)


def ranges_of(text: str) -> list[list[int]]:
    """Return the first and the last CPU of each part of a list such as 0-3,6, which are the same for a lone one."""
    return [[int(end) for end in part.split("-")] for part in re.split("[, ]+", text)]


def networks_of(place: str, option: str, value: Any, notes: Notes) -> tuple[str, ...]:
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


def size_of(place: str, option: str, value: Any, notes: Notes) -> str:
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


def bytes_of(amount: str) -> int:
    """Return how many bytes an amount is, 0 where that depends on the host."""
    found = _SIZE.fullmatch(amount)
    return int(found["number"]) * 1024 ** " KMGT".index(found["unit"] or " ") if found and found["number"] else 0


def optimize_of(place: str, value: Any, engine: str, notes: Notes) -> int:
    text = str(value)
    if text == AUTO:
        return OPTIMIZE[engine]
    if text not in ("0", "1", "2"):
        notes.refuse(f"{place}.optimize", value, f"is no level of Python's: {AUTO}, 0, 1 or 2 is wanted")
        return 0
    return int(text)


def unfit(text: str) -> str:
    """Tell why systemd would not take a text into an environment or a command line, or ""."""
    for letter in text:
        code = ord(letter)
        if (code < 0x20 and letter != "\t") or code == 0x7F:
            return "holds a line break or another control character"
        if 0xD800 <= code <= 0xDFFF or 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE:
            return "is no text in UTF-8 as systemd takes it"
    return ""


def variables_of(place: str, layers: Iterable[Mapping[str, Any]], notes: Notes) -> dict[str, str]:
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


def secrets_of(place: str, text: Any, notes: Notes) -> dict[str, str]:
    """Return an instance's secret variables; no message has the value of one.

    :param text: them as a JSON object; "" for none.
    """
    return variables_of(place, [json.loads(text)] if text else [], notes)


def is_loopback(host: str) -> bool:
    """Tell whether a name or an address is of the host itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def arguments_of(place: str, value: Any, engine: str, notes: Notes) -> tuple[str, ...]:
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
