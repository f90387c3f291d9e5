# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Plans each limit, and predicts its value after the next boot. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..._engine import model
from ..._engine.ledger import Original
from ..._engine.managed import Files
from ..._engine.model import Change
from ..._host import rlimits as values
from ..._host.rlimits import INFINITY, Pair
from . import pam, systemd
from . import state as limits_state
from .request import DEFAULT, LOGIN, MANAGER_FILE, NAME, PAM_FILE, UNIT, UNIT_ROOT, Bad, Request, Setting

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .state import State

NOBODY_SAYS = "-"


def make_plan(state: State, request: Request) -> list[Change]:
    """Return what to do. Pure."""
    refused = {bad.name for bad in request.bad}
    managed = [Setting.of(name) for name in state.originals if name not in refused]
    changes = [_reject(bad, state) for bad in request.bad]
    # What was applied stays while nothing is known of it but that it is wanted.
    held = {setting for setting in managed if f"{setting.kind}:{setting.place}" in refused}
    changes += [_hold(state, setting) for setting in sorted(held - set(request.desired))]
    changes += [_want(state, setting, request.desired[setting]) for setting in sorted(request.desired)]
    changes += [_release(state, setting) for setting in sorted(set(managed) - set(request.desired) - held)]
    return changes


def _reject(bad: Bad, state: State) -> Change:
    known = state.originals.get(bad.name)
    change = Change(bad.name, desired=bad.value, malformed=known is None, kept=known.desired if known else None)
    change.reject(bad.status, bad.reason)
    return change


def _hold(state: State, setting: Setting) -> Change:
    change = Change(setting.name, desired=state.originals[setting.name].desired, before=_now(state, setting))
    change.persisted_before = _persisted(state, setting)[0]
    change.kept = change.desired
    change.reject(model.REFUSED, f"what is given for {setting.place} can't be understood: left as it was applied")
    return change


def _want(state: State, setting: Setting, pair: Pair) -> Change:
    wanted = setting.text(pair)
    known, on_disk = state.originals.get(setting.name), _on_disk(state, setting)
    change = Change(setting.name, desired=wanted, before=_now(state, setting), kept=known.desired if known else None)
    change.persisted_before = _persisted(state, setting)[0]
    obstacle = _obstacle(state, setting, pair)
    if obstacle is not None:
        change.reject(*obstacle)
        return change
    change.line = wanted
    if known is None or known.is_void(state.boot, lasted=on_disk is not None):
        rest = _persisted(_without_ours(state), setting)[0]
        change.original = Original(change.before or NOBODY_SAYS, rest, state.boot)
    model.judge(change, known, on_disk, lambda value: value == wanted)
    if _is_unread(change, setting, on_disk):
        change.status = model.CHANGED
        change.explain(f"systemd had not read {setting.path} yet")
    for note in _notes(state, setting, pair):
        change.explain(note)
    return change


def _release(state: State, setting: Setting) -> Change:
    """Give a limit back that is no longer wanted: what the other files say is all there is to it."""
    original = state.originals[setting.name]
    change = Change(setting.name, before=_now(state, setting), forget=True)
    change.persisted_before = _persisted(state, setting)[0]
    if original.is_void(state.boot, lasted=_on_disk(state, setting) is not None):
        change.explain("was never applied: nothing to give back")
        return change
    change.status = model.CHANGED
    if setting.kind == UNIT and state.units.get(setting.place, limits_state.Unit("")).state != "loaded":
        change.explain("given back: there is no such service any more")
        return change
    rest = _persisted(_without_ours(state), setting)[0]
    change.explain(f"given back: {rest or 'no file says'}")
    return change


def _is_unread(change: Change, setting: Setting, on_disk: str | None) -> bool:
    """Tell whether an earlier run has put the file into place, and systemd was never told."""
    wanted = change.line
    return (
        setting.kind != LOGIN
        and wanted is not None
        and change.before != wanted
        and on_disk == wanted
        and change.persisted_before == wanted
    )


def unread(state: State, changes: Iterable[Change]) -> Iterable[str]:
    """Yield the files of which systemd was never told, or may not have been: a run that gives back tells it last."""
    for change in changes:
        if change.status in model.FAILING or change.malformed:
            continue
        setting = Setting.of(change.name)
        given_back = change.forget and change.status == model.CHANGED and setting.kind != LOGIN
        if given_back or (change.line is not None and _is_unread(change, setting, _on_disk(state, setting))):
            yield setting.path


def _now(state: State, setting: Setting) -> str | None:
    """Return a limit as a login gets it, or as systemd has it loaded."""
    if setting.kind == LOGIN:
        return login(state, setting)
    if setting.kind == DEFAULT:
        return setting.text(state.defaults[setting.item]) if setting.item in state.defaults else None
    unit = state.units.get(setting.place)
    return setting.text(unit.limits[setting.item]) if unit is not None and unit.state == "loaded" else None


