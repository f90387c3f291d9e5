# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The report at the end of a run: every host's settings, and what an operator has to look at."""

from __future__ import annotations

DOCUMENTATION = r"""
name: fleet_report
type: aggregate
short_description: Sums up what a run did to the settings of each host
version_added: 0.1.0
author:
  - The precog-fleet authors (@precog-fleet)
description:
  - Collects the C(settings) that the modules of this collection return, also from failed tasks, from loops
    and in check mode, and prints a table of hosts at the end of the run.
  - Below the table stands each setting that is neither as wanted nor simply changed, with the reason,
    grouped so that a large fleet stays readable.
  - Then it lists what changed, with the value before and after; a few lines, with C(-v) all of them.
  - Where an audit found something that no run has repaired, the command that repairs it ends the report.
  - Hosts that could not be reached stand in the table too.
  - One row a setting. What the run did stays in it, whatever the run finds or does afterwards; an audit at the end of
    the run replaces it only where the setting is not as desired after all, and says both.
  - A run without such results prints nothing.
options:
  report:
    description:
      - A file that gets the whole report as one JSON document, written at the end of the run. The old
        document stands until the new one is complete.
      - Without it no file is written.
    type: path
    env:
      - name: PRECOG_FLEET_REPORT
    ini:
      - section: callback_fleet_report
        key: report
requirements:
  - Enabling it, with C(callbacks_enabled = precog.fleet.fleet_report) in the section C([defaults]) of
    ansible.cfg.
"""

import json
import os
import re
import shlex
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ansible import constants, context
from ansible.plugins.callback import CallbackBase
from ansible_collections.precog.fleet.plugins.module_utils._engine.model import stated
from ansible_collections.precog.fleet.plugins.plugin_utils._brief import is_cut, lines_of, raw

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ansible.executor.stats import AggregateStats
    from ansible.executor.task_result import CallbackTaskResult
    from ansible.playbook import Playbook

    Setting = dict[str, Any]
    Hosts = Mapping[str, Sequence[Setting]]

SCHEMA = 1
STATUSES = ("ok", "changed", "drifted", "overridden", "unsupported", "refused", "unknown")
# What is told below the table, the most urgent first.
FINDINGS = ("refused", "unknown", "overridden", "drifted", "unsupported")
RELEASE = "miner_release"
WITH_VALUES = ("refused", "overridden", "drifted")
DONE = ("changed", "drifted")  # in a row of a run, not of an audit
RUN_TIME = "run time"
DISK = "disk"
# The playbook that repairs what an audit found, by the part; more than one need site.yml.
REPAIRS = {
    "kernel_tuning": "tune",
    "limits": "tune",
    "cpu_governor": "tune",
    "swap": "tune",
    "python_env": "miner",
    "miner_service": "miner",
}
STATS = ("ok", "changed", "failures", "unreachable", "skipped", "rescued", "ignored")

MAX_ROWS = 20
MAX_FINDINGS = 20  # lines per status
MAX_CHANGES = 200  # lines with -v; without it as many as findings
MAX_NAMES = 4
MAX_HOSTS = 4
MAX_FAILURES = 40  # lines
MAX_VALUE = 60  # characters


class Line(NamedTuple):
    """A line of the report; the status gives its colour."""

    text: str
    status: str = ""


class Failure(NamedTuple):
    """What the last task that failed on a host said.

    :ivar is_cut: only a part of the message was printed so far, and the task's own settings do not explain it.
    """

    message: str
    is_cut: bool


def settings_of(result: Mapping[str, Any]) -> Iterator[Setting]:
    """Yield the settings in a task's result and in those of its loop's items.

    Other collections' modules may return something else under the same name; that is passed over, as is what
    `no_log` hides.
    """
    items = result.get("results")
    for part in (result, *(items if isinstance(items, list) else ())):
        if not isinstance(part, dict) or part.get("_ansible_no_log"):
            continue
        found = raw(part).get("settings")
        for setting in found if isinstance(found, list) else ():
            if is_setting(setting):
                yield setting


def is_setting(entry: object) -> bool:
    """Tell whether an entry of a list called `settings` is one of ours."""
    return isinstance(entry, dict) and isinstance(entry.get("name"), str) and entry.get("status") in STATUSES


def is_look(row: Setting) -> bool:
    """Tell whether a row is an audit's: it says what was found, and nothing was done about it."""
    return "where" in row


