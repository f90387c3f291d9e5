# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What pam_limits gives a login, and which line decides.

limits.conf is read first, then limits.d/*.conf in byte order; a user's line beats a group's, which beats `*`, wherever
they stand, and of two of one rank the last wins. `*` and groups do not cover root on Debian. A line `domain -` exempts
entirely. Read in Linux-PAM 1.5.2 and 1.7.0 with Debian's patches (modules/pam_limits/pam_limits.c), and tried.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from ..._host import rlimits as values
from ..._host.rlimits import ITEMS, Pair

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..._host.host import Host

MAIN_FILE = "/etc/security/limits.conf"
FOLDER = "/etc/security/limits.d"
SERVICES = "/etc/pam.d"
EVERYONE = "*"
ROOT = "root"
BOTH = "-"
USER, GROUP, DEFAULT = range(3)

_BLANKS = re.compile(r"[ \t\r\v\f]+")  # C's isspace, as scanf takes it; not the blanks of Unicode
_UID = re.compile(r"[0-9]{1,10}")
_RANGE = re.compile(r"([0-9]*):([0-9]*)")


class Line(NamedTuple):
    """One line that pam_limits understands.

    :ivar kind: `soft`, `hard`, or `-` for both.
    :ivar item: "" on a line that exempts its domain.
    """

    file: str
    number: int
    domain: str
    kind: str
    item: str
    value: int

    @property
    def place(self) -> str:
        """Where an operator finds it."""
        return f"{self.file}:{self.number}"


class Subject(NamedTuple):
    """Who logs in: a user with number and groups where they are known, or a domain (`*`, `@group`, a range)."""

    domain: str
    uid: int | None = None
    groups: frozenset[str] = frozenset()


class Decision(NamedTuple):
    """The lines that decide, None where none does."""

    soft: Line | None
    hard: Line | None
    exempt: Line | None = None

    @property
    def pair(self) -> Pair:
        """What the login gets."""
        return Pair(self.soft.value if self.soft else None, self.hard.value if self.hard else None)

    @property
    def place(self) -> str | None:
        """Where an operator finds the lines."""
        if self.exempt is not None:
            return self.exempt.place
        places = list(dict.fromkeys(line.place for line in (self.soft, self.hard) if line))
        return " and ".join(places) or None


def parse(path: str, text: str) -> list[Line]:
    """Return the lines that pam_limits acts on; what it passes over (with a note in the log) is left out."""
    found = []
    for number, raw in enumerate(text.split("\n"), 1):
        words = [word for word in _BLANKS.split(raw.partition("#")[0]) if word][:4]
        line = _understand(path, number, words)
        if line is not None:
            found.append(line)
    return found


def _understand(path: str, number: int, words: Sequence[str]) -> Line | None:
    if len(words) == 2 and words[1].startswith("-"):
        return Line(path, number, words[0], BOTH, "", 0)
    if len(words) < 4:
        return None
    domain, kind, item = words[0], words[1].lower(), words[2].lower()
    value = values.from_pam(item, words[3]) if item in ITEMS else None
    if value is None or kind not in ("soft", "hard", BOTH):
        return None
    return Line(path, number, domain, kind, item, value)


def read(host: Host) -> dict[str, str]:
    """Return the text of every file that pam_limits reads, by path, in its order; what can't be read is left out."""
    names = [name for name in host.list_dir(FOLDER) if name.endswith(".conf") and name[0] != "."]
    texts = {}
    for path in [MAIN_FILE, *(f"{FOLDER}/{name}" for name in names)]:
        try:
            texts[path] = host.read_text(path)
        except OSError:
            continue
    return texts


def lines_of(texts: dict[str, str]) -> list[Line]:
    """Return the lines of all files in the order in which they are read."""
    order = sorted(texts, key=os.fsencode)  # limits.conf sorts before limits.d
    return [line for path in order for line in parse(path, texts[path])]


def subject(domain: str, passwd: str, group: str) -> Subject:
    """Return who is meant by a domain, with what /etc/passwd and /etc/group say of a user."""
    if domain == EVERYONE or domain[:1] in ("@", "%") or ":" in domain:
        return Subject(domain)
    entry = next((fields for fields in _fields(passwd, 4) if fields[0] == domain), None)
    if entry is None or not _UID.fullmatch(entry[2]):
        return Subject(domain, 0 if domain == ROOT else None)
    named = {fields[0] for fields in _fields(group, 4) if domain in fields[3].split(",") or fields[2] == entry[3]}
    return Subject(domain, int(entry[2]), frozenset(named))


def _fields(text: str, least: int) -> Iterable[list[str]]:
    return (fields for fields in (line.split(":") for line in text.split("\n")) if len(fields) >= least)


def rank(line: Line, who: Subject) -> int | None:
    """Return how strongly a line speaks of somebody (less is stronger), None if not at all."""
    domain = line.domain
    if domain == who.domain and domain != EVERYONE:
        return GROUP if domain[0] in "@%" else USER
    if who.uid is not None and _in_range(domain, who.uid):
        return USER
    is_root = who.uid == 0
    if domain == EVERYONE and not is_root and line.item:
        return DEFAULT
    if domain[0] == "@" and domain[1:] in who.groups and not (is_root and line.item):
        return GROUP
    return None


def _in_range(domain: str, uid: int) -> bool:
    """Tell whether a number is meant by `min:max`, `min:` (and all above) or `:max` (that one only)."""
    found = _RANGE.fullmatch(domain)
    if found is None or domain == ":":
        return False
    low, high = found.groups()
    if not low:
        return uid == values.to_int(high)
    return values.to_int(low) <= uid and (not high or uid <= values.to_int(high))


def decide(lines: Iterable[Line], who: Subject, item: str) -> Decision:
    """Return the lines by which somebody gets a limit."""
    chosen: dict[str, tuple[int, Line]] = {}
    for line in lines:
        strength = rank(line, who)
        if strength is None:
            continue
        if not line.item:
            return Decision(None, None, line)
        if line.item == item:
            for kind in ("soft", "hard") if line.kind == BOTH else (line.kind,):
                if kind not in chosen or chosen[kind][0] >= strength:
                    chosen[kind] = (strength, line)
    soft, hard = (chosen[kind][1] if kind in chosen else None for kind in ("soft", "hard"))
    return Decision(soft, hard)


def guide_lines(lines: Iterable[Line]) -> list[Line]:
    """Return what the guide's `echo >> /etc/security/limits.conf` left, once for each time that it was run."""
    return [
        line
        for line in lines
        if line.file == MAIN_FILE and line.domain == EVERYONE and line.item == values.NOFILE and line.value == 65536
    ]


def is_used(host: Host) -> bool:
    """Tell whether any program's PAM configuration asks for pam_limits. Never raises."""
    for name in host.list_dir(SERVICES):
        try:
            text = host.read_text(f"{SERVICES}/{name}")
        except OSError:
            continue
        if any("pam_limits.so" in line.partition("#")[0] for line in text.split("\n")):
            return True
    return False


def render(domain: str, item: str, text: str) -> str:
    """Return the lines that give a domain a limit.

    :param text: as in a row of the report, `soft:hard`.
    """
    soft, hard = text.split(":")
    if soft == hard:
        return f"{domain}\t-\t{item}\t{soft}\n"
    return f"{domain}\tsoft\t{item}\t{soft}\n{domain}\thard\t{item}\t{hard}\n"
