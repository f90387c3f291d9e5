# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The mode of transparent huge pages as a setting, made to last by systemd-tmpfiles."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from ..._engine import model
from ..._engine.ledger import Ledger, Original
from ..._engine.managed import HEADER, Files
from ..._engine.model import Change, Plan
from ..._host import kernel

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..._host.host import Host

SETTING = "transparent_hugepage"
SWITCH = "/sys/kernel/mm/transparent_hugepage/enabled"
# Whenever the mode is switched the kernel computes it anew (start_stop_khugepaged in mm/khugepaged.c).
RESERVE_KEY = "vm.min_free_kbytes"
RESERVE = "/proc/sys/vm/min_free_kbytes"
# Of two files that write the same path, systemd-tmpfiles follows the one whose name sorts first (tmpfiles.d(5)).
FILE = "/etc/tmpfiles.d/00-precog-fleet-thp.conf"
FOLDERS = ("/etc/tmpfiles.d", "/run/tmpfiles.d", "/usr/local/lib/tmpfiles.d", "/usr/lib/tmpfiles.d")

_WRITE_LINE = re.compile(rf"w[+!=^~-]*\s+{re.escape(SWITCH)}\s+(?:\S+\s+){{4}}(?P<mode>\S.*)")


class Line(NamedTuple):
    """A line of some tmpfiles.d file that sets the mode at boot."""

    file: str
    number: int
    mode: str


class State(NamedTuple):
    """What the plan needs to know.

    :ivar mode: None where the kernel has no such switch.
    :ivar reserve: what the kernel computes together with it; None where that is kept as a key of its own.
    """

    mode: str | None
    sharing: str | None
    writable: bool
    lines: tuple[Line, ...]
    original: Original | None
    boot: str
    reserve: str | None = None


def selected(text: str) -> str | None:
    """Return the word in brackets, which is the one in force: `always [madvise] never`."""
    found = re.search(r"\[(\w+)\]", text)
    return found.group(1) if found else None


class TransparentHugePages(model.Subsystem):
    """The one setting `transparent_hugepage`."""

    owner = FILE

    def __init__(self, mode: str | None, *, apply_shared: bool = False) -> None:
        """:param mode: always, madvise, never, or None to leave it alone or give it back."""
        self._mode = mode
        self._apply_shared = apply_shared

    def read(self, host: Host, ledger: Ledger, *, check_mode: bool) -> State | None:
        """See Subsystem.read; None: nothing is asked for, and nothing is left of an earlier run."""
        del check_mode
        if self._mode is None and SETTING not in ledger.of(self.owner) and not host.exists(FILE):
            return None
        state = read(host, ledger.of(self.owner).get(SETTING), apply_shared=self._apply_shared)
        if not any(RESERVE_KEY in originals for originals in ledger.settings.values()):
            state = state._replace(reserve=_read_reserve(host))
        return state

    def plan(self, state: State | None) -> Plan:
        """See Subsystem.plan."""
        return Plan([] if state is None else make_plan(state, self._mode), (FILE,), state)

    def current(self, host: Host, plan: Plan, change: Change) -> str | None:
        """See Subsystem.current."""
        del plan, change
        return _read_mode(host)

    def same(self, change: Change, left: str | None, right: str | None) -> bool:
        """See Subsystem.same."""
        del change
        return left == right

    def files(self, plan: Plan) -> Mapping[str, bytes]:
        """See Subsystem.files."""
        lines = [f"w {SWITCH} - - - - {change.line}\n" for change in plan.changes if change.line is not None]
        return {FILE: f"{HEADER}: the next run undoes what is changed here.\n{lines[0]}".encode()} if lines else {}

    def settle(self, plan: Plan, files: Files) -> None:
        """See Subsystem.settle."""
        others = [line for line in plan.state.lines if line.file != FILE] if plan.state else []
        ours = parse(FILE, (files.get(FILE) or b"").decode("utf-8", "surrogateescape"))
        for change in plan.changes:
            line = winner([*ours, *others])
            change.persisted = line.mode if line else None
            change.persisted_by = f"{line.file}:{line.number}" if line else None
            if line is not None and change.line is not None and line.mode != change.line:
                change.overridden_by = (
                    f"{line.file}:{line.number} sets {line.mode} (systemd-tmpfiles): remove that line, "
                    "or set the mode here to match"
                )


