# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Swap areas as settings, one for each area that is active or that a boot would activate."""

from __future__ import annotations

import errno
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..._engine import model
from ..._engine.ledger import Ledger
from ..._engine.managed import Files
from ..._engine.model import Change, Plan
from ..._host import kernel
from ..._host.host import HostError
from . import calls as swap_calls
from . import guard, tables
from . import sources as swap_sources
from .plan import ON, after, foresee, leave, make_plan, shortage_of, warnings_of
from .sources import FSTAB, Source
from .state import (
    MASK,
    MEMORY,
    OFF,
    SETTING,
    Request,
    State,
    Untouched,
    area_of,
    follow_edits,
    is_mask,
    is_same,
    priority_of,
    read,
    read_active,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..._host.host import Host

UNTOUCHED = "untouched"
START_ATTEMPTS = 25
START_PAUSE = 0.2  # seconds


def subsystem(params: Mapping[str, Any]) -> SwapAreas:
    """Return what one call brings into place.

    :param params: the module's parameters, as in options.OPTIONS.
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
        managed = [path for path in ledger.files if is_mask(path)]
        paths = (FSTAB, *sorted({*managed, *(source.mask for source in found.sources if source.mask)}))
        if self._request.mode is None and not originals and not managed and tables.MARKER not in found.fstab:
            return Untouched(paths)
        follow_edits(host, ledger, found.fstab)
        state = read(host, found, originals)._replace(paths=paths, has_original=FSTAB in ledger.files)
        if self._request.mode != OFF:
            return state
        return state._replace(resume=swap_sources.resume_device(host), cloud=swap_sources.cloud_config(host))

    def plan(self, state: State | Untouched) -> Plan:
        """See Subsystem.plan."""
        if isinstance(state, Untouched):
            return Plan(leave(state, self._request), state.paths)
        changes = make_plan(state, self._request)
        return Plan(changes, state.paths, state, tuple(warnings_of(state, changes)), state.stale, of_system=True)

    def current(self, host: Host, plan: Plan, change: Change) -> str | None:
        """See Subsystem.current."""
        del plan
        active = read_active(host)
        if change.name == SETTING:
            return ON if active else OFF
        area = active.get(area_of(change))
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
        off = {area_of(change) for change in plan.changes if change.line == OFF}
        refused = {area_of(change) for change in plan.changes if change.status == model.REFUSED}
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
        state, shortage = after(plan.state, files), shortage_of(plan)
        for change in plan.changes:
            if shortage and change.status == model.REFUSED and shortage not in change.reason:
                change.explain(shortage)
            if change.name != SETTING:
                foresee(state, change)

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
        active = read_active(host)
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
                if path in read_active(host):
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
                if not shortage_of(plan):
                    change.shortage = f"{path}: {error.strerror}; all areas stay as they were"
                for other in reversed(plan.changes[: plan.changes.index(change)]):
                    if any(value == OFF for _path, value in other.writes):
                        self.put_back(host, plan, other)
            raise

    def _expect_memory(self, host: Host, plan: Plan, path: str) -> None:
        """Ask again right before: a large area takes minutes, and other programs don't wait."""
        area = read_active(host).get(path)
        if area is None:
            return
        available = tables.available_memory(swap_sources.read_text(host, MEMORY))
        reason = shortage_of(plan) or guard.shortage(available, [area], self._request.reserve, ())
        if reason:
            raise OSError(errno.ENOMEM, reason, path)
