"""Run by test_disk in a mount namespace of its own: meets a disk in trouble, and prints as JSON what happened."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from ansible_collections.precog.fleet.plugins.module_utils._host.host import HostError
from ansible_collections.precog.fleet.tests.fault.cases import CASES, MOMENTS, everything, prepare
from ansible_collections.precog.fleet.tests.unit.made_host import files_of


def small_disk(place: Path) -> None:
    """Put a file system of 1 MiB over a folder, with what the folder holds."""
    kept = place.with_name(f"{place.name}.kept")
    place.rename(kept)
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=755", "tmpfs", place], check=True)
    subprocess.run(["cp", "-a", f"{kept}/.", place], check=True)
    shutil.rmtree(kept)


def fill(place: Path) -> Path:
    """Take every free byte of a file system."""
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    assert os.statvfs(place).f_bavail == 0
    return ballast


def meet(host, run, *, check: bool) -> dict:
    """Run into the trouble; return what was said and what is different."""
    before, known = everything(host)
    host.kernel_writes.clear()
    host.commands.clear()
    try:
        run(host, check=check)
        error = ""
    except HostError as told:
        error = str(told)
    after = files_of(host)
    changed = [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
    orders = [*host.kernel_writes, *(argv for argv in host.commands if argv[1] != "show")]
    return {"error": error, "changed_paths": changed, "orders": orders, "forgot": host.known() != known}


def main(folder: str, name: str, trouble: str, part: str, moment_name: str) -> None:
    case, moment = CASES[name], MOMENTS[moment_name]
    host = case.make(Path(folder) / "host")
    original = everything(host)
    host.at("/var/lib/precog-fleet").mkdir()
    prepare(case, moment, host)
    disk = host.at(f"/{part}")
    small_disk(disk)
    if trouble == "full":
        ballast = fill(disk)
    else:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    run = getattr(case, moment.run)
    told = {"check": meet(host, run, check=True), "real": meet(host, run, check=False)}
    if trouble == "full":
        ballast.unlink()
    else:
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    run(host)
    told["then"] = "settled" if not run(host).changed else "restless"
    case.absent(host)
    told["given back"] = everything(host) == original
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
