# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The compressed swap areas that zram-generator makes at the next boot, as its configuration has them.

Its units tell what it made at this boot, or at the last daemon-reload; the configuration may have come since. Of one
main file, the first folder's is read, then drop-ins of all folders by name (zram-generator.conf(5)).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from . import tables

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..._host.host import Host

NAME = "zram-generator.conf"
FOLDERS = ("/run/systemd", "/etc/systemd", "/usr/local/lib/systemd", "/usr/lib/systemd")
GENERATOR_FOLDERS = tuple(f"{folder}/system-generators" for folder in FOLDERS)
SWITCH = "systemd.zram"
PRIORITY = 100

_SECTION = re.compile(r"\[(zram[0-9]{1,4})\]")


class Device(NamedTuple):
    """An area that the generator would make: its device, the file that asks for it, and its priority."""

    area: str
    file: str
    priority: int


def devices(host: Host, command_line: str) -> list[Device]:
    """Return the areas that the next boot makes; none without the generator, or where it is switched off."""
    if not _is_there(host) or tables.is_switched_off(command_line, SWITCH):
        return []
    return parse(_texts(host))


def _is_there(host: Host) -> bool:
    for folder in GENERATOR_FOLDERS:
        if "zram-generator" in host.list_dir(folder):
            return host.readlink(f"{folder}/zram-generator") != "/dev/null"
    return False


def _texts(host: Host) -> list[tuple[str, str]]:
    chosen: dict[str, str] = {}
    for folder in FOLDERS:
        for name in host.list_dir(f"{folder}/{NAME}.d"):
            if name.endswith(".conf"):
                chosen.setdefault(name, f"{folder}/{NAME}.d/{name}")
    main = [f"{folder}/{NAME}" for folder in FOLDERS if host.exists(f"{folder}/{NAME}")]
    paths = [*main[:1], *(chosen[name] for name in sorted(chosen))]
    return [(path, _text(host, path)) for path in paths]


def _text(host: Host, path: str) -> str:
    try:
        return host.read_text(path)
    except OSError:
        return ""


def parse(texts: Iterable[tuple[str, str]]) -> list[Device]:
    """Return the areas of files in the order in which they are read. Pure.

    What is made a file system, has no size, or is made only below some size of memory is left out: such a device's
    unit tells, where there is one.
    """
    found: dict[str, dict[str, str]] = {}
    places: dict[str, str] = {}
    for path, text in texts:
        section = None
        for raw in text.split("\n"):
            line = raw.strip()
            head = _SECTION.fullmatch(line)
            if head:
                section = found.setdefault(head[1], {})
                places.setdefault(head[1], path)
            elif line.startswith("["):
                section = None
            elif section is not None and "=" in line and line[0] not in "#;":
                key, _equals, value = line.partition("=")
                section[key.strip()] = value.strip()
    return [Device(f"/dev/{name}", places[name], _priority(said)) for name, said in found.items() if _is_made(said)]


def _is_made(said: dict[str, str]) -> bool:
    return (
        not said.get("mount-point")
        and said.get("fs-type", "swap") in ("", "swap")
        and said.get("host-memory-limit", "none") in ("", "none")
        and said.get("zram-size") != "0"
    )


def _priority(said: dict[str, str]) -> int:
    word = said.get("swap-priority", "")
    return min(int(word), tables.MAX_PRIORITY) if re.fullmatch(r"[0-9]{1,9}", word) else PRIORITY
