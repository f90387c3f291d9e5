# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The releases of a host: versioned folders, one of which is the current one.

ROOT/releases/ID/       manifest.json, instances/, units/, environment -> ..., upstream -> ...
ROOT/current            -> releases/ID, switched atomically
ROOT/releases.json      the releases that were good, the newest last; and the one that is being tried
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from ansible_collections.precog.fleet.plugins.module_utils._host import HostError, Meta
from ansible_collections.precog.fleet.plugins.module_utils._miner_plan import RELEASE_FILE, Instance

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ansible_collections.precog.fleet.plugins.module_utils._host import Host
    from ansible_collections.precog.fleet.plugins.module_utils._miner_plan import Plan

PREVIOUS = "previous"


class Release(NamedTuple):
    """A release as it lies on the host.

    :ivar units: what it wants below /etc/systemd/system.
    :ivar instances: those that it runs, in the order of their start.
    """

    name: str
    units: Mapping[str, bytes]
    instances: tuple[Instance, ...]


class Past(NamedTuple):
    """What happened to the releases.

    :ivar good: those that passed the gate, the newest last.
    :ivar trying: one that was switched to, and has not passed it yet; "" where there is none.
    """

    good: tuple[str, ...] = ()
    trying: str = ""


class Store:
    """The releases of one host."""

    def __init__(self, host: Host, root: str) -> None:
        self._host = host
        self._root = root

    def folder(self, release: str) -> str:
        """Return where a release lies."""
        return f"{self._root}/releases/{release}"

    @property
    def current(self) -> str:
        """The release that the next start of an instance runs; "" where there is none."""
        target = self._host.readlink(f"{self._root}/current") or ""
        name = target.rpartition("/")[2]
        return name if self._host.exists(f"{self.folder(name)}/{RELEASE_FILE}") else ""

    def names(self) -> list[str]:
        """Return the releases that are there, sorted."""
        found = self._host.list_dir(f"{self._root}/releases")
        return [name for name in found if self._host.exists(f"{self.folder(name)}/{RELEASE_FILE}")]

    def resolve(self, wanted: str) -> str:
        """Return the release that an operator names.

        :raises HostError: there is no such release.
        """
        names = self.names()
        if wanted == PREVIOUS:
            earlier = [name for name in self.past().good if name in names and name != self.current]
            if not earlier:
                raise HostError(f"miner_service_release is {wanted!r}, and no earlier release is kept on this host")
            return earlier[-1]
        if wanted not in names:
            kept = ", ".join(names) or "none"
            raise HostError(
                f"miner_service_release is {wanted!r}, which is not on this host. Kept here: {kept}. Name one of them, "
                f"or {PREVIOUS!r}; without it the release is made from what the inventory says"
            )
        return wanted

    def load(self, name: str) -> Release:
        """Return a release.

        :raises HostError: it can't be read.
        """
        folder = self.folder(name)
        try:
            noted = json.loads(self._host.read_text(f"{folder}/{RELEASE_FILE}"))["instances"]
            instances = tuple(Instance(**{**one, "assets": tuple(one["assets"])}) for one in noted)
            units = {unit: self._host.read_bytes(f"{folder}/units/{unit}") for unit in self._units(folder)}
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise HostError(f"the release {folder} is damaged ({error!r}): remove it, then run again") from error
        return Release(name, units, instances)

    def _units(self, folder: str) -> Iterator[str]:
        for name in self._host.list_dir(f"{folder}/units"):
            inner = self._host.list_dir(f"{folder}/units/{name}")
            yield from (f"{name}/{below}" for below in inner) if inner else (name,)

    def is_whole(self, plan: Plan) -> bool:
        """Tell whether a plan's release lies there, with all its files as they should be."""
        folder = self.folder(plan.release)
        wanted = {**{name: file.data for name, file in plan.files.items()}, **_below_units(plan)}
        try:
            return all(self._host.read_bytes(f"{folder}/{name}") == data for name, data in wanted.items())
        except OSError:
            return False

    def save(self, plan: Plan, links: Mapping[str, str]) -> Release:
        """Put a plan's release on disk: made beside, renamed when it is whole.

        :param links: what it is linked to, by the link's name.
        :raises OSError: it can't be written; nothing of it is left.
        """
        folder, part = self.folder(plan.release), self.folder(f".{plan.release}.part")
        self._host.remove_tree(part)
        try:
            for name, file in plan.files.items():
                self._host.stage(f"{part}/{name}", file.data, Meta(file.mode, 0, 0)).commit()
            for name, data in _below_units(plan).items():
                self._host.stage(f"{part}/{name}", data, Meta(0o644, 0, 0)).commit()
            for name, target in links.items():
                self._host.replace_link(f"{part}/{name}", target)
            self._host.remove_tree(folder)
            self._host.rename(part, folder)
        except OSError:
            self._host.remove_tree(part)
            raise
        return self.load(plan.release)

    def switch(self, name: str) -> None:
        """Make a release the current one; "" leaves none."""
        if name:
            self._host.replace_link(f"{self._root}/current", f"releases/{name}")
        else:
            self._host.remove(f"{self._root}/current")

    def past(self) -> Past:
        """Return what happened to the releases."""
        try:
            noted = json.loads(self._host.read_text(f"{self._root}/releases.json"))
            return Past(tuple(noted["good"]), noted["trying"])
        except (OSError, ValueError, LookupError, TypeError):
            return Past()

    def note(self, past: Past) -> None:
        """Write down what happened to the releases."""
        text = _json({"good": past.good, "trying": past.trying})
        self._host.stage(f"{self._root}/releases.json", text, Meta(0o644, 0, 0)).commit()

    def prune(self, keep: int) -> None:
        """Remove all releases but the current one and the last good ones, so many in all."""
        kept = {self.current, *self.past().good[-keep:]}
        for name in self._host.list_dir(f"{self._root}/releases"):
            if name not in kept:
                self._host.remove_tree(self.folder(name))

    def checkouts(self) -> list[str]:
        """Return the commits of upstream's repository that releases are linked to."""
        targets = (self._host.readlink(f"{self.folder(name)}/upstream") or "" for name in self.names())
        return [target.rpartition("/")[2] for target in targets if target]

    def remove(self) -> None:
        """Remove all releases."""
        self._host.remove(f"{self._root}/current")
        self._host.remove(f"{self._root}/releases.json")
        self._host.remove_tree(f"{self._root}/releases")


def passed(past: Past, name: str, keep: int) -> Past:
    """Return the past after a release has passed the gate."""
    return Past((*(one for one in past.good if one != name), name)[-keep:], "")


def _below_units(plan: Plan) -> dict[str, bytes]:
    """Return a plan's units by their path in the release's folder."""
    return {f"units/{name}": data for name, data in plan.units.items()}


def _json(content: object) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()
