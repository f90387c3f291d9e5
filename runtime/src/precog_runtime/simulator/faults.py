"""Faults of the simulated API: what goes wrong with which request. Decisions only; the server carries them out."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from precog_runtime.errors import SettingError

Row = dict[str, object]

GARBAGE = ("truncated", "html", "shape", "types", "negative", "nan", "absurd", "asset", "range")
EVERY = 7  # of the rows of an answer, the first and every seventh one after it is bad
DAY_S = 86400
ABSURD = 1e6  # times the price


@dataclass(frozen=True)
class Faults:
    """Which faults are on. Each is a share, from 0 (off) to 1 (always), of requests unless something else is said.

    On the command line and in /control `http_429` and `http_500` are written 429 and 500.

    :ivar latency: answered `latency_ms` plus up to `jitter_ms` milliseconds later.
    :ivar hang: never answered, the connection stays open.
    :ivar drop: the connection is closed without an answer.
    :ivar http_429: too many requests, come back in `reset_s` seconds.
    :ivar http_500: internal server error.
    :ivar cut: the connection is closed in the middle of the answer.
    :ivar garbage: an answer of status 200 that can't be right, of the kind `garbage_kind`: one of GARBAGE, or "any".
    :ivar late: share of prices that appear `late_s` seconds later than the others.
    """

    latency: float = 0.0
    latency_ms: float = 1000.0
    jitter_ms: float = 0.0
    hang: float = 0.0
    drop: float = 0.0
    http_429: float = 0.0
    reset_s: float = 1.0
    http_500: float = 0.0
    cut: float = 0.0
    garbage: float = 0.0
    garbage_kind: str = "any"
    late: float = 0.0
    late_s: float = 5.0

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name == "garbage_kind":
                if value not in (*GARBAGE, "any"):
                    raise SettingError(f"fault garbage_kind is {value!r}. Choose any or one of {', '.join(GARBAGE)}")
            elif each.name in _UNITS:
                if not 0 <= value <= _MOST:
                    raise SettingError(f"fault {each.name} is {value!r}: give {_UNITS[each.name]} from 0 to {_MOST:g}")
            elif not 0 <= value <= 1:
                raise SettingError(f"fault {_shown(each.name)} is {value!r}: give the share of requests, from 0 to 1")


_UNITS = {"latency_ms": "milliseconds", "jitter_ms": "milliseconds", "reset_s": "seconds", "late_s": "seconds"}
_MOST = 86_400_000.0


def merged(faults: Faults, changes: Mapping[str, Any]) -> Faults:
    """Return the faults with some of them changed; numbers may come as text.

    :raises SettingError: there is no such fault, or its value can't be used; nothing is changed then.
    """
    known = {each.name for each in fields(Faults)}
    values: dict[str, Any] = {}
    for given, value in changes.items():
        name = f"http_{given}" if given.isdigit() else given
        if name not in known:
            raise SettingError(f"there is no fault {given!r}. Choose from {', '.join(settings(faults))}")
        values[name] = str(value) if name == "garbage_kind" else _number(given, value)
    return replace(faults, **values)


def settings(faults: Faults) -> dict[str, Any]:
    """Return the faults by the names that `merged` takes."""
    return {_shown(each.name): getattr(faults, each.name) for each in fields(faults)}


def _shown(name: str) -> str:
    return name[len("http_") :] if name.startswith("http_") else name


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
        if isinstance(value, bool) or not math.isfinite(number):
            raise ValueError("not a number")
    except (TypeError, ValueError) as error:
        raise SettingError(
            f"fault {name} is {value!r}, which is no number. Give a share from 0 to 1, or a time"
        ) from error
    return number


@dataclass(frozen=True)
class Decision:
    """What happens to one request.

    :ivar delay_s: how much later than usual it is answered, seconds.
    :ivar action: "answer", "hang", "drop", "429", "500", "cut", or one of GARBAGE.
    """

    delay_s: float = 0.0
    action: str = "answer"


def decide(faults: Faults, seed: int, number: int) -> Decision:
    """Decide what happens to the request of that number: the same seed and number, the same decision.

    Where several faults are due, the first of hang, drop, 429, 500, cut and garbage wins; latency comes on top.
    """
    lot = random.Random(f"{seed} {number}")
    slow, jitter, kind, *due = (lot.random() for _ in range(9))
    delay = (faults.latency_ms + jitter * faults.jitter_ms) / 1000 if slow < faults.latency else 0.0
    garbage = GARBAGE[int(kind * len(GARBAGE))] if faults.garbage_kind == "any" else faults.garbage_kind
    shares = (
        ("hang", faults.hang),
        ("drop", faults.drop),
        ("429", faults.http_429),
        ("500", faults.http_500),
        ("cut", faults.cut),
        (garbage, faults.garbage),
    )
    return Decision(delay, next((name for (name, share), at in zip(shares, due, strict=True) if at < share), "answer"))


def spoiled_rows(kind: str, rows: Sequence[Row], metric: str, shifted: Callable[[Row, int], object]) -> list[object]:
    """Return an answer's rows with every seventh one bad in the way of `kind`, if it is about rows.

    :param metric: the column of prices, which are text as in the API.
    :param shifted: returns a row's time, as the API writes it, so many seconds later.
    """
    return [_spoiled(kind, row, at, metric, shifted) if at % EVERY == 0 else row for at, row in enumerate(rows)]


def _spoiled(kind: str, row: Row, at: int, metric: str, shifted: Callable[[Row, int], object]) -> object:
    price = float(str(row[metric]))
    wrong: dict[str, Row] = {
        "negative": {metric: f"-{row[metric]}"},
        "nan": {metric: "NaN"},
        "absurd": {metric: f"{price * ABSURD:.2f}"},
        "asset": {"asset": "nosuchasset"},
        "range": {"time": shifted(row, DAY_S if at % 2 else -DAY_S)},
    }
    if kind == "types":
        return (
            None,
            "row",
            {**row, metric: [price]},
            {**row, metric: None},
            {**row, "time": 5},
            {**row, "asset": {}},
            {},
        )[at // EVERY % 7]
    return {**row, **wrong.get(kind, {})}


def spoiled_body(kind: str, body: bytes) -> tuple[bytes, str]:
    """Return an answer's body and content type, bad in the way of `kind`, if it is not about rows."""
    if kind == "truncated":
        return body[: len(body) // 2], "application/json"
    if kind == "html":
        return b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>", "text/html"
    if kind == "shape":
        return b'{"data": {"btc": "67000"}, "next_page_token": 5}', "application/json"
    return body, "application/json"
