# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The rollout of a release on one host: look, compare, switch, gate, and go back by itself where the gate fails.

It runs on the host alone, so a lost connection to the control node leaves no host between two releases: what was being
tried is noted on disk, and the next run gates it again.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from ansible_collections.precog.fleet.plugins.module_utils import _miner_gate as gate
from ansible_collections.precog.fleet.plugins.module_utils import _miner_plan
from ansible_collections.precog.fleet.plugins.module_utils import _miner_systemd as systemd
from ansible_collections.precog.fleet.plugins.module_utils._host import HostError, Meta
from ansible_collections.precog.fleet.plugins.module_utils._miner_store import Past, Release, Store, passed
from ansible_collections.precog.fleet.plugins.module_utils._miner_units import UNIT_ROOT, service, socket

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ansible_collections.precog.fleet.plugins.module_utils._host import Host
    from ansible_collections.precog.fleet.plugins.module_utils._miner_plan import Instance, Plan, Secret

LOCK = "/run/lock/precog-fleet-miner"
TEMPLATE = f"{systemd.PREFIX}.service"
DROP_IN = "10-instance.conf"
RUN = "/run/precog-miner"
POLL_S = 0.05


class Seen(NamedTuple):
    """The host as it is.

    :ivar current: the release that the next start of an instance runs, "" for none.
    :ivar live: the instances by name: those that are wanted, and those that are there.
    :ivar units: our files below /etc/systemd/system, by their path there.
    :ivar secrets: the content of the secrets that are wanted, by path; None where there is none.
    """

    current: str
    live: Mapping[str, systemd.Live]
    units: Mapping[str, bytes]
    secrets: Mapping[str, bytes | None]


class Work(NamedTuple):
    """What has to be done for a release to run.

    :ivar switch: whether another release is the current one.
    :ivar units: files to write below /etc/systemd/system; None is one to remove.
    :ivar secrets: paths of the secrets that differ.
    :ivar start: names of the instances to start, or to start again, in order.
    :ivar sockets: names of those whose socket is another now.
    :ivar enable: names of those that run, but would not after a boot.
    :ivar stop: names of the instances that the release doesn't have.
    """

    switch: bool
    units: Mapping[str, bytes | None]
    secrets: tuple[str, ...]
    start: tuple[str, ...]
    sockets: frozenset[str]
    enable: tuple[str, ...]
    stop: tuple[str, ...]

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.switch or self.units or self.secrets or self.start or self.enable or self.stop)


def compare(release: Release, secrets: Mapping[str, Secret], seen: Seen) -> Work:
    """Return what has to be done for a release to run. Pure."""
    wanted = {instance.name: instance for instance in release.instances}
    units: dict[str, bytes | None] = {
        name: data for name, data in release.units.items() if seen.units.get(name) != data
    }
    units.update({name: None for name in seen.units if name not in release.units})
    differing = tuple(path for path, secret in secrets.items() if seen.secrets.get(path) != secret.data)
    start = tuple(
        name
        for name, instance in wanted.items()
        if _differs(instance, seen.live.get(name, systemd.Live()), units)
        or any(_belongs(path, name) for path in differing)
    )
    return Work(
        switch=seen.current != release.name,
        units=units,
        secrets=differing,
        start=start,
        sockets=frozenset(name for name in wanted if socket(name) in units),
        enable=tuple(name for name in wanted if name not in start and not seen.live[name].enabled),
        stop=tuple(name for name in seen.live if name not in wanted),
    )


def undoing(work: Work, previous: Release, now: Seen) -> Work:
    """Return what has to be done for the release before to run again, with the secrets of before in place. Pure.

    :param work: what was done, which may have failed half way.
    :param now: the host as it is after that.
    """
    found = compare(previous, {}, now)
    held = {name for name in work.start if any(_belongs(path, name) for path in work.secrets)}
    start = tuple(one.name for one in previous.instances if one.name in found.start or one.name in held)
    return found._replace(start=start, enable=tuple(name for name in found.enable if name not in held))


