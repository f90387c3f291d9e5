# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The content of a release's files, and the digests that name the release. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING

from .model import Context, File, Made

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DIGITS = 12  # of a digest


def environment_file(variables: Mapping[str, str]) -> bytes:
    """Return variables as a file for systemd's EnvironmentFile, sorted by name.

    :param variables: names, and values without control characters.
    """
    return "".join(f"{name}={quoted(value)}\n" for name, value in sorted(variables.items())).encode()


def quoted(value: str) -> str:
    """Return a value in double quotes, in which systemd takes a backslash before these four for an escape."""
    return '"' + re.sub(r'([\\"`$])', r"\\\1", value) + '"'


def record_of(context: Context, commit: str, made: Iterable[Made]) -> File:
    """Return release.json: what a later run has to know of this release."""
    content = {
        "format": 1,
        "environment": context.environment,
        "commit": commit,
        "instances": [one.instance._asdict() for one in made],
    }
    return File(json.dumps(content, indent=1, sort_keys=True).encode() + b"\n", 0o644)


def identity_of(files: Mapping[str, File], all_units: Mapping[str, bytes]) -> str:
    modes = {path: f"{file.mode:o} ".encode() + file.data for path, file in files.items()}
    return digest_of(*items_of(modes), b"units", *items_of(all_units))


def items_of(files: Mapping[str, bytes]) -> list[bytes]:
    return [part for path in sorted(files) for part in (path.encode(), files[path])]


def digest_of(*parts: bytes) -> str:
    """Return hex digits for parts, with their lengths, so that no two lists of parts run together."""
    found = hashlib.sha256()
    for part in parts:
        found.update(b"%d:" % len(part) + part)
    return found.hexdigest()[:DIGITS]