def looked(row: Setting, part: str) -> Setting:
    """Return the row of a module that ran in check mode, in a run that does not, as a row of an audit. Pure.

    :param part: the role that it belongs to.
    """
    if row["status"] not in DONE:
        return {**row, "part": part, "where": ""}
    at_run_time = row.get("desired") != row.get("before")
    on_disk = row.get("persisted") != row.get("persisted_before") or not at_run_time
    where = " and ".join([RUN_TIME] * at_run_time + [DISK] * on_disk)
    found = {"after": row.get("before"), "persisted": row.get("persisted_before")}
    return {**row, **found, "part": part, "status": "drifted", "where": where}


def merged(known: Setting | None, new: Setting) -> Setting:
    """Return the row to report of a setting, given the one known so far and a new one of the same run. Pure."""
    if known is None or is_look(known):
        return new
    began: Setting = {key: known[key] for key in ("before", "persisted_before") if key in known}
    if not is_look(new):
        kept = {key: known.get(key) for key in ("status", "reason")}
        return {**new, **began, **(kept if new["status"] == "ok" and known["status"] in DONE else {})}
    if new["status"] == "ok" or (new["status"] == known["status"] and known["status"] not in DONE):
        return known
    if known["status"] not in DONE:
        return new
    # A release that has to wait, for one: the run says why, and the audit only that.
    left_alone = all(
        known.get(now) == known.get(then) for now, then in (("after", "before"), ("persisted", "persisted_before"))
    )
    if known["status"] == new["status"] == "drifted" and left_alone:
        return known
    found = stated(new["status"], str(new.get("reason") or ""))
    reason = f"this run set it ({change(known) or 'rewritten'}), but the audit after it found it {found}"
    return {**new, **began, "reason": reason}


def natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts miner-2 before miner-10."""
    return [(int(part or 0), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def printable(text: str) -> str:
    """Return a text on one line, without what could steer a terminal: it comes from a host."""
    return "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))


def show(value: object) -> str:
    """Return a value as one short run of printable characters."""
    if value is None:
        return "unset"
    text = printable(str(value))
    return text if len(text) <= MAX_VALUE else text[: MAX_VALUE - 3] + "..."


def arrow(before: object, after: object) -> str:
    """Return `before -> after`."""
    return f"{show(before)} -> {show(after)}"


def some(names: Iterable[str], most: int) -> str:
    """Return `a, b and 3 more`: at most so many of the names, in natural order."""
    ordered = [show(name) for name in sorted(names, key=natural)]
    rest = len(ordered) - most
    if rest <= 0:
        return ", ".join(ordered)
    return f"{', '.join(ordered[:most])} and {rest} more"


def bounded(lines: list[Line], most: int, what: str) -> list[Line]:
    """Return at most so many lines; a last one says how many are not shown."""
    if len(lines) <= most:
        return lines
    return [*lines[:most], Line(f"  ... and {len(lines) - most} more {what}")]


def counts(settings: Iterable[Setting]) -> tuple[int, ...]:
    """Return how many settings have each status, in the order of STATUSES."""
    found = [setting["status"] for setting in settings]
    return tuple(found.count(status) for status in STATUSES)


def worst(row: Sequence[int]) -> str:
    """Return the most urgent status with a count."""
    present = [status for status, count in zip(STATUSES, row) if count]
    return next((status for status in (*FINDINGS, "changed") if status in present), "ok")


def urgency(row: Sequence[int]) -> tuple[int, ...]:
    """Return a key that sorts the most urgent counts first."""
    order = (*FINDINGS, "changed", "ok")
    return tuple(-row[STATUSES.index(status)] for status in order)


def table(hosts: Hosts, silent: Mapping[str, str]) -> list[Line]:
    """Return the table: a line per host or, in a large fleet, per group of hosts with the same counts.

    :param silent: what happened to a host of which no setting is known, by its name.
    """
    groups: dict[tuple[tuple[int, ...], str], list[str]] = {}
    rows: list[tuple[str, tuple[int, ...], str]] = []
    for host in sorted({*hosts, *silent}, key=natural):
        row, why = counts(hosts.get(host, ())), silent.get(host, "")
        groups.setdefault((row, why), []).append(host)
        rows.append((show(host), row, why))
    heading = "host"
    if len(rows) > MAX_ROWS:
        heading = f"{len(rows)} hosts"
        ordered = sorted(groups.items(), key=lambda group: (not group[0][1], urgency(group[0][0])))
        rows = [(f"{len(names)}: {some(names, 2)}", row, why) for (row, why), names in ordered]
    width = max(len(label) for label in (heading, *(label for label, _row, _why in rows)))
    lines = [
        Line(f"{label:<{width}}  {why}" if why else f"{label:<{width}}{cells(row)}", "refused" if why else worst(row))
        for label, row, why in rows
    ]
    return [Line(f"{heading:<{width}}{cells(STATUSES)}"), *bounded(lines, MAX_ROWS, "groups of hosts")]


def cells(row: Iterable[object]) -> str:
    """Return the table's columns after the first; a zero is a dash, so that the others stand out."""
    return "".join("  " + str(cell or "-").rjust(len(status)) for cell, status in zip(row, STATUSES))


