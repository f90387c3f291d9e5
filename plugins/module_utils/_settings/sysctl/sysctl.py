# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Sysctl keys as settings: what an operator wants of them, how they are read, and the plan."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from ..._engine import model
from ..._engine.ledger import PATH as LEDGER
from ..._engine.ledger import Ledger, Original
from ..._engine.managed import HEADER, Files
from ..._engine.model import Change, Plan
from ..._host import kernel as host_kernel
from ..._host.host import HostError
from . import files as loading
from . import keys, profiles

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..._host.host import Host

PROC = "/proc/sys"
FOLDER = "/etc/sysctl.d"
MODULES_FOLDER = "/etc/modules-load.d"
CONGESTION_CONTROL = "net/ipv4/tcp_congestion_control"
BUILT_IN_CONGESTION = ("reno", "cubic")
CONGESTION_AVAILABLE = "net/ipv4/tcp_available_congestion_control"


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


class KeyState(NamedTuple):
    """A key as found: `value` is None where it can't be read, with the reason in `trouble`."""

    exists: bool
    value: str | None = None
    writable: bool = False
    action: bool = False
    trouble: str = ""


class State(NamedTuple):
    """All that the plan needs to know of a host.

    :ivar nearest: of each key that does not exist, the name that is nearest, or "".
    :ivar modules: why a module that a key needs could not be loaded (or found, in check mode), "" where it could.
    :ivar loaded: whether missing modules were loaded: not in check mode.
    :ivar others: other files of this kind that the ledger has originals of.
    """

    kernel: host_kernel.Kernel
    keys: Mapping[str, KeyState]
    fragments: Sequence[loading.Fragment]
    own_lines: Mapping[str, str]
    originals: Mapping[str, Original]
    boot: str
    nearest: Mapping[str, str]
    congestion: frozenset[str]
    modules: Mapping[str, str]
    loaded: bool
    request: Request
    others: tuple[str, ...] = ()

    def values_with(self, path: str) -> dict[str, str]:
        """Return the values of what the kernel rewrites together with a key.

        Of an interface that has another value than the default, its own was written: it does not follow any more.
        """
        counterpart, own = keys.COUNTERPARTS.get(path), self.keys[path].value
        return {
            other: found.value
            for other, found in self.keys.items()
            if found.value is not None and (other == counterpart or keys.follows(other, path))
            if not keys.is_default(path) or found.value == own
        }

    def note(self, path: str) -> Original | None:
        """Return what the ledger has of a key, unless it is void."""
        known = self.originals.get(keys.name_of(path))
        return None if known is None or known.is_void(self.boot, lasted=path in self.own_lines) else known


class Keys(NamedTuple):
    """What to do with keys.

    :ivar changes: one for every key concerned, in the order of writing.
    :ivar modules: the module that a key may need, by the key's name.
    :ivar kept: lines that stay in the managed file although no change is about them, by name.
    """

    changes: list[Change]
    modules: dict[str, str]
    kept: dict[str, str]


class Lasting(NamedTuple):
    """What is needed to tell what lasts: of the plan, and of the host.

    :ivar modules, kept: as in `Keys`.
    """

    modules: Mapping[str, str]
    kept: Mapping[str, str]
    fragments: Sequence[loading.Fragment]