def login(state: State, setting: Setting) -> str | None:
    return setting.text(_decide(state, setting).pair)


def _decide(state: State, setting: Setting) -> pam.Decision:
    return pam.decide(pam.lines_of(state.pam_texts), state.subjects[setting.place], setting.item)


def _assigned(state: State, setting: Setting) -> systemd.Assignment | None:
    if setting.kind == DEFAULT:
        return systemd.decide(state.manager_texts, setting.section, setting.key, setting.item)
    unit = state.units.get(setting.place)
    return None if unit is None else systemd.decide(unit.texts, setting.section, setting.key, setting.item)


def _persisted(state: State, setting: Setting) -> tuple[str | None, str | None]:
    """Return what the files give, and where."""
    if setting.kind == LOGIN:
        decision = _decide(state, setting)
        return setting.text(decision.pair), decision.place
    line = _assigned(state, setting)
    return (None, None) if line is None else (setting.text(line.pair), line.place)


def _on_disk(state: State, setting: Setting) -> str | None:
    """Return what the managed file says, None if it does not."""
    if setting.kind == LOGIN:
        own = pam.parse(PAM_FILE, state.pam_texts.get(PAM_FILE, ""))
        return setting.text(pam.decide(own, pam.Subject(setting.place), setting.item).pair)
    unit = state.units.get(setting.place)
    texts = state.manager_texts if setting.kind == DEFAULT else unit.texts if unit else {}
    only = {setting.path: texts.get(setting.path, "")}
    line = systemd.decide(only, setting.section, setting.key, setting.item)
    return None if line is None else setting.text(line.pair)


def _without_ours(state: State) -> State:
    return after(state, dict.fromkeys(_managed(state)))


def _managed(state: State) -> Iterable[str]:
    yield from (PAM_FILE, MANAGER_FILE)
    yield from (f"{UNIT_ROOT}/{name}.d/{NAME}" for name in state.units)


def after(state: State, files: Files) -> State:
    """Return the state with managed files as they will be. Pure."""
    texts = {path: None if raw is None else raw.decode("utf-8", "surrogateescape") for path, raw in files.items()}
    pam_texts, manager, units = dict(state.pam_texts), state.manager_texts, dict(state.units)
    if PAM_FILE in texts:
        pam_texts[PAM_FILE] = texts[PAM_FILE] or ""
    if MANAGER_FILE in texts:
        manager = systemd.with_file(manager, MANAGER_FILE, texts[MANAGER_FILE])
    for name, unit in state.units.items():
        path = f"{UNIT_ROOT}/{name}.d/{NAME}"
        if path in texts:
            units[name] = unit._replace(texts=systemd.with_file(unit.texts, path, texts[path]))
    return replace(state, pam_texts=pam_texts, manager_texts=manager, units=units)


def _obstacle(state: State, setting: Setting, pair: Pair) -> tuple[str, str] | None:
    """Return the status and reason that keep a limit out of the plan, or None."""
    if setting.kind == LOGIN and not state.pam_used:
        return model.UNSUPPORTED, f"nothing in {pam.SERVICES} asks for pam_limits.so, which reads limits.conf"
    if setting.kind != LOGIN and not state.booted:
        return model.UNSUPPORTED, "systemd does not run this host"
    if setting.kind == UNIT:
        missing = _unit_obstacle(setting.place, state.units[setting.place])
        if missing is not None:
            return missing
    hard = pair.hard or 0
    if setting.item == values.NOFILE:
        for bound in state.bounds:
            if hard > bound.value:
                return model.REFUSED, (
                    f"{_number(hard)} open files are more than fs.nr_open = {bound.value} {bound.place}: the kernel "
                    "refuses that even to root, and logins or sudo may be shut out; raise it first, or ask for no more"
                )
    return _ceiling(state, setting, hard)


def _number(raw: int) -> str:
    return "unlimited" if raw == INFINITY else str(raw)


def _unit_obstacle(name: str, unit: limits_state.Unit) -> tuple[str, str] | None:
    if unit.state == "loaded":
        return None
    if unit.state == "not-found":
        return model.UNKNOWN, f"there is no such service{f'; is {unit.near} meant?' if unit.near else ''}"
    if unit.state == "masked":
        return model.UNSUPPORTED, f"the service is masked: systemctl unmask {name}"
    return model.REFUSED, f"systemd can't load the service ({unit.state}): systemctl status {name} says why"


def _ceiling(state: State, setting: Setting, hard: int) -> tuple[str, str] | None:
    """A hard limit above process 1's own, where nobody may raise it: systemd would silently give less."""
    if state.first is None or setting.item not in state.first:
        return None
    most = state.first[setting.item].hard or 0
    if hard <= most:
        return None
    who = "pam_limits would set nothing" if setting.kind == LOGIN else "systemd would silently give less"
    return model.UNSUPPORTED, (
        f"{_hard(setting, hard)} can't take effect: process 1 itself is held to {_hard(setting, most)} and has no "
        f"CAP_SYS_RESOURCE to raise it, and {who}. Start this host (container) with a higher limit, or ask for "
        f"{_hard(setting, most)} at most"
    )


