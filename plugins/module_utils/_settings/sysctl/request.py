# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Merges the parameters over the profile, and validates them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from . import keys

if TYPE_CHECKING:
    from collections.abc import Mapping


class BadInput(NamedTuple):
    """A parameter that is refused before the host is looked at."""

    name: str
    value: str
    reason: str


class Request(NamedTuple):
    """What an operator wants of sysctl keys.

    :ivar desired: value by path; the order does not matter.
    :ivar removed: paths that were said to be left alone (null).
    :ivar bad: parameters that make no sense; the rest is applied.
    :ivar held: slots (see `slot_of`) of which nothing is known but that they are wanted: what was applied stays.
    """

    desired: Mapping[str, str]
    removed: frozenset[str] = frozenset()
    bad: tuple[BadInput, ...] = ()
    held: frozenset[str] = frozenset()


def understand(profile: Mapping[str, Any], parameters: Mapping[str, Any]) -> Request:
    """Merge parameters over a profile. Pure.

    A parameter replaces whatever in the profile sets the same thing in the kernel (another spelling, an alias, a
    counterpart); null takes that out. Two parameters for one thing contradict each other: both are refused.
    """
    bad: list[BadInput] = []
    given: dict[str, list[tuple[str, str, Any]]] = {}
    for name, value in parameters.items():
        try:
            path = keys.path_of(str(name))
        except ValueError as reason:
            bad.append(BadInput(str(name), _shown(value), str(reason)))
            continue
        given.setdefault(keys.slot_of(path), []).append((str(name), path, value))
    desired = {keys.path_of(name): keys.render(value) for name, value in profile.items()}
    desired = {path: value for path, value in desired.items() if keys.slot_of(path) not in given}
    removed: set[str] = set()
    held = set()
    for slot, entries in given.items():
        refused = _take(entries, desired, removed)
        bad += refused
        if refused:
            held.add(slot)
    return Request(desired, frozenset(removed), tuple(bad), frozenset(held))


def _take(entries: list[tuple[str, str, Any]], desired: dict[str, str], removed: set[str]) -> list[BadInput]:
    """Add what is given for one thing in the kernel to the desired or removed ones, or say why not."""
    if len(entries) > 1:
        names = [name for name, _path, _value in entries]
        return [
            BadInput(name, _shown(value), f"one thing is set twice, by {' and '.join(names)}: keep one of them")
            for name, _path, value in entries
        ]
    name, path, value = entries[0]
    if value is None:
        removed.add(path)
        return []
    try:
        desired[path] = keys.render(value)
    except ValueError as reason:
        return [BadInput(name, _shown(value), str(reason))]
    return []


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)
