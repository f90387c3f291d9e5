# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the installers' errors mean, and what to do about them. Pure: a text in, a sentence out."""

from __future__ import annotations

import re
from typing import NamedTuple

LINES_TOLD = 12
REQUIREMENT = r"(?P<what>[A-Za-z0-9][\w.-]*(?:\[[^\]]*\])?==[\w.!+-]+)"


class Kind(NamedTuple):
    """A kind of failure: the texts that tell it, and what is said of it, `{what}` standing for the requirement."""

    signs: tuple[str, ...]
    said: str


FULL = Kind(
    (r"No space left on device", r"os error 28", r"Disk quota exceeded", r"os error 122"),
    "the disk is full. Free space there (df -h), then run again",
)
# In this order: pip blames a missing file for what the network did, and an installer anything for a full disk.
KINDS = (
    FULL,
    Kind(
        (
            rf"[Hh]ash mismatch for `?{REQUIREMENT}",
            rf"THESE PACKAGES DO NOT MATCH THE HASHES[\s\S]*?\n\s+{REQUIREMENT}",
            r"[Hh]ash mismatch",
            r"DO NOT MATCH THE HASHES",
        ),
        "a downloaded file of {what} is not the one that the lock has the hash of. Either the index serves something "
        "else than it did, or the lock's hash is wrong: compare with the index before you write the lock again",
    ),
    Kind(
        (
            r"dns error",
            r"error sending request",
            r"[Cc]onnection refused",
            r"[Cc]onnection reset",
            r"timed out",
            r"Temporary failure in name resolution",
            r"Name or service not known",
            r"Network is unreachable",
            r"No route to host",
            r"NewConnectionError",
            r"SSLError|CERTIFICATE_VERIFY_FAILED|invalid peer certificate",
            r"Failed to fetch",
        ),
        "the package index can't be reached. Look at the host's network, proxy and certificates, or name an index that "
        "it can reach (index_url)",
    ),
    Kind(
        (
            rf"{REQUIREMENT} has no wheels",
            rf"{REQUIREMENT} has no usable wheels",
            rf"No matching distribution found for {REQUIREMENT}",
            rf"{REQUIREMENT} (?:was not found|is not available)",
            rf"there is no version of {REQUIREMENT}",
            r"no version of (?P<what>\S+==\S+)",
        ),
        "{what} has no wheel for {interpreter} in the index, and nothing is compiled on hosts. Choose another "
        "interpreter, or another version in the lock",
    ),
)


def explain(output: str, interpreter: str) -> str:
    """Say what an installer's failure was about.

    :param output: all that it printed.
    :param interpreter: for whom it was to install.
    """
    for kind in KINDS:
        found = next(filter(None, (re.search(sign, output) for sign in kind.signs)), None)
        if found:
            what = found.groupdict().get("what") or "a requirement"
            return f"{kind.said.format(what=what, interpreter=interpreter)}. It said: {last_lines(output)}"
    return f"the installer failed. It said: {last_lines(output)}"


def without_passwords(output: str) -> str:
    """Return what a program printed, without what addresses in it have of names and passwords."""
    return re.sub(r"(?<=://)[^/\s@]+@", "***@", output)


def is_full_disk(output: str) -> bool:
    """Tell whether what a program printed is about a full disk."""
    return any(re.search(sign, output) for sign in FULL.signs)


def explain_compiler(output: str, code: int) -> str:
    """Say why bytecode was not compiled.

    :param output: what the compiler printed.
    :param code: with which it ended; negative, the signal that ended it.
    """
    if is_full_disk(output):
        return f"{FULL.said}. It said: {last_lines(output, 1)}"
    ended = f"was ended by signal {-code}" if code < 0 else f"failed with code {code}"
    return (
        f"the bytecode could not be compiled, without which every start takes seconds: the compiler {ended}. Look for "
        "a lack of memory (journalctl -k) or of /dev/shm, then run again. "
        f"It said: {last_lines(output, 1)}"
    )


def last_lines(output: str, most: int = LINES_TOLD) -> str:
    """Return the end of what a program said, on one line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return " | ".join(lines[-most:]) or "nothing"
