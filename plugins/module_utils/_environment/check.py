# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is checked of a finished environment: that it is complete, and every file as it was when it was made.

The last file of an environment to be written is its marker, which lists all the others with their size and SHA-256. A
quick check looks at sizes, links and names, a full one reads everything.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MARKER = "environment.json"
BLOCK = 1 << 20  # bytes read at once

Files = dict[str, "list[Any] | str"]
"""By path: [size, SHA-256] of a file, what a link says."""


def damage(environment: str, *, full: bool) -> str:
    """Say what is wrong with an environment, "" if nothing is.

    :param full: read every file, instead of looking at its size.
    """
    try:
        marker = read(environment)
        return _damage(environment, marker["files"], full=full)
    except FileNotFoundError as error:
        # A folder without its marker was never finished; anything else went away while it was looked at.
        return "it is not complete" if str(error.filename or "").endswith(MARKER) else f"{error.filename} is missing"
    except OSError as error:
        return f"{error.filename or environment} can't be read: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MARKER} is damaged"


def read(environment: str) -> dict[str, Any]:
    """Return an environment's marker.

    :raises OSError: it is not there.
    :raises ValueError: it is damaged.
    """
    with open(os.path.join(environment, MARKER), "rb") as file:
        return dict(json.loads(file.read()))


def _damage(environment: str, wanted: Mapping[str, Any], *, full: bool) -> str:
    left = dict(wanted)
    for path, entry in walk(environment):
        want = left.pop(path, None)
        if want is None:
            # Bytecode that a run as root left is no harm: Python checks it against the source.
            if path == MARKER or path.endswith(".pyc"):
                continue
            return f"{path} is not its own"
        if isinstance(want, str):
            if not entry.is_symlink() or os.readlink(entry.path) != want:
                return f"{path} is no link to {want}"
        elif entry.is_symlink() or entry.stat().st_size != want[0]:
            return f"{path} has another size"
        elif full and sha256(entry.path) != want[1]:
            return f"{path} has another content"
    if left:
        return f"{min(left)} is missing"
    interpreter = os.path.join(environment, "bin/python")
    return "" if os.path.exists(interpreter) else f"its interpreter {os.path.realpath(interpreter)} is missing"


def walk(top: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield every file and link below a folder, with its path from there."""
    todo = [""]
    while todo:
        folder = todo.pop()
        with os.scandir(top + "/" + folder) as entries:
            for entry in entries:
                path = folder + entry.name
                if entry.is_dir(follow_symlinks=False):
                    todo.append(path + "/")
                else:
                    yield path, entry


def listing(environment: str) -> Files:
    """Return all files of an environment, as its marker lists them."""
    files: Files = {}
    for path, entry in walk(environment):
        if entry.is_symlink():
            files[path] = os.readlink(entry.path)
        elif path != MARKER:
            files[path] = [entry.stat(follow_symlinks=False).st_size, sha256(entry.path)]
    return files


def sha256(path: str) -> str:
    """Return a file's SHA-256 in hexadecimal digits."""
    seen = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(BLOCK):
            seen.update(block)
    return seen.hexdigest()
