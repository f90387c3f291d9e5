"""A made-up host with a systemd that runs miners: what it knows lies in a file beside the tree, as it outlives a run.

A process is what systemd starts from `current`: its digest, its ports, and the limits of the unit that systemd has
read. Whether a release is a good one is told by `BAD`: a digest, and what is wrong with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ansible_collections.precog.fleet.plugins.module_utils._host.host import Host, HostError
from ansible_collections.precog.fleet.plugins.module_utils._miner import prices, rollout, size
from ansible_collections.precog.fleet.plugins.module_utils._miner import run as miner
from ansible_collections.precog.fleet.plugins.module_utils._miner.gate.judge import Figures
from ansible_collections.precog.fleet.plugins.module_utils._miner.guarded import TIMER
from ansible_collections.precog.fleet.plugins.module_utils._miner.model import File, Instance, Plan
from ansible_collections.precog.fleet.plugins.module_utils._miner.options import OPTIONS
from ansible_collections.precog.fleet.plugins.module_utils._miner.plan import DIGEST
from ansible_collections.precog.fleet.plugins.module_utils._miner.source import Market
from ansible_collections.precog.fleet.plugins.module_utils._miner.store import Store

UNITS = "/etc/systemd/system"
WANTS = {"service": f"{UNITS}/multi-user.target.wants", "socket": f"{UNITS}/sockets.target.wants"}
TEMPLATE = "precog-miner@.service"
FIGURES = Figures(60, 0, (), 3.0, 5.0, {"btc": 1.0}, 1.0)
PARAMS = {name: argument.get("default") for name, argument in OPTIONS.items()}
PASSWD = b"root:x:0:0::/root:/bin/sh\nprecog-miner:x:0:0::/:/usr/sbin/nologin\n"
CAN_NOT_START = "crashes"  # what is wrong with a release whose process ends at once


class MadeSystemd(Host):
    """The host.

    :ivar plans: what an inventory may say, by the name of its release.
    :ivar bad: what is wrong with the processes of a digest.
    :ivar broken: commands that fail, by a part of them: an exception to raise.
    :ivar asked: the commands that were run.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self.tree = root
        self.plans: dict[str, Plan] = {}
        self.bad: dict[str, str] = {}
        self.broken: dict[str, Exception] = {}
        self.asked: list[str] = []
        self._memory = root.with_name(f"{root.name}.systemd")

    # -- looking, by other means than the code under test -----------------------------------------------------------

    def at(self, path: str) -> Path:
        return self.tree / path.lstrip("/")

    def known(self) -> dict:
        """What systemd knows: units it has read, processes by name, and the ports that sockets hold by name."""
        nothing = {"read": {}, "processes": {}, "sockets": {}, "pids": 100}
        return json.loads(self._memory.read_text()) if self._memory.exists() else nothing

    def running(self) -> dict[str, str]:
        """The digests of the processes that live, by instance."""
        return {name: process["digest"] for name, process in sorted(self.known()["processes"].items())}

    def listens(self) -> dict[str, list[int]]:
        """The ports that sockets of systemd's hold, by instance."""
        return dict(sorted(self.known()["sockets"].items()))

    def enabled(self) -> list[str]:
        """The units that a boot starts; each has to be there."""
        links = [link for folder in WANTS.values() if self.at(folder).is_dir() for link in self.at(folder).iterdir()]
        return sorted(link.name for link in links)

    def current(self) -> str:
        """The release that `current` leads to; it has to be there."""
        link = self.at("/opt/precog/current")
        if not link.is_symlink():
            return ""
        assert (link.parent / link.readlink() / "release.json").is_file(), "current dangles"
        return link.readlink().name

    # -- systemd ----------------------------------------------------------------------------------------------------

    def run(self, argv):
        line = " ".join(argv)
        self.asked.append(line)
        for part, error in self.broken.items():
            if part in line:
                raise error
        if argv[0] == "journalctl":
            return "its last words\n"
        if argv[1] != "show":
            self._step()
        if argv[0] == "useradd":
            with self.at("/etc/passwd").open("a") as file:
                file.write(f"{argv[-1]}:x:0:0::/:/usr/sbin/nologin\n")
        if argv[0] in ("useradd", "userdel"):
            return ""
        assert argv[0] == "systemctl", argv
        words = [word for word in argv[1:] if not word.startswith("-")]
        return getattr(self, f"_{words[0].replace('-', '_')}")(words[1:], argv)

    def _step(self) -> None:
        """Where a test may have this process killed."""

    def _remember(self, known: dict) -> None:
        beside = self._memory.with_suffix(".next")
        beside.write_text(json.dumps(known))
        beside.replace(self._memory)

    def keep(self, place: Path) -> None:
        """Keep what systemd knows, for another host of the same kind."""
        place.write_text(json.dumps(self.known()))

    def recall(self, place: Path) -> None:
        """Know what another host kept."""
        self._remember(json.loads(place.read_text()))

    def _on_disk(self) -> dict[str, str]:
        """Return the units as they lie there."""
        found = {}
        for path in self.at(UNITS).glob("precog-miner@*"):
            file = path / "10-instance.conf" if path.is_dir() else path
            if file.is_file():
                found[path.name] = file.read_text()
        return found

    def _unit(self, known: dict, unit: str) -> str | None:
        """Return a unit as systemd knows it: as it was read first, or at the last reload."""
        if unit not in known["read"] and unit in self._on_disk():
            known["read"][unit] = self._on_disk()[unit]
        return known["read"].get(unit)

    def _daemon_reload(self, _words, _argv):
        known = self.known()
        old, known["read"] = known["read"], self._on_disk()
        # A socket whose address is another now is open no more, though it is called active.
        for name in known["sockets"]:
            unit = f"precog-miner@{name}.socket"
            if old.get(unit) != known["read"].get(unit):
                known["sockets"][name] = []
        self._remember(known)
        return ""

    def _show(self, units, argv):
        asked = next(word for word in argv if word.startswith("--property="))[len("--property=") :].split(",")
        there = [path.name for path in self.at(UNITS).glob("precog-miner@*")]
        shown = [self._properties(unit, there) for unit in units]
        if "--value" in argv:
            return "".join(f"{fields[name]}\n" for fields in shown for name in asked)
        return "\n".join("".join(f"{name}={fields[name]}\n" for name in asked) for fields in shown)

    def _properties(self, unit: str, units: list[str]) -> dict[str, str]:
        known = self.known()
        if unit == TIMER:
            return {"ActiveState": "active" if known.get("guarded") else "inactive"}
        name, kind = _parts(unit)
        if kind == "socket":
            active, process = name in known["sockets"], None
            there = unit in units
        else:
            process = known["processes"].get(name)
            active = process is not None
            there = TEMPLATE in units
        crashed = kind == "service" and name in known.get("failed", [])
        enabled = "enabled" if unit in self.enabled() else "disabled"
        return {
            "Id": unit,
            "ActiveState": "active" if active else "failed" if crashed else "inactive",
            "SubState": "running" if active else "failed" if crashed else "dead",
            "MainPID": str(process["pid"] if process else 0),
            "UnitFileState": enabled if there else "",
            "NRestarts": "0",
            "Result": "success",
            "IPEgressBytes": "0",
        }

    def _enable(self, units, _argv):
        for unit in units:
            _name, kind = _parts(unit)
            folder = self.at(WANTS[kind])
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / unit).is_symlink():
                (folder / unit).symlink_to(f"{UNITS}/{unit}")
        return ""

    def _disable(self, units, argv):
        for unit in units:
            (self.at(WANTS[_parts(unit)[1]]) / unit).unlink(missing_ok=True)
        return self._stop(units, argv) if "--now" in argv else ""

    def _reset_failed(self, _units, _argv):
        return ""

    def _stop(self, units, _argv):
        known = self.known()
        if TIMER in units:
            known["guarded"] = False
        for unit in (unit for unit in units if unit != TIMER):
            name, kind = _parts(unit)
            if kind == "socket":
                known["sockets"].pop(name, None)
            if kind == "service" or f"Requires={unit}" in known["read"].get(f"precog-miner@{name}.service.d", ""):
                self._end(known, name)
        self._remember(known)
        return ""

    def _end(self, known: dict, name: str) -> None:
        process = known["processes"].pop(name, None)
        if process:
            for file in ("environ", "limits"):
                self.at(f"/proc/{process['pid']}/{file}").unlink(missing_ok=True)

    def _restart(self, units, _argv):
        known = self.known()
        if TIMER in units:
            assert self.at(f"{UNITS}/{TIMER}").is_file()
            known["guarded"] = True
        for unit in (unit for unit in units if unit != TIMER):
            name, kind = _parts(unit)
            if kind == "socket":
                known["sockets"].pop(name, None)
                self._listen(known, name)
            else:
                self._end(known, name)
                self._begin(known, name)
        self._remember(known)
        return ""

    def reboot(self) -> None:
        """Start anew, as far as the sockets: the services wait for the guard."""
        known = self.known()
        for name in list(known["processes"]):
            self._end(known, name)
        known.update(sockets={}, failed=[], read=self._on_disk())
        for unit in self.enabled():
            name, kind = _parts(unit)
            # Of two units that a killed run left with one port, the first has it.
            with suppress(HostError):
                if kind == "socket":
                    self._listen(known, name)
        self._remember(known)

    def _listen(self, known: dict, name: str) -> None:
        text = self._unit(known, f"precog-miner@{name}.socket")
        if text is None:
            raise HostError(f"Unit precog-miner@{name}.socket not found")
        port = int(re.search(r"ListenStream=.*:(\d+)", text)[1])
        self._expect_free(known, name, port)
        known["sockets"][name] = [port]

    def _expect_free(self, known: dict, name: str, port: int) -> None:
        held = {other: numbers for other, numbers in known["sockets"].items() if other != name}
        held.update({other: held.get(other, []) + one["ports"] for other, one in known["processes"].items()})
        for other, numbers in held.items():
            if other != name and port in numbers:
                raise HostError(f"precog-miner@{name}: Address already in use")

    def _begin(self, known: dict, name: str) -> None:
        """Start a process of what is current, with the units that systemd has read."""
        own = self._unit(known, f"precog-miner@{name}.service.d") or ""
        if f"Requires=precog-miner@{name}.socket" in own and name not in known["sockets"]:
            self._listen(known, name)
        folder = self.at(f"/opt/precog/current/instances/{name}")
        digest = (folder / "environment").read_text().splitlines()[0].partition("=")[2]
        known["failed"] = [other for other in known.get("failed", []) if other != name]
        if self.bad.get(digest) == CAN_NOT_START:
            known["failed"].append(name)
            return
        port = int((folder / "start").read_text())
        by_itself = [] if name in known["sockets"] else [port]
        for number in by_itself:
            self._expect_free(known, name, number)
        known["pids"] += 1
        pid = known["pids"]
        known["processes"][name] = {"pid": pid, "digest": digest, "ports": by_itself, "port": port}
        nofile = re.search(r"LimitNOFILE=(\d+)", own)
        limit = nofile[1] if nofile else "1024"
        self.put(f"/proc/{pid}/environ", f"{DIGEST}={digest}\0")
        self.put(
            f"/proc/{pid}/limits", f"Max open files            {limit}                 {limit}                files\n"
        )
        self.at(f"/run/precog-miner/{name}").mkdir(parents=True, exist_ok=True)

    def put(self, path: str, content: str) -> None:
        self.at(path).parent.mkdir(parents=True, exist_ok=True)
        beside = self.tree.with_name(f"{self.tree.name}.beside")
        beside.write_text(content)
        beside.replace(self.at(path))

    # -- the gate ---------------------------------------------------------------------------------------------------

    def answers(self, instance: Instance) -> str:
        """Return "" if an instance answers rightly at its port, or why not."""
        known = self.known()
        process = known["processes"].get(instance.name)
        if process is None:
            return "nothing runs"
        reached = process["ports"] or known["sockets"].get(instance.name, [])
        if instance.port not in reached or process["port"] != instance.port:
            return f"nothing answers at port {instance.port}"
        if self.at(f"/run/precog-miner/{instance.name}/drain").is_symlink() or (
            self.at(f"/run/precog-miner/{instance.name}/drain").exists()
        ):
            return "it is drained"
        return self.bad.get(process["digest"], "")


