# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What activates swap areas at boot: fstab, swap units, generators, services; and what else concerns swap at boot."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from ..._host.host import HostError
from . import tables
from . import zram as swap_zram

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ..._engine.ledger import OriginalFile
    from ..._host.host import Host

FSTAB = "/etc/fstab"
UNITS = "/etc/systemd/system"
GENERATED = "/run/systemd/generator"
# By precedence (systemd.unit(5)); what is generated early comes before even /etc, and no generator does so for swap.
UNIT_FOLDERS = (
    UNITS,
    "/run/systemd/system",
    GENERATED,
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/run/systemd/generator.late",
)
# Services that run swapon themselves, and the areas that are theirs.
SERVICES = {
    "zramswap.service": re.compile(r"/dev/zram\d+"),
    "dphys-swapfile.service": re.compile(r"/var/swap"),
    "systemd-swap.service": re.compile(r"/dev/zram\d+|/var/lib/systemd-swap/.*"),
}
SWAP_PARTITION = "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"  # SD_GPT_SWAP, the type of the Discoverable Partitions Spec
NO_AUTO = 1 << 63  # SD_GPT_FLAG_NO_AUTO
UDEV = "/run/udev/data"
COMMAND_LINE = "/proc/cmdline"
SWAP_SWITCH = "systemd.swap"
# systemd-fstab-generator(8): each of them has it pass over the swap areas of fstab.
FSTAB_SWITCHES = (SWAP_SWITCH, "fstab")
GPT_SWITCH_SINCE = 254  # the systemd whose systemd-gpt-auto-generator(8) minds SWAP_SWITCH too

FROM_FSTAB = "fstab"
FROM_UNIT = "unit"
FROM_ZRAM = "zram"
FROM_PARTITION = "partition"
FROM_SERVICE = "service"


class Source(NamedTuple):
    """One thing that activates one area at boot.

    :ivar area: the device or file, links followed; the tag of fstab where no such device is there.
    :ivar kind: one of the FROM_… words.
    :ivar place: the file to look at.
    :ivar value: what it gives the area at boot.
    :ivar number: the line of fstab.
    :ivar mask: the file whose emptiness turns it off; "" where that is not the way, or a link stands there.
    :ivar ours: whether this collection has turned it off.
    :ivar asleep: the word of the kernel command line that keeps it from acting, "" for none.
    """

    area: str
    kind: str
    place: str
    value: str = "on"
    number: int = 0
    mask: str = ""
    ours: bool = False
    asleep: str = ""

    @property
    def unit(self) -> str:
        """The name of its unit, for what is one."""
        return os.path.basename(self.mask or self.place)

    @property
    def told(self) -> str:
        """How the report names it."""
        return f"{self.place}:{self.number}" if self.number else self.place


class Found(NamedTuple):
    """All that was found.

    :ivar stale: whether systemd still knows a unit of a line of fstab that we have turned off.
    """

    sources: tuple[Source, ...]
    fstab: str
    stale: bool


def read(host: Host, originals: Mapping[str, OriginalFile]) -> Found:
    """Find what activates swap at boot.

    :param originals: of the ledger; what is masked by us is told by it.
    """
    text = read_text(host, FSTAB)
    entries = tables.parse_fstab(text)
    command_line = read_text(host, COMMAND_LINE)
    asleep = next((f"{name}=0" for name in FSTAB_SWITCHES if tables.is_switched_off(command_line, name)), "")
    from_fstab = [
        Source(real(host, entry.spec), FROM_FSTAB, FSTAB, entry.value, entry.number, ours=entry.ours, asleep=asleep)
        for entry in entries
        if entry.at_boot
    ]
    units = list(_units(host, originals))
    zram = list(_zram(host, originals, command_line, {source.mask or source.unit for source in units}))
    sources = [*from_fstab, *units, *zram]
    # As soon as fstab names no swap any more, the generator looks for partitions of that type.
    sources += _partitions(host, originals, {source.mask for source in units})
    off = {tables.unit_of(tables.device_of(entry.spec)) for entry in entries if entry.ours}
    on = {tables.unit_of(tables.device_of(entry.spec)) for entry in entries if not entry.ours}
    stale = any(host.exists(f"{GENERATED}/{name}") and _is_of_fstab(host, name) for name in off - on)
    return Found(tuple(sources), text, stale)


