# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the next boot gives a sysctl key, and which file decides: for systemd-sysctl and for `sysctl --system`.

The two loaders read the same folders and differ in three ways: `sysctl --system` reads /etc/sysctl.conf last;
an exclusion (`-key`) also revokes an earlier assignment of the same key or pattern for systemd; and systemd skips
hidden files. For both, whatever bears a name masks the later files of that name, even a broken link or a folder.
Read in systemd 252 and 257 (src/sysctl/sysctl.c, src/basic/conf-files.c) and procps 4.0.2 and 4.0.4 (src/sysctl.c);
molecule/kernel_tuning runs both on trees of this kind and compares.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from . import keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..._host.host import Host

# Highest priority first: of files with one name only the first is read.
FOLDERS = ("/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d", "/lib/sysctl.d")
PROCPS_LAST = "/etc/sysctl.conf"
SYSTEMD = "systemd-sysctl"
PROCPS = "sysctl --system"
LOADERS = (SYSTEMD, PROCPS)

_GLOB = re.compile(r"[*?\[]")


class Fragment(NamedTuple):
    """One file that a loader may read.

    :ivar text: None where it can't be read, as with a broken link or a folder: it masks others all the same.
    """

    path: str
    text: str | None

    @property
    def name(self) -> str:
        """The name by which files of several folders mask each other and are sorted."""
        return os.path.basename(self.path)


class Assignment(NamedTuple):
    """One line of a fragment: `value` is None for an exclusion (`-key` without `=`)."""

    pattern: str
    value: str | None
    file: str
    line: int

    @property
    def place(self) -> str:
        """Where an operator finds it."""
        return f"{self.file}:{self.line}"


def read_fragments(host: Host) -> list[Fragment]:
    """Return every file either loader may read, highest priority first, /etc/sysctl.conf last."""
    paths = [f"{folder}/{name}" for folder in FOLDERS for name in host.list_dir(folder) if name.endswith(".conf")]
    seen: set[str] = set()
    fragments = []
    for path in [*paths, PROCPS_LAST]:
        # /lib is a link to /usr/lib on merged systems: the same file twice is one fragment.
        place = os.path.join(host.locate(os.path.dirname(path)), os.path.basename(path))
        if place in seen:
            continue
        seen.add(place)
        fragments.append(_read_fragment(host, path))
    return fragments


def _read_fragment(host: Host, path: str) -> Fragment:
    try:
        return Fragment(path, host.read_text(path))
    except OSError:
        return Fragment(path, None)


def with_fragment(fragments: Sequence[Fragment], path: str, text: str | None) -> list[Fragment]:
    """Return the fragments as they would be with a file in /etc/sysctl.d written, or removed (`text` None)."""
    others = [fragment for fragment in fragments if fragment.path != path]
    return others if text is None else [Fragment(path, text), *others]


def load_order(fragments: Sequence[Fragment], loader: str) -> list[Fragment]:
    """Return the fragments that a loader reads, in its order."""
    chosen: dict[str, Fragment] = {}
    last: list[Fragment] = []
    for fragment in fragments:
        if fragment.path == PROCPS_LAST:
            last = [fragment] if loader == PROCPS else []
        elif loader == SYSTEMD and fragment.name[0] == ".":
            continue
        else:
            chosen.setdefault(fragment.name, fragment)
    return [chosen[name] for name in sorted(chosen, key=os.fsencode)] + last


@lru_cache(maxsize=256)
def parse(text: str) -> tuple[tuple[int, str, str | None], ...]:
    """Return a fragment's lines as (line from 1, path or pattern below /proc/sys, value or None for an exclusion).

    Lines that no loader understands are left out, as both do.
    """
    found = []
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if len(line) < 2 or line[0] in "#;":
            continue
        name, assigns, value = line.partition("=")
        if not assigns and line[0] != "-":
            continue
        pattern = _pattern_of(name[1:] if line[0] == "-" else name)
        if pattern:
            found.append((number, pattern, value.strip() if assigns else None))
    return tuple(found)


