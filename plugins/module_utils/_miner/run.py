# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The miner's service on one host: what a run of the module does, and what it tells."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .._environment.check import MARKER
from .._host.host import HostError
from . import compare, difference, guarded, place, rollout, size, systemd, units
from . import plan as miner_plan
from . import user as users
from .gate.limits import limits
from .report import RELEASE, Outcome, Told, diff, instance_row, release_rows, row_of, tell
from .store import PREVIOUS, Past, Release, Store, label, stayed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._host.host import Host
    from .model import Plan, Secret

UPSTREAM = "upstream"
GUARD = "miner_guard"
GIT = "/usr/bin/git"
ONLINE_CPUS = "/sys/devices/system/cpu/online"
MEMORY = "/proc/meminfo"
RESOLVERS = "/etc/resolv.conf"


class PackageMissing(Exception):
    """A Debian package is wanted, which its argument names; nothing was touched."""


def deploy(host: Host, params: Mapping[str, Any], *, check_mode: bool) -> Outcome:
    """Bring the release that the arguments stand for into place, through its gate.

    :raises HostError: the arguments, or the host, stand in the way; nothing was touched.
    """
    work = rollout.Rollout(host, params)
    store = work.store
    outcome = _deployed(host, params, work, label(params["label"]), check_mode=check_mode)
    outcome.answers = work.answers
    outcome.releases = [
        {"name": name, **store.about(name)._asdict(), "current": name == store.current} for name in store.names()
    ]
    return outcome


def _deployed(host: Host, params: Mapping[str, Any], work: rollout.Rollout, given: str, *, check_mode: bool) -> Outcome:
    """Bring the release about that the arguments stand for.

    :param given: its label.
    """
    store = work.store
    if params["release"]:
        named = store.load(store.resolve(params["release"]))
        done = _roll(host, work, named, {}, check_mode=check_mode)
        done.warnings += _stays(store, params["release"], done)
        if not (check_mode or done.failure):
            done.warnings += _note(store, stayed(store.past(), named.name))
        return _held(done, params)
    plan, links = _planned(host, params, check_mode=check_mode)
    if plan.release in store.past().barred and params["allow_withdrawn"] != plan.release:
        return _withdrawn(host, work, plan.release, params, check_mode=check_mode)
    if params["hold"] and plan.release != store.current:
        return _on_hold(host, work, plan.release, params, check_mode=check_mode)
    plan = plan._replace(secrets={**plan.secrets, **compare.unwanted(host, plan.secrets)})
    outcome = Outcome(warnings=[*plan.warnings, *size.small(host, params, plan)])
    whole = store.is_whole(plan, links)
    new = not store.lies_there(plan.release)
    damaged = not whole and not new
    if not whole:
        _expect_room(host, params)
        if check_mode:
            return _mended(_foreseen(host, work, plan, outcome), store, plan, damaged)
        store.save(plan, links)
    if not check_mode:
        store.call(plan.release, given, new=new)
    _make_users(host, params, plan, check_mode=check_mode)
    done = _roll(host, work, store.load(plan.release), plan.secrets, check_mode=check_mode)
    done.warnings = [*outcome.warnings, *done.warnings]
    if not (check_mode or done.failure):
        done.warnings += _note(store, store.past()._replace(barred=()))
    return _held(_mended(done, store, plan, damaged), params)


def _withdrawn(
    host: Host, work: rollout.Rollout, release: str, params: Mapping[str, Any], *, check_mode: bool
) -> Outcome:
    """Repair what runs, and refuse the release that the inventory still makes though the operator went back from it."""
    done = _kept(host, work, release, "it was withdrawn on this host", params, check_mode=check_mode)
    message = (
        f"The release {release} was withdrawn on this host (miner_service_release named another one), and the "
        f"inventory still makes it. It is not rolled out again; this host keeps {work.store.current or 'none'}.\n"
        f"Change the inventory; or, to roll {release} out again, run playbooks/miner.yml for this host with\n"
        f"-e miner_service_allow_withdrawn={release}"
    )
    if done.failure:
        done.warnings.append(message)
    return replace(done, failure=done.failure or message)


def _kept(
    host: Host, work: rollout.Rollout, release: str, reason: str, params: Mapping[str, Any], *, check_mode: bool
) -> Outcome:
    """Repair the release that runs, and report the one that the inventory makes as not rolled out.

    A host that runs none stays without.

    :param release: the one that the inventory makes.
    :param reason: why it is not rolled out.
    """
    current = work.store.current
    done = Outcome()
    if current:
        done = _held(_roll(host, work, work.store.load(current), {}, check_mode=check_mode), params)
    row = row_of(RELEASE, release, current or None, current or None, work.store.folder(current or release))
    done.settings.append({**row, "status": "drifted", "reason": reason})
    return replace(done, release=release)


def _note(store: Store, past: Past) -> list[str]:
    """Write down what happened to the releases, if it is not written yet; return a warning if it can't be."""
    try:
        if past != store.past():
            store.note(past)
    except OSError as error:
        return [f"which release was withdrawn could not be written down ({error}): go back once more when it can be"]
    return []