def change(setting: Setting) -> str:
    """Return what changed, at run time and for the next boot."""
    parts = []
    if setting.get("before") != setting.get("after"):
        parts.append(arrow(setting.get("before"), setting.get("after")))
    if setting.get("persisted_before") != setting.get("persisted"):
        later = arrow(setting.get("persisted_before"), setting.get("persisted"))
        parts += [] if later in parts else [f"next boot: {later}"]
    return "; ".join(parts)


def values(setting: Setting) -> str:
    """Return the values that explain a finding, or nothing if the reason says it all."""
    if setting["status"] not in WITH_VALUES:
        return ""
    if setting["status"] == "drifted" and not is_look(setting):
        return change(setting)
    desired, now, later = (show(setting.get(key)) for key in ("desired", "after", "persisted"))
    if setting["status"] == "drifted" and setting.get("desired") is None:
        return ""
    if setting["status"] in ("refused", "unknown"):
        return f"is {now}" if now != desired and setting["status"] == "refused" else ""
    parts = [f"{desired} expected"]
    if now != desired and f"was {now}" not in printable(str(setting.get("reason"))):
        parts.append(f"is {now}")
    decides = setting["status"] == "overridden" or DISK in str(setting.get("where"))
    if decides and later not in (desired, now):
        parts.append(f"the next boot gives {later}")
    return ", ".join(parts)


def label(setting: Setting) -> str:
    """Return a setting's name, with the value that can't be had."""
    if setting["status"] not in ("refused", "unknown") or setting.get("desired") is None:
        return str(setting["name"])
    return f"{setting['name']} = {show(setting['desired'])}"


def findings(hosts: Hosts) -> list[Line]:
    """Return what is neither as wanted nor simply changed, by status and reason, the most urgent first."""
    lines: list[Line] = []
    for status in FINDINGS:
        reasons: dict[str, dict[tuple[str, str], list[str]]] = {}
        for host, settings in hosts.items():
            for setting in settings:
                if setting["status"] == status:
                    group = reasons.setdefault(str(setting.get("reason") or ""), {})
                    group.setdefault((label(setting), values(setting)), []).append(host)
        part: list[Line] = []
        for reason, group in sorted(reasons.items()):
            part += reason_lines(status, reason, group)
        lines += bounded(part, MAX_FINDINGS, f"lines of {status} settings")
    return lines


def reason_lines(status: str, reason: str, group: Mapping[tuple[str, str], Sequence[str]]) -> list[Line]:
    """Return the lines of one reason: settings with the same values on the same hosts share one.

    :param group: the hosts by a setting's label and values.
    """
    together: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (name, explained), names in sorted(group.items()):
        together.setdefault((explained, tuple(names)), []).append(name)
    first, *more = [printable(line) for line in lines_of(reason)] or [""]
    lines = [Line(stated(status, first), status), *(Line(f"    {line}") for line in more)]
    for (explained, names), settings in together.items():
        suffix = f" ({explained})" if explained else ""
        lines.append(Line(f"  {some(settings, MAX_NAMES)}{suffix} on {some(names, MAX_HOSTS)}"))
    return lines


