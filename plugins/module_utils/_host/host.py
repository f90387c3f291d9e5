# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""All input and output of the settings engine: the files of one host, below a root that tests can move."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from . import commands

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_LINKS = 40  # as the kernel's MAXSYMLINKS
COMMAND_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
LOCK_PATIENCE = 60.0  # seconds; a run takes well under one
LOCK_POLL = 0.05  # seconds
TEMPORARY_SUFFIX = ".precog-fleet.tmp"
BECOME_OFF = (
    "If the play has become: true already, ansible_become is false for this host: "
    "remove it from the inventory or from -e."
)
NOT_ROOT = f"root is required: run with become: true. {BECOME_OFF}"


class HostError(Exception):
    """Something on the host stands in the way of the whole run; nothing was applied.

    The message names what, why, and what to do.
    """


class Meta(NamedTuple):
    """Who owns a file and with which mode; what a rewrite of it keeps."""

    mode: int
    uid: int
    gid: int


class StagedFile:
    """A file's next content, already on disk (synced) beside it: what remains is one rename.

    Staging first means that a full disk or a read-only file system shows before anything else is changed.
    """

    def __init__(self, target: str, data: bytes, meta: Meta) -> None:
        self._target = target
        self._temporary = _temporary(target)
        try:
            self._write(data, meta)
        except OSError as error:
            self.discard()
            raise OSError(error.errno, error.strerror, target) from error

    def _write(self, data: bytes, meta: Meta) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self._temporary, flags, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fchown(fd, meta.uid, meta.gid)
            os.fchmod(fd, meta.mode)
            os.fsync(fd)
        finally:
            os.close(fd)
        _copy_label(self._target, self._temporary)

    def commit(self) -> None:
        """Put the content in place of the file: whoever reads it sees the old bytes or the new, never a part.

        :raises OSError: the rename was refused; the old content stands.
        """
        os.rename(self._temporary, self._target)
        sync_folder(os.path.dirname(self._target))

    def discard(self) -> None:
        """Forget the content. Never raises."""
        try:
            os.unlink(self._temporary)
        except OSError:
            pass


def _temporary(target: str) -> str:
    """Return the path of a file's next content.

    Hidden and with a suffix of its own, so that no loader of `*.conf` takes it for a fragment. The name is fixed, as
    one run at a time holds the lock: what a killed run left is found by the next.
    """
    folder, name = os.path.split(target)
    return os.path.join(folder, f".{name}{TEMPORARY_SUFFIX}")


def _copy_label(source: str, target: str) -> None:
    """Keep the SELinux label, where there is one."""
    try:
        os.setxattr(target, "security.selinux", os.getxattr(source, "security.selinux"))
    except OSError:
        pass


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _expect_roots(link: str) -> None:
    """Raise PermissionError unless a link and the folder that it lies in are root's, or of who runs this."""
    for path in (link, os.path.dirname(link)):
        owner = os.lstat(path).st_uid
        if owner not in (0, os.geteuid()):
            reason = f"it leads over a link that is not root's ({path} belongs to user ID {owner}): remove the link"
            raise PermissionError(errno.EPERM, reason, link)


