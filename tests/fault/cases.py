"""The kinds of settings whose runs meet trouble here: for each a machine, two wishes, and the files that it manages."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ansible_collections.precog.fleet.plugins.module_utils._engine import run as engine
from ansible_collections.precog.fleet.plugins.module_utils._settings.swap.tables import unit_of
from ansible_collections.precog.fleet.tests.unit import (
    made_cpufreq,
    made_host,
    made_limits,
    made_swap,
)

BY_HAND = b"# by hand\n\xff\n"
FSTAB_UNITS = {
    f"UUID={made_swap.UUID}": unit_of(f"/dev/disk/by-uuid/{made_swap.UUID}"),
    "/swap\\040file": unit_of("/swap file"),
}


class Machine(made_host.MadeHost):
    """A made-up host whose kernel and systemd outlive the process that spoke to them, as the real ones do.

    What they know beyond the tree lies in a file beside it. That file, and each of the kernel's, is replaced at once.
    """

    knows: tuple[str, ...] = ()
    """The attributes to be remembered."""

    def put(self, path: str, content: str | bytes, mode: int = 0o644) -> None:
        place, beside = self.at(path), self.tree / made_host.BESIDE
        if not place.parent.is_dir():
            place.parent.mkdir(parents=True)
        beside.write_bytes(content.encode() if isinstance(content, str) else content)
        beside.chmod(mode)
        beside.replace(place)

    def remember(self) -> None:
        """Let what is known now outlive this process."""
        beside = self._memory.with_suffix(".next")
        beside.write_text(json.dumps({name: getattr(self, name) for name in self.knows}))
        beside.replace(self._memory)

    def recall(self) -> None:
        """Know what was remembered, by this process or by another."""
        for name, value in self.known().items():
            setattr(self, name, value)

    def known(self) -> dict:
        """Return what is remembered."""
        return json.loads(self._memory.read_text())

    @property
    def _memory(self) -> Path:
        return self.tree.with_name(f"{self.tree.name}.memory")


class LimitsMachine(Machine, made_limits.MadeLimitsHost):
    """With a systemd that keeps what it has read."""

    knows = ("defaults", "units")

    def run(self, argv):
        said = super().run(argv)
        if argv[1] != "show":
            self.remember()
        return said


class SwapMachine(Machine, made_swap.MadeSwap):
    """With a kernel that keeps areas on, and a systemd that makes units of fstab when it is told to."""

    knows = ("areas", "on", "available", "generated")
    generated: tuple[str, ...] = tuple(FSTAB_UNITS.values())

    def swapon(self, path: str, flags: int) -> None:
        super().swapon(path, flags)
        self.remember()

    def swapoff(self, path: str) -> None:
        super().swapoff(path)
        self.remember()

    def run(self, argv):
        said = super().run(argv)
        if argv[1] == "daemon-reload":
            specs = [line.split()[0] for line in self.text(made_swap.FSTAB).split("\n") if line.strip()]
            self.generated = tuple(unit for spec, unit in FSTAB_UNITS.items() if spec in specs)
            self.remember()
            self._generate()
        return said

    def recall(self) -> None:
        super().recall()
        self.show()
        self._generate()

    def _generate(self) -> None:
        for unit in FSTAB_UNITS.values():
            path = f"/run/systemd/generator/{unit}"
            if unit in self.generated:
                self.put(path, "[Unit]\nSourcePath=/etc/fstab\n")
            else:
                self.at(path).unlink(missing_ok=True)


class CpuMachine(Machine, made_cpufreq.MadeCpu):
    """Its kernel is all in the tree."""

    def run(self, argv):
        self._step()
        return super().run(argv)


class Case(NamedTuple):
    """One kind of setting.

    :ivar make: builds a machine in a folder that is not there yet.
    :ivar first: applies one wish. It and the others take a machine, and `check`.
    :ivar second: applies another wish, for which the machine changes again.
    :ivar absent: gives everything back.
    :ivar files: in how many versions each managed file comes, none at all counted; below /etc there are no others.
    """

    make: Callable[[Path], Machine]
    first: Callable[..., engine.Report]
    second: Callable[..., engine.Report]
    absent: Callable[..., engine.Report]
    files: dict[str, int]


def _ready(host: Machine, *by_hand: str) -> Machine:
    """With files by hand in the place of managed ones."""
    for path in by_hand:
        host.put(path, BY_HAND, 0o640)
    host.remember()
    host.recall()
    return host


def _sysctl(folder: Path) -> Machine:
    return _ready(made_host.make_host(folder, kind=Machine), made_host.OURS)


def _limits(folder: Path) -> Machine:
    return _ready(made_limits.make_limits_host(folder, kind=LimitsMachine), made_limits.PAM)


def _swap(folder: Path) -> Machine:
    host = made_swap.make_swap(folder, kind=SwapMachine)
    # What an area held before it was turned off does not come back, so nothing is held: all bytes can be compared.
    host.areas = {path: (size, 0) for path, (size, _used) in host.areas.items()}
    return _ready(host)


def _cpu(folder: Path) -> Machine:
    return _ready(made_cpufreq.make_cpu(folder, kind=CpuMachine), made_cpufreq.UNIT)


IDLE = made_limits.DROP_IN.replace("miner", "idle")
MASK = f"{made_swap.UNITS}/dev-zram0.swap"
CASES = {
    "sysctl": Case(
        _sysctl,
        partial(made_host.apply, parameters={"vm.swappiness": 10, "net.ipv4.tcp_rmem": [4096, 65536, 134217728]}),
        partial(made_host.apply, parameters={"vm.swappiness": 20, "vm.vfs_cache_pressure": 50}),
        made_host.absent,
        {made_host.OURS: 3},
    ),
    "limits": Case(
        _limits,
        partial(
            made_limits.apply,
            parameters={"root": {"nofile": 65536}, "alice": {"core": 0}},
            systemd={"nofile": "2048:4096"},
            services={"miner": {"nofile": 65536}},
        ),
        partial(
            made_limits.apply,
            parameters={"root": {"nofile": 4096}},
            services={"miner": {"nofile": 4096}, "idle": {"nproc": 100}},
        ),
        made_limits.absent,
        {made_limits.PAM: 3, made_limits.MANAGER: 2, made_limits.DROP_IN: 3, IDLE: 2},
    ),
    "swap": Case(
        _swap,
        made_swap.turn,
        partial(made_swap.turn, mode="on"),
        partial(made_swap.turn, mode=None),
        {made_swap.FSTAB: 2, MASK: 2},
    ),
    "cpu": Case(
        _cpu,
        made_cpufreq.tune,
        partial(made_cpufreq.tune, governor="powersave", scaling_max_freq=2400000),
        made_cpufreq.give_back,
        {made_cpufreq.UNIT: 3, made_cpufreq.WANT: 2},
    ),
}


class Moment(NamedTuple):
    """Which run of a case meets trouble, and what was run before it."""

    before: str | None
    run: str


MOMENTS = {
    "first apply": Moment(None, "first"),
    "change": Moment("first", "second"),
    "absent": Moment("first", "absent"),
}


def prepare(case: Case, moment: Moment, host: Machine) -> None:
    """Bring a machine to where a moment begins."""
    if moment.before is not None:
        getattr(case, moment.before)(host)


def everything(host: Machine) -> tuple[dict, dict]:
    """Return what a rollback has to bring back: every byte of the tree but the ledger's, and what programs know."""
    return made_host.files_of(host), host.known()