def _on_hold(host: Host, work: rollout.Rollout, wanted: str, params: Mapping[str, Any], *, check_mode: bool) -> Outcome:
    """Repair what runs, and report the release that has to wait."""
    current, why = work.store.current, params["hold"]
    done = _kept(host, work, wanted, f"it has to wait: {why}", params, check_mode=check_mode)
    done.warnings.append(f"the release {wanted} has to wait, and this host keeps {current or 'none'}: {why}")
    return done


def _stays(store: Store, wanted: str, done: Outcome) -> list[str]:
    """Return a warning if a host was to go back, and had gone already."""
    past = store.past()
    if wanted != PREVIOUS or done.changed or not past.withdrawn:
        return []
    return [
        f"this host has gone back from {past.withdrawn} to {done.release} already, so it stays there. To go further "
        f"back, give miner_service_release a name; kept here: {', '.join(map(store.told, store.names()))}"
    ]


def _mended(outcome: Outcome, store: Store, plan: Plan, damaged: bool) -> Outcome:
    """Return an outcome that tells of a release whose files were not as they should be."""
    if damaged:
        outcome.changed = True
        row = row_of(RELEASE, "whole", "damaged", "whole", store.folder(plan.release))
        switched = next((one for one in outcome.settings if one["name"] == RELEASE), None)
        if switched:
            switched["reason"] = f"{row['persisted_by']} was damaged, and is repaired"
        else:
            outcome.settings.append(row)
    return outcome


def _held(outcome: Outcome, params: Mapping[str, Any]) -> Outcome:
    """Return an outcome, failed if a process lacks what its unit names and that is asked for."""
    lacking = [row["name"] for row in outcome.settings if row["status"] == "unsupported"]
    if params["on_unsupported"] == "fail" and lacking and not outcome.failure:
        outcome.failure = f"{', '.join(lacking)}: less is in force than wanted (miner_service_on_unsupported is fail)"
    return outcome


def withdraw(host: Host, params: Mapping[str, Any], *, check_mode: bool) -> Outcome:
    """Stop all instances, and remove all but what they wrote: the folder of their state."""
    store = Store(host, params["root"])
    made = users.our_users(host)
    secrets = [units.SECRETS] if host.exists(units.SECRETS) else []
    guard = guarded.there(host, params["root"])
    found = [*compare.ours(host), *store.names(), *secrets, *made, *guard]
    row = row_of("miner", None, ", ".join(found) or None, None, units.UNIT_ROOT)
    if found and not check_mode:
        # First of all: if this run is killed, nothing may bring a release back.
        guarded.remove(host, params["root"])
        faults = place.leave_nothing(host, limits(params["gate"]).drain_s)
        if faults:
            raise HostError(f"Not all could be stopped: {' '.join(map(str, faults))} Mend that, then run again")
        store.remove()
        host.remove_tree(f"{params['root']}/{UPSTREAM}")
        host.remove_tree(units.SECRETS)
        for user in made:
            host.run(["userdel", user])
    return Outcome(changed=bool(found), settings=[row])


def _planned(host: Host, params: Mapping[str, Any], *, check_mode: bool) -> tuple[Plan, dict[str, str]]:
    """Return the plan, and what its release is linked to."""
    if not params["environment"]:
        raise HostError("miner_service_environment is empty: run the role python_env first, or name an environment")
    users.expect_user(host, params["user"])
    for name in ("root", "environment"):
        users.expect_roots(host, f"miner_service_{name}", params[name])
    known = {**params, **_facts_of(host, params["environment"])}
    # A run that only looks finds none yet where python_env would have built it.
    if not check_mode and not host.exists(f"{known['environment']}/bin/python"):
        raise HostError(
            f"miner_service_environment is {params['environment']!r}, where there is no Python environment (no "
            "bin/python in it): name one that python_env has built"
        )
    links = {"environment": known["environment"]}
    plan = miner_plan.plan(known, "")
    for one in plan.instances:
        users.expect_user(host, units.user(params["user"], one.name), one.name)
    if all(instance.engine != UPSTREAM for instance in plan.instances):
        return plan, links
    from . import upstream, vcs

    if not host.exists(GIT):
        raise PackageMissing("git")
    source = miner_plan.upstream(params)
    commit = upstream.commit(host, source)
    plan = miner_plan.plan(known, commit)
    warnings = [vcs.moving_name(source, commit)]
    if not check_mode:
        links[UPSTREAM] = upstream.ensure(host, source, commit, known["environment"], params["root"])
        warnings.append(upstream.other_python(host, links[UPSTREAM], known["environment"]))
    return plan._replace(warnings=(*plan.warnings, *filter(None, warnings))), links