def _differs(instance: Instance, live: systemd.Live, units: Mapping[str, bytes | None]) -> bool:
    own = {TEMPLATE, socket(instance.name), f"{service(instance.name)}.d/{DROP_IN}"}
    return live.active != "active" or live.digest != instance.digest or any(name in units for name in own)


def _belongs(path: str, name: str) -> bool:
    """Tell whether a secret is one of an instance's: by its folder in the state, or its file of variables."""
    return f"/{name}/" in path or path.endswith(f"/{name}.env")


def ours(host: Host) -> dict[str, bytes]:
    """Return our units as they lie below /etc/systemd/system, by their path there; drop-ins of others are not ours."""
    found = {}
    for name in host.list_dir(UNIT_ROOT):
        if not name.startswith(systemd.PREFIX):
            continue
        path = f"{name}/{DROP_IN}" if host.is_dir(f"{UNIT_ROOT}/{name}") else name
        if host.is_file(f"{UNIT_ROOT}/{path}"):
            found[path] = host.read_bytes(f"{UNIT_ROOT}/{path}")
    return found


def names_in(units: Iterable[str]) -> list[str]:
    """Return the names of the instances that units are of."""
    parts = [unit.partition("/")[0][len(systemd.PREFIX) :] for unit in units]
    names = [part.partition(".")[0] for part in parts]
    return list(dict.fromkeys(name for name in names if name))


def look(host: Host, store: Store, release: Release, secrets: Iterable[str]) -> Seen:
    """Look at the host."""
    units = ours(host)
    names = [*(instance.name for instance in release.instances), *names_in(units)]
    return Seen(store.current, systemd.look(host, names), units, {path: _content(host, path) for path in secrets})


def _content(host: Host, path: str) -> bytes | None:
    try:
        return host.read_bytes(path)
    except FileNotFoundError:
        return None


