# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The limits there are, their units, and their values as operators, limits.conf and systemd write them. Pure.

A value is kept in the kernel's own unit (bytes, seconds, counts; for `nice` 20 minus the nice value, so that more is
always more), `INFINITY` for no limit. Units of limits.conf: limits.conf(5); of systemd: systemd.exec(5).
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

INFINITY = 2**64 - 1  # the kernel's RLIM_INFINITY
WORDS_FOR_INFINITY = ("unlimited", "infinity", "-1")
MINUTE, KIBIBYTE = 60, 1024

_NUMBER = re.compile(r"[+-]?[0-9]+")
_MOST_DIGITS = 40  # more than any limit has; of thousands Python makes no number
_SIZE = re.compile(r"([0-9]+)\s*([KMGTPE]?)B?")
_SPAN = re.compile(r"([0-9]+)\s*([a-z]*)\s*")
_SECONDS = {
    **dict.fromkeys(("", "s", "sec", "second", "seconds"), 1),
    **dict.fromkeys(("m", "min", "minute", "minutes"), MINUTE),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600),
    **dict.fromkeys(("d", "day", "days"), 86400),
    **dict.fromkeys(("w", "week", "weeks"), 7 * 86400),
}


class Item(NamedTuple):
    """One item of limits.conf.

    :ivar unit: how many of the kernel's units are one of limits.conf's.
    :ivar lowest, highest: what limits.conf takes; None for no bound of its own.
    :ivar of_process: whether it is a limit of each process, which systemd and /proc/PID/limits know too.
    :ivar endless: whether there is a word for no limit.
    """

    unit: int = 1
    lowest: int = 0
    highest: int | None = None
    of_process: bool = True
    endless: bool = True


NICE = "nice"
NOFILE = "nofile"
NPROC = "nproc"
ITEMS = {
    "core": Item(KIBIBYTE),
    "data": Item(KIBIBYTE),
    "fsize": Item(KIBIBYTE),
    "memlock": Item(KIBIBYTE),
    NOFILE: Item(),
    "rss": Item(KIBIBYTE),
    "stack": Item(KIBIBYTE),
    "cpu": Item(MINUTE),
    NPROC: Item(),
    "as": Item(KIBIBYTE),
    "locks": Item(),
    "sigpending": Item(),
    "msgqueue": Item(),
    NICE: Item(lowest=-20, highest=19, endless=False),
    "rtprio": Item(highest=99),
    "maxlogins": Item(of_process=False),
    "maxsyslogins": Item(of_process=False),
    "priority": Item(lowest=-20, highest=19, of_process=False, endless=False),
}


class Pair(NamedTuple):
    """A soft and a hard limit in the kernel's unit; None where nothing says."""

    soft: int | None
    hard: int | None


def understand(item: str, value: Any) -> Pair:
    """Return what an operator wrote: one number for both, `{soft:, hard:}` or `soft:hard`, in limits.conf's unit.

    :raises ValueError: it makes no sense; the message says why.
    """
    if isinstance(value, dict):
        if set(value) != {"soft", "hard"}:
            raise ValueError("a dictionary has to have soft and hard, and nothing else")
        soft, hard = value["soft"], value["hard"]
    elif isinstance(value, str) and value.count(":") == 1:
        soft, hard = value.split(":")
    else:
        soft = hard = value
    pair = Pair(_understand_one(item, soft), _understand_one(item, hard))
    if item != "priority" and _of(pair.soft) > _of(pair.hard):
        raise ValueError(f"soft {to_pam(item, pair.soft)} is above hard {to_pam(item, pair.hard)}")
    if not ITEMS[item].of_process and pair.soft != pair.hard:
        raise ValueError(f"{item} has one value, not soft and hard ones")
    return pair


def _of(number: int | None) -> int:
    return 0 if number is None else number