def _pattern_of(name: str) -> str:
    """Like `path_of`, for what may also be a pattern, and without objections: loaders have none."""
    text = name.strip()
    first = re.search(r"[./]", text)
    if first and first.group() == ".":
        text = text.translate(str.maketrans("./", "/."))
    return re.sub(r"/+", "/", text).strip("/")


def assignments(fragments: Iterable[Fragment]) -> list[Assignment]:
    """Return all lines of fragments in the order given."""
    return [
        Assignment(pattern, value, fragment.path, line)
        for fragment in fragments
        for line, pattern, value in parse(fragment.text or "")
    ]


class Boot:
    """What one loader does with a set of fragments."""

    def __init__(self, fragments: Sequence[Fragment], loader: str) -> None:
        self.loader = loader
        self._explicit: dict[str, Assignment] = {}
        self._excluded: set[str] = set()
        self._globs: dict[str, Assignment] = {}
        self._order: dict[str, int] = {}
        for order, line in enumerate(assignments(load_order(fragments, loader))):
            self._add(order, line)

    def _add(self, order: int, line: Assignment) -> None:
        if line.value is None:
            self._excluded.add(line.pattern)
            if self.loader == SYSTEMD:
                self._explicit.pop(line.pattern, None)
                self._globs.pop(line.pattern, None)
            return
        known = self._globs if _GLOB.search(line.pattern) else self._explicit
        earlier = known.get(line.pattern)
        # systemd keeps the place in the queue of a line that says the same again; procps writes both.
        if not (self.loader == SYSTEMD and earlier and earlier.value == line.value):
            self._order[line.pattern] = order
            known.pop(line.pattern, None)
        known[line.pattern] = line
        if self.loader == SYSTEMD:
            self._excluded.discard(line.pattern)

    def line_for(self, path: str) -> Assignment | None:
        """Return the line that gives a key its value, or None if no file speaks of it: explicit beats patterns."""
        if path in self._explicit:
            return self._explicit[path]
        if path in self._excluded:
            return None
        globs = reversed(list(self._globs.values()))
        return next((line for line in globs if _glob_pattern(line.pattern).match(path)), None)

    def deciding(self, path: str) -> Assignment | None:
        """Return the line that has the last word on what a key sets, aliases and counterparts included.

        A counterpart's line decides only with a value other than 0: writing 0 to it turns nothing off.
        """
        rivals = [path]
        counterpart = keys.COUNTERPARTS.get(path)
        rivals += [alias for alias, name in keys.ALIASES.items() if path in (alias, name) and alias != path]
        rivals += [keys.ALIASES[path]] if path in keys.ALIASES else []
        lines = [self.line_for(rival) for rival in rivals]
        if counterpart is not None:
            line = self.line_for(counterpart)
            lines.append(line if line and keys.canonical(counterpart, line.value or "") != "0" else None)
        found = [line for line in lines if line is not None]
        return max(found, key=lambda line: self._order[line.pattern], default=None)


@lru_cache(maxsize=256)
def _glob_pattern(pattern: str) -> re.Pattern[str]:
    """Translate a glob(3) pattern: wildcards never match a slash."""
    out, rest = "", pattern
    while rest:
        char, rest = rest[0], rest[1:]
        if char == "*":
            out += "[^/]*"
        elif char == "?":
            out += "[^/]"
        elif char == "[" and "]" in rest[1:]:
            end = rest.index("]", 1)
            body, rest = rest[:end], rest[end + 1 :]
            negated, body = body[0] in "!^", body.lstrip("!^") if body[0] in "!^" else body
            out += f"[{'^' if negated else ''}{re.escape(body).replace(chr(92) + '-', '-')}]"
        else:
            out += re.escape(char)
    return re.compile(out + r"\Z")