class Rollout:
    """One run on one host."""

    def __init__(self, host: Host, params: Mapping[str, Any]) -> None:
        self._host = host
        self._params = params
        self._limits = gate.limits(params["gate"])
        self.store = Store(host, params["root"])
        self.figures: dict[str, gate.Figures] = {}

    def carry_out(self, release: Release, work: Work, secrets: Mapping[str, Secret], seen: Seen) -> str:
        """Bring a release about; where its gate fails, go back.

        :returns: "" or what failed, where, with which figures, and what runs now.
        """
        past = self.store.past()
        # What a killed run left untried is no release to go back to.
        before = past.good[-1] if past.trying and past.good else seen.current
        previous = self.store.load(before) if before and before in self.store.names() else None
        baseline = self._measured(previous, work.start)
        self.store.note(Past(past.good, release.name))
        failure = self._activate(release, work, secrets, baseline)
        if not failure:
            self.store.note(passed(past, release.name, self._params["keep"]))
            self._prune()
            return ""
        return f"{failure} {self._go_back(release, previous, work, secrets, seen, baseline, past)}"

    def _measured(self, release: Release | None, names: Sequence[str]) -> dict[str, gate.Figures]:
        """Return the figures of those instances that run, as they are before anything is touched."""
        if release is None:
            return {}
        live = systemd.look(self._host, names)
        running = [one for one in release.instances if one.name in names and live[one.name].digest == one.digest]
        return {one.name: gate.measure(one, self._limits, self._limits.soak_s) for one in running}

    def _activate(
        self,
        release: Release,
        work: Work,
        secrets: Mapping[str, Secret],
        baseline: Mapping[str, gate.Figures],
    ) -> str:
        """Put a release in place, and start its instances one after the other, each through the gate."""
        try:
            for path in work.secrets:
                self._place_secret(path, secrets[path])
            self._place_units(work)
            self.store.switch(release.name)
            for instance in release.instances:
                if instance.name in work.start:
                    failure = self._start(instance, release, instance.name in work.sockets, baseline.get(instance.name))
                    if failure:
                        return f"{instance.name}: {failure}."
                elif instance.name in work.enable:
                    systemd.enable(self._host, instance.name, _sockets(instance.name, release))
        except (OSError, HostError) as error:
            return f"{error}."
        return ""

    def _start(self, instance: Instance, release: Release, new_socket: bool, before: gate.Figures | None) -> str:
        """Start an instance, or start it again, and see it through the gate.

        :returns: "" or why it failed.
        """
        name = instance.name
        if before is not None and self._limits.drain_s:
            self._drain(name)
        since, old = time.time(), systemd.look(self._host, [name])[name]
        systemd.start(self._host, name, _sockets(name, release), new_socket=new_socket)
        restarts = systemd.look(self._host, [name])[name].restarts
        self._wait_until_gone(name, old.pid)
        self._host.remove(f"{RUN}/{name}/drain")
        why = gate.wait_ready(instance, self._limits, lambda: systemd.hopeless(self._host, name, restarts, since))
        if why:
            return why
        live = self._settled(name)
        if live.active != "active" or live.digest != instance.digest:
            return f"its unit is {live.state} and runs {live.digest or 'nothing'}, not {instance.digest}"
        self.figures[name], problems = gate.soak(instance, before, self._limits)
        problems += gate.unsteady(live, systemd.look(self._host, [name])[name])
        return "; ".join(problems)

    def _wait_until_gone(self, name: str, pid: int) -> None:
        """Wait until a process has ended that was told to: it answers until then, and would pass for its successor."""
        deadline = time.monotonic() + self._limits.ready_s
        while pid and systemd.look(self._host, [name])[name].pid == pid and time.monotonic() < deadline:
            time.sleep(POLL_S)

    def _settled(self, name: str) -> systemd.Live:
        """Return an instance that answers once its unit is active too: it tells systemd a moment later."""
        deadline = time.monotonic() + self._limits.ready_s
        while True:
            live = systemd.look(self._host, [name])[name]
            if live.active != "activating" or time.monotonic() > deadline:
                return live
            time.sleep(POLL_S)

    def _drain(self, name: str) -> None:
        """Tell load balancers that no more requests should come, and give them time to see it."""
        if self._host.is_dir(f"{RUN}/{name}"):
            self._host.stage(f"{RUN}/{name}/drain", b"", Meta(0o644, 0, 0)).commit()
            time.sleep(self._limits.drain_s)

    def _go_back(
        self,
        release: Release,
        previous: Release | None,
        work: Work,
        secrets: Mapping[str, Secret],
        seen: Seen,
        baseline: Mapping[str, gate.Figures],
        past: Past,
    ) -> str:
        """Bring back what ran before, and return what runs now."""
        for path, data in seen.secrets.items():
            self._restore_secret(path, data, secrets[path].owner)
        if previous is None:
            self._leave_nothing()
            self.store.note(Past(past.good, ""))
            return "There was no release before it, so it was stopped and nothing runs on this host."
        if previous.name == release.name and not work.secrets:
            self.store.note(Past(past.good, ""))
            return f"It is the release that was there before ({release.name}), so there is none to go back to."
        now = look(self._host, self.store, previous, ())
        self.figures.clear()
        failure = self._activate(previous, undoing(work, previous, now), {}, baseline)
        self.store.note(Past(past.good, ""))
        self._prune()
        if failure:
            return f"Going back to {previous.name} did not bring it right either: {failure}"
        return f"This host is back on {previous.name}, and that is healthy: {self._told_figures()}."

    def _prune(self) -> None:
        """Remove old releases, and the checkouts of upstream's repository that no release is linked to any more."""
        self.store.prune(self._params["keep"])
        if self._host.is_dir(f"{self._params['root']}/upstream"):
            from ansible_collections.precog.fleet.plugins.module_utils import _miner_upstream

            _miner_upstream.remove_unused(self._host, self.store.checkouts(), self._params["root"])

    def _told_figures(self) -> str:
        return "; ".join(f"{name}: {told(figures)}" for name, figures in self.figures.items()) or "nothing was touched"

    def _leave_nothing(self) -> None:
        leave_nothing(self._host)
        self.store.switch("")
        self._prune()

    def _place_units(self, work: Work) -> None:
        """Write the units that differ, once there is room for all of them; stop and remove what is wanted no more."""
        staged = []
        try:
            for name, data in work.units.items():
                if data is not None:
                    staged.append(self._host.stage(f"{UNIT_ROOT}/{name}", data, Meta(0o644, 0, 0)))
        except OSError:
            for file in staged:
                file.discard()
            raise
        # Before their units are gone: systemd has to know what it stops.
        systemd.stop(self._host, work.stop)
        for file in staged:
            file.commit()
        _remove_units(self._host, [name for name, data in work.units.items() if data is None])
        if work.units:
            systemd.reload(self._host)

    def _place_secret(self, path: str, secret: Secret) -> None:
        uid, gid = (0, 0) if secret.owner == "root" else self._owner()
        state = f"{self._params['state_root']}/"
        if path.startswith(state):
            parts = path[len(state) :].split("/")[:-1]
            for depth in range(1, len(parts) + 1):
                self._host.make_folder(state + "/".join(parts[:depth]), Meta(0o700, uid, gid))
        else:
            self._host.make_folder(path.rpartition("/")[0], Meta(0o700, 0, 0))
        self._host.stage(path, secret.data, Meta(0o400, uid, gid)).commit()

    def _restore_secret(self, path: str, data: bytes | None, owner: str) -> None:
        if data is None:
            self._host.remove(path)
        elif _content(self._host, path) != data:
            self._place_secret(path, _miner_plan.Secret(data, owner))

    def _owner(self) -> tuple[int, int]:
        ids = user(self._host, self._params["user"])
        if ids is None:
            raise HostError(
                f"there is no user {self._params['user']} on this host, though it was made: see /etc/passwd"
            )
        return ids


