# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads the swap areas of a host, and what activates each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from ..._engine.ledger import Ledger, Original, OriginalFile
from ..._engine.model import Change
from . import guard, tables
from . import sources as swap_sources
from .sources import FSTAB, UNITS, Source
from .tables import Active

if TYPE_CHECKING:
    from ..._host.host import Host

OFF = "off"
SETTING = "swap"
PREFIX = f"{SETTING}:"
SWAPS = "/proc/swaps"
MEMORY = "/proc/meminfo"
ZRAM = re.compile(r"/dev/zram\d+")
MASK = b""  # systemd takes an empty file for a masked unit, as it does a link to /dev/null


class Request(NamedTuple):
    """What is wanted.

    :ivar mode: OFF, ON, or None to give everything back.
    :ivar reserve: KiB of memory that have to stay available.
    """

    mode: str | None
    reserve: int


class State(NamedTuple):
    """What the plan needs to know.

    :ivar active: the areas in use, by path.
    :ivar fstab_says: whether fstab names a swap area at all, which keeps systemd from looking for partitions.
    :ivar missing: areas of sources and ledger that are not there.
    :ivar deleted: active areas whose file has no name any more.
    :ivar available: KiB of memory; None if it is not known.
    :ivar fstab: the text of /etc/fstab.
    :ivar stale: whether systemd has to read it again.
    :ivar paths: the files that may be managed.
    :ivar has_original: whether the ledger knows what /etc/fstab was.
    :ivar resume: the device that the host resumes from hibernation with, and what says so.
    :ivar cloud: the file that has cloud-init make an area.
    """

    active: Mapping[str, Active]
    sources: tuple[Source, ...]
    fstab_says: bool
    missing: frozenset[str]
    deleted: frozenset[str]
    available: int | None
    groups: tuple[guard.Group, ...]
    originals: Mapping[str, Original]
    boot: str
    fstab: str
    stale: bool
    paths: tuple[str, ...] = ()
    has_original: bool = False
    resume: tuple[str, str] | None = None
    cloud: str | None = None

    def of(self, area: str) -> list[Source]:
        """Return what activates an area, or would without us."""
        return [source for source in self.sources if source.area == area]

    def at_boot(self, area: str) -> list[Source]:
        """Return what activates it at the next boot, as things are."""
        return [source for source in self.of(area) if not source.ours and not self._sleeps(source)]

    def configured(self, area: str) -> str | None:
        """Return what all but this collection gives it at boot; None for nothing."""
        return next((source.value for source in self.of(area) if not self._sleeps(source)), None)

    def named(self, area: str) -> str | None:
        """Return what it is turned on with where that is asked for, whatever the kernel command line says of boots."""
        return next((source.value for source in self.of(area) if source.asleep or not self._sleeps(source)), None)

    def starter(self, area: str) -> Source | None:
        """Return the unit that makes an area which is gone once it is off, as zram's is; None for any other."""
        makers = (swap_sources.FROM_UNIT, swap_sources.FROM_ZRAM)
        made = [source for source in self.of(area) if source.kind in makers]
        return made[0] if made and ZRAM.fullmatch(area) and made[0].place != made[0].mask else None

    def options(self, area: str) -> list[str]:
        """Return the options of an area's lines in /etc/fstab."""
        numbers = {source.number for source in self.of(area)}
        return [
            option for entry in tables.parse_fstab(self.fstab) if entry.number in numbers for option in entry.options
        ]

    def _sleeps(self, source: Source) -> bool:
        return bool(source.asleep) or (source.kind == swap_sources.FROM_PARTITION and self.fstab_says)


class Untouched(NamedTuple):
    """A host whose areas are left alone.

    :ivar sharing: why, where the kernel is that of another machine; None where nothing is asked for.
    """

    paths: tuple[str, ...]
    sharing: str | None = None
    has_originals: bool = False


def read(host: Host, found: swap_sources.Found, originals: Mapping[str, Original]) -> State:
    """Read what the plan needs."""
    active = read_active(host)
    known = {name[len(PREFIX) :] for name in originals}
    areas = {source.area for source in found.sources} | known
    of_services = swap_sources.of_services(swap_sources.services(host), {*active, *areas})
    return State(
        active=active,
        sources=(*found.sources, *of_services),
        fstab_says=names_swap(found.fstab),
        missing=frozenset(area for area in areas if not host.exists(area)),
        deleted=frozenset(path for path in active if path.endswith(tables.DELETED) and not host.exists(path)),
        available=tables.available_memory(swap_sources.read_text(host, MEMORY)),
        groups=tuple(guard.groups(host)) if any(area.used for area in active.values()) else (),
        originals=originals,
        boot=host.boot_id(),
        fstab=found.fstab,
        stale=found.stale,
    )


def read_active(host: Host) -> dict[str, Active]:
    return {area.path: area for area in tables.parse_swaps(swap_sources.read_text(host, SWAPS))}


def follow_edits(host: Host, ledger: Ledger, fstab: str) -> None:
    """Let the ledger's originals be what the files are without us now: others' edits since are not ours to undo."""
    if not host.is_file(FSTAB):
        ledger.files.pop(FSTAB, None)
    elif FSTAB in ledger.files or any(entry.ours for entry in tables.parse_fstab(fstab)):
        bare = tables.rewrite(fstab, set()).encode("utf-8", "surrogateescape")
        ledger.files[FSTAB] = OriginalFile(bare, host.meta(FSTAB))
    for path in [path for path in ledger.files if is_mask(path)]:
        if host.readlink(path) is not None:
            del ledger.files[path]
        elif not host.is_file(path):
            ledger.files[path] = OriginalFile(None, None)
        elif host.read_bytes(path) != MASK:
            ledger.files[path] = OriginalFile(host.read_bytes(path), host.meta(path))


def is_mask(path: str) -> bool:
    return path.startswith(f"{UNITS}/") and path.endswith(".swap")


def names_swap(fstab: str) -> bool:
    return any(not entry.ours for entry in tables.parse_fstab(fstab))


def area_of(change: Change) -> str:
    return change.name[len(PREFIX) :]


def priority_of(value: str) -> int | None:
    """Return the priority that a value says, None if it says none."""
    _on, says, number = value.partition(" pri=")
    return int(number) if says else None


def is_same(left: str | None, right: str | None) -> bool:
    """Tell whether two spellings are the same value: priorities below zero are the kernel's choice, all alike."""
    if left is None or right is None or OFF in (left, right):
        return left == right
    first, second = priority_of(left), priority_of(right)
    return first is None or second is None or first == second or max(first, second) < 0