def sync_folder(path: str) -> None:
    """Make renames and removals in a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Host:
    """The files of one host.

    Paths are those the host itself would use (`/etc/sysctl.d`); links are followed below the root, as after a
    chroot. Where something is written, only root's own links are: any other may lead root to what it must not touch.
    Unless said otherwise methods raise `OSError`.
    """

    def __init__(self, root: str = "/") -> None:
        self.root = root

    def locate(self, path: str) -> str:
        """Return where a path of the host really lies, all links followed below the root."""
        return os.path.realpath(path) if self.root == "/" else self._follow(path)

    def _target(self, path: str) -> str:
        """Return where a path really lies that is to be written.

        :raises PermissionError: a link on the way could have been made by somebody who is not root.
        """
        return self._follow(path, only_roots=True)

    def _follow(self, path: str, *, only_roots: bool = False) -> str:
        """Return a path with all links in it followed below the root."""
        done: list[str] = []
        todo = [part for part in reversed(path.split("/")) if part not in ("", ".")]
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                done = done[:-1]
                continue
            here = os.path.join(self.root, *done, part)
            if not os.path.islink(here):
                done.append(part)
                continue
            links += 1
            if links > MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            if only_roots:
                _expect_roots(here)
            target = os.readlink(here)
            if target.startswith("/"):
                done = []
            todo.extend(part for part in reversed(target.split("/")) if part not in ("", "."))
        return os.path.join(self.root, *done)

    def _reach(self, path: str) -> str:
        """Return a path that the kernel itself follows to the right place: on the real root the path as it is."""
        return path if self.root == "/" else self.locate(path)

    def read_bytes(self, path: str) -> bytes:
        """Return a file's bytes."""
        with open(self._reach(path), "rb") as file:
            return file.read()

    def read_text(self, path: str) -> str:
        """Return a file's text; bytes that are not UTF-8 become lone surrogates, so that nothing is lost."""
        return self.read_bytes(path).decode("utf-8", "surrogateescape")

    def exists(self, path: str) -> bool:
        """Tell whether there is something at a path (a dangling link is nothing). Never raises."""
        return os.path.exists(self._reach(path))

    def is_dir(self, path: str) -> bool:
        """Tell whether a path is a folder. Never raises."""
        return os.path.isdir(self._reach(path))

    def is_file(self, path: str) -> bool:
        """Tell whether a path is a regular file. Never raises."""
        return os.path.isfile(self._reach(path))

    def list_dir(self, path: str) -> list[str]:
        """Return the names in a folder, sorted by their bytes; of a folder that is not there, none."""
        try:
            return sorted(os.listdir(self._reach(path)), key=os.fsencode)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def readlink(self, path: str) -> str | None:
        """Return what a link says, unresolved (`pid:[4026531836]` for a namespace), or None if it is no link."""
        folder, name = os.path.split(path)
        try:
            return os.readlink(os.path.join(self._reach(folder), name))
        except OSError:
            return None

    def mode(self, path: str) -> int | None:
        """Return a file's permission bits, or None if no file is there."""
        try:
            mode = os.stat(self._reach(path)).st_mode
        except OSError:
            return None
        return None if stat.S_ISDIR(mode) else stat.S_IMODE(mode)

    def meta(self, path: str) -> Meta | None:
        """Return a file's mode and owner, or None if it is not there."""
        try:
            found = os.stat(self._reach(path))
        except FileNotFoundError:
            return None
        return Meta(stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)

    def may_write(self, path: str) -> bool:
        """Tell whether the kernel would let this process write, without writing. Never raises."""
        return os.access(self._reach(path), os.W_OK)

    def write_kernel(self, path: str, value: str) -> None:
        """Give the kernel a value: one unbuffered write at offset 0, its error and that of the close told.

        :param path: a file below /proc/sys or /sys, which has to exist.
        :raises OSError: with the kernel's own errno.
        """
        data = (value + "\n").encode("utf-8", "surrogateescape")
        fd = os.open(self._reach(path), os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        try:
            written = os.write(fd, data)
        except OSError:
            os.close(fd)
            raise
        os.close(fd)
        if written != len(data):
            raise OSError(errno.EIO, f"the kernel took {written} of {len(data)} bytes", path)

    def refusals(self, writes: Sequence[tuple[str, str]]) -> dict[str, int]:
        """Return the errno of each write that the kernel would refuse, by path, as far as it can be tried."""
        if self.root != "/":
            return {}
        from . import trial

        return trial.refusals(writes)

    def stage(self, path: str, data: bytes, meta: Meta | None = None) -> StagedFile:
        """Put a file's next content on disk beside it, making missing folders.

        :param meta: mode and owner; without it those of the file stay, and a new file is 0644 root.
        """
        target = self._target(path)
        os.makedirs(os.path.dirname(target), mode=0o755, exist_ok=True)
        if os.path.isdir(target):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        return StagedFile(target, data, meta or self.meta(path) or Meta(0o644, os.geteuid(), os.getegid()))

    def has_left(self, path: str) -> bool:
        """Tell whether a killed run left something beside a file. Never raises."""
        try:
            return os.path.lexists(_temporary(self.locate(path)))
        except OSError:
            return False

    def sweep(self, path: str) -> None:
        """Remove what a killed run left beside a file. Never raises."""
        try:
            os.unlink(_temporary(self._target(path)))
        except OSError:
            pass

    def expect_room(self, path: str, size: int) -> None:
        """Find out without writing whether a file could be staged.

        :param size: bytes to be written.
        :raises OSError: it could not (read-only file system, no permission, disk full).
        """
        folder = os.path.dirname(self.locate(path))
        while not os.path.isdir(folder):
            folder = os.path.dirname(folder)
        system = os.statvfs(folder)
        if system.f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        if not os.access(folder, os.W_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)
        if system.f_bavail * system.f_frsize < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    def remove(self, path: str) -> None:
        """Remove a file durably; one that is not there is fine."""
        place = self._place(path)
        try:
            os.unlink(place)
        except FileNotFoundError:
            return
        sync_folder(os.path.dirname(place))

    def replace_link(self, path: str, target: str) -> None:
        """Make a path a link to a target, durably: whoever follows it meets the old target or the new, never none."""
        place = self._place(path)
        temporary = _temporary(place)
        os.makedirs(os.path.dirname(place), mode=0o755, exist_ok=True)
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        os.symlink(target, temporary)
        os.rename(temporary, place)
        sync_folder(os.path.dirname(place))

    def make_folder(self, path: str, meta: Meta) -> None:
        """Make a folder with its parents (those 0755 root), or give one that is there this mode and owner."""
        place = self._target(path)
        os.makedirs(place, mode=0o755, exist_ok=True)
        os.chown(place, meta.uid, meta.gid)
        os.chmod(place, meta.mode)

    def remove_tree(self, path: str) -> None:
        """Remove a folder with all in it; links in it are not followed, and one that is not there is fine."""
        place = self._place(path)
        if os.path.isdir(place) and not os.path.islink(place):
            shutil.rmtree(place)
            sync_folder(os.path.dirname(place))

    def remove_if_empty(self, path: str) -> None:
        """Remove a folder with nothing in it; any other stays."""
        with suppress(OSError):
            os.rmdir(self._place(path))

    def rename(self, path: str, new: str) -> None:
        """Give a file or folder another name, durably."""
        os.rename(self._place(path), self._place(new))
        sync_folder(os.path.dirname(self._place(new)))

    def _place(self, path: str) -> str:
        """Return where a path lies, links in its folder followed, but not the path itself."""
        folder, name = os.path.split(path)
        return os.path.join(self._target(folder), name)

    def boot_id(self) -> str:
        """Return what tells this boot from every other."""
        return self.read_text("/proc/sys/kernel/random/boot_id").strip()

    @contextmanager
    def lock(self, path: str, patience: float = LOCK_PATIENCE) -> Iterator[None]:
        """Wait until no other run holds the lock file, then hold it (mode 0600). A killed run holds nothing.

        :param patience: seconds to wait.
        :raises HostError: another run held it all that time.
        """
        target = self._target(path)
        os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
        fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + patience
            while not _locked(fd):
                if time.monotonic() > deadline:
                    raise HostError(f"another run has held {path} for {patience:g} s: wait for it, then run again")
                time.sleep(LOCK_POLL)
            yield
        finally:
            os.close(fd)

    def run(self, argv: Sequence[str]) -> str:
        """Run a command of the host and return its standard output; bytes that are not UTF-8 are shown as `\\xff`.

        :raises HostError: it is missing or failed; the message has what it said.
        """
        try:
            done = commands.run(argv, env=COMMAND_ENVIRONMENT, errors="backslashreplace")
        except OSError as error:
            raise HostError(f"cannot run {argv[0]}: {error.strerror}") from error
        if done.returncode:
            said = done.stderr.strip() or done.stdout.strip()
            raise HostError(f"{' '.join(argv)} failed with code {done.returncode}: {said}")
        return done.stdout
