"""What hosts die of, done to a machine: how its runs are cut off, and what is looked at afterwards."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from local_vm.look import FOLDERS, PARTS
from testinfra.host import Host

SCENARIO = Path(__file__).parents[1]
ROOT = SCENARIO.parents[1]
TUNE = SCENARIO / "tune.yml"
LEDGER = "/var/lib/precog-fleet/ledger.json"
# On the machine; gone with its memory.
HERE = "/run/precog-faults"
OWN = Path(__file__).parent
UNTUNED, TUNED = "untuned", "tuned"
PROGRAMS = (SCENARIO.parent / "record.py", OWN / "lock_watch.py", OWN / "hold_memory.py")


class Seen(NamedTuple):
    """What the machine is like: the kernel's values, and a fingerprint of each file below /etc."""

    values: dict
    files: dict


class Cut(NamedTuple):
    """How a run ended that was to be cut off: what became of it, and ansible-playbook's exit code and words."""

    said: str
    code: int
    output: str


class Machine:
    """The machine under test, reached over one connection that is kept: a login takes seconds there.

    Its states are saved with memory and disk, and restored in seconds; what the tests left behind is gone then.
    """

    here, tuned = HERE, TUNED

    def __init__(self, host: Host, options: object, play: Callable, states: set[str]) -> None:
        self.host, self.name, self.play, self.states = host, host.backend.get_hostname(), play, states
        # One connection for all, testinfra's commands included.
        self._ssh = ["ssh", "-F", options.ssh_config, "-o", "ControlMaster=auto", "-o", "ControlPersist=5s", self.name]
        self._kept: subprocess.Popen | None = None

    def connect(self) -> None:
        """Log in, and bring the programs that look at the machine."""
        self._log_in()
        for program in PROGRAMS:
            place = f"{HERE}/{program.name}"
            command = f"sudo mkdir -p {HERE} && sudo tee {place} >/dev/null"
            subprocess.run([*self._ssh, command], input=program.read_text(), text=True, check=True)

    def _log_in(self) -> None:
        self.disconnect()
        self._kept = subprocess.Popen([*self._ssh, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._kept.stdin.write("here\n")
        self._kept.stdin.flush()
        assert self._kept.stdout.readline() == "here\n"

    def save(self, state: str) -> None:
        """Save the machine as it is now."""
        local_vm("save", self.name, state)
        self.states.add(state)

    def restore(self, state: str) -> None:
        """Put the machine back to a state, with the programs that were there."""
        self.disconnect()
        local_vm("restore", self.name, state)
        self._log_in()

    def be_tuned(self) -> None:
        """Be as after a run of the roles on the untuned machine: by the state that the first such run left."""
        if TUNED in self.states:
            self.restore(TUNED)
        else:
            self.tune()
            self.save(TUNED)

    def disconnect(self) -> None:
        """Log out, and end the connection, which another state of the machine knows nothing of."""
        if self._kept:
            self._kept.communicate()
            self._kept = None
            subprocess.run([*self._ssh[:-1], "-O", "exit", self.name], capture_output=True, check=False)

    def seen(self) -> Seen:
        """Look at it."""
        wanted = shlex.join([*PARTS, "--", *FOLDERS])
        return Seen(**json.loads(self.host.check_output(f"python3 {HERE}/record.py {wanted}")))

    def swaps(self) -> list[str]:
        """The active swap areas, with kind, size and priority."""
        lines = self.host.file("/proc/swaps").content_string.splitlines()[1:]
        return sorted(" ".join(field for at, field in enumerate(line.split()) if at != 3) for line in lines)

    def ledger(self) -> str | None:
        """The bytes of the originals' ledger, None without one."""
        file = self.host.file(LEDGER)
        return file.content_string if file.exists else None

    def tune(self, wanted: str = "present", *, code: int = 0, **variables: object):
        """Run the roles, or their rollback, to the end."""
        return self.play(TUNE, {"wanted": wanted, **variables}, code=code)

    @contextmanager
    def watch(self, number: int, pause: float | None) -> Iterator[subprocess.Popen]:
        """Watch for a module run; see lock_watch.py."""
        command = f"sudo python3 {HERE}/lock_watch.py {number} {'-' if pause is None else pause}"
        with subprocess.Popen([*self._ssh, command], stdout=subprocess.PIPE, text=True) as watch:
            assert watch.stdout.readline() == "ready\n"
            try:
                yield watch
            finally:
                watch.terminate()

    def kill_during(self, wanted: str, number: int, pause: float) -> Cut:
        """Start the roles, and kill one of their modules with SIGKILL."""
        with self.watch(number, pause) as watch:
            run = self._begin(wanted)
            output = run.communicate()[0]
            said = watch.stdout.read().split()[-1]
        return Cut(said, run.returncode, output)

    def lose_power_during(self, wanted: str, number: int, pause: float) -> Cut:
        """Start the roles, and take the power from the machine meanwhile; then boot it again."""
        try:
            with self.watch(number, None) as watch:
                run = self._begin(wanted)
                assert watch.stdout.readline() in ("held\n", "ended\n")
                with suppress(subprocess.TimeoutExpired):
                    watch.wait(pause)
                local_vm("kill", self.name)
                output = run.communicate()[0]
                said = "power lost"
        finally:
            self.boot()
        return Cut(said, run.returncode, output)

    def boot(self) -> None:
        """Give it its power back."""
        self.disconnect()
        local_vm("start", self.name)
        self.connect()

    def _begin(self, wanted: str) -> subprocess.Popen:
        command = ["ansible-playbook", "--inventory", str(SCENARIO / "inventory"), "--limit", self.name, str(TUNE)]
        command += ["--extra-vars", json.dumps({"wanted": wanted})]
        env = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
        return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def local_vm(command: str, name: str, *state: str) -> None:
    """What happens to a machine from outside."""
    subprocess.run([ROOT / "bin" / "local-vm", command, "vm-faults", name, *state], check=True)


@pytest.fixture(scope="session")
def states() -> set[str]:
    """The states that this run has saved."""
    return set()


@pytest.fixture(scope="module")
def machine(host: Host, play: Callable, states: set[str], request: pytest.FixtureRequest) -> Iterator[Machine]:
    """The machine under test, untuned, whatever the module before has done to it."""
    found = Machine(host, request.config.option, play, states)
    if UNTUNED in states:
        found.restore(UNTUNED)
    else:
        found.connect()
        found.save(UNTUNED)
    yield found
    found.disconnect()