def services(host: Host) -> dict[str, str]:
    """Return the services that activate swap at boot, each with the link that enables it."""
    found = {}
    for folder in host.list_dir(UNITS):
        if folder.endswith((".wants", ".requires")):
            for name in host.list_dir(f"{UNITS}/{folder}"):
                if name in SERVICES and host.readlink(f"{UNITS}/{name}") != "/dev/null":
                    found[name] = f"{UNITS}/{folder}/{name}"
    return found


def of_services(enabled: Mapping[str, str], areas: set[str]) -> list[Source]:
    """Return which of some areas enabled services activate. Pure."""
    return [
        Source(area, FROM_SERVICE, link)
        for name, link in sorted(enabled.items())
        for area in sorted(areas)
        if SERVICES[name].fullmatch(area)
    ]


def resume_device(host: Host) -> tuple[str, str] | None:
    """Return the area from which the host resumes after hibernation, and who says so; None for none."""
    words = read_text(host, COMMAND_LINE).split()
    if "noresume" in words:
        return None
    for word in words:
        if word.startswith("resume=") and word != "resume=":
            return real(host, word[len("resume=") :]), "resume= on the kernel command line"
    folder = "/etc/initramfs-tools/conf.d"
    for path in ["/etc/initramfs-tools/initramfs.conf", *(f"{folder}/{name}" for name in host.list_dir(folder))]:
        said = re.search(r"^[ \t]*RESUME=[\"']?([^\s\"'#]+)", read_text(host, path), re.MULTILINE)
        if said and said[1] not in ("none", "auto"):
            return real(host, said[1]), f"RESUME= in {path}"
    return None


def cloud_config(host: Host) -> str | None:
    """Return the file that has cloud-init make a swap area on a new instance, None for none."""
    folder = "/etc/cloud/cloud.cfg.d"
    names = [f"{folder}/{name}" for name in host.list_dir(folder) if name.endswith(".cfg")]
    for path in ["/etc/cloud/cloud.cfg", *names]:
        if re.search(r"^swap:", read_text(host, path), re.MULTILINE):
            return path
    return None


def real(host: Host, spec: str) -> str:
    """Return what fstab, a unit or the kernel means by a device: its path with links followed, if it is there."""
    path = tables.device_of(spec)
    if not path.startswith("/") or "\0" in path:
        return spec
    try:
        place = host.locate(path)
    except OSError:
        return spec
    root = host.root.rstrip("/")
    if not os.path.exists(place):
        # udev writes these in lower case, whatever fstab does.
        lower = path.lower()
        if path.startswith(("/dev/disk/by-uuid/", "/dev/disk/by-partuuid/")) and path != lower and host.exists(lower):
            return real(host, lower)
        return os.path.normpath(path) if path == spec else spec
    return place[len(root) :] or "/"


def read_text(host: Host, path: str) -> str:
    """Return a file's text, empty where it can't be read."""
    try:
        return host.read_text(path)
    except OSError:
        return ""


def is_masked(host: Host, path: str) -> bool:
    """Tell whether a unit's file masks it: a link to /dev/null, or nothing in it (null_or_empty() of systemd)."""
    if host.readlink(path) == "/dev/null":
        return True
    try:
        return host.read_bytes(path) == b""
    except OSError:
        return False


def _units(host: Host, originals: Mapping[str, OriginalFile]) -> Iterator[Source]:
    """The swap units that a boot starts, those of fstab apart."""
    names = {folder: host.list_dir(folder) for folder in UNIT_FOLDERS}
    wanting = [
        f"{folder}/{name}"
        for folder in UNIT_FOLDERS
        for name in names[folder]
        if name.endswith((".wants", ".requires"))
    ]
    for unit in sorted({name for found in names.values() for name in found if name.endswith(".swap")}):
        paths = [f"{folder}/{unit}" for folder in UNIT_FOLDERS if unit in names[folder]]
        mask = f"{UNITS}/{unit}"
        masked = is_masked(host, paths[0])
        ours = masked and mask in originals and paths[0] == mask
        if (masked and not ours) or not any(host.readlink(f"{folder}/{unit}") is not None for folder in wanting):
            continue
        place, text = _fragment(host, paths, originals)
        if text is None or _by_fstab(text):
            continue
        told = re.search(r"^[ \t]*What[ \t]*=[ \t]*(\S.*?)[ \t]*$", text, re.MULTILINE)
        area = real(host, told[1] if told else tables.path_of(unit))
        yield Source(
            area,
            FROM_UNIT,
            place,
            _priority(text),
            mask="" if host.readlink(mask) not in (None, "/dev/null") else mask,
            ours=ours,
        )


