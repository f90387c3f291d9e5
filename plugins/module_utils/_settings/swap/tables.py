# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The texts in which swap areas stand: /proc/swaps, /etc/fstab, /proc/meminfo, names of systemd units. All pure."""

from __future__ import annotations

import re
from typing import NamedTuple

# What stands before a line of /etc/fstab that this collection has turned off. A line's own bytes follow unchanged.
MARKER = "# precog.fleet swap off: "
TAGS = {"UUID": "uuid", "LABEL": "label", "PARTUUID": "partuuid", "PARTLABEL": "partlabel", "ID": "id"}
DELETED = " (deleted)"
YES, NO = ("1", "yes", "y", "true", "t", "on"), ("0", "no", "n", "false", "f", "off")  # parse_boolean() of systemd
MAX_PRIORITY = 32767  # swap.h: SWAP_FLAG_PRIO_MASK

_UNIT_SAFE = re.compile(r"[A-Za-z0-9:_.]")
_BLANKS = re.compile(r"[ \t]+")


class Active(NamedTuple):
    """A line of /proc/swaps.

    :ivar path: the area's device or file.
    :ivar size: KiB.
    :ivar used: KiB.
    :ivar priority: below zero where the kernel chose it.
    """

    path: str
    size: int
    used: int
    priority: int

    @property
    def value(self) -> str:
        """The setting's value: on, and with which priority."""
        return f"on pri={self.priority}"


class Entry(NamedTuple):
    """A line of /etc/fstab about a swap area.

    :ivar number: the line, counted from 1.
    :ivar spec: device, file or tag, octal escapes undone.
    :ivar ours: whether it is turned off by this collection.
    """

    number: int
    spec: str
    options: tuple[str, ...]
    ours: bool

    @property
    def at_boot(self) -> bool:
        """Whether a boot would activate it, our marker apart."""
        return "noauto" not in self.options

    @property
    def value(self) -> str:
        """The value that it gives at boot."""
        priority = self.priority
        return "on" if priority is None else f"on pri={priority}"

    @property
    def priority(self) -> int | None:
        """Its `pri=`, None for none or one that util-linux would not take."""
        for option in self.options:
            name, _equals, number = option.partition("=")
            if name == "pri" and number.isascii() and number.isdigit() and len(number) < 6:
                return min(int(number), MAX_PRIORITY)
        return None


def unescape(word: str) -> str:
    r"""Undo octal escapes (`\040`), each of which stands for one byte of UTF-8."""
    if "\\" not in word:
        return word
    raw = re.sub(
        rb"\\([0-3][0-7]{2})", lambda found: bytes([int(found[1], 8)]), word.encode("utf-8", "surrogateescape")
    )
    return raw.decode("utf-8", "surrogateescape")


def parse_swaps(text: str) -> list[Active]:
    """Return the areas of /proc/swaps; lines that are none are passed over."""
    found = []
    for line in text.split("\n")[1:]:
        words = line.split()
        if len(words) == 5 and all(re.fullmatch(r"-?[0-9]{1,18}", word) for word in words[2:]):
            path = unescape(words[0])
            if "\0" not in path:
                found.append(Active(path, int(words[2]), int(words[3]), int(words[4])))
    return found


def available_memory(text: str) -> int | None:
    """Return MemAvailable of /proc/meminfo in KiB, None if it does not say."""
    found = re.search(r"^MemAvailable:\s+([0-9]{1,18}) kB$", text, re.MULTILINE)
    return int(found[1]) if found else None


def parse_fstab(text: str) -> list[Entry]:
    """Return the swap areas of /etc/fstab, those that we turned off included."""
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        ours = line.startswith(MARKER)
        entry = _entry(number, line[len(MARKER) :] if ours else line, ours)
        if entry is not None:
            found.append(entry)
    return found


def _entry(number: int, line: str, ours: bool) -> Entry | None:
    fields = _BLANKS.split(line.strip(" \t"))
    if len(fields) < 3 or fields[0].startswith("#") or fields[2] != "swap":
        return None
    spec = unescape(fields[0])
    if "\0" in spec:
        return None
    return Entry(number, spec, tuple(fields[3].split(",")) if len(fields) > 3 else (), ours)


def is_switched_off(command_line: str, name: str) -> bool:
    """Tell whether the kernel command line says `name=no`, as systemd reads it: the last one that makes sense."""
    found = False
    for word in command_line.replace('"', "").split():
        key, equals, value = word.partition("=")
        if key.replace("-", "_") != name:
            continue
        if not equals or value.lower() in YES:
            found = False
        elif value.lower() in NO:
            found = True
    return found


def rewrite(text: str, off: set[int]) -> str:
    """Return a fstab in which exactly the entries of the given lines carry our marker, every other byte as it was."""
    lines = text.split("\n")
    for entry in parse_fstab(text):
        bare = lines[entry.number - 1][len(MARKER) :] if entry.ours else lines[entry.number - 1]
        lines[entry.number - 1] = MARKER + bare if entry.number in off else bare
    return "\n".join(lines)


def device_of(spec: str) -> str:
    """Return the path that stands for a device of fstab: of a tag the link that udev makes for it.

    `UUID=…`, also in quotes; whatever udev would not write in a name is escaped as udev does.
    """
    tag, equals, value = spec.partition("=")
    if not equals or tag not in TAGS:
        return spec
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        value = value[1:-1]
    return f"/dev/disk/by-{TAGS[tag]}/{_udev_escape(value)}"


def _udev_escape(value: str) -> str:
    # encode_devnode_name() of systemd; anything beyond ASCII is kept there as valid UTF-8.
    safe = re.compile(r"[A-Za-z0-9#+\-.:=@_]")
    return "".join(
        char if safe.match(char) or ord(char) > 127 else "".join(f"\\x{byte:02x}" for byte in char.encode())
        for char in value
    )


def unit_of(path: str) -> str:
    """Return the name of the swap unit of a path, as `systemd-escape --path --suffix=swap` does."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts:
        return "-.swap"
    raw = "/".join(parts).encode("utf-8", "surrogateescape")
    escaped = []
    for index, byte in enumerate(raw):
        char = chr(byte)
        if char == "/":
            escaped.append("-")
        elif _UNIT_SAFE.match(char) and not (char == "." and index == 0):
            escaped.append(char)
        else:
            escaped.append(f"\\x{byte:02x}")
    return "".join(escaped) + ".swap"


def path_of(unit: str) -> str:
    """Return the path that the name of a swap unit stands for."""
    stem = unit[: -len(".swap")] if unit.endswith(".swap") else unit
    if stem == "-":
        return "/"
    raw = stem.replace("-", "/").encode("utf-8", "surrogateescape")
    raw = re.sub(rb"\\x([0-9a-fA-F]{2})", lambda found: bytes([int(found[1], 16)]), raw)
    return "/" + raw.decode("utf-8", "surrogateescape")