def _hard(setting: Setting, raw: int) -> str:
    """Return a hard limit in the unit of its row."""
    return values.to_pam(setting.item, raw) if setting.kind == LOGIN else values.to_systemd(raw)


def _notes(state: State, setting: Setting, pair: Pair) -> Iterable[str]:
    if setting.kind == UNIT:
        yield from _restart_note(state.units[setting.place], setting, pair)
    if setting.kind != LOGIN:
        return
    if setting.place in state.strangers:
        kind = "group" if setting.place[0] in "@%" else "user"
        yield f"/etc/{'group' if kind == 'group' else 'passwd'} has no such {kind}"
    lines = [line for line in pam.lines_of(state.pam_texts) if line.file != PAM_FILE]
    guide = pam.guide_lines(lines) if setting[1:] == (pam.EVERYONE, values.NOFILE) else []
    if guide:
        numbers = ", ".join(str(line.number) for line in guide)
        yield f"the guide's lines stand in {pam.MAIN_FILE} (line {numbers}) too: superfluous, left alone"
    if setting.place == pam.EVERYONE:
        own = [line for line in lines if line.item in (setting.item, "") and line.domain != pam.EVERYONE]
        places = ", ".join(f"{line.domain} ({line.place})" for line in own[:3])
        if places:
            yield f"not for those with lines of their own: {places}{' and more' if len(own) > 3 else ''}"


def _restart_note(unit: limits_state.Unit, setting: Setting, pair: Pair) -> Iterable[str]:
    """Tell what a restart would change, by what the kernel holds the running processes to."""
    if not unit.processes:
        yield "not running: takes effect when it starts"
        return
    have = {process.pid: process.limits.get(setting.item) for process in unit.processes}
    others = {pid: limit for pid, limit in have.items() if limit is not None and limit != pair}
    if others:
        told = ", ".join(f"{pid} has {setting.text(limit)}" for pid, limit in list(others.items())[:3])
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        yield f"a restart brings it to the running processes: {told}{more} (systemctl restart {setting.place})"


def settle(change: Change, setting: Setting, now: State, then: State) -> None:
    """Say what the files will give one limit, and where something else than our file decides it."""
    change.persisted, change.persisted_by = _persisted(then, setting)
    if change.status in (model.UNKNOWN, model.UNSUPPORTED, model.REFUSED):
        return
    if change.desired is None:
        change.after = _given_back(change, setting, now, then)
        return
    change.after = change.persisted if change.persisted is not None or setting.kind == LOGIN else change.desired
    told = [*_rivals(then, setting, str(change.line)), *_tasks(now, setting, str(change.line))]
    change.overridden_by = "; ".join(told)


def _given_back(change: Change, setting: Setting, now: State, then: State) -> str | None:
    """Return what will be read once our line is gone."""
    if change.persisted is not None or setting.kind == LOGIN or change.before is None:
        return change.persisted
    if setting.kind == UNIT:
        default = Setting(DEFAULT, "", setting.item)
        configured = _persisted(then, default)[0]
        known = now.originals.get(default.name)
        return configured or (known.value if known else _now(now, default))
    return now.originals[setting.name].value


def _rivals(then: State, setting: Setting, line: str) -> Iterable[str]:
    """Yield who decides otherwise than our line, and what to do."""
    if setting.kind == LOGIN:
        decision = _decide(then, setting)
        if decision.exempt is not None:
            yield f"{decision.exempt.place} exempts {decision.exempt.domain} from all limits: remove that line"
            return
        for kind, wanted, decided in zip(("soft", "hard"), line.split(":"), decision[:2]):
            given = values.to_pam(setting.item, decided.value if decided else None)
            if decided is not None and decided.file != PAM_FILE and given != wanted:
                yield f"{decided.place} gives {kind} {given}: remove that line, or set the value here to match"
        return
    assigned = _assigned(then, setting)
    if assigned is not None and setting.text(assigned.pair) != line:
        yield f"{assigned.place} sets {setting.text(assigned.pair)}: remove that line, or set the value here to match"


def _tasks(now: State, setting: Setting, line: str) -> Iterable[str]:
    """Yield how many tasks a control group may have, where that binds before the number of processes."""
    if setting.item != values.NPROC:
        return
    most, where = now.tasks.get(setting.place, INFINITY), "users' slices (systemctl show user-1000.slice)"
    if setting.kind == DEFAULT:
        where = "services (DefaultTasksMax= of systemd-system.conf)"
    elif setting.kind == UNIT:
        most, where = now.units[setting.place].tasks, setting.place
    hard = line.split(":")[1]
    wanted = INFINITY if hard in values.WORDS_FOR_INFINITY else int(hard)
    if most < wanted:
        yield f"TasksMax={most} of {where} binds before {_number(wanted)} processes: raise TasksMax, or ask for less"