def _understand_one(item: str, value: Any) -> int:
    about = ITEMS[item]
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(f"{value!r} is no number: write one, unlimited, or soft:hard")
    text = str(value).strip().lower()
    if text in WORDS_FOR_INFINITY and about.endless:
        return INFINITY
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{value!r} is no number: write one, unlimited, or soft:hard")
    number = to_int(text)
    if number < about.lowest or (about.highest is not None and number > about.highest):
        highest = "any" if about.highest is None else about.highest
        raise ValueError(f"{number} is out of range: {item} goes from {about.lowest} to {highest}")
    raw = _raw(item, number)
    if raw >= INFINITY:
        raise ValueError(f"{number} is more than the kernel can hold: write unlimited")
    return raw


def to_int(text: str) -> int:
    """Return the number that an optional sign and digits are, however many; one beyond any limit is cut down."""
    digits = text.lstrip("+-").lstrip("0")[:_MOST_DIGITS] or "0"
    return -int(digits) if text.startswith("-") else int(digits)


def _raw(item: str, number: int) -> int:
    return 20 - number if item == NICE else number * ITEMS[item].unit


def from_pam(item: str, text: str) -> int | None:
    """Return what pam_limits makes of a value, None if it passes over the line. Like strtoull it stops at a letter."""
    about = ITEMS[item]
    word = text.lower()
    if about.endless and word in (*WORDS_FOR_INFINITY, "-"):
        return INFINITY
    found = _NUMBER.match(word)
    if not found:
        return None
    number = to_int(found.group())
    if about.lowest < 0:
        return _raw(item, max(about.lowest, min(number, about.highest or number)))
    return min(_raw(item, number), INFINITY) if number >= 0 else INFINITY


def to_pam(item: str, raw: int | None) -> str:
    """Return a value as limits.conf has it; `-` where nothing says."""
    if raw is None:
        return "-"
    if raw == INFINITY and ITEMS[item].endless:
        return "unlimited"
    return str(20 - raw if item == NICE else raw // ITEMS[item].unit)


def from_systemd(item: str, text: str) -> Pair | None:
    """Return what systemd makes of `Limit…=`: one value for both or `soft:hard`; None if it ignores the line."""
    words = text.strip().split(":")
    if len(words) > 2:
        return None
    numbers = [_from_systemd_one(item, word.strip()) for word in words]
    if any(number is None or number > INFINITY for number in numbers):
        return None
    pair = Pair(numbers[0], numbers[-1])
    return pair if _of(pair.soft) <= _of(pair.hard) else None


def _from_systemd_one(item: str, text: str) -> int | None:
    if text == "infinity":
        return INFINITY
    unit = ITEMS[item].unit
    if item == NICE and text[:1] in ("+", "-"):
        return 20 - to_int(text) if _NUMBER.fullmatch(text) else None
    if unit == MINUTE:
        return _from_span(text)
    if unit == KIBIBYTE:
        size = _SIZE.fullmatch(text)
        return to_int(size[1]) * KIBIBYTE ** " KMGTPE".index(size[2] or " ") if size else None
    return to_int(text) if _NUMBER.fullmatch(text) and text[0] != "-" else None


def _from_span(text: str) -> int | None:
    """Return a time span in seconds: `90`, `10min`, `1h 30min`."""
    parts = _SPAN.findall(text)
    if not parts or _SPAN.sub("", text) or any(unit not in _SECONDS for _number, unit in parts):
        return None
    return sum(to_int(number) * _SECONDS[unit] for number, unit in parts)


def to_systemd(raw: int | None) -> str:
    """Return a value as `systemctl show` has it, which unit files take too; `-` where nothing says."""
    if raw is None:
        return "-"
    return "infinity" if raw == INFINITY else str(raw)


def pam_text(item: str, pair: Pair) -> str | None:
    """Return a pair as a row of the report has it, in limits.conf's unit: `65536:65536`; None if nothing says."""
    return None if pair == (None, None) else f"{to_pam(item, pair.soft)}:{to_pam(item, pair.hard)}"


def systemd_text(pair: Pair) -> str:
    """Return a pair as a row of the report has it, in the kernel's unit."""
    return f"{to_systemd(pair.soft)}:{to_systemd(pair.hard)}"
