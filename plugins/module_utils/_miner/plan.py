# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A host's miners as files: the release's folder, systemd's units and the secrets, all made from what is wanted. Pure.

`plan` looks at nothing and writes nothing; two calls with the same arguments return the same bytes.
"""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .._environment import plan as environment
from .._host.host import HostError
from . import instances, parse, together, units
from . import wallet as wallets
from .files import digest_of, environment_file, identity_of, items_of, record_of
from .model import Context, File, Instance, Made, Plan, Secret
from .notes import Notes
from .parse import LOOPBACK, RUNTIME, SIMULATOR, UPSTREAM
from .settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

RELEASE_FILE = "release.json"
ROOT, MINER = "root", "miner"  # who owns a secret
API_KEY = "PRECOG_RUNTIME_API_KEY"
DIGEST = "PRECOG_MINER_DIGEST"
ASSETS = "PRECOG_RUNTIME_ASSETS"
FORWARD = "precog_fleet"  # the drop-in's module in precog/miners of the checkout
UPSTREAM_DEFAULTS: dict[str, Any] = {
    "repository": "https://github.com/coinmetrics/precog",
    "version": "75eb6469f07eda88231bedc2e1c239abe4ed7327",  # v3.0.0
    "netuid": 55,
    "chain_endpoint": "wss://entrypoint-finney.opentensor.ai:443",
    "logging_level": "info",
    "timeout": 16,
    "vpermit_tao_limit": 2,
}
LOGGING_LEVELS = ("info", "debug", "trace")
_PATH = re.compile(r"/[A-Za-z0-9._+@-]+(/[A-Za-z0-9._+@-]+)*", re.ASCII)
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,30}")
_KEY = re.compile(r"[!-~]{1,512}")
_CREDENTIALS = re.compile(r"[a-z+]+://[^/@]*:[^/@]*@", re.IGNORECASE)
_MOST = 2**40  # MB, or CPUs
# What the unit hides from the service, or gives it empty.
_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp", "/dev")


def plan(params: Mapping[str, Any], commit: str) -> Plan:
    """Return what the host is to have.

    :param params: the module's arguments (`options.OPTIONS`), `environment` a real path, not a link; and, from
        the host: `implementation` (`cpython` or `pypy`), `cpus` (those online, such as 0-3; "" if not known) and
        `levels` (of optimisation, which the environment was compiled for; none if not known).
    :param commit: of upstream's checkout; "" where it is not known yet, or no instance wants one.
    :raises HostError: something can't be used; the message has all problems.
    """
    notes = Notes()
    wanted = instances.understand(params, notes)
    context = _context(params, commit, notes)
    _minimums(params, notes)
    for one in wanted:
        _key_in_clear(one, context.api_key, notes)
    secrets = {one.name: _secrets(one, context, notes) for one in wanted}
    _one_address(wanted, secrets, notes)
    if notes.problems:
        raise HostError(_told(notes.problems))
    made = [_make(one, secrets[one.name], context) for one in wanted]
    files = {path: file for one in made for path, file in one.files.items()}
    files[RELEASE_FILE] = record_of(context, commit, made)
    all_units = {**context.shared, **{path: data for one in made for path, data in one.units.items()}}
    return Plan(
        release=identity_of(files, all_units),
        files=files,
        units=all_units,
        secrets={path: secret for one in made for path, secret in one.secrets.items()},
        instances=tuple(one.instance for one in made),
        warnings=tuple(notes.warnings),
    )


def _told(problems: Iterable[str]) -> str:
    """Return problems with the module's arguments, each by the variable of the role that it is given by."""
    return "\n".join(f"miner_service_{problem}" for problem in problems)


