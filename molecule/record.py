"""Records what a machine is like, by other means than the code under test: `python3 record.py KEYS... [-- FOLDER...]`.

Prints {"values": {key: value}, "files": {path: checksum, link or mode}} of all keys below the given parts of /proc/sys
that can be written, and of everything below the folders.
"""

import hashlib
import json
import os
import stat
import sys
from pathlib import Path

# Reading it makes the kernel do something; the others move by themselves.
LEFT_OUT = ("vm/stat_refresh", "kernel/random/", "kernel/ns_last_pid", "kernel/pty/", "fs/binfmt_misc/")
INTERFACES_KEPT = ("all", "default", "lo")


def is_recorded(key):
    """Tell whether a key holds a value that only somebody's hand moves; interfaces come and go."""
    parts = key.split("/")
    of_interface = len(parts) > 3 and parts[0] == "net" and parts[2] in ("conf", "neigh")
    return not key.startswith(LEFT_OUT) and not (of_interface and parts[3] not in INTERFACES_KEPT)


def values(part):
    """Return the value of every writable key below a part of /proc/sys."""
    found = {}
    for folder, _folders, names in os.walk(Path("/proc/sys") / part):
        for name in names:
            path = Path(folder, name)
            key = str(path.relative_to("/proc/sys"))
            if is_recorded(key) and path.stat().st_mode & 0o600 == 0o600:
                try:
                    found[key.replace("/", ".")] = " ".join(path.read_text().split())
                except OSError:  # stable_secret while it is not set
                    found[key.replace("/", ".")] = None
    return found


def fingerprint(path):
    """Return what makes two files the same: kind, mode, owner, and the bytes or the link's target."""
    about = path.lstat()
    content = path.readlink() if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()
    return f"{stat.filemode(about.st_mode)} {about.st_uid}:{about.st_gid} {content}"


def files(top):
    """Return the fingerprint of every file and link below a folder."""
    paths = [Path(folder, name) for folder, _folders, names in os.walk(top) for name in names]
    return {str(path): fingerprint(path) for path in paths}


def main():
    """Print the record."""
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    record = {"values": {}, "files": {}}
    for part in words[:cut]:
        record["values"].update(values(part))
    for top in words[cut + 1 :]:
        record["files"].update(files(top))
    json.dump(record, sys.stdout)


if __name__ == "__main__":
    main()
