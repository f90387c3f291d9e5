"""A made-up host: a tree of files below a folder, and a kernel in front of it that refuses, rounds and couples.

The tests look at the tree through `snapshot`, `value` and `text`, which read its bytes themselves.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import stat
from pathlib import Path

from ansible_collections.precog.fleet.plugins.module_utils._engine import run as engine
from ansible_collections.precog.fleet.plugins.module_utils._host.host import Host, HostError
from ansible_collections.precog.fleet.plugins.module_utils._settings.sysctl import keys, profiles
from ansible_collections.precog.fleet.plugins.module_utils._settings.sysctl.sysctl import Sysctl

NAME = "99-zz-precog-fleet"
OURS = f"/etc/sysctl.d/{NAME}.conf"
MODULES = f"/etc/modules-load.d/{NAME}.conf"
LEDGER = "/var/lib/precog-fleet/ledger.json"
THP = "/sys/kernel/mm/transparent_hugepage/enabled"
AVAILABLE = "net/ipv4/tcp_available_congestion_control"
BESIDE = ".next-value"  # where a key's next value lies before it is there at once; no part of the made-up host
BOOT_ID = "kernel/random/boot_id"
GUIDE = profiles.values(profiles.GUIDE, None, profiles.DEFAULT_PATH, {})
KEYS = {
    "net/core/rmem_max": "212992",
    "net/core/wmem_max": "212992",
    "net/core/rmem_default": "212992",
    "net/core/wmem_default": "212992",
    "net/core/netdev_max_backlog": "1000",
    "net/core/rps_sock_flow_entries": "0",
    "net/core/default_qdisc": "pfifo_fast",
    "net/ipv4/tcp_rmem": "4096\t131072\t6291456",
    "net/ipv4/tcp_wmem": "4096\t16384\t4194304",
    "net/ipv4/tcp_mtu_probing": "0",
    "net/ipv4/tcp_slow_start_after_idle": "1",
    "net/ipv4/tcp_keepalive_time": "7200",
    "net/ipv4/ip_local_port_range": "32768\t60999",
    "net/ipv4/ip_local_reserved_ports": "",
    "net/ipv4/ip_forward": "0",
    "net/ipv4/conf/all/forwarding": "0",
    "net/ipv4/conf/all/accept_redirects": "1",
    "net/ipv4/conf/default/forwarding": "0",
    "net/ipv4/conf/eth0/forwarding": "0",
    "net/ipv4/conf/eth0.100/forwarding": "1",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/conf/eth0/rp_filter": "0",
    "net/ipv4/conf/eth0.100/rp_filter": "0",
    "net/ipv4/tcp_congestion_control": "cubic",
    AVAILABLE: "reno cubic",
    "net/ipv6/conf/all/stable_secret": "",
    "vm/swappiness": "60",
    "vm/vfs_cache_pressure": "100",
    "vm/dirty_ratio": "20",
    "vm/dirty_bytes": "0",
    "vm/dirty_background_ratio": "10",
    "vm/dirty_background_bytes": "0",
    "vm/overcommit_ratio": "50",
    "vm/overcommit_kbytes": "0",
    "vm/drop_caches": "0",
    "vm/stat_refresh": "",
    "kernel/yama/ptrace_scope": "1",
    "kernel/core_pattern": "core",
    "kernel/hostname": "miner-1",
    "kernel/sem": "32000\t1024000000\t500\t32000",
    BOOT_ID: "11111111-1111-4111-8111-111111111111",
}
VECTORS = frozenset({"net/ipv4/tcp_rmem", "net/ipv4/tcp_wmem"})
LARGEST = 2**31 - 1  # of a vector's numbers, which the kernel keeps as int
MODES = {"vm/drop_caches": 0o200, "vm/stat_refresh": 0o600, BOOT_ID: 0o444, AVAILABLE: 0o444}
FILES = {
    "/etc/sysctl.conf": "# nothing set here\n",
    "/usr/lib/sysctl.d/50-pid-max.conf": "kernel.pid_max = 4194304\n",
    "/usr/lib/sysctl.d/50-default.conf": "-net.ipv4.conf.all.rp_filter\nnet.ipv4.conf.*.rp_filter = 2\n",
    THP: "always [madvise] never\n",
}
TEXT = ("kernel/core_pattern", "kernel/hostname", "net/ipv4/tcp_congestion_control", "net/core/default_qdisc")
PAIRS = {
    "vm/dirty_bytes": "vm/dirty_ratio",
    "vm/dirty_background_bytes": "vm/dirty_background_ratio",
    "vm/overcommit_kbytes": "vm/overcommit_ratio",
}
PAIRS.update({ratio: count for count, ratio in PAIRS.items()})


class Killed(BaseException):
    """The process is gone: nothing of it runs any more."""


class MadeHost(Host):
    """The tree as a host with a kernel of its own manners."""

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self.tree = root
        self.refuse: dict[str, int] = {}
        """errno by `path=value`, or by `path` for any value."""
        self.ignore: set[str] = set()
        self.rounded: dict[str, str] = {}
        """What the kernel makes of a value, by `path=value`."""
        self.unreadable: set[str] = set()
        self.module_keys: dict[str, dict[str, str]] = {}
        self.disk_errors: dict[str, int] = {}
        """errno for `stage PATH`, `commit PATH` and `remove PATH`."""
        self.written = {"net/ipv4/conf/eth0.100/forwarding"}
        """Keys of IPv4 interfaces that no longer follow the default."""
        self.steps_to_live: int | None = None
        self.kernel_writes: list[tuple[str, str]] = []
        self.file_writes: list[str] = []
        self.reads: list[str] = []
        self.commands: list[list[str]] = []

    # -- looking, by other means than the code under test -----------------------------------------------------------

    def at(self, path: str) -> Path:
        return self.tree / path.lstrip("/")

    def text(self, path: str) -> str:
        return self.at(path).read_text()

    def value(self, key: str) -> str:
        return self.at(f"/proc/sys/{key}").read_text().rstrip("\n")

    def put(self, path: str, content: str | bytes, mode: int = 0o644) -> None:
        place = self.at(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)
        place.chmod(mode)

    def set_key(self, key: str, value: str, mode: int = 0o644) -> None:
        """Give a key a value in one step, as a kernel does: a killed process leaves no half of it."""
        place, beside = self.at(f"/proc/sys/{key}"), self.tree / BESIDE
        place.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(value + "\n")
        beside.chmod(MODES.get(key, mode))
        beside.replace(place)

    def reboot(self, boot: str = "22222222-2222-4222-8222-222222222222") -> None:
        """A new boot: the kernel's own values, and on top what the files say (as a loader without wildcards would)."""
        for key, value in KEYS.items():
            self.set_key(key, value)
        self.put(THP, FILES[THP])
        self.set_key(BOOT_ID, boot)
        fragments = sorted(self.at("/etc/sysctl.d").glob("*.conf"), key=lambda path: path.name)
        texts = [path.read_bytes().decode("latin-1") for path in fragments if path.is_file()]
        for line in "\n".join(texts).split("\n"):
            name, assigns, value = line.partition("=")
            if assigns and name.strip()[0] not in "#;-":
                key = name.strip().translate(str.maketrans("./", "/."))
                if self.at(f"/proc/sys/{key}").is_file():
                    self.take(key, value.strip())
        self.kernel_writes.clear()

    # -- the kernel -------------------------------------------------------------------------------------------------

    def read_bytes(self, path: str) -> bytes:
        key = _key(path)
        if key is not None:
            self.reads.append(key)
            assert self.mode(path) & 0o444, f"{path} is write-only"
            if key in self.unreadable:
                raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return super().read_bytes(path)

    def may_write(self, path: str) -> bool:
        return self.exists(path) and bool(self.mode(path) & 0o200)

    def refusals(self, writes):
        """As throw-away namespaces would tell: only for what a namespace has of its own."""
        answers = {path: self._refusal(_key(path), value) for path, value in writes if path.startswith("/proc/sys/net")}
        return {path: code for path, code in answers.items() if code is not None}

    def write_kernel(self, path: str, value: str) -> None:
        self._step()
        self.kernel_writes.append((path, value))
        if not self.exists(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if not self.mode(path) & 0o200:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        key = _key(path)
        if key is None:
            words = [word.strip("[]") for word in self.text(path).split()]
            if value not in words:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
            self.put(path, " ".join(f"[{word}]" if word == value else word for word in words) + "\n")
        else:
            code = self._refusal(key, value)
            if code is not None:
                self._take_first_numbers(key, value)
                raise OSError(code, os.strerror(code), path)
            if key not in self.ignore:
                self.take(key, self.rounded.get(f"{key}={value}", value))
        self._step()

    def _refusal(self, key: str, value: str) -> int | None:
        known = self.refuse.get(f"{key}={value}", self.refuse.get(key))
        if known is not None:
            return known
        if key == "net/ipv4/ip_local_reserved_ports" and not re.fullmatch(r"(\d+(-\d+)?(,(?!$)|$))*", value, re.ASCII):
            return errno.EINVAL
        if PAIRS.get(key, "").endswith("ratio") and value == "0":
            return errno.EINVAL
        if key == "kernel/yama/ptrace_scope" and self.value(key) == "3":
            return errno.EPERM
        if key in VECTORS and any(int(word) > LARGEST for word in value.split()):
            return errno.EINVAL
        return None

    def _take_first_numbers(self, key: str, value: str) -> None:
        """Of a vector, the kernel stores each number as it parses it, and fails at the first one out of range."""
        if key not in VECTORS:
            return
        first = list(itertools.takewhile(lambda word: int(word) <= LARGEST, value.split()))
        self.take(key, " ".join([*first, *self.value(key).split()[len(first) :]]))

    def take(self, key: str, value: str) -> None:
        """A value as the kernel takes it from anyone."""
        before = self.value(key)
        if key not in TEXT and "," not in value:
            value = "\t".join(_decimal(word) for word in value.split())
        if key == "net/core/rps_sock_flow_entries" and int(value) > 1:
            value = str(1 << (int(value) - 1).bit_length())
        if key == "net/ipv4/ip_local_reserved_ports":
            value = _ranges(value)
        self.set_key(key, value, stat.S_IMODE(self.at(f"/proc/sys/{key}").stat().st_mode))
        if key in PAIRS and value != before:
            self.set_key(PAIRS[key], "0")
        if key in ("net/ipv4/ip_forward", "net/ipv4/conf/all/forwarding") and value != before:
            self.set_key("net/ipv4/ip_forward", value)
            for folder in self.at("/proc/sys/net/ipv4/conf").iterdir():
                if (folder / "forwarding").exists():
                    self.set_key(f"net/ipv4/conf/{folder.name}/forwarding", value)
            self.set_key("net/ipv4/conf/all/accept_redirects", "1" if value == "0" else "0")
        self._take_for_interfaces(key, value)

    def _take_for_interfaces(self, key: str, value: str) -> None:
        """A default goes to every interface whose own value was never written."""
        family, _slash, setting = key.rpartition("/")
        if family == "net/ipv4/conf/default":
            for folder in self.at("/proc/sys/net/ipv4/conf").iterdir():
                other = f"net/ipv4/conf/{folder.name}/{setting}"
                if folder.name not in ("all", "default") and other not in self.written and (folder / setting).exists():
                    self.set_key(other, value)
        elif family.startswith("net/ipv4/conf/"):
            self.written.add(key)

    def run(self, argv):
        self.commands.append(list(argv))
        name = argv[-1]
        if argv[0] != "modprobe" or name not in self.module_keys:
            raise HostError(f"{' '.join(argv)} failed with code 1: FATAL: Module {name} not found")
        if "--dry-run" not in argv:
            for key, value in self.module_keys[name].items():
                self.set_key(key, value)
        return ""

    # -- the disk, and a process that can be killed -------------------------------------------------------------------

    def lock(self, path: str, patience: float = 0.1):
        return super().lock(path, patience)

    def stage(self, path, data, meta=None):
        self._step()
        self._disk(f"stage {path}")
        self.file_writes.append(path)
        return _Staged(self, path, super().stage(path, data, meta))

    def remove(self, path: str) -> None:
        self._step()
        self._disk(f"remove {path}")
        if os.path.lexists(self.at(path)):
            self.file_writes.append(path)
        super().remove(path)
        self._step()

    def _disk(self, what: str) -> None:
        if what in self.disk_errors:
            code = self.disk_errors[what]
            raise OSError(code, os.strerror(code), what.partition(" ")[2])

    def _step(self) -> None:
        if self.steps_to_live is not None:
            self.steps_to_live -= 1
            if self.steps_to_live < 0:
                raise Killed


class _Staged:
    """A staged file whose owner may be killed: then nothing is tidied up."""

    def __init__(self, host: MadeHost, path: str, staged) -> None:
        self._host, self._path, self._staged = host, path, staged

    def commit(self) -> None:
        self._host._step()
        self._host._disk(f"commit {self._path}")
        self._staged.commit()
        self._host._step()

    def discard(self) -> None:
        if self._host.steps_to_live is None or self._host.steps_to_live >= 0:
            self._staged.discard()


def _key(path: str) -> str | None:
    return path[len("/proc/sys/") :] if path.startswith("/proc/sys/") else None


def _decimal(word: str) -> str:
    base = 16 if word[:2] in ("0x", "0X") else 8 if word[0] == "0" and len(word) > 1 else 10
    try:
        return str(int(word, base))
    except ValueError:
        return word


def _ranges(value: str) -> str:
    """As the kernel shows a bitmap of ports."""
    ports = set()
    for item in value.split(",") if value else ():
        first, _dash, last = item.partition("-")
        ports.update(range(int(first), int(last or first) + 1))
    starts = sorted(port for port in ports if port - 1 not in ports)
    ends = sorted(port for port in ports if port + 1 not in ports)
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in zip(starts, ends))