def upstream(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of upstream's engine over their defaults.

    :raises HostError: one can't be used.
    """
    notes = Notes()
    options = _upstream_options(params["upstream"], notes)
    if notes.problems:
        raise HostError(_told(notes.problems))
    return options


def _upstream_options(given: Any, notes: Notes) -> dict[str, Any]:
    if not isinstance(given, dict):
        notes.refuse("upstream", given, "is no dictionary of options")
        return dict(UPSTREAM_DEFAULTS)
    for name in given.keys() - UPSTREAM_DEFAULTS.keys():
        notes.nearest("upstream", str(name), UPSTREAM_DEFAULTS)
    known = {name: value for name, value in given.items() if name in UPSTREAM_DEFAULTS and value is not None}
    options = {**UPSTREAM_DEFAULTS, **known}
    for name, highest in (("netuid", 65535), ("timeout", 120), ("vpermit_tao_limit", 10**9)):
        options[name] = int(parse.number("upstream", name, options[name], 0, highest, notes))
    if options["logging_level"] not in LOGGING_LEVELS:
        reason = f"is no level of upstream's: {', '.join(LOGGING_LEVELS)} are"
        notes.refuse("upstream.logging_level", options["logging_level"], reason)
    if not str(options["chain_endpoint"]).startswith(("ws://", "wss://")):
        reason = f"is no address of a chain, such as {UPSTREAM_DEFAULTS['chain_endpoint']}"
        notes.refuse("upstream.chain_endpoint", options["chain_endpoint"], reason)
    if _CREDENTIALS.match(str(options["repository"])):
        notes.problems.append(
            "upstream.repository: it holds a password, which git would show to everyone on the host. "
            "Name a repository that can be read without one"
        )
    return options


def _context(params: Mapping[str, Any], commit: str, notes: Notes) -> Context:
    for name in ("root", "state_root", "environment"):
        _expect_path(name, str(params[name]), notes)
    state = str(params["state_root"])
    if not state.startswith(f"{units.STATE_ROOT}/"):
        notes.refuse("state_root", state, f"is not below {units.STATE_ROOT}, where systemd keeps the state of services")
    for name in ("root", "environment"):
        if f"{params[name]}/".startswith(f"{state}/"):
            reason = f"is inside state_root ({state}), which the miners write to: they could replace their own code"
            notes.refuse(name, params[name], f"{reason}. Choose a folder below /opt")
    user = str(params["user"])
    if not _USER.fullmatch(user) or user == "root":
        notes.refuse("user", user, "is no name of a system user of the miner's own, such as precog-miner")
    places = units.Places(str(params["root"]), state, user, params.get("implementation") == "pypy")
    api_key = str(params["api_key"] or "").strip()
    if api_key and not _KEY.fullmatch(api_key):
        notes.problems.append("api_key: it is no key of an API: letters, digits and signs without spaces are wanted")
    hotkeys = params["hotkeys"]
    if not isinstance(hotkeys, dict):
        notes.problems.append(
            "hotkeys: it is no dictionary. Give the text of a hotkey file by the name of its instance"
        )
        hotkeys = {}
    return Context(
        places=places,
        environment=str(params["environment"]),
        checkout=f"{places.root}/upstream/{commit}",
        upstream=_upstream_options(params["upstream"], notes),
        api_key=api_key,
        hotkeys=hotkeys,
        shared=units.common(places),
    )


def _minimums(params: Mapping[str, Any], notes: Notes) -> None:
    """Note what is no amount that a host can be compared with."""
    for option in ("minimum_memory_mb", "minimum_cpus"):
        for engine, value in parse.mapping(option, params[option], notes).items():
            if engine not in instances.ENGINES:
                notes.nearest(option, engine, instances.ENGINES)
            elif value is not None:
                parse.number(option, engine, value, 0, _MOST, notes)
    if params["minimum_disk_mb"] < 0:
        notes.refuse("minimum_disk_mb", params["minimum_disk_mb"], "is below 0: how many MB have to be free is wanted")


def _expect_path(name: str, path: str, notes: Notes) -> None:
    if not _PATH.fullmatch(path) or "/.." in path:
        notes.refuse(name, path, "is no absolute path of letters, digits and ._+@-")
    elif path.startswith(tuple(f"{folder}/" for folder in _HIDDEN)):
        notes.refuse(name, path, f"is hidden from the service, as are {', '.join(_HIDDEN)}. Choose one below /opt")


def _secrets(one: Settings, context: Context, notes: Notes) -> dict[str, Secret]:
    """Return an instance's secret files by path."""
    found = {}
    key = {API_KEY: context.api_key} if one.engine != SIMULATOR and context.api_key else {}
    if key or one.secrets:
        found[units.secrets_file(one.name)] = Secret(environment_file({**key, **one.secrets}), ROOT)
    if one.engine == UPSTREAM:
        wallet = f"{units.wallets(one.name)}/{one.wallet}"
        data = _hotkey(one, context.hotkeys, notes)
        found[f"{wallet}/hotkeys/{one.hotkey}"] = Secret(data, MINER)
        # No secret, but bittensor wants it beside the hotkey: the axon is announced with both addresses.
        found[f"{wallet}/coldkeypub.txt"] = Secret(json.dumps({"ss58Address": one.coldkey}).encode() + b"\n", MINER)
    return found


def _key_in_clear(one: Settings, api_key: str, notes: Notes) -> None:
    """Refuse to send the key of the API over a network that anybody may read."""
    told = {**one.variables, **one.secrets}
    if one.engine == SIMULATOR or not (api_key or told.get(API_KEY)):
        return
    words = [part for word in one.arguments for part in word.split("=", 1)]
    after = [url for option, url in zip(words, words[1:]) if option == "--api-url"]
    url = urlsplit((after or [told.get(together.API_URL, together.COMMUNITY)])[-1])
    if url.scheme == "http" and not parse.is_loopback(url.hostname or ""):
        notes.problems.append(
            f"instances.{one.name}: {together.API_URL} is an address at {url.hostname} without TLS (http://), and "
            "everybody on the way could read the API's key. Use https://, or leave miner_service_api_key out"
        )


def _hotkey(one: Settings, hotkeys: Mapping[str, Any], notes: Notes) -> bytes:
    if one.name not in hotkeys:
        there = f"for {', '.join(sorted(map(str, hotkeys)))} only" if hotkeys else "for none"
        notes.problems.append(
            f"hotkeys: there is one {there}, not for instance {one.name}. Give under its name the text of the file "
            f"wallets/{one.wallet}/hotkeys/{one.hotkey}, encrypted with Ansible Vault"
        )
        return b""
    try:
        return wallets.hotkey_file(hotkeys[one.name])
    except ValueError as error:
        notes.problems.append(f"hotkeys.{one.name}: it {error}")
        return b""


def _one_address(wanted: Iterable[Settings], secrets: Mapping[str, dict[str, Secret]], notes: Notes) -> None:
    """Refuse one hotkey for two instances: the chain knows one address of a hotkey, that of the last to start."""
    known: dict[bytes, str] = {}
    for one in wanted:
        for path, secret in secrets[one.name].items():
            if "/hotkeys/" not in path or not secret.data:
                continue
            key = (wallets.address(secret.data) or secret.data.decode()).encode()
            if key in known:
                reason = f"is that of instances.{known[key]} too. A hotkey has one address: leave one of them out"
                notes.refuse(f"instances.{one.name}.hotkey", f"{one.wallet}/{one.hotkey}", reason)
            known[key] = one.name


def _make(one: Settings, secrets: dict[str, Secret], context: Context) -> Made:
    own = units.own(one, context.places)
    start = _start(one, context)
    variables = _variables(one, context)
    digest = digest_of(start, environment_file(variables), *items_of(context.shared), *items_of(own))
    http = (LOOPBACK, one.metrics_port) if one.engine == UPSTREAM else (one.host, one.port)
    instance = Instance(one.name, one.engine, one.host, one.port, *http, _assets(one), digest)
    folder = f"instances/{one.name}"
    files = {
        f"{folder}/start": File(start, 0o755),
        f"{folder}/environment": File(environment_file({**variables, DIGEST: digest}), 0o600),
    }
    return Made(instance, files, own, secrets)


def _start(one: Settings, context: Context) -> bytes:
    """Return the script that becomes the process; its paths are real ones, as a process keeps to its release."""
    words = [f"{context.environment}/bin/python", *_command(one, context), *one.arguments]
    return f"#!/bin/sh\nexec {' '.join(map(shlex.quote, words))}\n".encode()


def _command(one: Settings, context: Context) -> list[str]:
    if one.engine != UPSTREAM:
        command = "serve" if one.engine == RUNTIME else "simulate-market"
        # By its path: with -m Python would look for modules in the folder that the miner writes to first.
        return [f"{context.environment}/bin/precog-runtime", command, "--host", one.host, "--port", str(one.port)]
    options = context.upstream
    flags = {
        "--neuron.name": one.name,
        "--wallet.path": units.wallets(one.name),
        "--wallet.name": one.wallet,
        "--wallet.hotkey": one.hotkey,
        "--subtensor.chain_endpoint": options["chain_endpoint"],
        "--axon.port": one.port,
        "--netuid": options["netuid"],
        "--logging.level": options["logging_level"],
        "--timeout": options["timeout"],
        "--vpermit_tao_limit": options["vpermit_tao_limit"],
        "--forward_function": FORWARD,
    }
    if one.host != instances.EVERYWHERE:
        flags["--axon.ip"] = one.host
    script = f"{context.checkout}/source/precog/miners/miner.py"
    return [script, *(str(word) for flag in flags.items() for word in flag)]


def _variables(one: Settings, context: Context) -> dict[str, str]:
    state = f"{context.places.state}/{one.name}"
    found = {
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        **environment.variables(context.environment, one.optimize),
        **one.variables,
        # Its folder is where it is started: without this a worker, or a library, would load what lies there.
        "PYTHONSAFEPATH": "1",
        "HOME": state,
    }
    if one.engine != SIMULATOR:
        found["PRECOG_RUNTIME_STATE_DIR"] = state
    if one.engine == UPSTREAM:
        found["PRECOG_RUNTIME_METRICS_PORT"] = str(one.metrics_port)
        # Its script stands in precog/miners, from where `import precog` finds nothing; the metadata name its version.
        found["PYTHONPATH"] = f"{context.checkout}/source:{context.checkout}/metadata"
        # Upstream imports polars, which checks the CPU by code written to memory: MemoryDenyWriteExecute= refuses that.
        found["POLARS_SKIP_CPU_CHECK"] = "1"
    return found


def _assets(one: Settings) -> tuple[str, ...]:
    names = (name.strip() for name in one.variables.get(ASSETS, "").split(","))
    return tuple(dict.fromkeys(name for name in names if name))