def leave_nothing(host: Host) -> None:
    """Stop all instances and remove our units."""
    units = ours(host)
    systemd.stop(host, names_in(units))
    _remove_units(host, units)
    systemd.reload(host)


def _remove_units(host: Host, names: Iterable[str]) -> None:
    for name in names:
        host.remove(f"{UNIT_ROOT}/{name}")
        if "/" in name:
            host.remove_if_empty(f"{UNIT_ROOT}/{name.partition('/')[0]}")


def told(figures: gate.Figures) -> str:
    """Return what was measured at the gate."""
    errors = f"{figures.errors} errors in {figures.requests} requests"
    return f"{errors}, p50 {figures.p50_ms:.0f} ms, p99 {figures.p99_ms:.0f} ms"


def _sockets(name: str, release: Release) -> list[str]:
    """Return the socket unit of an instance, if it has one."""
    unit = socket(name)
    return [unit] if unit in release.units else []


def user(host: Host, name: str) -> tuple[int, int] | None:
    """Return the numbers of a user and its group, or None if there is none of this name."""
    for line in host.read_text("/etc/passwd").splitlines():
        fields = line.split(":")
        if fields[0] == name and len(fields) >= 4:
            return int(fields[2]), int(fields[3])
    return None


def make_user(host: Host, name: str, home: str) -> None:
    """Make a user of the system, without a shell and without a password.

    :raises HostError: the system refused.
    """
    argv = ["useradd", "--system", "--user-group", "--no-create-home", f"--home-dir={home}"]
    host.run([*argv, "--shell=/usr/sbin/nologin", "--comment=Precog miner", name])


def small(host: Host, params: Mapping[str, Any], plan: Plan) -> list[str]:
    """Return a warning for each engine that this host is too small for, with the figures."""
    import os

    memory_mb = int(host.read_text("/proc/meminfo").split("MemTotal:")[1].split()[0]) // 1024
    cpus = len(os.sched_getaffinity(0))
    found = []
    for engine in dict.fromkeys(instance.engine for instance in plan.instances):
        wanted_mb, wanted_cpus = params["minimum_memory_mb"].get(engine, 0), params["minimum_cpus"].get(engine, 0)
        if memory_mb < wanted_mb or cpus < wanted_cpus:
            found.append(
                f"this host has {memory_mb} MB of memory and {cpus} CPUs; the engine {engine} wants {wanted_mb} MB and "
                f"{wanted_cpus} (miner_service_minimum_memory_mb, miner_service_minimum_cpus)"
            )
    return found
