"""A fleet's life: up, status, down."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from local_fleet import machine
from local_fleet.engine import Engine, probe_runtime, write_if_other
from local_fleet.images import Images, locked
from local_fleet.inventory import inventory_text, known_hosts_text, script_text, ssh_config_text
from local_fleet.model import FleetError, Host, HostSpec, Problem
from local_fleet.process import Failed, Runner, uninterrupted
from local_fleet.ready import wait_until_booted

READY_SECONDS = 90
# The marker first: before guest-init.sh is through, the image's own key may stand there.
_READ_KEY = "test -e /etc/precog-host && cat /etc/ssh/ssh_host_ed25519_key.pub"
_T = TypeVar("_T")
_R = TypeVar("_R")


def missing(
    specs: Sequence[HostSpec], present: Sequence[Host], tags: dict[str, str]
) -> tuple[list[HostSpec], list[Host], list[Host]]:
    """Sorts out what `up` has to do: hosts to create, hosts to replace first, hosts to keep.

    A host is replaced when its suite or its image is another than asked for; *tags* gives a suite's image.
    """
    wanted = {spec.name: spec for spec in specs}
    stale = [host for host in present if host.name in wanted and host.image != tags[wanted[host.name].suite]]
    kept = [host for host in present if host not in stale]
    names = {host.name for host in kept}
    return [spec for spec in specs if spec.name not in names], stale, kept


def free_ports(count: int, taken: Iterable[int] = ()) -> list[int]:
    """*count* TCP ports nobody listens on at 127.0.0.1, none of them in *taken*."""
    refused, found = set(taken), list[int]()
    with ExitStack() as stack:  # all held open at once, so that no port is found twice
        while len(found) < count:
            probe = stack.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
            if port not in refused:
                found.append(port)
    return found


class Fleet:
    """One fleet of a cache."""

    def __init__(
        self, name: str, cache: Path, runner: Runner, engine: Engine, images: Images, say: Callable[[str], None]
    ) -> None:
        self.name, self._runner, self._engine, self._images, self._say = name, runner, engine, images, say
        self._cache = cache
        self.folder = cache / "fleets" / name

    def up(self, specs: Sequence[HostSpec], packages: Sequence[str] = ()) -> Path:
        """Brings up what is missing of *specs*, with *packages* installed, and returns the inventory's path.

        Raises FleetError. When a host doesn't start, all that this call made are gone again; one that starts
        and isn't ready in time stays, to be looked at.
        """
        with locked(self._cache / "fleets" / f"{self.name}.lock", self._runner):
            self._lose_orphans()
            suites = sorted({spec.suite for spec in specs})
            made = self._each(lambda suite: self._images.ensure(suite, packages), suites)
            tags = dict(zip(suites, made, strict=True))
            wanted, stale, kept = missing(specs, self._engine.hosts(self.name), tags)
            for host in stale:
                self._say(f"{host.name}: made again, as its image is another now")
            self._engine.remove(stale)
            hosts = self._bring_up(wanted, stale, kept, tags)
            self._write(hosts)
            named = {spec.name for spec in specs}
            self._wait([host for host in hosts if host.name in named])
        return self.folder / "inventory.yml"

    def down(self, names: Sequence[str] = ()) -> int:
        """Removes the fleet's containers and state, or the hosts with these *names*; returns how many there were."""
        with locked(self._cache / "fleets" / f"{self.name}.lock", self._runner):
            present = self._engine.hosts(self.name)
            hosts = [host for host in present if not names or host.name in names]
            self._engine.remove(hosts)
            if left := [host for host in present if host not in hosts and host.running]:
                self._write(left)
            else:
                shutil.rmtree(self.folder, ignore_errors=True)
            if not self._engine.call("ps", "--quiet").split():
                machine.restore(self._machine_note)
        return len(hosts)

    @property
    def _machine_note(self) -> Path:
        return self._cache / "machine.json"

    def _lose_orphans(self) -> None:
        """Without the fleet's key its containers can't be reached: they are made again."""
        if not (self.folder / "id_ed25519").exists():
            self._engine.remove(self._engine.hosts(self.name))
            self._make_key()

    def _make_key(self) -> None:
        part = self.folder.with_name(f"{self.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        part.mkdir(parents=True, mode=0o700)
        self._runner.run(
            [
                "ssh-keygen",
                "-q",
                "-t",
                "ed25519",
                "-N",
                "",
                "-C",
                f"precog-fleet {self.name}",
                "-f",
                str(part / "id_ed25519"),
            ]
        )
        part.replace(self.folder)

    def _bring_up(
        self, wanted: Sequence[HostSpec], stale: Sequence[Host], kept: Sequence[Host], tags: dict[str, str]
    ) -> list[Host]:
        """Starts what is stopped, creates what is missing; removes again what it created when one fails.

        What can't be started is made again. So is what only seems to run: after a crash of the machine the engine may
        take dead processes for living ones.
        """
        down = self._without_life(kept)
        if not wanted and not down:
            return list(kept)
        self._check_room(len(wanted) + sum(not host.running for host in down))
        machine.remember(self._machine_note)
        self._engine.facts = probe_runtime(self._engine, next(iter(tags.values())))
        self._each(self._start, [host for host in down if not host.running])
        dead = self._without_life(down)
        for host in dead:
            self._say(f"{host.name}: made again, as nothing can be run in it")
        self._engine.remove(dead)
        created = [*self._plan(wanted, stale, kept, tags), *dead]
        key = (self.folder / "id_ed25519.pub").read_text().strip()
        try:
            self._each(lambda host: self._launch(host, lambda new: self._engine.run(new, key)), created)
        except BaseException:
            with uninterrupted():
                self._engine.with_runner(Runner()).remove(created)
            raise
        return sorted({*kept, *created})

    def _check_room(self, new: int) -> None:
        """Raises FleetError when this machine's limit of inotify instances leaves no room for so many hosts more."""
        machine.check_inotify(new, Counter(host.fleet for host in self._engine.hosts() if host.running))

    def _without_life(self, hosts: Sequence[Host]) -> list[Host]:
        """Those of the hosts in which nothing can be run."""
        return [host for host, alive in zip(hosts, self._each(self._is_alive, hosts), strict=True) if not alive]

    def _is_alive(self, host: Host) -> bool:
        try:
            self._engine.execute(host, "true")
        except Failed:
            return False
        return True

    def _start(self, host: Host) -> None:
        try:
            self._launch(host, self._engine.start)
        except FleetError as error:
            self._say(error.problems[0].what)

    def _plan(
        self, wanted: Sequence[HostSpec], stale: Sequence[Host], kept: Sequence[Host], tags: dict[str, str]
    ) -> list[Host]:
        """The hosts to create. One that is made again keeps its port."""
        old = {host.name: host.port for host in stale}
        ports = free_ports(len(wanted), [host.port for host in (*stale, *kept)])
        prefix = f"precog-{self._engine.cache_id}-{self.name}"
        return [
            Host(
                self.name,
                spec.name,
                spec.suite,
                old.get(spec.name, port),
                tags[spec.suite],
                f"{prefix}-{spec.name}",
                running=True,
            )
            for spec, port in zip(wanted, ports, strict=True)
        ]

    def _launch(self, host: Host, how: Callable[[Host], None]) -> None:
        try:
            how(host)
        except Failed as failure:
            remedy = "Look at the engine's message above."
            if "address already in use" in failure.output:
                remedy = (
                    f"Something else listens on port {host.port}: end it and run this again, "
                    f"or begin anew with: bin/local-fleet down {self.name}"
                )
            raise FleetError(Problem(f"{host.name}: the container didn't start: {failure}", remedy)) from None
        self._say(f"{host.name}: {host.suite}, 127.0.0.1:{host.port}")

    def _write(self, hosts: Sequence[Host]) -> None:
        keys = dict(zip((host.name for host in hosts), self._each(self._host_key, hosts), strict=True))
        write_if_other(self.folder / "known_hosts", known_hosts_text(hosts, keys))
        write_if_other(self.folder / "ssh_config", ssh_config_text(hosts, self.folder))
        write_if_other(self.folder / "inventory.json", script_text(hosts, self.folder))
        write_if_other(self.folder / "inventory.yml", inventory_text(hosts, self.folder))

    def _host_key(self, host: Host) -> str:
        """The host's public key, read out of the container, where nobody can stand in between."""
        end = time.monotonic() + READY_SECONDS
        while True:
            try:
                key = self._engine.execute(host, "sh", "-c", _READ_KEY)
            except Failed as failure:
                if time.monotonic() > end or "running" in failure.output:
                    raise FleetError(
                        Problem(
                            f"{host.name}: the container ended, or made no SSH host key: {failure}",
                            f"See what it printed: {self._engine.facts.name} logs {host.container}. If it is nothing "
                            "and many containers run: each systemd takes about four of fs.inotify.max_user_instances.",
                        )
                    ) from None
            else:
                if key.strip():
                    return key
            self._runner.pause(0.3)

    def _wait(self, hosts: Sequence[Host]) -> None:
        for host, failed in zip(hosts, self._each(self._ready, hosts), strict=True):
            if failed:
                self._say(f"{host.name}: degraded, failed units: {', '.join(failed)}")

    def _ready(self, host: Host) -> list[str]:
        """Waits until the host takes logins and has booted; returns the units that failed."""
        remedy = f"Look inside: {self._engine.facts.name} exec {host.container} journalctl -b --no-pager"
        return wait_until_booted(self._runner, self.folder / "ssh_config", host.name, READY_SECONDS, remedy)

    def _each(self, work: Callable[[_T], _R], items: Sequence[_T]) -> list[_R]:
        return each(self._runner, work, items)


def each(runner: Runner, work: Callable[[_T], _R], items: Sequence[_T]) -> list[_R]:
    """Does *work* for all *items* at once, and returns the results in order.

    Raises one FleetError with the problems of all of them; an interruption ends them all.
    """
    with ThreadPoolExecutor(max_workers=max(1, min(len(items), 4 * (os.cpu_count() or 1)))) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            errors = [future.exception() for future in futures]
        except BaseException:
            runner.stop()
            raise
    problems = [problem for error in errors if isinstance(error, FleetError) for problem in error.problems]
    for error in errors:
        if error and not isinstance(error, FleetError):
            raise error
    if problems:
        raise FleetError(*problems)
    return [future.result() for future in futures]
