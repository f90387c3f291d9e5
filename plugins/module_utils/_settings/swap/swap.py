# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Swap areas as settings, one for each area that is active or that a boot would activate."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from ..._engine import model
from ..._engine.ledger import Ledger, Original, OriginalFile
from ..._engine.managed import Files
from ..._engine.model import Change, Plan
from ..._host import kernel
from ..._host.host import HostError
from . import calls as swap_calls
from . import guard, tables
from . import sources as swap_sources
from .sources import FSTAB, UNITS, Source
from .tables import Active

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..._host.host import Host

OFF = "off"
ON = "on"
UNTOUCHED = "untouched"
SETTING = "swap"
PREFIX = f"{SETTING}:"
SWAPS = "/proc/swaps"
MEMORY = "/proc/meminfo"
ZRAM = re.compile(r"/dev/zram\d+")
START_ATTEMPTS = 25
START_PAUSE = 0.2  # seconds
MASK = b""  # systemd takes an empty file for a masked unit, as it does a link to /dev/null


class Request(NamedTuple):
    """What is wanted.

    :ivar mode: OFF, ON, or None to give everything back.
    :ivar reserve: KiB of memory that have to stay available.
    """

    mode: str | None
    reserve: int


class State(NamedTuple):
    """What the plan needs to know.

    :ivar active: the areas in use, by path.
    :ivar fstab_says: whether fstab names a swap area at all, which keeps systemd from looking for partitions.
    :ivar missing: areas of sources and ledger that are not there.
    :ivar deleted: active areas whose file has no name any more.
    :ivar available: KiB of memory; None if it is not known.
    :ivar fstab: the text of /etc/fstab.
    :ivar stale: whether systemd has to read it again.
    :ivar has_original: whether the ledger knows what it was.
    :ivar resume: the device that the host resumes from hibernation with, and what says so.
    :ivar cloud: the file that has cloud-init make an area.
    """

    active: Mapping[str, Active]
    sources: tuple[Source, ...]
    fstab_says: bool
    missing: frozenset[str]
    deleted: frozenset[str]
    available: int | None
    groups: tuple[guard.Group, ...]
    originals: Mapping[str, Original]
    boot: str
    fstab: str
    stale: bool
    paths: tuple[str, ...] = ()
    has_original: bool = False
    resume: tuple[str, str] | None = None
    cloud: str | None = None

    def of(self, area: str) -> list[Source]:
        """Return what activates an area, or would without us."""
        return [source for source in self.sources if source.area == area]

    def at_boot(self, area: str) -> list[Source]:
        """Return what activates it at the next boot, as things are."""
        return [source for source in self.of(area) if not source.ours and not self._sleeps(source)]

    def configured(self, area: str) -> str | None:
        """Return what all but this collection gives it at boot; None for nothing."""
        return next((source.value for source in self.of(area) if not self._sleeps(source)), None)

    def named(self, area: str) -> str | None:
        """Return what it is turned on with where that is asked for, whatever the kernel command line says of boots."""
        return next((source.value for source in self.of(area) if source.asleep or not self._sleeps(source)), None)

    def starter(self, area: str) -> Source | None:
        """Return the unit that makes an area which is gone once it is off, as zram's is; None for any other."""
        makers = (swap_sources.FROM_UNIT, swap_sources.FROM_ZRAM)
        made = [source for source in self.of(area) if source.kind in makers]
        return made[0] if made and ZRAM.fullmatch(area) and made[0].place != made[0].mask else None

    def options(self, area: str) -> list[str]:
        """Return the options of an area's lines in /etc/fstab."""
        numbers = {source.number for source in self.of(area)}
        return [
            option for entry in tables.parse_fstab(self.fstab) if entry.number in numbers for option in entry.options
        ]

    def _sleeps(self, source: Source) -> bool:
        return bool(source.asleep) or (source.kind == swap_sources.FROM_PARTITION and self.fstab_says)


class Untouched(NamedTuple):
    """A host whose areas are left alone.

    :ivar sharing: why, where the kernel is that of another machine; None where nothing is asked for.
    """

    paths: tuple[str, ...]
    sharing: str | None = None
    has_originals: bool = False


def subsystem(params: Mapping[str, Any]) -> SwapAreas:
    """Return what one call brings into place.

    :param params: the module's parameters, as in ARGUMENTS.
    :raises HostError: a parameter makes no sense.
    """
    if params["memory_reserve_mb"] < 0:
        raise HostError("memory_reserve_mb must be 0 or more")
    wanted = params["state"] == "present" and params["mode"] != UNTOUCHED
    request = Request(params["mode"] if wanted else None, params["memory_reserve_mb"] * guard.MIB)
    return SwapAreas(request, apply_shared=params["shared_kernel"] == "apply")