def _parts(unit: str) -> tuple[str, str]:
    name, _dot, kind = unit[len("precog-miner@") :].rpartition(".")
    return name, kind


def make_systemd(folder: Path) -> MadeSystemd:
    """A host on which no miner was ever."""
    folder.mkdir(parents=True)
    host = MadeSystemd(folder)
    for path in (UNITS, "/run/precog-miner", "/proc", "/opt/precog"):
        host.at(path).mkdir(parents=True)
    host.at("/etc/passwd").write_bytes(PASSWD)
    return host


def gate_of(host: MadeSystemd, monkeypatch) -> list[tuple[str, str]]:
    """Put a gate in front of the made-up processes; return the list of what it was asked: the kind, and the name."""
    asked: list[tuple[str, str]] = []

    def wait_ready(instance, _limits, alive, _demand):
        asked.append(("ready", instance.name))
        return alive() or ("" if host.known()["processes"].get(instance.name) else "not ready")

    def soak(instance, _before, _limits, _demand, _memory):
        asked.append(("soak", instance.name))
        host.asked.append(f"soak {instance.name}")
        wrong = host.answers(instance)
        return FIGURES, [wrong] if wrong else []

    def measure(instance, _limits, _seconds):
        asked.append(("measure", instance.name))
        return FIGURES

    monkeypatch.setattr(rollout.ask, "wait_ready", wait_ready)
    monkeypatch.setattr(rollout.ask, "soak", soak)
    monkeypatch.setattr(rollout.ask, "measure", measure)
    monkeypatch.setattr(rollout.systemd, "holders", lambda _port: {})
    monkeypatch.setattr(prices.source, "ask", lambda _source, _max_age_s: Market())
    return asked


