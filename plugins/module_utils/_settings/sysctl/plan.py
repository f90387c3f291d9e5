# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Plans each sysctl key. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from ..._engine import model
from ..._engine.ledger import Original
from ..._engine.model import Change
from . import files as loading
from . import keys
from .request import BadInput, Request
from .state import CONGESTION_CONTROL, PROC, State, is_same

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BUILT_IN_CONGESTION = ("reno", "cubic")


class Keys(NamedTuple):
    """What to do with keys.

    :ivar changes: one for every key concerned, in the order of writing.
    :ivar modules: the module that a key may need, by the key's name.
    :ivar kept: lines that stay in the managed file although no change is about them, by name.
    """

    changes: list[Change]
    modules: dict[str, str]
    kept: dict[str, str]


def make_plan(state: State, request: Request, *, owner: str, apply_shared: bool) -> Keys:
    """Return what to do. Pure."""
    rest = loading.Boot(loading.with_fragment(state.fragments, owner, None), loading.SYSTEMD)
    wanted = [
        _plan_key(state, path, request.desired[path], rest, apply_shared=apply_shared) for path in request.desired
    ]
    refused = {keys.slot_of(keys.path_of(change.name)) for change in wanted if change.status == model.REFUSED}
    managed = {keys.path_of(name) for name in state.originals} - set(request.desired)
    held = {path for path in managed if keys.slot_of(path) in refused | request.held}
    slots = {keys.slot_of(path): (path, value) for path, value in request.desired.items()}
    released = [_plan_release(state, path, rest, slots.get(keys.slot_of(path))) for path in managed - held]
    ordered = sorted([*wanted, *released], key=lambda change: keys.order_of(keys.path_of(change.name)))
    _follow(ordered)
    unknown = [_plan_removed(state, path) for path in sorted((request.removed - managed) & set(state.nearest))]
    changes = [*ordered, *(change for change in unknown if change is not None)]
    boot = loading.Boot(state.fragments, loading.SYSTEMD)
    for change in changes:
        line = boot.line_for(keys.path_of(change.name))
        change.persisted_before = line.value if line is not None else None
    kept = {name: state.originals[name].desired for name in map(keys.name_of, held)}
    modules = _modules_to_keep(state, {**kept, **{change.name: change.desired for change in wanted}})
    lines = {name: value for name, value in kept.items() if value is not None}
    return Keys([*map(_refused_input, request.bad), *changes], modules, lines)


def _follow(changes: Sequence[Change]) -> None:
    """Write once more what the kernel rewrites when a key before it is written, though it is as it should be now."""
    leaders: list[str] = []
    for change in changes:
        path = keys.path_of(change.name)
        if change.target is not None and not change.writes and any(keys.follows(path, leader) for leader in leaders):
            change.writes = change.undo = ((f"{PROC}/{path}", change.target),)
        if change.writes:
            leaders.append(path)


def _refused_input(bad: BadInput) -> Change:
    change = Change(name=bad.name, desired=bad.value, malformed=True)
    change.reject(model.REFUSED, bad.reason)
    return change


def _plan_removed(state: State, path: str) -> Change | None:
    """A key to be left alone that does not exist: most likely a typo, and another key is then not left alone."""
    status, reason = _missing(state, path)
    if status != model.UNKNOWN:
        return None
    change = Change(name=keys.name_of(path))
    change.reject(status, reason)
    return change


def _plan_key(state: State, path: str, desired: str, rest: loading.Boot, *, apply_shared: bool) -> Change:
    found = state.keys[path]
    known = state.note(path)
    change = Change(name=keys.name_of(path), desired=desired, target=keys.canonical(path, desired), before=found.value)
    change.kept = known.desired if known else None  # the value that was taken before stays until a good one comes
    obstacle = _obstacle(state, path, desired, apply_shared=apply_shared)
    if obstacle is None and not found.exists:
        change.line, change.status = desired, model.CHANGED
        change.explain(f"the module {keys.module_of(path)} would be loaded first")
        return change
    if obstacle is not None:
        change.reject(*obstacle)
        return change
    change.line = desired
    if not is_same(path, found.value, desired):
        _set(change, state, path, desired)
    change.original = _original(state, path, rest)
    model.judge(change, known, state.own_lines.get(path), lambda value: is_same(path, value, desired))
    if keys.ONE_WAY_VALUES.get(path) == desired and change.writes:
        change.explain("one-way: only a reboot takes it back")
    return change