class SwapAreas(model.Subsystem):
    """All swap areas of a host."""

    owner = FSTAB

    def __init__(self, request: Request, *, apply_shared: bool = False, calls: swap_calls.Calls | None = None) -> None:
        """:param calls: how areas are turned on and off; the real kernel unless told otherwise."""
        self._request = request
        self._apply_shared = apply_shared
        self._calls = calls or swap_calls.Calls()

    # -- planning -----------------------------------------------------------------------------------------------------

    def read(self, host: Host, ledger: Ledger, *, check_mode: bool) -> State | Untouched:
        """See Subsystem.read."""
        del check_mode
        originals = ledger.of(self.owner)
        sharing = None if self._apply_shared else kernel.look(host).sharing()
        if sharing is not None:
            return Untouched((FSTAB,), sharing, bool(originals))
        found = swap_sources.read(host, ledger.files)
        managed = [path for path in ledger.files if _is_mask(path)]
        paths = (FSTAB, *sorted({*managed, *(source.mask for source in found.sources if source.mask)}))
        if self._request.mode is None and not originals and not managed and tables.MARKER not in found.fstab:
            return Untouched(paths)
        _follow_edits(host, ledger, found.fstab)
        state = read(host, found, originals)._replace(paths=paths, has_original=FSTAB in ledger.files)
        if self._request.mode != OFF:
            return state
        return state._replace(resume=swap_sources.resume_device(host), cloud=swap_sources.cloud_config(host))

    def plan(self, state: State | Untouched) -> Plan:
        """See Subsystem.plan."""
        if isinstance(state, Untouched):
            return Plan(_leave(state, self._request), state.paths)
        changes = make_plan(state, self._request)
        return Plan(changes, state.paths, state, tuple(_warnings(state, changes)), state.stale)

    def current(self, host: Host, plan: Plan, change: Change) -> str | None:
        """See Subsystem.current."""
        del plan
        active = _active(host)
        if change.name == SETTING:
            return ON if active else OFF
        area = active.get(_area(change))
        return OFF if area is None else area.value

    def same(self, change: Change, left: str | None, right: str | None) -> bool:
        """See Subsystem.same."""
        del change
        return is_same(left, right)

    # -- files --------------------------------------------------------------------------------------------------------

    def files(self, plan: Plan) -> Mapping[str, bytes] | None:
        """See Subsystem.files. What was refused stays as it is."""
        state: State | None = plan.state
        if state is None:
            return None
        off = {_area(change) for change in plan.changes if change.line == OFF}
        refused = {_area(change) for change in plan.changes if change.status == model.REFUSED}
        found = {}
        numbers = set()
        for source in state.sources:
            if source.area not in off and not (source.ours and source.area in refused):
                continue
            if source.number:
                numbers.add(source.number)
            elif source.mask:
                found[source.mask] = MASK
        text = tables.rewrite(state.fstab, numbers)
        if text != state.fstab or state.has_original:
            found[FSTAB] = text.encode("utf-8", "surrogateescape")
        return found

    def settle(self, plan: Plan, files: Files) -> None:
        """See Subsystem.settle."""
        if plan.state is None:
            return
        state, shortage = _after(plan.state, files), _shortage(plan)
        for change in plan.changes:
            if shortage and change.status == model.REFUSED and shortage not in change.reason:
                change.explain(shortage)
            if change.name != SETTING:
                _foresee(state, change)

    def announce(self, host: Host, plan: Plan, paths: Sequence[str]) -> None:
        """See Subsystem.announce: systemd makes units of fstab."""
        del plan, paths
        if host.exists("/run/systemd/system"):
            host.run(["systemctl", "daemon-reload"])

    # -- run time -----------------------------------------------------------------------------------------------------

    def write(self, host: Host, plan: Plan, change: Change) -> None:
        """See Subsystem.write."""
        for path, value in change.writes:
            if value == OFF:
                self._turn_off(host, plan, path, change)
            else:
                self._turn_on(host, plan.state, path, value)

    def put_back(self, host: Host, plan: Plan, change: Change) -> None:
        """See Subsystem.put_back."""
        active = _active(host)
        for path, value in change.undo:
            if (path in active) != (value != OFF):
                with suppress(OSError):
                    if value == OFF:
                        self._calls.off(path)
                    else:
                        self._turn_on(host, plan.state, path, value)

    def _turn_on(self, host: Host, state: State, path: str, value: str) -> None:
        flags = swap_calls.flags(priority_of(value), state.options(path))
        maker = state.starter(path)
        try:
            self._calls.on(path, flags)
        except OSError:
            if maker is None:
                raise
            self._make_again(host, path, maker)

    def _make_again(self, host: Host, path: str, maker: Source) -> None:
        """Have systemd make an area and turn it on, for which its unit must not be masked any more."""
        try:
            if maker.ours:
                host.remove(maker.mask)
            if maker.ours or maker.kind == swap_sources.FROM_ZRAM:
                host.run(["systemctl", "daemon-reload"])
            # Until systemd has seen that the area is off, it takes the unit for started.
            for _attempt in range(START_ATTEMPTS):
                host.run(["systemctl", "start", maker.unit])
                if path in _active(host):
                    return
                time.sleep(START_PAUSE)
        except HostError as error:
            raise OSError(errno.EIO, str(error), path) from error
        raise OSError(errno.EIO, f"{maker.unit} is started, but the area is still off", path)

    def _turn_off(self, host: Host, plan: Plan, path: str, change: Change) -> None:
        """Turn an area off, if memory still allows; where it does not, those turned off before are put back too."""
        try:
            self._expect_memory(host, plan, path)
            self._calls.off(path)
        except OSError as error:
            if error.errno == errno.ENOMEM:
                if not _shortage(plan):
                    change.shortage = f"{path}: {error.strerror}; all areas stay as they were"
                for other in reversed(plan.changes[: plan.changes.index(change)]):
                    if any(value == OFF for _path, value in other.writes):
                        self.put_back(host, plan, other)
            raise

    def _expect_memory(self, host: Host, plan: Plan, path: str) -> None:
        """Ask again right before: a large area takes minutes, and other programs don't wait."""
        area = _active(host).get(path)
        if area is None:
            return
        available = tables.available_memory(swap_sources.read_text(host, MEMORY))
        reason = _shortage(plan) or guard.shortage(available, [area], self._request.reserve, ())
        if reason:
            raise OSError(errno.ENOMEM, reason, path)


