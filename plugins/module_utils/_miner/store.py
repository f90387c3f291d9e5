# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The releases of a host: versioned folders, one of which is the current one.

ROOT/releases/ID/       release.json, about.json, instances/, units/, environment -> ..., upstream -> ...
ROOT/current            -> releases/ID, switched atomically
ROOT/releases.json      the releases that were good, the newest last; the one that is being tried; the one that was left
"""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from typing import TYPE_CHECKING, NamedTuple

from .._host.host import HostError, Meta
from .model import File, Instance
from .plan import RELEASE_FILE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from .._host.host import Host
    from .model import Plan

PREVIOUS = "previous"
ABOUT_FILE = "about.json"  # of a release: what is no part of it, and so not of its name
_LABEL = re.compile(r"[^\W_][\w .:+@/-]{0,59}")
_NAME = re.compile(r"[0-9a-f]{12}")


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

    :ivar good: those that passed the gate, the newest last; going back takes away those that came later.
    :ivar trying: one that was switched to, and has not passed the gate yet; "" where there is none.
    :ivar withdrawn: the last one that was rolled out, if the host went back from it; "" else.
    :ivar unsure: those that were there when the file of the past was lost: kept as long as good ones, but none to go
        back to by itself.
    :ivar barred: those that the operator went back from, which the inventory brings back only when told so.
    """

    good: tuple[str, ...] = ()
    trying: str = ""
    withdrawn: str = ""
    unsure: tuple[str, ...] = ()
    barred: tuple[str, ...] = ()


class About(NamedTuple):
    """What an operator knows a release by.

    :ivar made: when it came to this host, such as 2026-11-29 01:15 UTC; "" where nobody noted it.
    :ivar label: what the inventory calls it; "" for nothing.
    """

    made: str = ""
    label: str = ""


def label(given: object) -> str:
    """Return a release's label.

    :raises HostError: it is none.
    """
    text = str(given or "").strip()
    if text and (not _LABEL.fullmatch(text) or text == PREVIOUS or _NAME.fullmatch(text)):
        raise HostError(
            f"miner_service_label is {text!r}: use up to 60 letters, digits, blanks and ._:+@/-, beginning with a "
            f"letter or a digit; neither {PREVIOUS!r} nor 12 hex digits, which are the name of a release"
        )
    return text