def changes(hosts: Hosts, most: int) -> list[Line]:
    """Return each changed setting with its value before and after, hosts with the same change together.

    :param most: lines; releases come first.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for host, settings in hosts.items():
        for setting in settings:
            if setting["status"] == "changed":
                reason = printable(str(setting.get("reason") or ""))
                text = (change(setting) or "rewritten") + (f" ({reason})" if reason else "")
                groups.setdefault((setting["name"], text), []).append(host)
    if not groups:
        return []
    ordered = sorted(groups.items(), key=lambda group: (group[0][0] != RELEASE, group[0]))
    lines = [Line(f"  {show(name)}: {text} on {some(names, MAX_HOSTS)}") for (name, text), names in ordered]
    return [Line("changed:", "changed"), *bounded(lines, most, "changes (-v shows more of them)")]


def unreached(stats: Mapping[str, Mapping[str, int]], told: Iterable[str] = ()) -> list[str]:
    """Return the hosts that could not be reached, or were lost during the run.

    :param told: those that a task said it of, and failed: a rollout has to stop there, and for Ansible it would not.
    """
    return sorted({*told, *(host for host, stat in stats.items() if stat["unreachable"])}, key=natural)


def silent(stats: Mapping[str, Mapping[str, int]], hosts: Hosts) -> dict[str, str]:
    """Return what happened to the hosts that failed before any of their settings was known."""
    return {
        host: "unreachable" if stat["unreachable"] else "failed before any setting was known"
        for host, stat in stats.items()
        if host not in hosts and (stat["failures"] or stat["unreachable"])
    }


def failures(
    failed: Mapping[str, Failure], stats: Mapping[str, Mapping[str, int]], hosts: Hosts, most: int
) -> list[Line]:
    """Return why hosts failed, those with the same message together, unless their settings say it already.

    :param failed: by a host's name.
    """
    groups: dict[str, list[str]] = {}
    for host, failure in failed.items():
        has_failed = stats.get(host, {}).get("failures") or stats.get(host, {}).get("unreachable")
        if has_failed and (failure.is_cut or not any(explains(row) for row in hosts.get(host, ()))):
            groups.setdefault(failure.message, []).append(host)
    lines = []
    for message, names in sorted(groups.items(), key=lambda group: (-len(group[1]), group[0])):
        lines.append(Line(f"failed: {some(names, MAX_HOSTS)}", "refused"))
        lines += [Line(f"  {printable(line)}") for line in lines_of(message)]
    return bounded(lines, most, "lines of failures")


def explains(row: Setting) -> bool:
    """Tell whether a row says why its host failed."""
    return row["status"] in ("refused", "unknown") or (is_look(row) and row["status"] in ("drifted", "overridden"))


def lost(stats: Mapping[str, Mapping[str, int]], hosts: Hosts) -> list[Line]:
    """Return a line that names the hosts that were lost after some of their settings were known."""
    names = [host for host in unreached(stats) if host in hosts]
    return [Line(f"Unreachable before the run was done with them: {some(names, MAX_HOSTS)}", "refused")] * bool(names)


def repair(hosts: Hosts, inventories: Sequence[str]) -> list[Line]:
    """Return the command that repairs what an audit found and no run has repaired; nothing if there is nothing.

    :param inventories: those that were given on the command line.
    """
    found = {
        (host, str(row.get("part")))
        for host, rows in hosts.items()
        for row in rows
        if is_look(row) and row["status"] == "drifted"
    }
    playbooks = {REPAIRS[part] for _host, part in found if part in REPAIRS}
    if not playbooks:
        return []
    names = sorted({host for host, _part in found}, key=natural)
    limit = ["--limit", ",".join(names)] if len(names) <= MAX_HOSTS else []
    playbook = playbooks.pop() if len(playbooks) == 1 else "site"
    words = [*(word for path in inventories for word in ("-i", path)), f"precog.fleet.{playbook}", *limit]
    return [Line(f"To repair it: ansible-playbook {shlex.join(words)}")]


def version() -> str:
    """Return the version of this collection; "" if neither its source nor an installation has it."""
    top = Path(__file__).resolve().parents[2]
    try:
        installed = top / "MANIFEST.json"
        if installed.is_file():
            return str(json.loads(installed.read_text(encoding="utf-8"))["collection_info"]["version"])
        found = re.search(r"^version: *(\S+)$", (top / "galaxy.yml").read_text(encoding="utf-8"), re.MULTILINE)
    except (OSError, ValueError, LookupError, TypeError):
        return ""
    return found[1] if found else ""


def document(about: Mapping[str, Any], stats: Mapping[str, Mapping[str, int]], hosts: Hosts) -> dict[str, Any]:
    """Return the JSON document of a run, with every host that took part.

    :param about: what is to be known of the run itself.
    """
    nothing = dict.fromkeys(STATS, 0)
    by_host = {
        name: {"settings": list(hosts.get(name, ())), "stats": dict(stats.get(name, nothing))}
        for name in sorted({*stats, *hosts}, key=natural)
    }
    return {"schema": SCHEMA, **about, "hosts": by_host}


def inventories() -> list[str]:
    """Return the inventories that the command line names, short where they are below the working directory."""
    given = [str(path) for path in context.CLIARGS.get("inventory") or ()]
    if given == [str(path) for path in constants.config.get_config_value("DEFAULT_HOST_LIST")]:
        return []
    here = os.path.join(os.getcwd(), "")
    return [path[len(here) :] if path.startswith(here) else path for path in given]


def write_json(path: str, content: Mapping[str, Any]) -> None:
    """Write a JSON file so that a reader sees the old document or the new one, never a part.

    :raises OSError: the folder or the file cannot be written; the old document stands.
    """
    text = json.dumps(content, indent=1) + "\n"
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


class CallbackModule(CallbackBase):
    """Collects while the run goes on, and reports when it ends."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "precog.fleet.fleet_report"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._settings: dict[str, dict[str, Setting]] = {}
        self._began = datetime.now(timezone.utc)
        self._playbook = ""
        self._unreached: set[str] = set()
        self._failed: dict[str, Failure] = {}

    def _collect(self, result: CallbackTaskResult) -> None:
        # ansible-core 2.21 deprecates the public task_fields; the names with an underscore serve 2.19 to 2.21.
        looks = bool(result._task_fields.get("check_mode")) and not context.CLIARGS.get("check")
        role = result._task._role
        part = role.get_name().rpartition(".")[2] if role else ""
        for setting in settings_of(result._result):
            row = looked(setting, part) if looks and not is_look(setting) else setting
            rows = self._settings.setdefault(result._host.get_name(), {})
            rows[setting["name"]] = merged(rows.get(setting["name"]), row)

    def v2_playbook_on_start(self, playbook: Playbook) -> None:
        """Note which playbook is run."""
        self._playbook = str(playbook._file_name)

    def v2_runner_on_ok(self, result: CallbackTaskResult) -> None:
        """Collect from a task that succeeded."""
        self._collect(result)

    def v2_runner_on_failed(self, result: CallbackTaskResult, ignore_errors: bool = False) -> None:
        """Collect from a task that failed: what it could apply is in its result too."""
        self._collect(result)
        if not ignore_errors:
            self._note(result)

    def v2_runner_on_unreachable(self, result: CallbackTaskResult) -> None:
        """Collect from a host that was lost, or could not be looked at."""
        self._collect(result)
        self._note(result)

    def _note(self, result: CallbackTaskResult) -> None:
        """Keep what a failed task said; of what is secret, that it is."""
        found = result._result
        items = [one for one in found.get("results") or () if isinstance(one, dict) and one.get("failed")]
        printed = items[0] if items else found
        part = raw(printed)
        message = part.get("censored") or part.get("msg") or part.get("module_stderr") or "it failed without a message"
        cut = is_cut(printed) and not any(explains(row) for row in settings_of(part))
        self._failed[result._host.get_name()] = Failure(str(message), cut)
        if part.get("unreached"):
            self._unreached.add(result._host.get_name())

    def v2_playbook_on_stats(self, stats: AggregateStats) -> None:
        """Print the report, and write the document."""
        hosts = {host: list(settings.values()) for host, settings in self._settings.items()}
        by_host = {host: stats.summarize(host) for host in stats.processed}
        check_mode = bool(context.CLIARGS.get("check"))
        path = self.get_option("report")
        about = {
            "unreachable": unreached(by_host, self._unreached),
            "time": self._began.isoformat(timespec="seconds"),
            "playbook": self._playbook,
            "version": version(),
            "check_mode": check_mode,
        }
        if hosts or silent(by_host, hosts):
            self._print(hosts, by_host, check_mode)
        if path and self._write(path, document(about, by_host, hosts)) and hosts:
            self._display.display(f"All settings of all hosts: {path}")

    def _print(self, hosts: Hosts, stats: Mapping[str, Mapping[str, int]], check_mode: bool) -> None:
        self._display.banner("SETTINGS (check mode: nothing was changed)" if check_mode else "SETTINGS")
        lines = [*table(hosts, silent(stats, hosts)), *lost(stats, hosts)]
        details = [
            *failures(self._failed, stats, hosts, MAX_FAILURES),
            *findings(hosts),
            *changes(hosts, MAX_CHANGES if self._display.verbosity else MAX_FINDINGS),
        ]
        details += repair(hosts, inventories())
        if details:
            lines += [Line(""), *details]
        for line in lines:
            self._display.display(line.text, color=self._colour(line.status))
        if not self.get_option("report"):
            self._display.display("All settings as JSON: run with PRECOG_FLEET_REPORT=report.json")

    def _write(self, path: str, content: Mapping[str, Any]) -> bool:
        """Write the document; a failure is a warning, as the hosts are done."""
        try:
            write_json(path, content)
        except OSError as error:
            self._display.warning(f"The report {path} was not written: {error.strerror}.")
            return False
        return True

    @staticmethod
    def _colour(status: str) -> str | None:
        return {
            "ok": constants.COLOR_OK,
            "changed": constants.COLOR_CHANGED,
            "drifted": constants.COLOR_CHANGED,
            "overridden": constants.COLOR_WARN,
            "unsupported": constants.COLOR_SKIP,
            "refused": constants.COLOR_ERROR,
            "unknown": constants.COLOR_ERROR,
        }.get(status)