def _facts_of(host: Host, environment: str) -> dict[str, Any]:
    """Return what a plan has to know of the host, by name; of the environment the real path, which a process keeps."""
    real = host.locate(environment)[len(host.root.rstrip("/")) :]
    return {
        "environment": real,
        "implementation": "pypy" if host.exists(f"{real}/bin/pypy3") else "cpython",
        "cpus": host.read_text(ONLINE_CPUS).strip() if host.exists(ONLINE_CPUS) else "",
        "levels": _levels(host, real),
        "memory_mb": _memory_mb(host),
        "resolvers": _resolvers(host),
    }


def _memory_mb(host: Host) -> int:
    """Return a host's memory in MB, 0 where /proc does not say."""
    found = re.search(r"MemTotal: *([0-9]+) kB", host.read_text(MEMORY)) if host.exists(MEMORY) else None
    return int(found[1]) // 1024 if found else 0


def _resolvers(host: Host) -> list[str]:
    """Return the addresses of a host's DNS servers."""
    text = host.read_text(RESOLVERS) if host.exists(RESOLVERS) else ""
    return re.findall(r"^\s*nameserver\s+(\S+)", text, re.MULTILINE)


def _levels(host: Host, environment: str) -> tuple[int, ...]:
    """Return the levels of optimisation that an environment's bytecode is for, by its own notes; none without them."""
    try:
        # They name each of its files too, thousands, which reading them as JSON would take a tenth of a second for.
        found = re.search(rb'"optimize": *\[([0-9, ]*)\]', host.read_bytes(f"{environment}/{MARKER}"))
    except FileNotFoundError:
        return ()
    return tuple(map(int, re.findall(rb"[0-9]+", found[1]))) if found else ()


def _expect_room(host: Host, params: Mapping[str, Any]) -> None:
    wanted = params["minimum_disk_mb"]
    try:
        host.expect_room(f"{params['root']}/releases/new/file", wanted << 20)
    except OSError as error:
        raise HostError(
            f"there is no room for a new release at {params['root']} (miner_service_minimum_disk_mb is {wanted}): "
            f"{error.strerror}. Free space there, then run again; what runs now was not touched"
        ) from error


def _make_users(host: Host, params: Mapping[str, Any], plan: Plan, *, check_mode: bool) -> None:
    """Make the users of a plan's instances that are missing."""
    for one in plan.instances:
        name = units.user(params["user"], one.name)
        if users.user(host, name) is None and not check_mode:
            users.make_user(host, name, f"{params['state_root']}/{one.name}")


def _foreseen(host: Host, work: rollout.Rollout, plan: Plan, outcome: Outcome) -> Outcome:
    """Fill in what a run would do that makes a new release."""
    release = Release(plan.release, plan.units, plan.instances)
    seen = compare.look(host, work.store, release, plan.secrets)
    todo = work.todo(release, plan.secrets, seen)
    outcome.changed, outcome.release = True, plan.release
    told = Told(work, release, todo, seen, seen.live, release.name, work.store.past().trying)
    guard = _guard_rows(host, work.store.root, check_mode=True)
    outcome.settings = [*guard, *release_rows(told), *(instance_row(one, told) for one in release.instances)]
    files = {path: file.data for path, file in plan.files.items()}
    outcome.diff = diff(host, work.store, seen, todo, release.name, files, plan.secrets)
    return outcome


def _roll(
    host: Host,
    work: rollout.Rollout,
    release: Release,
    secrets: Mapping[str, Secret],
    *,
    check_mode: bool,
) -> Outcome:
    """Bring a release that lies on the host about."""
    # Before anything is switched: a run that is killed leaves it to the guard to go back.
    guard = _guard_rows(host, work.store.root, check_mode=check_mode)
    seen = compare.look(host, work.store, release, secrets)
    todo, cut_short = work.todo(release, secrets, seen), work.store.past().trying
    runs = not todo.idle and not check_mode
    files = difference.files(host, work.store.folder(release.name)) if todo.switch else {}
    shown = diff(host, work.store, seen, todo, release.name, files, secrets)
    failure = work.carry_out(release, todo, secrets, seen) if runs else None
    outcome = Outcome(bool(guard) or not todo.idle, release.name, guard, work.warnings, shown)
    outcome.failure = failure.text if failure else ""
    try:
        now = systemd.look(host, seen.live) if runs else seen.live
        persisted = work.store.current if runs else release.name
        in_force = compare.ours(host) if runs else seen.units
        tell(host, outcome, Told(work, release, todo, seen, now, persisted, cut_short, failure), in_force)
    except Exception as error:
        # What failed matters more than what can be told of it.
        if not failure:
            raise
        outcome.warnings.append(f"not all of this host's instances can be told of: {error}")
    return outcome


def _guard_rows(host: Host, root: str, *, check_mode: bool) -> list[dict[str, Any]]:
    """See to it that the guard is in place; return its row, none where it was."""
    amiss = guarded.amiss(host, root)
    if not amiss:
        return []
    if not check_mode:
        guarded.install(host, root)
    row = row_of(GUARD, "in place", "not in place", "in place", guarded.program(root))
    return [
        {**row, "reason": f"it goes back after a rollout that was cut short; missing or changed: {', '.join(amiss)}"}
    ]
