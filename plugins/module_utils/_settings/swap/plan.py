# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Plans each swap area, and predicts its state after the next boot. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._engine import model
from ..._engine.ledger import Original
from ..._engine.managed import Files
from ..._engine.model import Change, Plan
from . import guard, tables
from . import sources as swap_sources
from .sources import FSTAB, UNITS, Source
from .state import MASK, OFF, PREFIX, SETTING, Request, State, Untouched, area_of, names_swap, priority_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ON = "on"


def make_plan(state: State, request: Request) -> list[Change]:
    """Return the changes for all areas, in the order of writing. Pure."""
    if request.mode is None:
        changes = [_give_back(state, name) for name in state.originals]
    elif request.mode == OFF:
        names = {*state.active, *(source.area for source in state.sources), *_known(state)}
        changes = [_want_off(state, area) for area in names]
    else:
        changes = _want_on_or_give_back(state)
    changes.sort(key=lambda change: _order(state, change))
    _guard(state, request, changes)
    return changes or [_nothing(request.mode)] if request.mode else changes


def leave(untouched: Untouched, request: Request) -> list[Change]:
    """The areas that a container sees are the machine's: none of them is read as ours."""
    if untouched.sharing is None or (request.mode is None and not untouched.has_originals):
        return []
    change = Change(name=SETTING, desired=request.mode)
    change.reject(model.UNSUPPORTED, untouched.sharing)
    return [change]


def warnings_of(state: State, changes: Sequence[Change]) -> Iterable[str]:
    if state.resume is not None and any(change.name == PREFIX + state.resume[0] for change in changes):
        device, source = state.resume
        yield f"{device} is where the host resumes from hibernation ({source}), which swap off prevents"
    if state.cloud is not None:
        yield f"{state.cloud} has cloud-init make a swap area when it sees a new instance: remove `swap:` there"


def shortage_of(plan: Plan) -> str:
    """Return why memory does not allow to turn areas off, as the first of them showed; "" for no such reason."""
    return next((change.shortage for change in plan.changes if change.shortage), "")


def _nothing(mode: str | None) -> Change:
    change = Change(name=SETTING, desired=mode, before=OFF, after=OFF)
    if mode == ON:
        change.reject(model.UNSUPPORTED, "no swap area is configured: make one, and name it in /etc/fstab")
    else:
        change.explain("no swap area is active or configured")
    return change


def _known(state: State) -> set[str]:
    return {name[len(PREFIX) :] for name in state.originals}


def _order(state: State, change: Change) -> tuple[int, int, str]:
    """What is turned on first, by priority; then what is turned off, the smallest first; then the rest."""
    for _path, value in change.writes:
        if value != OFF:
            known = state.originals.get(change.name)
            recorded = priority_of(known.value) if known and known.value != OFF else priority_of(value)
            return 0, -(recorded or 0), change.name
        return 1, state.active[area_of(change)].used, change.name
    return 2, 0, change.name


def _row(state: State, area: str, desired: str | None) -> Change:
    active = state.active.get(area)
    change = Change(name=PREFIX + area, desired=desired, target=desired, before=active.value if active else OFF)
    boot = state.at_boot(area)
    change.persisted_before = boot[0].value if boot else OFF
    known = state.originals.get(change.name)
    lasted = any(source.ours for source in state.of(area))
    if desired is not None and (known is None or known.is_void(state.boot, lasted=lasted)):
        change.original = Original(str(change.before), state.configured(area), state.boot)
    return change


def _want_off(state: State, area: str) -> Change:
    change = _row(state, area, OFF)
    if area in state.deleted:
        change.reject(model.UNSUPPORTED, "its file is deleted, so that nothing but a reboot turns it off")
        return change
    change.line = OFF
    if area in state.active:
        change.writes, change.undo = ((area, OFF),), ((area, str(change.before)),)
    lasting = [source for source in state.of(area) if not source.ours and (source.number or source.mask)]
    model.judge(change, state.originals.get(change.name), ON if lasting else OFF, lambda value: value == OFF)
    if lasting and change.status == model.DRIFTED:
        change.explain(f"{lasting[0].told} activates it again at boot")
    return change