def make_host(root: Path, *, container: bool = False, kind: type[MadeHost] = MadeHost) -> MadeHost:
    """Build a Debian-like tree: a machine of its own, or a container with namespaces of its own."""
    root.mkdir(parents=True, exist_ok=True)
    host = kind(root)
    for folder in ("etc/sysctl.d", "etc/tmpfiles.d", "run", "usr/lib/sysctl.d", "var/lib", "proc/self/ns"):
        (root / folder).mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    (root / "etc/sysctl.d/99-sysctl.conf").symlink_to("../sysctl.conf")
    for path, text in FILES.items():
        host.put(path, text)
    for key, value in {**dict.fromkeys(map(keys.path_of, GUIDE), "1"), **KEYS}.items():
        host.set_key(key, value)
    inodes = {"pid": 4026531836, "ipc": 4026531839, "uts": 4026531838}
    for kind_of, inode in inodes.items():
        (root / "proc/self/ns" / kind_of).symlink_to(f"{kind_of}:[{inode + 900 if container else inode}]")
    if container:
        host.put("/run/systemd/container", "podman\n")
        for key in ("netdev_max_backlog", "rmem_default", "wmem_default", "rps_sock_flow_entries", "default_qdisc"):
            host.at(f"/proc/sys/net/core/{key}").unlink()
        for key in ("rmem_max", "wmem_max"):
            host.at(f"/proc/sys/net/core/{key}").chmod(0o444)
    return host


