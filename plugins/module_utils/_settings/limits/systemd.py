# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What systemd's files give: the default limits of all services, and the limits of one unit.

Drop-ins of all folders are merged by file name in byte order, and of one name only the first folder's is read; the
last assignment wins. A unit is also spoken of by drop-ins of its aliases, its template, its prefixes (`foo-.service.d`
for foo-bar.service) and its type (`service.d`). Read in systemd 252 and 257 (src/shared/dropin.c, conf-parser.c).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from ..._host import rlimits as values

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..._host.host import Host
    from ..._host.rlimits import Pair

MANAGER_FOLDERS = ("/etc/systemd", "/run/systemd", "/usr/local/lib/systemd", "/usr/lib/systemd")
MANAGER_SECTION = "Manager"
# systemd.unit(5), "System Unit Search Path", highest priority first.
UNIT_FOLDERS = (
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/run/systemd/transient",
    "/run/systemd/generator.early",
    "/etc/systemd/system",
    "/etc/systemd/system.attached",
    "/run/systemd/system",
    "/run/systemd/system.attached",
    "/run/systemd/generator",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
    "/run/systemd/generator.late",
)
UNIT_SECTION = "Service"
SUFFIX = ".service"


class Assignment(NamedTuple):
    """The line that decides one limit."""

    file: str
    number: int
    pair: Pair

    @property
    def place(self) -> str:
        """Where an operator finds it."""
        return f"{self.file}:{self.number}"


def directive(item: str) -> str:
    """Return the name of a limit in unit files."""
    return f"Limit{item.upper()}"


def parse(text: str, section: str) -> list[tuple[int, str, str]]:
    """Return (line from 1, key, value) of one section; a line may be continued with a backslash at its end."""
    found = []
    inside, begun, start = False, "", 0
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if line[:1] in ("#", ";"):
            continue
        start = start if begun else number
        begun += line
        if begun.endswith("\\"):
            begun = begun[:-1] + " "
            continue
        line, begun = begun.strip(), ""
        if line.startswith("["):
            inside = line == f"[{section}]"
        elif inside and "=" in line:
            key, _equals, value = line.partition("=")
            found.append((start, key.strip(), value.strip()))
    return found


def decide(texts: Mapping[str, str], section: str, key: str, item: str) -> Assignment | None:
    """Return the line that gives a limit, None if no file does.

    :param texts: the files' contents by path, in the order in which they are read.
    """
    decided = None
    for path, text in texts.items():
        for number, name, value in parse(text, section):
            if name != key:
                continue
            if not value:
                decided = None  # an empty assignment takes back what came before
                continue
            pair = values.from_systemd(item, value)
            if pair is not None:
                decided = Assignment(path, number, pair)
    return decided


def read_manager(host: Host) -> dict[str, str]:
    """Return the texts of the manager's configuration by path, in the order in which they are read."""
    mains = (f"{folder}/system.conf" for folder in MANAGER_FOLDERS)
    main = next((path for path in mains if host.is_file(path)), None)
    folders = [f"{folder}/system.conf.d" for folder in MANAGER_FOLDERS]
    return _read(host, [*([main] if main else []), *drop_ins(host, folders)])


def read_unit(host: Host, fragment: str, names: Sequence[str]) -> dict[str, str]:
    """Return the texts of a unit's files by path, in the order in which they are read.

    :param fragment: the unit's own file, or "".
    :param names: its name and its aliases.
    """
    return _read(host, [*([fragment] if fragment else []), *drop_ins(host, unit_folders(names))])


def unit_folders(names: Sequence[str]) -> list[str]:
    """Return the folders that may hold drop-ins of a unit, highest priority first."""
    own = [f"{folder}/{about}.d" for name in names for folder in UNIT_FOLDERS for about in _generalized(name)]
    return [*dict.fromkeys(own), *(f"{folder}/service.d" for folder in UNIT_FOLDERS)]


def _generalized(name: str) -> Iterable[str]:
    """Yield a unit's name, its prefixes and its template: foo-bar@1.service, foo-.service, foo-bar@.service."""
    stem = name[: -len(SUFFIX)]
    prefix, at, _instance = stem.partition("@")
    for body in dict.fromkeys((stem, f"{prefix}@" if at else stem)):
        yield f"{body}{SUFFIX}"
    while "-" in prefix.rstrip("-"):
        prefix = prefix.rstrip("-").rpartition("-")[0]
        yield f"{prefix}-{SUFFIX}"


def drop_ins(host: Host, folders: Sequence[str]) -> list[str]:
    """Return the drop-ins that are read, in order: one for each name, the first folder's."""
    chosen: dict[str, str] = {}
    for folder in folders:
        for name in host.list_dir(folder):
            if name.endswith(".conf") and name[0] != ".":
                chosen.setdefault(name, f"{folder}/{name}")
    return order(chosen.values())


def order(paths: Iterable[str]) -> list[str]:
    """Return drop-ins in the order in which they are read."""
    return sorted(paths, key=lambda path: os.fsencode(os.path.basename(path)))


def with_file(texts: Mapping[str, str], path: str, text: str | None) -> dict[str, str]:
    """Return the texts as they would be with a drop-in of ours written, or removed (`text` None)."""
    mains = [other for other in texts if not os.path.dirname(other).endswith(".d")]
    others = {other: found for other, found in texts.items() if other != path}
    if text is not None:
        others[path] = text
    dropped = order(other for other in others if other not in mains)
    return {other: others[other] for other in [*mains, *dropped] if other in others}


def _read(host: Host, paths: Sequence[str]) -> dict[str, str]:
    texts = {}
    for path in paths:
        try:
            texts[path] = host.read_text(path)
        except OSError:
            continue  # a link to /dev/null reads as empty; what is gone meanwhile says nothing
    return texts


def nearest(host: Host, name: str) -> str:
    """Return the service whose name is nearest to one that does not exist, or ""."""
    from difflib import get_close_matches

    found = (other for folder in UNIT_FOLDERS for other in host.list_dir(folder) if other.endswith(SUFFIX))
    stems = sorted({other[: -len(SUFFIX)] for other in found})  # the suffix alone would make all alike
    close = get_close_matches(name[: -len(SUFFIX)], stems, 1, 0.7)
    return f"{close[0]}{SUFFIX}" if close else ""