def read(host: Host, original: Original | None, *, apply_shared: bool) -> State:
    """Read what the plan needs."""
    return State(
        mode=_read_mode(host),
        sharing=None if apply_shared else kernel.look(host).sharing(),
        writable=host.may_write(SWITCH),
        lines=tuple(_read_lines(host)),
        original=original,
        boot=host.boot_id(),
    )


def _read_mode(host: Host) -> str | None:
    try:
        return selected(host.read_text(SWITCH))
    except OSError:
        return None


def _read_reserve(host: Host) -> str | None:
    try:
        return host.read_text(RESERVE).strip() if host.may_write(RESERVE) else None
    except OSError:
        return None


def _read_lines(host: Host) -> list[Line]:
    """Return the lines about the switch of every file that is not masked by one of the same name."""
    seen: set[str] = set()
    found = []
    for folder in FOLDERS:
        for name in host.list_dir(folder):
            if not name.endswith(".conf") or name in seen:
                continue
            seen.add(name)
            try:
                text = host.read_text(f"{folder}/{name}")
            except OSError:
                continue
            found += parse(f"{folder}/{name}", text)
    return found


def parse(path: str, text: str) -> list[Line]:
    """Return the lines of a tmpfiles.d file that set the mode."""
    lines = [(number, _WRITE_LINE.match(line.strip())) for number, line in enumerate(text.split("\n"), 1)]
    return [Line(path, number, match["mode"].strip()) for number, match in lines if match]


def winner(lines: Sequence[Line]) -> Line | None:
    """Return the line that systemd-tmpfiles follows: the first of the file whose name sorts first."""
    return min(lines, key=lambda line: (os.fsencode(os.path.basename(line.file)), line.number), default=None)


def make_plan(state: State, mode: str | None) -> list[Change]:
    """Return the change for the setting, none if there is nothing to do with it. Pure."""
    on_disk = next((line.mode for line in state.lines if line.file == FILE), None)
    change = Change(name=SETTING, desired=mode, target=mode, before=state.mode)
    configured = winner(state.lines)
    change.persisted_before = configured.mode if configured else None
    if mode is None:
        return _give_back(state, change)
    if state.mode is None:
        change.reject(model.UNSUPPORTED, f"this kernel has no {SWITCH}")
    elif state.sharing is not None:
        change.reject(model.UNSUPPORTED, state.sharing)
    elif not state.writable:
        change.reject(model.UNSUPPORTED, "read-only here")
    else:
        _want(state, change, mode, on_disk)
    return [change]


def _want(state: State, change: Change, mode: str, on_disk: str | None) -> None:
    known = state.original
    change.line, change.kept = mode, known.desired if known else None
    if state.mode != mode:
        change.writes, change.undo = ((SWITCH, mode),), ((SWITCH, str(state.mode)), *_reserved(state.reserve))
    if known is None or known.is_void(state.boot, lasted=on_disk is not None):
        rest = winner([line for line in state.lines if line.file != FILE])
        companions = dict(_reserved(state.reserve))
        change.original = Original(str(state.mode), rest.mode if rest else None, state.boot, companions=companions)
    model.judge(change, known, on_disk, lambda value: value == mode)


def _give_back(state: State, change: Change) -> list[Change]:
    rest = winner([line for line in state.lines if line.file != FILE])
    if state.original is None:
        return []
    change.forget = True
    if state.original.is_void(state.boot, lasted=any(line.file == FILE for line in state.lines)):
        change.explain("was never applied: nothing to give back")
        return [change]
    change.target = state.original.give_back(rest.mode if rest else None, state.boot)
    change.status = model.CHANGED
    change.explain(f"given back: {change.target}")
    switch = ((SWITCH, change.target),) if state.mode != change.target else ()
    reserve = _reserved(_recorded_reserve(state)) if switch or state.original.moved else ()
    if not switch and reserve == _reserved(state.reserve):
        reserve = ()
    if state.writable and (switch or reserve):
        change.writes = (*switch, *reserve)
        change.undo = ((SWITCH, str(state.mode)), *_reserved(state.reserve))
    return [change]


def _recorded_reserve(state: State) -> str | None:
    """Return what the kernel had computed before us, unless it is kept as a key now."""
    return state.original.companions.get(RESERVE) if state.original and state.reserve is not None else None


def _reserved(value: str | None) -> tuple[tuple[str, str], ...]:
    return () if value is None else ((RESERVE, value),)