def snapshot(host: MadeHost, *, ledger: bool = True) -> dict[str, tuple]:
    """Everything of a tree: kind, mode and bytes by path. Without `ledger` its folder is left out."""
    found = {}
    for folder, folders, names in os.walk(host.tree):
        for name in [*folders, *names]:
            place = Path(folder) / name
            path = "/" + str(place.relative_to(host.tree))
            if name != BESIDE and (ledger or not path.startswith(("/var/lib/precog-fleet", "/var/backups"))):
                found[path] = _look(place)
    return found


def files_of(host: MadeHost) -> dict[str, tuple]:
    """What a rollback has to bring back: all but empty folders and the ledger's own."""
    return {path: seen for path, seen in snapshot(host, ledger=False).items() if seen[0] != "folder"}


def untouched(host: MadeHost) -> dict[str, tuple]:
    """What shows any write at all, even one of the same bytes: inode and time of change of every file."""
    found = {}
    for folder, _folders, names in os.walk(host.tree):
        for name in names:
            seen = (Path(folder) / name).lstat()
            found[f"{folder}/{name}"] = (seen.st_ino, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_size)
    return found


def _look(place: Path) -> tuple:
    mode = place.lstat().st_mode
    if stat.S_ISLNK(mode):
        return "link", str(place.readlink())
    if stat.S_ISDIR(mode):
        return "folder", stat.S_IMODE(mode)
    return "file", stat.S_IMODE(mode), place.read_bytes()


