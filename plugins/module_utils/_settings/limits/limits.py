# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Resource limits as settings: of logins (pam_limits), of all services (systemd's defaults), of single services."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ..._engine import model
from ..._engine.ledger import Ledger
from ..._engine.managed import HEADER, Files, is_ours
from ..._engine.model import Change, Plan
from ..._host import processes
from ..._host import rlimits as values
from ..._host.host import HostError
from ..._host.psutil_facts import PsutilMissingError
from . import pam
from . import state as limits_state
from .plan import after, login, make_plan, settle, unread
from .request import DEFAULT, LOGIN, MANAGER_FILE, NAME, PAM_FILE, UNIT, UNIT_ROOT, Request, Setting, understand

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..._host.host import Host
    from .state import State


class Found(NamedTuple):
    """What was read of a host.

    :ivar paths: the files that may be managed there.
    :ivar limits: None: nothing is asked for, and nothing is left of an earlier run.
    """

    paths: tuple[str, ...]
    limits: State | None


class Limits(model.Subsystem):
    """All limits of a host that one call manages."""

    owner = PAM_FILE

    def __init__(self, request: Request) -> None:
        self._request = request

    def read(self, host: Host, ledger: Ledger, *, check_mode: bool) -> Found:
        """See Subsystem.read."""
        del check_mode
        originals = ledger.of(self.owner)
        settings = {*self._request.desired, *map(Setting.of, originals)}
        units = {setting.place for setting in settings if setting.kind == UNIT}
        known = [path for path in ledger.files if path.startswith(UNIT_ROOT) and path.endswith(f".d/{NAME}")]
        wanted = {setting.path for setting in settings}
        paths = tuple(sorted({PAM_FILE, MANAGER_FILE, *known, *wanted, *_cut_off(host)}))
        if not settings and not self._request.bad and not any(is_ours(host, path) for path in paths):
            return Found(paths, None)
        domains = {setting.place for setting in settings if setting.kind == LOGIN}
        return Found(paths, _with_tasks(host, limits_state.read(host, originals, domains, units), settings))

    def plan(self, state: Found) -> Plan:
        """See Subsystem.plan."""
        if state.limits is None:
            return Plan([], state.paths)
        changes = make_plan(state.limits, self._request)
        return Plan(changes, state.paths, state.limits, pending=any(unread(state.limits, changes)))

    def current(self, host: Host, plan: Plan, change: Change) -> str | None:
        """See Subsystem.current."""
        setting = Setting.of(change.name)
        try:
            if setting.kind == LOGIN:
                return login(replace(plan.state, pam_texts=pam.read(host)), setting)
            if setting.kind == DEFAULT:
                return setting.text(limits_state.read_defaults(host)[setting.item])
            unit = limits_state.read_units(host, [setting.place], processes=False)[setting.place]
            return setting.text(unit.limits[setting.item]) if unit.state == "loaded" else None
        except HostError:
            return None

    def same(self, change: Change, left: str | None, right: str | None) -> bool:
        """See Subsystem.same."""
        del change
        return left == right

    def files(self, plan: Plan) -> Mapping[str, bytes]:
        """See Subsystem.files."""
        lines: dict[str, dict[Setting, str]] = {}
        for change in plan.changes:
            if change.line is not None:
                setting = Setting.of(change.name)
                lines.setdefault(setting.path, {})[setting] = change.line
        return {path: render(of_file).encode("utf-8", "surrogateescape") for path, of_file in lines.items()}

    def settle(self, plan: Plan, files: Files) -> None:
        """See Subsystem.settle."""
        if plan.state is None:
            return
        then = after(plan.state, files)
        for change in plan.changes:
            if not change.malformed:
                settle(change, Setting.of(change.name), plan.state, then)

    def announce(self, host: Host, plan: Plan, paths: Sequence[str]) -> None:
        """Have systemd read its files again: the defaults are read only when it starts itself anew."""
        touched = {*(unread(plan.state, plan.changes) if plan.state else ()), *paths}
        if not host.is_dir(limits_state.SYSTEMD_RUNS) or not touched - {PAM_FILE}:
            return
        host.run(["systemctl", "daemon-reexec" if MANAGER_FILE in touched else "daemon-reload"])


def subsystems(params: Mapping[str, Any]) -> list[model.Subsystem]:
    """Return what one call brings into place.

    :param params: as options.OPTIONS has them.
    """
    if params["state"] == "absent":
        return [Limits(Request({}))]
    return [Limits(understand(params["profile"], params["parameters"], params["systemd"], params["services"]))]


def facts(host: Host, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the processes of the services named, with their limits and open files; without psutil the remedy.

    :return: `services`: what `processes.service` tells of each, by name.
    """
    names = params["services"] if params["state"] == "present" else {}
    try:
        return {"services": {str(name): processes.service(host, str(name)) for name in names}}
    except PsutilMissingError as error:
        return {"error": str(error)}


def render(lines: Mapping[Setting, str]) -> str:
    """Return a managed file's text, "" for no line. Pure.

    :param lines: the values as the report has them.
    """
    if not lines:
        return ""
    order = sorted(lines)
    if order[0].kind == LOGIN:
        body = "".join(pam.render(setting.place, setting.item, lines[setting]) for setting in order)
    else:
        body = f"[{order[0].section}]\n" + "".join(f"{setting.key}={lines[setting]}\n" for setting in order)
    return f"{HEADER}: the next run undoes what is changed here.\n{body}"


def _cut_off(host: Host) -> Iterable[str]:
    """Yield the drop-ins whose next content a run was writing when it was killed, before it noted them anywhere."""
    for folder in host.list_dir(UNIT_ROOT):
        path = f"{UNIT_ROOT}/{folder}/{NAME}"
        if folder.endswith(".service.d") and host.has_left(path):
            yield path


def _with_tasks(host: Host, state: State, settings: Iterable[Setting]) -> State:
    """Add what systemd says of the tasks of users' sessions, where their number is to be limited."""
    wanted = {setting.place for setting in settings if setting[::2] == (LOGIN, values.NPROC)}
    if not state.booted or not wanted:
        return state
    numbers = {domain: state.subjects[domain].uid for domain in wanted}
    tasks = {domain: limits_state.read_tasks(host, 1000 if uid is None else uid) for domain, uid in numbers.items()}
    return replace(state, tasks={**state.tasks, **tasks})
