# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The report of a run: a row for each instance, limit and release, and the diff."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from .._host import processes, psutil_facts
from . import bounds, compare, difference, faults, rollout, systemd, units
from .gate import judge
from .plan import RELEASE_FILE
from .store import Release, Store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._host.host import Host
    from .model import Instance, Secret

RELEASE = "miner_release"
SHOWN_VARIABLES = ("PYTHON", "PRECOG_MINER_")


@dataclass
class Outcome:
    """What a run did.

    :ivar failure: "" or what failed, where, with which figures, and what runs now.
    """

    changed: bool = False
    release: str = ""
    settings: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    diff: list[dict[str, str]] = field(default_factory=list)
    instances: dict[str, Any] = field(default_factory=dict)
    failure: str = ""
    releases: list[dict[str, Any]] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)

    def result(self) -> dict[str, Any]:
        """Return what the module returns."""
        statuses = [row["status"] for row in self.settings]
        return {
            "changed": self.changed,
            "release": self.release,
            "releases": self.releases,
            "answers": self.answers,
            "settings": self.settings,
            "summary": {status: statuses.count(status) for status in dict.fromkeys(statuses)},
            "diff": self.diff,
            "psutil": self.instances,
        }


class Told(NamedTuple):
    """What rows tell of.

    :ivar now: the instances as they are after the run, by name.
    :ivar persisted: the release that the next boot starts.
    :ivar cut_short: what a run before was trying, which never came to its end; "" for nothing.
    :ivar failure: what failed, if anything did.
    """

    work: rollout.Rollout
    release: Release
    todo: compare.Work
    seen: compare.Seen
    now: Mapping[str, systemd.Live]
    persisted: str
    cut_short: str
    failure: faults.Failure | None = None


def tell(host: Host, outcome: Outcome, told: Told, in_force: Mapping[str, bytes]) -> None:
    """Fill in an outcome's rows and facts.

    :param in_force: our units as they lie on the host by now.
    """
    if told.failure and not told.failure.first.instance:
        outcome.settings.append({**row_of("miner", None, None, None, units.UNIT_ROOT), **_refused(told.failure.text)})
    outcome.settings += release_rows(told)
    for one in told.release.instances:
        row = instance_row(one, told)
        row["facts"] = outcome.instances[one.name] = _facts(host, one, told.now[one.name])
        live = told.now[one.name]
        outcome.settings += [row, *_limit_rows(host, one.name, in_force, live), *_bound_rows(host, one, in_force, live)]
    for name in told.todo.stop:
        states = told.seen.live[name].state, told.now[name].state
        outcome.settings.append(row_of(f"miner:{name}", None, *states, units.UNIT_ROOT))


def _limit_rows(host: Host, name: str, in_force: Mapping[str, bytes], live: systemd.Live) -> list[dict[str, Any]]:
    """Return a row for each limit that an instance's unit names: wanted, and what its process really has.

    systemd gives a unit less than it names, without a word, where it may not raise its own hard limit.
    """
    path = f"{units.service(name)}.d/{compare.DROP_IN}"
    try:
        given = processes.parse_limits(host.read_text(f"/proc/{live.pid}/limits")) if live.pid else {}
    except OSError:  # it has ended by now
        return []
    rows = []
    for limit, value in re.findall(r"^Limit([A-Z]+)=(\S+)$", in_force.get(path, b"").decode(), re.MULTILINE):
        if limit.lower() not in given:
            continue
        wanted = value if ":" in value else f"{value}:{value}"
        has = ":".join(map(str, given[limit.lower()]))
        row = row_of(f"miner:{name}:{limit.lower()}", wanted, has, has, f"{units.UNIT_ROOT}/{path}")
        if has != wanted.replace("infinity", "-1"):
            row["status"] = "unsupported"
            row["reason"] = (
                "systemd gave the process less than its unit names: it may not raise its own hard limit here"
            )
        rows.append(row)
    return rows


def release_rows(told: Told) -> list[dict[str, Any]]:
    """Return the row of another release that becomes the current one; none where it stays, or did not come about."""
    if told.failure or not told.todo.switch:
        return []
    before, after = told.seen.current or None, told.release.name
    row = row_of(RELEASE, after, before, after, f"{told.work.store.folder(after)}/{RELEASE_FILE}")
    row["persisted_before"], row["persisted"] = before, after
    return [row]