def instance(name: str, version: str, port: int, engine: str = "runtime") -> Instance:
    """An instance whose digest names its version and its port."""
    return Instance(name, engine, "127.0.0.1", port, "127.0.0.1", port, (), f"{version}-{name}-{port}")


def made_plan(release: str, *instances: Instance, nofile: int = 1024) -> Plan:
    """A release of these instances, in the shape that `plan` gives it."""
    files = {
        "release.json": File(json.dumps({"instances": [one._asdict() for one in instances]}).encode(), 0o644),
    }
    units = {TEMPLATE: b"[Service]\n", "precog-miner@.timer": b"[Timer]\n"}
    for one in instances:
        socket = f"precog-miner@{one.name}.socket"
        requires = ""
        if one.engine == "runtime":
            units[socket] = f"[Socket]\nListenStream=127.0.0.1:{one.port}\n".encode()
            requires = f"[Unit]\nRequires={socket}\n"
        drop_in = f"precog-miner@{one.name}.service.d/10-instance.conf"
        units[drop_in] = f"{requires}[Service]\nLimitNOFILE={nofile}:{nofile}\n".encode()
        files[f"instances/{one.name}/start"] = File(f"{one.port}\n".encode(), 0o755)
        files[f"instances/{one.name}/environment"] = File(f"{DIGEST}={one.digest}\n".encode(), 0o600)
    return Plan(release, files, units, {}, instances, ())


def know(host: MadeSystemd, *plans: Plan) -> None:
    """Have what an inventory may say: `roll` puts a release of these on the host, as a run without a name does."""
    host.plans.update({plan.release: plan for plan in plans})


def store_of(host: Host) -> Store:
    return Store(host, "/opt/precog")


def roll(host: MadeSystemd, release: str, *, check: bool = False, **params) -> miner.Outcome:
    """Roll a release out."""
    if release in host.plans:
        store_of(host).save(host.plans[release], {})
    return miner.deploy(host, {**PARAMS, "release": release, **params}, check_mode=check)


def statuses(outcome: miner.Outcome) -> dict[str, str]:
    return {row["name"]: row["status"] for row in outcome.settings}


def inventory_of(host: MadeSystemd, monkeypatch) -> Callable[..., miner.Outcome]:
    """Return a function that rolls out what an inventory makes: one of the plans that the host knows, by its name."""
    monkeypatch.setattr(size, "small", lambda *_args: [])

    def run(release: str, *, check: bool = False, **params) -> miner.Outcome:
        monkeypatch.setattr(miner, "_planned", lambda *_args, **_mode: (host.plans[release], {}))
        return miner.deploy(host, {**PARAMS, **params}, check_mode=check)

    return run