def _want_on_or_give_back(state: State) -> list[Change]:
    areas = {source.area for source in state.sources if source.kind != swap_sources.FROM_SERVICE}
    configured = {area for area in areas if state.named(area) is not None}
    others = [name for name in state.originals if name[len(PREFIX) :] not in configured]
    return [_want_on(state, area) for area in configured] + [_give_back(state, name) for name in others]


def _want_on(state: State, area: str) -> Change:
    change = _row(state, area, ON)
    if area not in state.active and area in state.missing and state.starter(area) is None:
        change.reject(model.UNSUPPORTED, "it is configured, but not there")
        return change
    if area not in state.active:
        change.writes, change.undo = ((area, str(state.named(area))),), ((area, OFF),)
    masked = any(source.ours for source in state.of(area))
    model.judge(change, state.originals.get(change.name), OFF if masked else ON, lambda value: value == ON)
    return change


def _give_back(state: State, name: str) -> Change:
    area, original = name[len(PREFIX) :], state.originals[name]
    change = _row(state, area, None)
    change.forget = True
    if original.is_void(state.boot, lasted=any(source.ours for source in state.of(area))):
        change.explain("was never applied: nothing to give back")
        return change
    target = original.give_back(state.configured(area), state.boot)
    change.status = model.CHANGED
    change.explain(f"given back: {target}")
    if (target == OFF) == (area not in state.active):
        return change
    if target != OFF and area in state.missing and state.starter(area) is None:
        change.explain("but it is not there now" + ("; the next boot brings it" if state.configured(area) else ""))
        return change
    change.target = target
    change.writes, change.undo = ((area, target),), ((area, str(change.before)),)
    return change


def _guard(state: State, request: Request, changes: Sequence[Change]) -> None:
    """Refuse everything that is not done yet, if memory can't take back what areas hold."""
    falling = [state.active[path] for change in changes for path, value in change.writes if value == OFF]
    reason = guard.shortage(state.available, falling, request.reserve, state.groups)
    if reason is None:
        return
    for change in changes:
        if change.status not in (model.OK, model.UNSUPPORTED):
            change.reject(
                model.REFUSED,
                f"not enough memory: {reason}. All areas stay as they were: free memory, or lower memory_reserve_mb",
            )


def after(state: State, files: Files) -> State:
    """Return the state with the files in place."""
    text = (files.get(FSTAB) or state.fstab.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")
    ours = {entry.number for entry in tables.parse_fstab(text) if entry.ours}
    sources = []
    for source in state.sources:
        if source.number:
            sources.append(source._replace(ours=source.number in ours))
        elif source.mask in files:
            sources.append(source._replace(ours=files[source.mask] == MASK))
        else:
            sources.append(source)
    return state._replace(sources=tuple(sources), fstab_says=names_swap(text))


def foresee(state: State, change: Change) -> None:
    """Fill in what the next boot gives an area."""
    area = area_of(change)
    active, turned_off = state.at_boot(area), [source for source in state.of(area) if source.ours]
    change.persisted = active[0].value if active else OFF
    change.persisted_by = active[0].told if active else _first_told(turned_off)
    asleep = next((source.asleep for source in state.of(area) if source.asleep), "")
    if asleep and not active:
        change.persisted_by = change.persisted_by or swap_sources.COMMAND_LINE
        if change.desired == ON and change.status not in model.FAILING:
            change.overridden_by = f"{asleep} on the kernel command line keeps it off at boot: take that out there"
    if active and change.line == OFF:
        change.overridden_by = f"{active[0].told} activates it at boot: {_remedy(active[0])}"


def _first_told(sources: Iterable[Source]) -> str | None:
    return next((source.told if source.number else source.mask for source in sources), None)


def _remedy(source: Source) -> str:
    unit = source.unit
    if source.kind == swap_sources.FROM_SERVICE:
        return f"systemctl disable {unit}"
    return f"its file in {UNITS} is a link, which is left alone: systemctl disable {unit}"
