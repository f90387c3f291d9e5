# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Compares a host with a release: `look` reads the host, `compare` is pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from . import drain, model, systemd
from .plan import MINER, ROOT
from .store import Release, Store
from .units import SECRETS, UNIT_ROOT, keeps, service, socket

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from .._host.host import Host
    from .model import Instance, Secret

TEMPLATE = f"{systemd.PREFIX}.service"
DROP_IN = "10-instance.conf"


class Seen(NamedTuple):
    """The host as it is.

    :ivar current: the release that the next start of an instance runs, "" for none.
    :ivar live: instances by name, both those of the release and those on the host.
    :ivar units: our files below /etc/systemd/system, by their path there.
    :ivar secrets: the content of the secrets that are wanted, by path; None where there is none.
    :ivar drained: names of the instances that are to get no requests.
    """

    current: str
    live: Mapping[str, systemd.Live]
    units: Mapping[str, bytes]
    secrets: Mapping[str, bytes | None]
    drained: frozenset[str] = frozenset()


class Work(NamedTuple):
    """What has to be done for a release to run.

    :ivar switch: whether another release is the current one.
    :ivar units: files to write below /etc/systemd/system; None is one to remove.
    :ivar secrets: paths of the secrets that differ.
    :ivar start: names of the instances to start, or to start again, in order.
    :ivar sockets: names of those whose socket is another now.
    :ivar enable: names of those that run, but would not after a boot.
    :ivar stop: names of the instances that the release doesn't have.
    :ivar undrain: names of those that get no requests, as a killed run, or somebody, left them.
    """

    switch: bool
    units: Mapping[str, bytes | None]
    secrets: tuple[str, ...]
    start: tuple[str, ...]
    sockets: frozenset[str]
    enable: tuple[str, ...]
    stop: tuple[str, ...]
    undrain: tuple[str, ...] = ()

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        changes = (self.units, self.secrets, self.start, self.enable, self.stop, self.undrain)
        return not (self.switch or any(changes))


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
        or any(keeps(name, path) for path in differing)
    )
    return Work(
        switch=seen.current != release.name,
        units=units,
        secrets=differing,
        start=start,
        sockets=frozenset(name for name in wanted if socket(name) in units),
        enable=tuple(name for name in wanted if name not in start and not seen.live[name].enabled),
        stop=tuple(name for name in seen.live if name not in wanted),
        undrain=tuple(name for name in wanted if name in seen.drained),
    )


def undoing(work: Work, previous: Release, now: Seen) -> Work:
    """Return what has to be done for the release before to run again, with the secrets of before in place. Pure.

    :param work: what was done, which may have failed half way.
    :param now: the host as it is after that.
    """
    found = compare(previous, {}, now)
    held = {name for name in work.start if any(keeps(name, path) for path in work.secrets)}
    start = tuple(one.name for one in previous.instances if one.name in found.start or one.name in held)
    return found._replace(start=start, enable=tuple(name for name in found.enable if name not in held))


def anew(work: Work, release: Release) -> Work:
    """Return what has to be done after a run that was cut short: all instances start again, and their sockets. Pure.

    What systemd knows and what processes run may be of either release, whatever the files say by now.
    """
    names = tuple(instance.name for instance in release.instances)
    return work._replace(start=names, enable=(), sockets=frozenset(name for name in names if sockets_of(name, release)))


def in_the_way(release: Release, work: Work, held: Mapping[str, Collection[int]]) -> tuple[str, ...]:
    """Return the instances that have to stop before any starts: they hold another's port, or lose their socket. Pure.

    :param held: the ports that instances may listen at now, by name.
    """
    wanted = {one.name: ports(one) for one in release.instances if one.name in work.start}
    lose = [name for name in work.start if work.units.get(socket(name), b"") is None]
    hold = [
        name
        for name in (*work.start, *work.stop)
        if any(other != name and not theirs.isdisjoint(held.get(name, ())) for other, theirs in wanted.items())
    ]
    return tuple(dict.fromkeys([*lose, *hold]))


def ports(instance: Instance) -> frozenset[int]:
    """Return the ports that an instance listens at."""
    return frozenset({instance.port, instance.http_port})


def listening(units: Mapping[str, bytes], releases: Iterable[Release]) -> dict[str, set[int]]:
    """Return the ports that instances may listen at, by name: by socket units, and by releases that may run. Pure."""
    found: dict[str, set[int]] = {}
    for instance in (one for release in releases for one in release.instances):
        found.setdefault(instance.name, set()).update(ports(instance))
    for unit, data in units.items():
        for port in re.findall(rb"^ListenStream=.*:([0-9]+)$", data, re.MULTILINE):
            found.setdefault(names_in([unit])[0], set()).add(int(port))
    return found


def _differs(instance: Instance, live: systemd.Live, units: Mapping[str, bytes | None]) -> bool:
    own = {TEMPLATE, socket(instance.name), f"{service(instance.name)}.d/{DROP_IN}"}
    return live.active != "active" or live.digest != instance.digest or any(name in units for name in own)


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
    contents = {path: content(host, path) for path in secrets}
    return Seen(store.current, systemd.look(host, names), units, contents, drain.marked(host))


def content(host: Host, path: str) -> bytes | None:
    try:
        return host.read_bytes(path)
    except FileNotFoundError:
        return None


def unwanted(host: Host, wanted: Collection[str]) -> dict[str, Secret]:
    """Return the secrets that lie on the host and have to go, by path.

    :param wanted: the paths of those that stay.
    """
    found = (path for path in files_below(host, SECRETS) if path not in wanted)
    return {path: model.Secret(None, ROOT if is_variables(path) else MINER) for path in found}


def files_below(host: Host, folder: str) -> Iterator[str]:
    for path in (f"{folder}/{name}" for name in host.list_dir(folder)):
        if host.is_dir(path):
            yield from files_below(host, path)
        else:
            yield path


def is_variables(path: str) -> bool:
    """Tell whether a secret is a file of variables, which systemd hands to the next start; not a part of a wallet."""
    return path.rpartition("/")[0] == SECRETS


def sockets_of(name: str, release: Release) -> list[str]:
    """Return the socket unit of an instance, if it has one."""
    unit = socket(name)
    return [unit] if unit in release.units else []
