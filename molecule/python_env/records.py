"""Compares the packages of an environment with what their wheels say of them: `python3 records.py ENVIRONMENT`.

Prints {"good": how many files are as their RECORD has them, "bad": those that are not, "unknown": files of no package,
"scripts": the first lines of programs}.
"""

import base64
import csv
import hashlib
import json
import os
import sys
from pathlib import Path


def digest(path):
    """Return a file's SHA-256 as a RECORD writes it."""
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).rstrip(b"=").decode()


def entries(library):
    """Yield path and digest of every file that a package says it has, by the RECORD of its wheel."""
    for record in library.glob("*.dist-info/RECORD"):
        with record.open(newline="") as file:
            for name, told, _size in csv.reader(file):
                yield Path(os.path.normpath(library / name)), told


def main():
    """Print what was found."""
    environment = Path(sys.argv[1])
    (library,) = environment.glob("lib/p*/site-packages")
    told = dict(entries(library))
    files = {path for path in library.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    # Programs have the path of their environment in them, which no wheel knows.
    programs = {path for path in told if path.parent == environment / "bin"}
    hashed = {path: one for path, one in told.items() if one and path not in programs}
    bad = [str(path) for path, one in hashed.items() if not path.is_file() or digest(path) != one]
    lines = {path.open("rb").readline().decode(errors="replace").strip() for path in programs}
    found = {"good": len(hashed) - len(bad), "bad": bad, "unknown": sorted(map(str, files - told.keys()))}
    json.dump({**found, "scripts": sorted(lines)}, sys.stdout)


if __name__ == "__main__":
    main()