class Sysctl(model.Subsystem):
    """The keys of one profile, made to last by one file in /etc/sysctl.d."""

    advice: ClassVar[Mapping[int, str]] = {errno.EINVAL: "give a value in the key's range"}

    def __init__(
        self,
        name: str,
        *,
        present: bool,
        profile: str = profiles.NONE,
        parameters: Mapping[str, Any] | None = None,
        path: profiles.Path = profiles.DEFAULT_PATH,
        memory: int | None = None,
        apply_shared: bool = False,
        only_file: bool = False,
    ) -> None:
        self.owner = f"{FOLDER}/{name}.conf"
        self.modules_file = f"{MODULES_FOLDER}/{name}.conf"
        self.paths = (self.owner, self.modules_file)
        self._present = present
        self._profile = profile
        self._parameters = parameters or {}
        self._path = path
        self._memory = memory
        self._apply_shared = apply_shared
        self._only_file = only_file

    # -- reading ------------------------------------------------------------------------------------------------

    def _request(self, host: Host, originals: Mapping[str, Original]) -> Request:
        if not self._present:
            return Request({})
        known = {name: original.value for name, original in originals.items()}
        for name in ("net.core.rmem_max", "net.core.wmem_max", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"):
            found = _read_key(host, keys.path_of(name)).value
            if found is not None:
                known.setdefault(name, found)
        try:
            profile = profiles.values(self._profile, self._memory, self._path, known)
        except ValueError as error:
            raise HostError(str(error)) from error
        return understand(profile, self._parameters)

    def read(self, host: Host, ledger: Ledger, *, check_mode: bool) -> State:
        """See Subsystem.read. Loads kernel modules that keys need and that are missing, but not in check mode."""
        originals, load = ledger.of(self.owner), not check_mode
        request = self._request(host, originals)
        kernel = host_kernel.look(host)
        try:
            managed = [keys.path_of(name) for name in originals]
        except ValueError as error:
            raise HostError(f"the ledger of originals {LEDGER} is damaged: {error}") from error
        wanted = sorted({*request.desired, *request.removed, *managed})
        congestion = frozenset((_read_key(host, CONGESTION_AVAILABLE).value or "").split())
        needed = {module for path in request.desired for module in _modules_for(host, request, path, congestion)}
        modules = {name: "" if kernel.container else _find_module(host, name, load=load) for name in sorted(needed)}
        coupled = [other for path in wanted for other in _coupled(host, path)]
        found = {path: _read_key(host, path) for path in {*wanted, *coupled}}
        fragments = loading.read_fragments(host)
        own = next((fragment.text or "" for fragment in fragments if fragment.path == self.owner), "")
        return State(
            kernel=kernel,
            keys=found,
            fragments=fragments,
            own_lines={path: value for _line, path, value in loading.parse(own) if value is not None},
            originals=originals,
            boot=host.boot_id(),
            nearest={path: _nearest(host, path) for path in wanted if not found[path].exists},
            congestion=congestion,
            modules=modules,
            loaded=load,
            request=request,
            others=tuple(sorted(owner for owner in ledger.settings if self._is_another(owner, ledger))),
        )

    # -- planning -----------------------------------------------------------------------------------------------

    def plan(self, state: State) -> Plan:
        """See Subsystem.plan."""
        made = make_plan(state, state.request, owner=self.owner, apply_shared=self._apply_shared)
        lasting = Lasting(made.modules, made.kept, state.fragments)
        told = {owner: _renamed(owner) for owner in state.others} if self._only_file else {}
        if self._present:
            return Plan(made.changes, self.paths, lasting, tuple(told.values()))
        left = [Change(owner, malformed=True, status=model.REFUSED, reason=why) for owner, why in told.items()]
        return Plan([*made.changes, *left], self.paths, lasting)

    def _is_another(self, owner: str, ledger: Ledger) -> bool:
        """Tell whether the ledger has originals of another file of this kind."""
        return owner != self.owner and os.path.dirname(owner) == FOLDER and bool(ledger.settings[owner])

    # -- applying -----------------------------------------------------------------------------------------------

    def current(self, host: Host, plan: Plan, change: Change) -> str | None:
        """See Subsystem.current."""
        del plan
        return _read_key(host, keys.path_of(change.name)).value

    def same(self, change: Change, left: str | None, right: str | None) -> bool:
        """See Subsystem.same."""
        return _same(keys.path_of(change.name), left, right)

    def files(self, plan: Plan) -> Mapping[str, bytes]:
        """See Subsystem.files."""
        lasting: Lasting = plan.state
        lines = {**lasting.kept, **{change.name: change.line for change in plan.changes if change.line is not None}}
        modules = sorted({module for name, module in lasting.modules.items() if name in lines})
        order = sorted(lines, key=lambda name: keys.order_of(keys.path_of(name)))
        wanted = {
            self.owner: "".join(f"{name} = {lines[name]}\n" for name in order),
            self.modules_file: "".join(f"{module}\n" for module in modules),
        }
        notice = f"{HEADER}: the next run undoes what is changed here.\n"
        return {path: f"{notice}{text}".encode("utf-8", "surrogateescape") for path, text in wanted.items() if text}

    def settle(self, plan: Plan, files: Files) -> None:
        """See Subsystem.settle."""
        content = files.get(self.owner)
        text = None if content is None else content.decode("utf-8", "surrogateescape")
        fragments = loading.with_fragment(plan.state.fragments, self.owner, text)
        boots = [loading.Boot(fragments, loader) for loader in loading.LOADERS]
        for change in plan.changes:
            if change.status != model.UNKNOWN and not change.malformed:
                _settle(change, boots)


def _renamed(owner: str) -> str:
    name = os.path.basename(owner)[: -len(".conf")]
    return (
        f"this host was tuned under another kernel_tuning_file_name too, {name!r}, whose values are still in force. "
        "Roll them back by that name: ansible-playbook playbooks/rollback.yml --tags kernel_tuning "
        f"-e kernel_tuning_file_name={name}"
    )


def _settle(change: Change, boots: Sequence[loading.Boot]) -> None:
    """Say what the next boot gives one key, and where another file than ours decides otherwise."""
    path = keys.path_of(change.name)
    deciding = [boot.deciding(path) for boot in boots]
    systemd = deciding[0]
    change.persisted = systemd.value if systemd is not None and systemd.pattern != keys.COUNTERPARTS.get(path) else None
    change.persisted_by = systemd.place if systemd is not None else None
    if change.desired is None or change.line is None or change.status == model.REFUSED:
        return
    rivals: dict[str, list[str]] = {}
    for boot, line in zip(boots, deciding):
        if line is not None and not (_aliased(line.pattern, path) and _same(path, line.value, change.desired)):
            told = f"{line.place} sets {keys.name_of(line.pattern)} = {line.value}"
            rivals.setdefault(told, []).append(boot.loader)
    change.overridden_by = "; ".join(
        f"{told} ({' and '.join(loaders)}): remove that line, or set the value here to match"
        for told, loaders in rivals.items()
    )


def _aliased(pattern: str, path: str) -> bool:
    """Tell whether a line's value is one for this key, not for its counterpart."""
    return pattern != keys.COUNTERPARTS.get(path)


def _same(path: str, left: str | None, right: str | None) -> bool:
    if left is None or right is None:
        return left is right
    return keys.canonical(path, left) == keys.canonical(path, right)


def _read_key(host: Host, path: str) -> KeyState:
    place = f"{PROC}/{path}"
    mode = host.mode(place)
    if mode is None:
        return KeyState(exists=False)
    if keys.is_action(path) or not mode & 0o444:
        return KeyState(exists=True, action=True)
    try:
        value = " ".join(host.read_text(place).split())
    except OSError as error:
        return KeyState(exists=True, writable=host.may_write(place), trouble=f"cannot be read: {error.strerror}")
    return KeyState(exists=True, value=value, writable=host.may_write(place))


def _coupled(host: Host, path: str) -> list[str]:
    """Return the keys whose values a write of this one may change."""
    if path in keys.COUNTERPARTS:
        return [keys.COUNTERPARTS[path]]
    family = keys.family_of(path)
    if family is None:
        return []
    names = host.list_dir(f"{PROC}/{family.partition('/{}')[0]}")
    return [other for other in (keys.REDIRECTS, *map(family.format, names)) if keys.follows(other, path)]


def _nearest(host: Host, path: str) -> str:
    """Return the existing key whose name is nearest, or "". Looks at names only: reading some keys has effects."""
    from difflib import get_close_matches

    found: list[str] = []
    for part in path.split("/"):
        names = host.list_dir("/".join([PROC, *found]))
        close = [part] if part in names else get_close_matches(part, names, 1, 0.75)
        if not close:
            return ""
        found += close
    near = "/".join(found)
    return "" if host.is_dir(f"{PROC}/{near}") else keys.name_of(near)


def _modules_for(host: Host, request: Request, path: str, congestion: frozenset[str]) -> Iterable[str]:
    """Yield the module that a key needs to be there, or its value needs to be taken."""
    if path == CONGESTION_CONTROL and congestion and request.desired[path] not in congestion:
        yield f"tcp_{request.desired[path]}"
    module = keys.module_of(path)
    if module is not None and not host.exists(f"{PROC}/{path}"):
        yield module


def _find_module(host: Host, name: str, *, load: bool) -> str:
    """Load a kernel module, or only look for it; return what went wrong, or ""."""
    try:
        host.run(["modprobe", *([] if load else ["--dry-run"]), "--", name])
    except HostError as error:
        return str(error).replace(" --dry-run", "")  # the reason is the same in both modes
    return ""


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
    if not _same(path, found.value, desired):
        _set(change, state, path, desired)
    change.original = _original(state, path, rest)
    model.judge(change, known, state.own_lines.get(path), lambda value: _same(path, value, desired))
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
    if _same(path, found.value, value):
        if original.moved or not _same(path, original.desired, value):
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
