# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The guard: at boot and every minute, go back from a release whose rollout was cut short before its gate.

This file's text is installed on the host beside the releases and runs there without Ansible, so it needs nothing but
Python's standard library. `releases.json` is what the collection writes (_miner/store.py).
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

LOCK = "/var/lib/precog-fleet/miner.lock"
UNIT_ROOT = "/etc/systemd/system"
RUN = "/run/precog-miner"
PREFIX = "precog-miner@"
DROP_IN = "10-instance.conf"
TEMPORARY_SUFFIX = ".precog-fleet.tmp"
COMMAND_S = 120  # instances have 15 s to stop


def command(argv: Sequence[str]) -> None:
    """Run a command.

    :raises OSError: it can't be started, or failed.
    :raises subprocess.TimeoutExpired: it did not end in COMMAND_S.
    """
    done = subprocess.run(  # pylint: disable=ansible-bad-function
        argv,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="backslashreplace",
        timeout=COMMAND_S,
        check=False,
    )
    if done.returncode:
        raise OSError(f"{' '.join(argv)} failed with code {done.returncode}: {done.stderr.strip()}")


class Guard:
    """The guard of one host.

    :ivar told: what it did, for the journal.
    :ivar faults: what went wrong with single instances; the rest is done.
    """

    def __init__(self, root: str, base: str = "", run: Callable[[Sequence[str]], object] = command) -> None:
        """Watch over the releases of a host.

        :param root: the folder of the releases, as the host names it.
        :param base: where the host's own root lies, "" for `/`.
        :param run: runs a command, and raises if it fails.
        """
        self._base = base
        self._root = f"{base}{root}"
        self._units = f"{base}{UNIT_ROOT}"
        self._run = run
        self.told = ""
        self.faults: list[str] = []

    def watch(self) -> None:
        """Go back if a rollout was cut short; never while a run of Ansible is at work.

        :raises OSError: it can't be done; the next time tries again.
        :raises subprocess.TimeoutExpired: the same.
        """
        with self._free() as free:
            if free:
                self._look()

    @contextmanager
    def _free(self) -> Iterator[bool]:
        """Hold the lock of all runs, if nobody else does; yield whether it is held here."""
        path = f"{self._base}{LOCK}"
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
        finally:
            os.close(fd)

    def _look(self) -> None:
        past = self._past()
        trying, good = past["trying"], past["good"]
        # Between two releases that were good, as in a repair or on the way back, nothing untested can run.
        if not trying or (trying in good and self._current() in good):
            return
        whole = [name for name in good if self._instances(name)]
        target = trying if trying in whole else whole[-1] if whole else ""
        self._go_back(target)
        if target != trying:
            withdrawn = past.get("withdrawn", "") if trying in good else trying
            noted = {**past, "trying": "", "withdrawn": withdrawn}
            # Last of all: until then the next start of the guard does it all again.
            self._write(f"{self._root}/releases.json", (json.dumps(noted, indent=1) + "\n").encode())
        now = f"This host is back on {target}" if target else "No earlier release is good, so nothing runs now"
        self.told = (
            f"A rollout was cut short, and its release {trying} did not pass its gate. {now}. Secrets that the rollout "
            "changed are not restored. Run the playbook again"
        )

    def _past(self) -> dict[str, Any]:
        """Return what happened to the releases; of a past that can't be read, that none is being tried."""
        try:
            with open(f"{self._root}/releases.json", encoding="utf-8") as file:
                past = json.load(file)
            if isinstance(past["trying"], str) and isinstance(past["good"], list):
                return dict(past)
        except (OSError, ValueError, LookupError, TypeError):
            pass
        return {"trying": "", "good": []}

    def _current(self) -> str:
        """Return the release that the next start of an instance runs; "" for none."""
        try:
            return os.path.basename(os.readlink(f"{self._root}/current"))
        except OSError:
            return ""

    def _instances(self, release: str) -> list[str]:
        """Return the names of a release's instances; none of a release that can't be read."""
        folder = f"{self._root}/releases/{release}"
        try:
            with open(f"{folder}/release.json", encoding="utf-8") as file:
                names = [str(one["name"]) for one in json.load(file)["instances"]]
            present = all(os.path.exists(f"{folder}/instances/{name}/start") for name in names)
            return names if present and self._files(f"{folder}/units") else []
        except (OSError, ValueError, LookupError, TypeError):
            return []

    def _go_back(self, target: str) -> None:
        """Have a good release run again; "" for none, with which nothing runs."""
        units = self._files(f"{self._root}/releases/{target}/units") if target else {}
        instances = self._instances(target) if target else []
        before = self._files(self._units)
        for path, data in units.items():
            if before.get(path) != data:
                self._write(f"{self._units}/{path}", data)
        self._switch(target)
        self._run(["systemctl", "daemon-reload"])
        self._stop(units, instances, {**before, **units})
        for path in sorted(set(before) - set(units), key=lambda path: (_name(path) == "", path)):
            self._remove(path)
        self._run(["systemctl", "daemon-reload"])
        for name in instances:
            try:
                self._start(name, f"{PREFIX}{name}.socket" in units)
            except Exception as error:  # whatever it is: the others are started
                self.faults.append(f"{name} could not be started: {error}")

    def _stop(self, units: Mapping[str, bytes], instances: Sequence[str], there: Mapping[str, bytes]) -> None:
        """Stop all instances: what they run and what systemd knows of them may be of either release.

        Sockets first, or a request would start the service again.

        :param units: those of the release to go back to.
        :param there: all that are there.
        """
        names = sorted(set(map(_name, there)) - {""})
        sockets = [f"{PREFIX}{name}.socket" for name in names if f"{PREFIX}{name}.socket" in there]
        stay = [unit for unit in sockets if unit in units]
        stay += [f"{PREFIX}{name}.service" for name in names if name in instances]
        leave = [unit for unit in sockets if unit not in units]
        leave += [f"{PREFIX}{name}.service" for name in names if name not in instances]
        # An instance whose template is gone has been stopped already.
        if f"{PREFIX}.service" in there:
            if leave:
                self._run(["systemctl", "--quiet", "disable", "--now", *leave])
            if stay:
                self._run(["systemctl", "stop", *stay])

    def _start(self, name: str, has_socket: bool) -> None:
        """Start an instance, now and at every boot.

        At boot instances wait for the guard, so it must not wait for them.
        """
        service, socket = f"{PREFIX}{name}.service", f"{PREFIX}{name}.socket"
        sockets = [socket] if has_socket else []
        with suppress(FileNotFoundError):
            os.unlink(f"{self._base}{RUN}/{name}/drain")
        self._run(["systemctl", "--quiet", "enable", service, *sockets])
        self._run(["systemctl", "reset-failed", f"{PREFIX}{name}.*"])
        if sockets:
            self._run(["systemctl", "restart", *sockets])
        self._run(["systemctl", "--no-block", "restart", service])

    def _files(self, folder: str) -> dict[str, bytes]:
        """Return the instances' units in a folder by their path there; drop-ins of others are not ours."""
        found = {}
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        for name in (name for name in names if name.startswith(PREFIX)):
            path = f"{name}/{DROP_IN}" if os.path.isdir(f"{folder}/{name}") else name
            if os.path.isfile(f"{folder}/{path}"):
                with open(f"{folder}/{path}", "rb") as file:
                    found[path] = file.read()
        return found

    def _switch(self, target: str) -> None:
        """Make a release the current one; "" leaves none."""
        link = f"{self._root}/current"
        if target:
            temporary = _temporary(link)
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            os.symlink(f"releases/{target}", temporary)
            os.rename(temporary, link)
        else:
            with suppress(FileNotFoundError):
                os.unlink(link)
        _sync(self._root)

    def _write(self, path: str, data: bytes) -> None:
        """Put a file in place, whole and durably."""
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        temporary = _temporary(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(temporary, flags, 0o644), "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.rename(temporary, path)
        _sync(os.path.dirname(path))

    def _remove(self, unit: str) -> None:
        """Remove a unit, and the folder of a drop-in with nothing else in it."""
        with suppress(FileNotFoundError):
            os.unlink(f"{self._units}/{unit}")
        if "/" in unit:
            with suppress(OSError):
                os.rmdir(f"{self._units}/{unit.partition('/')[0]}")


def _name(unit: str) -> str:
    """Return the name of the instance that a unit is of; "" for what all share."""
    return unit.partition("/")[0][len(PREFIX) :].partition(".")[0]


def _temporary(path: str) -> str:
    folder, name = os.path.split(path)
    return f"{folder}/.{name}{TEMPORARY_SUFFIX}"


def _sync(folder: str) -> None:
    """Make renames and removals in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def main() -> int:
    """Run the guard that lies beside the releases; return its exit code."""
    guard = Guard(os.path.dirname(os.path.abspath(__file__)))
    try:
        guard.watch()
    except (OSError, subprocess.TimeoutExpired) as error:
        guard.faults.append(f"a rollout was cut short, and this host could not go back yet: {error}")
    for level, text in [(5, guard.told), *((3, fault) for fault in guard.faults)]:
        if text:
            sys.stdout.write(f"<{level}>{text}\n")
    return 1 if guard.faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