def read(host: Host, found: swap_sources.Found, originals: Mapping[str, Original]) -> State:
    """Read what the plan needs."""
    active = _active(host)
    known = {name[len(PREFIX) :] for name in originals}
    areas = {source.area for source in found.sources} | known
    of_services = swap_sources.of_services(swap_sources.services(host), {*active, *areas})
    return State(
        active=active,
        sources=(*found.sources, *of_services),
        fstab_says=_names_swap(found.fstab),
        missing=frozenset(area for area in areas if not host.exists(area)),
        deleted=frozenset(path for path in active if path.endswith(tables.DELETED) and not host.exists(path)),
        available=tables.available_memory(swap_sources.read_text(host, MEMORY)),
        groups=tuple(guard.groups(host)) if any(area.used for area in active.values()) else (),
        originals=originals,
        boot=host.boot_id(),
        fstab=found.fstab,
        stale=found.stale,
    )


def _active(host: Host) -> dict[str, Active]:
    return {area.path: area for area in tables.parse_swaps(swap_sources.read_text(host, SWAPS))}


def _follow_edits(host: Host, ledger: Ledger, fstab: str) -> None:
    """Let the ledger's originals be what the files are without us now: others' edits since are not ours to undo."""
    if not host.is_file(FSTAB):
        ledger.files.pop(FSTAB, None)
    elif FSTAB in ledger.files or any(entry.ours for entry in tables.parse_fstab(fstab)):
        bare = tables.rewrite(fstab, set()).encode("utf-8", "surrogateescape")
        ledger.files[FSTAB] = OriginalFile(bare, host.meta(FSTAB))
    for path in [path for path in ledger.files if _is_mask(path)]:
        if host.readlink(path) is not None:
            del ledger.files[path]
        elif not host.is_file(path):
            ledger.files[path] = OriginalFile(None, None)
        elif host.read_bytes(path) != MASK:
            ledger.files[path] = OriginalFile(host.read_bytes(path), host.meta(path))


def _is_mask(path: str) -> bool:
    return path.startswith(f"{UNITS}/") and path.endswith(".swap")


def _names_swap(fstab: str) -> bool:
    return any(not entry.ours for entry in tables.parse_fstab(fstab))


def _area(change: Change) -> str:
    return change.name[len(PREFIX) :]


def priority_of(value: str) -> int | None:
    """Return the priority that a value says, None if it says none."""
    _on, says, number = value.partition(" pri=")
    return int(number) if says else None


def is_same(left: str | None, right: str | None) -> bool:
    """Tell whether two spellings are the same value: priorities below zero are the kernel's choice, all alike."""
    if left is None or right is None or OFF in (left, right):
        return left == right
    first, second = priority_of(left), priority_of(right)
    return first is None or second is None or first == second or max(first, second) < 0


# -- the plan, pure ---------------------------------------------------------------------------------------------------


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


def _leave(untouched: Untouched, request: Request) -> list[Change]:
    """The areas that a container sees are the machine's: none of them is read as ours."""
    if untouched.sharing is None or (request.mode is None and not untouched.has_originals):
        return []
    change = Change(name=SETTING, desired=request.mode)
    change.reject(model.UNSUPPORTED, untouched.sharing)
    return [change]


def _warnings(state: State, changes: Sequence[Change]) -> Iterable[str]:
    if state.resume is not None and any(change.name == PREFIX + state.resume[0] for change in changes):
        device, source = state.resume
        yield f"{device} is where the host resumes from hibernation ({source}), which swap off prevents"
    if state.cloud is not None:
        yield f"{state.cloud} has cloud-init make a swap area when it sees a new instance: remove `swap:` there"


def _shortage(plan: Plan) -> str:
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
        return 1, state.active[_area(change)].used, change.name
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


# -- the next boot, pure ----------------------------------------------------------------------------------------------


def _after(state: State, files: Files) -> State:
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
    return state._replace(sources=tuple(sources), fstab_says=_names_swap(text))


def _foresee(state: State, change: Change) -> None:
    """Fill in what the next boot gives an area."""
    area = _area(change)
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
