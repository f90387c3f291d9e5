"""Runs a sysctl loader of this host on made-up files, in namespaces of its own, and tells what the kernel then says.

Reads from standard input, as JSON, a list of {"files": {path: text}, "keys": [name]}; writes for each case and loader
the values, null where the loader did not move a key from the value set before it ran.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

LOADERS = {"systemd": ["/lib/systemd/systemd-sysctl"], "procps": ["sysctl", "--system"]}
FOLDERS = ("/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d")
INSIDE = "inside"
# What a key holds before the loader runs. Two rounds with two values tell a key that was set to one of them apart
# from one that was left alone.
BEFORE = {
    "net.ipv4.ip_forward": ("0", "1"),
    "net.ipv4.tcp_rmem": ("4097 5000 6000000", "4097 5000 6000001"),
}
BEFORE_OTHERS = ("6", "7")


def key_file(name):
    """Return where the kernel shows a key."""
    return Path("/proc/sys") / name.replace(".", "/")


def read(name):
    """Return a key's value with single spaces."""
    return " ".join(key_file(name).read_text().split())


def write_case(files):
    """Empty the loaders' folders, which are this process's own, and lay the case's files out."""
    for folder in FOLDERS:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for file in Path(folder).iterdir():
            file.unlink()
    Path("/etc/sysctl.conf").unlink(missing_ok=True)
    for path, text in files.items():
        if text.startswith("-> "):
            Path(path).symlink_to(text[3:])
        else:
            Path(path).write_text(text)


def private_folders():
    """Put copies in memory over the folders, visible to this mount namespace only."""
    for folder in ("/etc", "/run", "/usr/local/lib", "/usr/lib/sysctl.d"):
        copy = tempfile.mkdtemp(dir="/dev/shm")
        subprocess.run(["cp", "-a", f"{folder}/.", copy], check=folder != "/run")
        subprocess.run(["mount", "--bind", copy, folder], check=True)


def run_loader(case, loader, turn):
    """Return what each key shows after the loader ran on a turn's values; null for one that it left alone."""
    write_case(case["files"])
    before = {name: BEFORE.get(name, BEFORE_OTHERS)[turn] for name in case["keys"]}
    for name, value in before.items():
        key_file(name).write_text(value)
    subprocess.run(LOADERS[loader], capture_output=True, check=False)
    after = {name: read(name) for name in before}
    return {name: None if after[name] == before[name] else after[name] for name in before}


def run_case(case, loader):
    """Return what a loader gives each key, null for one that it left alone."""
    first, second = (run_loader(case, loader, turn) for turn in (0, 1))
    return {name: first[name] or second[name] for name in first}


def inside():
    """Run all cases; this process has its own mounts and network."""
    private_folders()
    cases = json.load(sys.stdin)
    json.dump([{loader: run_case(case, loader) for loader in LOADERS} for case in cases], sys.stdout)


def main():
    """Start again in namespaces of its own."""
    os.execvp("unshare", ["unshare", "--mount", "--net", sys.executable, __file__, INSIDE])


if __name__ == "__main__":
    inside() if INSIDE in sys.argv[1:] else main()