class Store:
    """The releases of one host."""

    def __init__(self, host: Host, root: str) -> None:
        self._host = host
        self._root = root

    @property
    def root(self) -> str:
        """The folder of the releases and of `current`."""
        return self._root

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

    def about(self, name: str) -> About:
        """Return what an operator knows a release by; of one that nobody noted anything of, nothing."""
        try:
            noted = json.loads(self._host.read_text(f"{self.folder(name)}/{ABOUT_FILE}"))
            return About(str(noted["made"]), str(noted["label"]))
        except (OSError, ValueError, LookupError, TypeError):
            return About()

    def told(self, name: str) -> str:
        """Return a release as it is shown: its name, when it was made, and its label."""
        about = ", ".join(filter(None, self.about(name)))
        return f"{name} ({about})" if about else name

    def call(self, name: str, given: str, *, new: bool) -> None:
        """Note a release's label, "" for the one that it has, and of a new one when it came."""
        about = self.about(name)
        made = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC") if new else about.made
        noted = About(made, given or about.label)
        if noted != about:
            self._host.stage(f"{self.folder(name)}/{ABOUT_FILE}", _json(noted._asdict()), Meta(0o644, 0, 0)).commit()

    def resolve(self, wanted: str) -> str:
        """Return the release that an operator names, by its name or its label; of several with one label, the newest.

        :raises HostError: there is no such release.
        """
        names = self.names()
        kept = ", ".join(map(self.told, names)) or "none"
        if wanted == PREVIOUS:
            found = previous(self.past(), names)
            if not found:
                raise HostError(
                    f"miner_service_release is {wanted!r}, and no earlier release that was good is kept on this host. "
                    f"Kept here: {kept}. Name one of them"
                )
            return found
        if wanted not in names:
            called = sorted((self.about(name).made, name) for name in names if self.about(name).label == wanted)
            if called:
                return called[-1][1]
            raise HostError(
                f"miner_service_release is {wanted!r}, which is not on this host. Kept here: {kept}. Name one of "
                f"them, by its name or its label, or {PREVIOUS!r}; without it the release is made from the inventory"
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

    def lies_there(self, release: str) -> bool:
        """Tell whether there is a folder of this release, whatever is in it."""
        return self._host.is_dir(self.folder(release))

    def is_whole(self, plan: Plan, links: Mapping[str, str]) -> bool:
        """Tell whether a plan's release lies there, its files, modes and links all as they should be.

        :param links: what it is linked to, by the link's name, as far as that is known.
        """
        folder = self.folder(plan.release)
        return (
            all(self._is(f"{folder}/{name}", file) for name, file in _files(plan).items())
            and all(self._host.readlink(f"{folder}/{name}") == target for name, target in links.items())
            and set(self._units(folder)) == set(plan.units)
        )

    def _is(self, path: str, file: File) -> bool:
        """Tell whether a file is as a release has it: itself, no link, with these bytes, this mode, and root's."""
        if self._host.readlink(path) is not None or not self._host.is_file(path):
            return False
        return self._host.meta(path) == Meta(file.mode, 0, 0) and self._host.read_bytes(path) == file.data

    def save(self, plan: Plan, links: Mapping[str, str]) -> Release:
        """Put a plan's release on disk: made beside, renamed when it is whole. One that lies there is mended.

        :param links: what it is linked to, by the link's name.
        :raises OSError: it can't be written; of a new one nothing is left.
        """
        if self.lies_there(plan.release):
            self._mend(plan, links)
        else:
            self._make(plan, links)
        return self.load(plan.release)

    def _make(self, plan: Plan, links: Mapping[str, str]) -> None:
        part = self.folder(f".{plan.release}.part")
        self._host.remove_tree(part)
        try:
            for name, file in _files(plan).items():
                self._host.stage(f"{part}/{name}", file.data, Meta(file.mode, 0, 0)).commit()
            for name, target in links.items():
                self._host.replace_link(f"{part}/{name}", target)
            self._host.rename(part, self.folder(plan.release))
        except OSError:
            self._host.remove_tree(part)
            raise

    def _mend(self, plan: Plan, links: Mapping[str, str]) -> None:
        """Put right what differs, file by file: instances may start from this release at any moment of it."""
        folder = self.folder(plan.release)
        for name, file in _files(plan).items():
            if not self._is(f"{folder}/{name}", file):
                self._clear(folder, name)
                self._host.stage(f"{folder}/{name}", file.data, Meta(file.mode, 0, 0)).commit()
        for name, target in links.items():
            if self._host.readlink(f"{folder}/{name}") != target:
                self._clear(folder, name)
                self._host.replace_link(f"{folder}/{name}", target)
        for name in set(self._units(folder)) - set(plan.units):
            self._host.remove(f"{folder}/units/{name}")

    def _clear(self, folder: str, name: str) -> None:
        """Remove what is in the way of a file: a folder or a link in its place, or no folder where its folder is."""
        parts = name.split("/")
        for depth in range(1, len(parts)):
            above = f"{folder}/{'/'.join(parts[:depth])}"
            if self._host.readlink(above) is not None or not self._host.is_dir(above):
                self._host.remove(above)
        self._host.remove_tree(f"{folder}/{name}")
        if self._host.readlink(f"{folder}/{name}") is not None:
            self._host.remove(f"{folder}/{name}")

    def switch(self, name: str) -> None:
        """Make a release the current one; "" leaves none."""
        if name:
            self._host.replace_link(f"{self._root}/current", f"releases/{name}")
        else:
            self._host.remove(f"{self._root}/current")

    def past(self) -> Past:
        """Return what happened to the releases; of a past that can't be read, the releases that are there."""
        try:
            noted = json.loads(self._host.read_text(f"{self._root}/releases.json"))
            return Past(
                good=_names(noted["good"]),
                trying=str(noted["trying"]),
                withdrawn=str(noted.get("withdrawn", "")),
                unsure=_names(noted.get("unsure", [])),
                barred=_names(noted.get("barred", [])),
            )
        except FileNotFoundError:
            # Nothing is switched to before the past is noted.
            return Past(unsure=tuple(self.names())) if self.current else Past()
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return Past(unsure=tuple(self.names()))

    def note(self, past: Past) -> None:
        """Write down what happened to the releases."""
        self._host.stage(f"{self._root}/releases.json", _json(past._asdict()), Meta(0o644, 0, 0)).commit()

    def prune(self, keep: int) -> None:
        """Remove all releases but the current one, the one that is being tried, and the last good ones, so many in all.

        :param keep: at least 1.
        """
        past = self.past()
        kept = {self.current, past.trying, *(*past.unsure, *past.good)[-keep:]}
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


def previous(past: Past, kept: Collection[str]) -> str:
    """Return the release before the one that was rolled out last; "" for none. Pure.

    A host that has gone back from that one, by itself or because it was told to, is there already: asked again, it
    stays, and a fleet of which some hosts went back comes together.

    :param kept: the releases that are on the host.
    """
    if past.trying in past.good[:-1] and past.trying in kept:
        return past.trying  # it is on its way there
    came_last = past.trying or past.withdrawn
    before = past.good if came_last and came_last not in past.good else past.good[:-1]
    return next((name for name in reversed(before) if name in kept), "")


def passed(past: Past, name: str, keep: int, *, named: bool = False) -> Past:
    """Return the past after a release has passed the gate. Pure.

    One that was good before, and not the last, was gone back to: what came after it is withdrawn.

    :param past: what was noted before this release was tried.
    :param named: whether the operator named the release, instead of the inventory making it.
    """
    if name in past.good[:-1]:
        found = Past(past.good[: past.good.index(name) + 1], "", past.good[-1], past.unsure)
    else:
        withdrawn = past.withdrawn if name in past.good else ""
        unsure = tuple(one for one in past.unsure if one != name)
        found = Past((*(one for one in past.good if one != name), name)[-keep:], "", withdrawn, unsure)
    return stayed(found._replace(barred=past.barred), name, past.trying) if named else found


def stayed(past: Past, name: str, trying: str = "") -> Past:
    """Return the past of a host that runs the release that the operator named: those it left are barred. Pure.

    :param trying: what a run that was cut short had begun.
    """
    left = dict.fromkeys([*past.barred, past.withdrawn, trying])
    return past._replace(barred=tuple(one for one in left if one not in ("", name)))


def refused(past: Past, name: str) -> Past:
    """Return the past after a release has failed at the gate, and the host runs well without it. Pure."""
    return past._replace(trying="", withdrawn=past.withdrawn if name in past.good else name)


def _files(plan: Plan) -> dict[str, File]:
    """Return all files of a plan's release by their path in its folder."""
    return {**plan.files, **{f"units/{name}": File(data, 0o644) for name, data in plan.units.items()}}


def _names(noted: object) -> tuple[str, ...]:
    """Return a list of names that was noted.

    :raises TypeError: it is none.
    """
    if not isinstance(noted, list):
        raise TypeError(f"{noted!r} is no list")
    return tuple(map(str, noted))


def _json(content: object) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()
