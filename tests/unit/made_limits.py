"""A made-up host with a systemd of its own: it knows of files only what it has read, as the real one."""

from __future__ import annotations

from ansible_collections.precog.fleet.plugins.module_utils._engine import run as engine
from ansible_collections.precog.fleet.plugins.module_utils._host.host import HostError
from ansible_collections.precog.fleet.plugins.module_utils._settings.limits.limits import Limits, Request, understand
from ansible_collections.precog.fleet.tests.unit.made_host import MadeHost, make_host

PAM = "/etc/security/limits.d/99-zz-precog-fleet.conf"
MANAGER = "/etc/systemd/system.conf.d/99-zz-precog-fleet.conf"
DROP_IN = "/etc/systemd/system/miner.service.d/99-zz-precog-fleet.conf"
MAIN = "/etc/security/limits.conf"
HARD = "524288"
LIMITS = """Limit                     Soft Limit           Hard Limit           Units
Max cpu time              unlimited            unlimited            seconds
Max processes             32768                32768                processes
Max open files            {soft}                 {hard}              files
Max locked memory         8388608              8388608              bytes
"""
ALL, MOST = "000001ffffffffff", "000001fffeffffff"  # with and without CAP_SYS_RESOURCE
FILES = {
    MAIN: "# <domain> <type> <item> <value>\n#* soft core 0\n",
    "/etc/pam.d/sshd": "session    required     pam_limits.so\n",
    "/etc/passwd": "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n",
    "/etc/group": "root:x:0:\nalice:x:1000:\nminers:x:50:alice,bob\n",
    "/etc/systemd/system.conf": "[Manager]\n#DefaultLimitNOFILE=1024:524288\n",
    "/etc/systemd/system/miner.service": "[Service]\nExecStart=/bin/miner\n",
    "/usr/lib/systemd/system/idle.service": "[Service]\nExecStart=/bin/idle\n",
    "/run/systemd/system/made": "",
    "/proc/1/status": f"CapEff:\t{ALL}\n",
    "/proc/1/limits": LIMITS.format(soft=1024, hard=HARD),
    "/proc/1/uid_map": "         0          0 4294967295\n",
    "/proc/sys/fs/nr_open": "1048576\n",
}


class MadeLimitsHost(MadeHost):
    """The made-up host, and `systemctl`."""

    def __init__(self, root) -> None:
        super().__init__(root)
        self.defaults: dict[str, str] = {}
        self.units: dict[str, dict[str, str]] = {"miner.service": {}, "idle.service": {}}
        self.main_pid = {"miner.service": 812}
        self.masked: set[str] = set()
        self.tasks = {"DefaultTasksMax": "infinity"}
        self.broken = False

    def run(self, argv):
        self.commands.append(list(argv))
        if self.broken or argv[0] != "systemctl":
            raise HostError(f"{' '.join(argv)} failed with code 1: no systemd here")
        self._step()
        if argv[1] == "show":
            return self._show(argv)
        if argv[1] == "daemon-reexec":
            self.defaults = self._read(
                [self.at("/etc/systemd/system.conf"), *self._sorted("/etc/systemd/system.conf.d")]
            )
        for name in self.units:
            self.units[name] = self._read(self._sorted(f"/etc/systemd/system/{name}.d"))
        return ""

    def _sorted(self, folder):
        return sorted(self.at(folder).glob("*.conf")) if self.at(folder).is_dir() else []

    def _read(self, paths):
        """As these tests write such files: one key a line, no continuation, plain numbers."""
        lines = [line.partition("=") for path in paths for line in path.read_bytes().decode("latin-1").split("\n")]
        return {key: value for key, equals, value in lines if equals and key[:1] not in ("", "#", ";")}

    def _show(self, argv):
        asked = next(word for word in argv if word.startswith("--property=")).partition("=")[2].split(",")
        units = argv[argv.index("--") + 1 :]
        if units and units[0].startswith("user-"):
            return f"TasksMax={self.tasks.get('user', 'infinity')}\n"
        if not units:
            return "".join(f"{name}={self._value(name, self.defaults)}\n" for name in asked)
        return "\n".join(
            "".join(f"{key}={value}\n" for key, value in self._unit(name, asked).items()) for name in units
        )

    def _unit(self, name, asked):
        known = name in self.units
        state = "masked" if name in self.masked else "loaded" if known else "not-found"
        fragments = [f"{folder}/{name}" for folder in ("/etc/systemd/system", "/usr/lib/systemd/system")]
        shown = {
            "Id": name,
            "Names": name,
            "LoadState": state,
            "FragmentPath": next((path for path in fragments if self.exists(path)), ""),
            "MainPID": str(self.main_pid.get(name, 0)),
            "TasksMax": self.tasks.get(name, "infinity"),
        }
        defaults = {key[len("Default") :]: value for key, value in self.defaults.items()}
        limits = {**defaults, **self.units.get(name, {})}
        return {key: shown[key] if key in shown else self._value(key, limits) for key in asked}

    def _value(self, name, known):
        if name == "DefaultTasksMax":
            return self.tasks[name]
        key = name[: -len("Soft")] if name.endswith("Soft") else name
        ship = f"1024:{HARD}" if key.endswith("NOFILE") else "infinity"
        soft, _colon, hard = known.get(key, ship).partition(":")
        return soft if name.endswith("Soft") else hard or soft

    def start(self, pid: int, parent: int, soft: object, hard: object, name: str = "a) (b") -> None:
        """A process of the made-up host."""
        fields = " ".join(["S", str(parent), *["0"] * 17, str(pid * 100), "0"])
        self.put(f"/proc/{pid}/stat", f"{pid} ({name}) {fields}\n")
        self.put(f"/proc/{pid}/limits", LIMITS.format(soft=soft, hard=hard))

    def forbid(self, hard: int = 20000) -> None:
        """Take from process 1 the right to raise limits."""
        self.put("/proc/1/status", f"CapEff:\t{MOST}\n")
        self.put("/proc/1/limits", LIMITS.format(soft=1024, hard=hard))


def make_limits_host(root, *, kind: type[MadeLimitsHost] = MadeLimitsHost) -> MadeLimitsHost:
    """Build a Debian-like tree with two services, one of them running with a child."""
    host = make_host(root, kind=kind)
    for path, text in FILES.items():
        host.put(path, text)
    host.start(1, 0, 1024, HARD)
    host.start(812, 1, 1024, HARD)
    host.start(813, 812, 1024, HARD)
    host.start(900, 1, 7, 7)
    return host


def apply(host, parameters=None, *, profile="none", systemd=None, services=None, check=False):
    """Apply limits (and no profile, unless told otherwise)."""
    request = understand(profile, parameters or {}, systemd or {}, services or {})
    return engine.run(host, [Limits(request)], check_mode=check)


def absent(host, *, check=False):
    return engine.run(host, [Limits(Request({}))], check_mode=check)
