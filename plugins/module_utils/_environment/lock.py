# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Locks of Python requirements: what they pin, and what of it applies to an interpreter. Pure.

A lock is what `uv pip compile --generate-hashes` or pip-tools write: a line `name==version ; marker` for each
requirement, with the hashes of its files. Nothing else is taken, so that no line can fetch what no hash vouches for.
"""

from __future__ import annotations

import ast
import operator
import re
from typing import TYPE_CHECKING, NamedTuple

from .._host.host import HostError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

PIN = re.compile(
    r"(?P<name>[A-Za-z0-9][\w.-]*)(?:\[[\w.,\s-]*\])?\s*==\s*(?P<version>[\w.!+-]+)\s*(?:;\s*(?P<marker>.+))?"
)
HASH = re.compile(r"\s--hash[=\s]sha(?:256:[0-9a-f]{64}|384:[0-9a-f]{96}|512:[0-9a-f]{128})(?=\s|$)")
CLAUSE = re.compile(r"\s*(?P<operator>~=|==|!=|<=|>=|<|>)\s*(?P<version>\d+(?:\.\d+)*)(?P<any>\.\*)?\s*")
MOST_TOLD = 5
VERSIONS = ("python_version", "python_full_version", "implementation_version")
COMPARE: dict[type, Callable[[object, object], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,  # type: ignore[dict-item]
    ast.LtE: operator.le,  # type: ignore[dict-item]
    ast.Gt: operator.gt,  # type: ignore[dict-item]
    ast.GtE: operator.ge,  # type: ignore[dict-item]
    ast.In: lambda left, right: str(left) in str(right),
    ast.NotIn: lambda left, right: str(left) not in str(right),
}


class Pin(NamedTuple):
    """One requirement: its normalised name, version, and the marker that says where it applies ("": everywhere)."""

    name: str
    version: str
    marker: str


def normalised(name: str) -> str:
    """Return a distribution's name as indexes compare it: `typing_extensions` and `Typing.Extensions` are one."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse(text: str, name: str = "lock") -> list[Pin]:
    """Read a lock.

    :param name: the setting that it comes from, for the error.
    :raises HostError: it is empty, has a line that is no pin, or a pin without a hash; all of them are told.
    """
    pins, problems = [], []
    for number, line in _lines(text):
        requirement, hashes = HASH.sub("", line).strip(), len(HASH.findall(line))
        match = PIN.fullmatch(requirement)
        if match is None:
            problems.append(f"line {number} is no pin of the form name==version: {requirement}")
        elif not hashes:
            problems.append(f"line {number} has no hash: {requirement}")
        else:
            pins.append(Pin(normalised(match["name"]), match["version"], (match["marker"] or "").strip()))
    if problems:
        more = f"; and {len(problems) - MOST_TOLD} more" if len(problems) > MOST_TOLD else ""
        raise HostError(
            f"{name} can't be used: {'; '.join(problems[:MOST_TOLD])}{more}. Every requirement needs its hashes, for "
            "they are what proves a download: write it with `uv pip compile --generate-hashes`"
        )
    if not pins:
        raise HostError(f"{name} is empty: name a lock with at least one requirement")
    return pins


def _lines(text: str) -> Iterable[tuple[int, str]]:
    """Yield the logical lines with their numbers: those that end in a backslash joined, comments left out."""
    begun, joined = 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        stripped = re.sub(r"(^|\s)#.*$", "", line).rstrip()
        begun = begun if joined else number
        joined += stripped.removesuffix("\\") + " "
        if stripped.endswith("\\"):
            continue
        if joined.strip():
            yield begun, joined.strip()
        joined = ""
    if joined.strip():
        yield begun, joined.strip()


def applying(pins: Iterable[Pin], markers: Mapping[str, str]) -> dict[str, str]:
    """Return the versions of the requirements that apply, by name.

    :param markers: the interpreter's values of the names in markers (`sys_platform` and so on).
    :raises HostError: a marker can't be understood.
    """
    return {pin.name: pin.version for pin in pins if applies(pin.marker, markers)}


def applies(marker: str, markers: Mapping[str, str]) -> bool:
    """Tell whether a marker is true of an interpreter.

    A marker is almost an expression of Python's, so Python's own parser reads it; nothing of it is executed.

    :raises HostError: it can't be understood.
    """
    if not marker:
        return True
    try:
        return _holds(ast.parse(marker.strip(), mode="eval").body, markers)
    except (SyntaxError, KeyError, TypeError, ValueError) as error:
        raise HostError(f"the marker {marker!r} in lock can't be understood: {error}") from error


def _holds(node: ast.expr, markers: Mapping[str, str]) -> bool:
    if isinstance(node, ast.BoolOp):
        parts = [_holds(part, markers) for part in node.values]
        return all(parts) if isinstance(node.op, ast.And) else any(parts)
    if not isinstance(node, ast.Compare) or len(node.ops) != 1:
        raise ValueError("only comparisons, `and` and `or` are known")
    sides = (node.left, node.comparators[0])
    values: list[object] = [_value(side, markers) for side in sides]
    # A list of versions to look in is text.
    if not isinstance(node.ops[0], (ast.In, ast.NotIn)) and any(_name(side) in VERSIONS for side in sides):
        values = [version(str(value)) for value in values]
    return COMPARE[type(node.ops[0])](*values)


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _value(node: ast.expr, markers: Mapping[str, str]) -> str:
    if isinstance(node, ast.Name):
        return markers[node.id]
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise ValueError(f"{ast.unparse(node)} is neither a name nor a text")


def version(text: str) -> tuple[int, ...]:
    """Return a version's numbers, zeros at the end left out: `3.12` and `3.12.0` are one.

    :raises ValueError: it has none.
    """
    match = re.match(r"\d+(?:\.\d+)*", text)
    if match is None:
        raise ValueError(f"{text!r} is no version")
    return _trimmed([int(part) for part in match[0].split(".")])


def _trimmed(numbers: list[int]) -> tuple[int, ...]:
    while len(numbers) > 1 and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def satisfies(number: str, specifier: str) -> bool:
    """Tell whether a Python version is one that a package takes.

    :param number: such as `3.11.2`.
    :param specifier: its Requires-Python, such as `>=3.10,<4`; "" takes all. Rarer clauses are left to the installer.
    """
    return all(_satisfies(number, clause) for clause in specifier.split(",") if clause.strip())


def _satisfies(number: str, clause: str) -> bool:
    match = CLAUSE.fullmatch(clause)
    if match is None:
        return True
    have, want, sign = version(number), version(match["version"]), match["operator"]
    if sign == "~=":
        series = tuple(int(part) for part in match["version"].split(".")[:-1])
        return have >= want and have[: len(series)] == series
    if match["any"]:
        numbers = tuple(int(part) for part in match["version"].split("."))
        return (have[: len(numbers)] == numbers) is (sign == "==")
    signs = {"==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt}
    return bool(signs.get(sign, operator.ge)(have, want))
