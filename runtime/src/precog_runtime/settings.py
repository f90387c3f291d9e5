"""The runtime's settings: defaults, a JSON file, the environment, the command line; the later one wins.

The environment names them PRECOG_RUNTIME_<NAME>; lists are separated by commas.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from precog_runtime.errors import SettingError

PREFIX = "PRECOG_RUNTIME_"
LOG_LEVEL = f"{PREFIX}LOG_LEVEL"  # of the commands, not of the runtime
COMMUNITY = "https://community-api.coinmetrics.io/v4"
PAID = "https://api.coinmetrics.io/v4"
BASES = ("newest", "mark")
RESERVE_S = 0.25  # of a deadline, kept for the answer itself once waiting is given up


@dataclass(frozen=True)
class Settings:
    """How a runtime behaves. Times are seconds.

    :ivar assets: what is tracked and answered, in the API's names.
    :ivar api_url: root of the Coin Metrics API, or of `precog-runtime simulate-market`.
    :ivar api_key: key of the paid API; never shown.
    :ivar api_timeout_s: limit of one request to it.
    :ivar api_requests: how many requests it allows in a period.
    :ivar api_period_s: that period.
    :ivar window_s: how much of each asset is kept in memory.
    :ivar poll_s: how often the window is brought up to date between marks.
    :ivar mark_s: validators ask at multiples of this; ahead of each the forecasts are made. 0 turns prefetch off.
    :ivar price_basis: "newest": an answer is made from the newest price known when it is given; "mark": from prices
        up to the timestamp, never later ones.
    :ivar fresh_s: prices up to this much older than the timestamp are used without waiting for newer ones.
    :ivar patience_s: how long a request waits for newer prices at the most.
    :ivar deadline_s: time for a request whose caller names none.
    :ivar max_age_s: beyond this age of the newest price there is no answer.
    :ivar max_past_s: how far a timestamp may lie in the past.
    :ivar max_future_s: how far in the future: a validator names the nearest mark, so one that asks 3 minutes late names
        a time up to 120 s ahead, and clocks differ.
    :ivar max_assets: how many assets one request may name; the rest is refused.
    :ivar model: the model's name: "default", "upstream", an entry point, or path/to/file.py:Name.
    :ivar cache_mb: bound of the cache of forecasts, MB.
    :ivar cache_ttl_s: how long a forecast is kept.
    :ivar state_dir: folder of the newest prices and of the log of predictions; "" keeps both in memory only.
    :ivar retention_days: how long the log of predictions keeps rows.
    :ivar min_workers: lower bound of the worker pool.
    :ivar max_workers: upper bound; 0 means the number of CPUs, 4 at the most.
    :ivar executor: where models run instead: path/to/file.py:NAME or package.module:NAME of a function that returns an
        executor, a Dask cluster's for instance; "" means threads and processes of our own.
    :ivar max_connections: how many connections callers may have open, if half of the file descriptors (`ulimit -n`)
        allow it; one more closes the slowest.
    :ivar receive_s: how long a caller may take to send a request.
    :ivar metrics_port: where the axon front end serves /metrics, /readyz and the like, on 127.0.0.1; 0 means nowhere.
    :ivar monitor_s: how often the host is sampled; 0 turns the monitor off.
    :ivar warn_cpu_ratio: the monitor warns above this use of the host's processors, 0 to 1; 1 never warns.
    :ivar warn_memory_ratio: above this part of the host's memory in use; 1 never warns.
    :ivar warn_fds_ratio: above this part of the process's file descriptors in use.
    :ivar warn_lag_s: above this delay of the event loop.
    """

    assets: tuple[str, ...] = ("btc", "eth", "tao_bittensor")
    api_url: str = COMMUNITY
    api_key: str = field(default="", repr=False)
    api_timeout_s: float = 5.0
    api_requests: int = 10
    api_period_s: float = 6.0
    window_s: int = 86400
    poll_s: float = 5.0
    mark_s: int = 300
    price_basis: str = "newest"
    fresh_s: float = 2.0
    patience_s: float = 1.0
    deadline_s: float = 10.0
    max_age_s: float = 3600.0
    max_past_s: float = 3600.0
    max_future_s: float = 150.0
    max_assets: int = 32
    model: str = "default"
    cache_mb: float = 8.0
    cache_ttl_s: float = 600.0
    state_dir: str = ""
    retention_days: float = 30.0
    min_workers: int = 1
    max_workers: int = 0
    executor: str = ""
    max_connections: int = 1000
    receive_s: float = 10.0
    metrics_port: int = 0
    monitor_s: float = 5.0
    warn_cpu_ratio: float = 0.8
    warn_memory_ratio: float = 0.8
    warn_fds_ratio: float = 0.8
    warn_lag_s: float = 0.25

    def __post_init__(self) -> None:
        for name, (least, most) in _BOUNDS.items():
            value = getattr(self, name)
            if not least <= value <= most:
                _refuse(name, value, f"it is not between {least:g} and {most:g}")
        if not self.assets:
            _refuse("assets", self.assets, "it is empty. Name at least one, for instance btc")
        for asset in self.assets:
            if not asset or asset != asset.lower() or not asset.replace("_", "").replace(".", "").isalnum():
                _refuse("assets", asset, "it is no name of an asset. The API's names are like btc or tao_bittensor")
        if self.price_basis not in BASES:
            _refuse("price_basis", self.price_basis, f"give one of {', '.join(BASES)}")
        if not self.api_url.startswith(("http://", "https://")):
            _refuse("api_url", self.api_url, f"it is no URL. Give one like {COMMUNITY}")
        if self.api_key and not _keeps_the_key(self.api_url):
            _refuse("api_url", self.api_url, "everybody on the way could read api_key. Give an address with https://")
        if self.deadline_s < 2 * RESERVE_S:
            told = f"{RESERVE_S:g} s of it are kept for the answer itself, so the model would hardly ever be used"
            _refuse("deadline_s", self.deadline_s, f"{told}. Give {2 * RESERVE_S:g} or more")
        if 0 < self.max_workers < self.min_workers:
            _refuse("max_workers", self.max_workers, f"it is below min_workers ({self.min_workers})")


_BOUNDS: dict[str, tuple[float, float]] = {
    "api_timeout_s": (0.05, 120),
    "api_requests": (1, 100_000),
    "api_period_s": (0.1, 3600),
    "window_s": (600, 7 * 86400),
    "poll_s": (0.2, 300),
    "mark_s": (0, 86400),
    "fresh_s": (0, 300),
    "patience_s": (0, 60),
    "deadline_s": (0.05, 120),
    "max_age_s": (10, 86400),
    "max_past_s": (0, 86400),
    "max_future_s": (0, 3600),
    "max_assets": (1, 1000),
    "cache_mb": (0.1, 4096),
    "cache_ttl_s": (1, 86400),
    "retention_days": (0.01, 3650),
    "min_workers": (1, 256),
    "max_workers": (0, 256),
    "max_connections": (1, 100_000),
    "receive_s": (0.1, 120),
    "metrics_port": (0, 65535),
    "monitor_s": (0, 3600),
    "warn_cpu_ratio": (0.01, 1),
    "warn_memory_ratio": (0.01, 1),
    "warn_fds_ratio": (0.01, 1),
    "warn_lag_s": (0.001, 3600),
}

_REMOVED = {"disk_cache_mb": "forecasts are cached in memory only (cache_mb)"}  # settings of the past: what is instead


def load(
    overrides: Mapping[str, Any] | None = None, file: str | None = None, environ: Mapping[str, str] = os.environ
) -> Settings:
    """Return the settings.

    :param overrides: what the command line gives, by name; None values are left out.
    :param file: a JSON file with an object of settings.
    :raises SettingError: a name or value can't be used; says which, where, why and what to do.
    """
    given: dict[str, tuple[Any, str]] = {}
    if file:
        given.update({name: (value, file) for name, value in _from_file(file).items()})
    for key, value in environ.items():
        if key.startswith(PREFIX) and key != LOG_LEVEL:
            given[key[len(PREFIX) :].lower()] = (value, key)
    for name, value in (overrides or {}).items():
        if value is not None:
            given[name] = (value, f"--{name.replace('_', '-')}")
    return Settings(**{name: _converted(name, value, where) for name, (value, where) in given.items()})


def _from_file(path: str) -> dict[str, Any]:
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingError(f"settings file {path}: {error}. Give a file with one JSON object") from error
    if not isinstance(found, dict):
        raise SettingError(f"settings file {path}: it holds a {type(found).__name__}. Give one JSON object")
    return found


def _converted(name: str, value: Any, where: str) -> Any:
    known = {each.name: each.default for each in fields(Settings)}
    if name in _REMOVED:
        raise SettingError(f"{where}: the setting {name} was removed: {_REMOVED[name]}. Leave it out")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]}?" if near else "`precog-runtime doctor --list-settings` lists them"
        raise SettingError(f"{where}: there is no setting {name!r}. {hint}")
    default = known[name]
    try:
        if isinstance(default, tuple):
            parts = value.split(",") if isinstance(value, str) else value
            return tuple(dict.fromkeys(str(part).strip() for part in parts if str(part).strip()))
        if isinstance(default, str):
            return str(value)
        number = float(value)
        if not math.isfinite(number) or isinstance(value, bool):
            raise ValueError("not a number")
        if isinstance(default, int):
            if number != int(number):
                raise ValueError("not a whole number")
            return int(number)
        return number
    except (TypeError, ValueError) as error:
        wanted = {int: "a whole number", float: "a number"}.get(type(default), "a list of names")
        raise SettingError(f"{where}: {name} is {value!r}, not {wanted}. Its default is {default!r}") from error


def _keeps_the_key(url: str) -> bool:
    """Return whether what is sent to an address can't be read on the way: it is encrypted, or stays on this host."""
    host = urlsplit(url).hostname or ""
    try:
        here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = host == "localhost"
    return here or url.startswith("https://")


def _refuse(name: str, value: object, reason: str) -> None:
    raise SettingError(f"{name} is {value!r}: {reason}")