def _fragment(host: Host, paths: list[str], originals: Mapping[str, OriginalFile]) -> tuple[str, str | None]:
    """Return the file that makes a unit, our mask apart, and its text."""
    for path in paths:
        if not is_masked(host, path):
            return path, read_text(host, path)
        original = originals.get(path)
        if original is not None and original.content:
            return path, original.content.decode("utf-8", "surrogateescape")
    return paths[0], None


def _priority(text: str) -> str:
    said = re.findall(r"^[ \t]*Priority[ \t]*=[ \t]*([0-9]{1,5})[ \t]*$", text, re.MULTILINE)
    options = re.findall(r"^[ \t]*Options[ \t]*=[ \t]*(?:.*,)?pri=([0-9]{1,5})\b", text, re.MULTILINE)
    number = (said or options or [None])[-1]
    return "on" if number is None else f"on pri={min(int(number), tables.MAX_PRIORITY)}"


def _by_fstab(text: str) -> bool:
    return "systemd-fstab-generator" in text or "SourcePath=/etc/fstab" in text


def _is_of_fstab(host: Host, unit: str) -> bool:
    return _by_fstab(read_text(host, f"{GENERATED}/{unit}"))


def _zram(host: Host, originals: Mapping[str, OriginalFile], command_line: str, known: set[str]) -> Iterator[Source]:
    """The areas of zram-generator's configuration of which it has made no unit yet."""
    for device in swap_zram.devices(host, command_line):
        unit = tables.unit_of(device.area)
        mask = f"{UNITS}/{unit}"
        masked = is_masked(host, mask)
        made = host.exists(f"{GENERATED}/{unit}")
        if not made and not known & {mask, unit} and (not masked or mask in originals):
            yield Source(device.area, FROM_ZRAM, device.file, f"on pri={device.priority}", mask=mask, ours=masked)


def _partitions(host: Host, originals: Mapping[str, OriginalFile], known: set[str]) -> Iterator[Source]:
    """The partitions that systemd-gpt-auto-generator would activate, as udev has seen them."""
    command_line = read_text(host, COMMAND_LINE)
    if tables.is_switched_off(command_line, "systemd.gpt_auto"):
        return
    if tables.is_switched_off(command_line, SWAP_SWITCH) and _version(host) >= GPT_SWITCH_SINCE:
        return
    for name in host.list_dir(UDEV):
        about = read_text(host, f"{UDEV}/{name}") if name.startswith("b") else ""
        if f"E:ID_PART_ENTRY_TYPE={SWAP_PARTITION}" not in about:
            continue
        flags = re.search(r"^E:ID_PART_ENTRY_FLAGS=0x([0-9a-f]{1,16})$", about, re.MULTILINE)
        link = host.readlink(f"/sys/dev/block/{name[1:]}")
        if link is None or (flags and int(flags[1], 16) & NO_AUTO):
            continue
        area = f"/dev/{os.path.basename(link)}"
        mask = f"{UNITS}/{tables.unit_of(area)}"
        masked = is_masked(host, mask)
        if mask not in known and (not masked or mask in originals):
            yield Source(area, FROM_PARTITION, "systemd-gpt-auto-generator", mask=mask, ours=masked)


def _version(host: Host) -> int:
    """Return the version of systemd, 0 where it does not say."""
    try:
        told = re.match(r"systemd ([0-9]{1,6})", host.run(["systemctl", "--version"]))
    except HostError:
        return 0
    return int(told[1]) if told else 0