# -- running the engine ---------------------------------------------------------------------------------------------


def bend(text: bytes, at: int, word: bytes) -> bytes:
    """Return a text with one of its words, or of what is between them, replaced by another."""
    parts = re.split(rb"([\s=:]+)", text)
    parts[at % len(parts)] = word
    return b"".join(parts)


def apply(host: MadeHost, parameters=None, *, check: bool = False, **options) -> engine.Report:
    """Apply parameters (and no profile, unless told otherwise)."""
    return engine.run(host, [profile(parameters, **options)], check_mode=check)


def absent(host: MadeHost, *, check: bool = False, **options) -> engine.Report:
    return engine.run(host, [profile(present=False, **options)], check_mode=check)


def profile(parameters=None, *, name: str = NAME, present: bool = True, **options) -> Sysctl:
    options = {"profile": "none", **options}
    return Sysctl(name, present=present, parameters=parameters or {}, **options)


def rows(report: engine.Report) -> dict[str, dict]:
    """The report's rows by name, after JSON-like rendering; a name comes once."""
    found = [change.row() for change in report.changes]
    named = {row["name"]: row for row in found}
    assert len(named) == len(found), found
    return named


def statuses(report: engine.Report) -> dict[str, str]:
    return {name: row["status"] for name, row in rows(report).items()}