def _obstacle(state: State, path: str, desired: str, *, apply_shared: bool) -> tuple[str, str] | None:
    """Return the status and reason that keep a key out of the plan, or None."""
    found = state.keys[path]
    if not found.exists:
        to_come = not state.loaded and state.modules.get(keys.module_of(path) or "") == ""
        return None if to_come and not state.kernel.container else _missing(state, path)
    if found.action:
        return model.REFUSED, "makes the kernel do something once and keeps no value: leave it out"
    objection = keys.objection(path, desired, found.value)
    if objection is not None:
        return model.REFUSED, objection
    sharing = None if apply_shared else state.kernel.sharing(path)
    if sharing is not None:
        return model.UNSUPPORTED, sharing
    if found.trouble and not found.writable:
        return model.UNSUPPORTED, found.trouble
    if not found.writable:
        shown_only = state.kernel.container and keys.is_of_initial_namespace(path)
        return model.UNSUPPORTED, str(state.kernel.sharing()) if shown_only else "read-only here"
    return _module_obstacle(state, path, desired)


def _missing(state: State, path: str) -> tuple[str, str]:
    module = keys.module_of(path)
    if state.kernel.container and (module is not None or keys.is_of_initial_namespace(path)):
        needs = f", and needs its module {module}" if module else ""
        return model.UNSUPPORTED, f"{state.kernel.sharing()}{needs}"
    if module is not None and path in state.keys:
        trouble = state.modules.get(module) or f"the module {module} is there but does not bring this key"
        return model.UNSUPPORTED, trouble
    near = state.nearest.get(path)
    return model.UNKNOWN, f"this kernel has no such key{f'; is {near} meant?' if near else ''}"


def _module_obstacle(state: State, path: str, desired: str) -> tuple[str, str] | None:
    if path != CONGESTION_CONTROL or desired in state.congestion or not state.congestion:
        return None
    module = f"tcp_{desired}"
    if state.kernel.container:
        return model.UNSUPPORTED, f"{state.kernel.sharing()}, and {desired} needs its module {module}"
    trouble = state.modules.get(module)
    return (model.REFUSED, f"no such congestion control: {trouble}") if trouble else None


def _module_to_keep(state: State, path: str, desired: str | None) -> str | None:
    """Return the module that has to be loaded at boot before the key's file is read, or None."""
    if state.kernel.container:
        return None
    if path == CONGESTION_CONTROL:
        return None if desired in BUILT_IN_CONGESTION else f"tcp_{desired}"
    return keys.module_of(path)


def _modules_to_keep(state: State, values: Mapping[str, str | None]) -> dict[str, str]:
    """Return the modules that have to be loaded at boot before the managed file is read, by the key's name."""
    modules = {name: _module_to_keep(state, keys.path_of(name), value) for name, value in values.items()}
    return {name: module for name, module in modules.items() if module is not None}


def _original(state: State, path: str, rest: loading.Boot) -> Original | None:
    """Return what the ledger has to note before a key's first change, or None if it has it."""
    found = state.keys[path]
    if state.note(path) is not None or found.value is None:
        return None
    line = rest.line_for(path)
    value = _before_leaders(state, path) or found.value
    notes = {other: (state.note(other), now) for other, now in state.values_with(path).items()}
    companions = {other: note.value if note else now for other, (note, now) in notes.items()}
    fresh = Original(value, line.value if line else None, state.boot, companions=companions)
    mates = [keys.path_of(name) for name in state.originals if keys.slot_of(keys.path_of(name)) == keys.slot_of(path)]
    known = next((note for note in map(state.note, mates) if note is not None), None)
    if known is None:
        return fresh
    # An earlier run set the same thing by another key: what was before that run is the original.
    counterpart = keys.COUNTERPARTS.get(path)
    if counterpart is None:
        return replace(known, desired=None)
    return replace(fresh, value=known.companions.get(path, fresh.value), companions={counterpart: known.value})