def _bound_rows(
    host: Host, instance: Instance, in_force: Mapping[str, bytes], live: systemd.Live
) -> list[dict[str, Any]]:
    """Return a row for each bound that an instance's unit names, and that this host does not enforce."""
    path = f"{units.service(instance.name)}.d/{compare.DROP_IN}"
    lacking = bounds.lacking(host, in_force.get(path, b"").decode(), live)
    return [
        {
            **row_of(f"miner:{instance.name}:{option}", wanted, None, None, f"{units.UNIT_ROOT}/{path}"),
            "status": "unsupported",
            "reason": why,
        }
        for option, (wanted, why) in lacking.items()
    ]


def instance_row(instance: Instance, told: Told) -> dict[str, Any]:
    """Return the row of an instance."""
    name, failure = instance.name, told.failure
    unit = f"{units.UNIT_ROOT}/{compare.TEMPLATE}"
    before, after = _state(told.seen.live[name]), _state(told.now[name])
    row = row_of(f"miner:{name}", f"{instance.digest} active", before, after, unit)
    row["persisted_before"], row["persisted"] = told.seen.current or None, told.persisted or None
    if failure and failure.of(name):
        row.update(_refused(failure.of(name)))
    elif failure:
        started = (
            "it was started, and has gone back with the host" if name in told.work.started else "it was left alone"
        )
        row["reason"] = f"{started}: {failure.first.instance or 'the host'} failed"
    elif name in told.todo.start or name in told.todo.enable or name in told.todo.undrain or told.todo.switch:
        row["status"], row["reason"] = "changed", "; ".join(_reasons(instance, told))
    return row


def _reasons(instance: Instance, told: Told) -> list[str]:
    """Return why an instance is a change."""
    figures = told.work.figures.get(instance.name)
    reasons = [f"{instance.engine}: {judge.summary(figures)}" if figures else instance.engine]
    if told.cut_short:
        reasons.append(f"a run before ended without {told.cut_short} passing the gate, so all start anew")
    return reasons


def _refused(why: str) -> dict[str, str]:
    return {"status": "refused", "reason": why}


def _state(live: systemd.Live) -> str:
    return f"{live.digest} {live.active}" if live.digest else live.state


def row_of(name: str, desired: str | None, before: str | None, after: str | None, where: str) -> dict[str, Any]:
    return {
        "name": name,
        "desired": desired,
        "before": before,
        "after": after,
        "persisted_before": None,
        "persisted": None,
        "persisted_by": where,
        "status": "ok" if before == after else "changed",
        "reason": "",
    }


def diff(
    host: Host,
    store: Store,
    seen: compare.Seen,
    todo: compare.Work,
    release: str,
    files: Mapping[str, bytes],
    secrets: Mapping[str, Secret],
) -> list[dict[str, str]]:
    """Return the difference of each unit, each file of the release, and the release; of secrets, only that they differ.

    :param files: of the release, by path in its folder.
    """
    shown = [
        {
            "before_header": f"{units.UNIT_ROOT}/{name}",
            "after_header": f"{units.UNIT_ROOT}/{name}",
            "before": seen.units.get(name, b"").decode("utf-8", "replace"),
            "after": (data or b"").decode("utf-8", "replace"),
        }
        for name, data in todo.units.items()
    ]
    shown += difference.secrets(seen.secrets, {path: secrets[path].data for path in todo.secrets})
    if todo.switch:
        if seen.current:
            before = difference.files(host, store.folder(seen.current))
            shown += difference.between(seen.current, before, release, files)
        release_diff = {"before": f"release {seen.current or 'none'}\n", "after": f"release {release}\n"}
        shown.append({"before_header": "current", "after_header": "current", **release_diff})
    return shown


def _facts(host: Host, instance: Instance, live: systemd.Live) -> dict[str, Any]:
    """Return an instance's process as psutil sees it, and the variables of Python and ours that it was started with."""
    try:
        process = processes.process(live.pid) if live.pid else None
    except psutil_facts.PsutilMissingError as error:
        process = {"error": str(error)}
    variables = systemd.environment_of(host, live.pid) if live.pid else {}
    shown = {name: value for name, value in variables.items() if name.startswith(SHOWN_VARIABLES)}
    return {"engine": instance.engine, "process": process, "variables": shown}
