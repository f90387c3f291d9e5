# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How much of a module's result is printed: a failure as a few lines, the raw result with -vvv only."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    Result = dict[str, Any]

MOST_LINES = 10
LONG = 160  # characters; a longer line is split where a sentence ends
# What Ansible adds to a value of the wrong kind.
_CLASS = re.compile(r": <class '[^']*'> cannot be converted to an? \w+")
RAW = 3  # -vvv
MORE = "[more at the end of this run]"
# What stays in sight of a failed task. The rest goes below `invocation`, which Ansible shows with -vvv only.
KEPT = ("failed", "unreachable", "changed", "warnings", "deprecations", "release", "unreached")


def lines_of(message: str) -> list[str]:
    """Return a message as at most ten lines: what failed, then a line for each clause. Pure."""
    message = _CLASS.sub("", message)
    clauses = [clause.strip() for line in message.splitlines() for clause in line.split(" | ")]
    lines = [part for clause in clauses for part in _sentences(clause) if part]
    if len(lines) <= MOST_LINES:
        return lines
    return [*lines[: MOST_LINES - 1], f"... and {len(lines) - MOST_LINES + 1} more lines (-vvv shows them)"]


def _sentences(clause: str) -> list[str]:
    return [clause] if len(clause) <= LONG else re.split(r"(?<=[.;]) (?=[A-Z])", clause)


def headline(lines: list[str]) -> str:
    """Return the first of a message's lines, short; says where the others are. Pure."""
    first = lines[0] if lines else "it failed without a message"
    short = first if len(first) <= LONG else f"{first[: LONG - 3]}..."
    return short if lines in ([short], []) else f"{short} {MORE}"


def brief(result: Result, verbosity: int, has_report: bool) -> Result:
    """Return a result of which a short message is printed, and of a good one nothing. Pure.

    :param verbosity: the number of -v.
    :param has_report: whether fleet_report prints the whole message at the end of the run.
    """
    if verbosity >= RAW:
        return result
    if not (result.get("failed") or result.get("unreachable")):
        return {**result, "_ansible_verbose_override": True}
    lines = lines_of(str(result.get("msg") or ""))
    kept = {key: value for key, value in result.items() if key in KEPT or key.startswith("_ansible_")}
    if "settings" not in result and "exception" in result:
        kept["exception"] = result["exception"]  # the module broke
    rest = {key: value for key, value in result.items() if key not in kept and key != "exception"}
    told = headline(lines) if has_report else "\n  ".join(lines)
    return {**kept, "msg": told, "invocation": {**rest, "msg": "\n".join(lines)}}


def raw(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a module returned, whether or not its result was made short."""
    rest = result.get("invocation")
    # Only a result that was made short has its message there; Ansible itself has the module's arguments.
    return {**result, **rest} if isinstance(rest, dict) and "msg" in rest else result


def is_cut(result: Mapping[str, Any]) -> bool:
    """Tell whether a result's message says that the rest of it comes at the end of the run."""
    return str(result.get("msg") or "").endswith(MORE)