def _before_leaders(state: State, path: str) -> str | None:
    """Return what a key was before an earlier run moved it by writing another one, or None."""
    for name, note in state.originals.items():
        leader = keys.path_of(name)
        moved = keys.follows(path, leader) and (note.moved or note.desired is None)
        if moved and keys.is_default(leader):
            moved = state.keys[path].value == state.keys[leader].value  # else it was given a value of its own since
        if moved and path in note.companions:
            return note.companions[path]
    return None


def _plan_release(state: State, path: str, rest: loading.Boot, successor: tuple[str, str] | None) -> Change:
    """Give a key back that is no longer wanted.

    :param successor: the key that sets the same thing from now on, and its value, or None.
    """
    found, original = state.keys[path], state.note(path)
    change = Change(name=keys.name_of(path), before=found.value, forget=True)
    if original is None:
        change.explain("was never applied: nothing to give back")
        return change
    change.status = model.CHANGED
    if successor is not None:
        other, value = successor
        change.explain(f"{keys.name_of(other)} takes its place")
        if other not in keys.COUNTERPARTS:
            change.target = keys.canonical(path, value)
        elif keys.canonical(other, value) != "0":
            change.target = "0"
        return change
    if not found.exists or not found.writable:
        change.explain("read-only now: left as it is" if found.exists else "gone from this kernel")
        return change
    line = rest.line_for(path)
    value = original.give_back(line.value if line else None, state.boot)
    change.target = value
    change.explain(f"given back: {value}")
    if is_same(path, found.value, value):
        if original.moved or not is_same(path, original.desired, value):
            _finish(change, state, path, original.companions)
        return change
    if keys.ONE_WAY_VALUES.get(path) == found.value:
        change.target = None
        change.explain("one-way: the next boot brings it")
        return change
    _set(change, state, path, value, original.companions)
    return change


def _finish(change: Change, state: State, leader: str, companions: Mapping[str, str]) -> None:
    """Give back what follows a key that has its original already, after an earlier run that moved both."""
    if keys.is_default(leader):
        return
    now = {
        other: state.keys[other].value for other in companions if keys.follows(other, leader) and other in state.keys
    }
    moved = [(other, value) for other, value in sorted(now.items()) if value not in (None, companions[other])]
    change.writes = tuple((f"{PROC}/{other}", companions[other]) for other, _value in moved)
    change.undo = tuple((f"{PROC}/{other}", str(value)) for other, value in moved)


def _set(change: Change, state: State, path: str, value: str, companions: Mapping[str, str] | None = None) -> None:
    """Plan the writes that bring a key's value, and those that take them back.

    :param companions: what the kernel would rewrite together with it is to have these values, or None for any.
    """
    there = {
        other: wanted
        for other, wanted in (companions or {}).items()
        if other in state.keys and state.keys[other].exists
    }
    change.writes = _writes_for(path, value, there)
    before = state.keys[path].value
    if before is not None:
        change.undo = _writes_for(path, before, state.values_with(path))


def _writes_for(path: str, value: str, companions: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the writes that bring a value; 0 of one of a pair is reached by giving the other its value."""
    counterpart = keys.COUNTERPARTS.get(path)
    if counterpart is not None:
        mate = companions.get(counterpart, "0")
        return ((f"{PROC}/{path}", value),) if value != "0" or mate == "0" else ((f"{PROC}/{counterpart}", mate),)
    if keys.is_default(path):
        return ((f"{PROC}/{path}", value),)  # what followed it does so again, and by a write would no longer
    rewritten = [(other, wanted) for other, wanted in sorted(companions.items()) if keys.follows(other, path)]
    moved = [(f"{PROC}/{other}", wanted) for other, wanted in rewritten if wanted != keys.followed_value(other, value)]
    return ((f"{PROC}/{path}", value), *moved)
