"""The fleet of the rollout: releases to roll out, playbook runs, and clients that ask every host all the time."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import pytest

SCENARIO = Path(__file__).parents[1]
PROJECT = SCENARIO.parents[1]
HOSTS = ("roll-1", "roll-2", "roll-3")
PORT = 8092
MINERS = ("precog-miner@main.service", "precog-miner@market.service")

BAD = ("crashes", "wrong", "tenfold", "slow")
# A variable of this host alone, with which its miner can't start: the second batch fails where the canary passed.
UNFIT = "roll-2"
UNFIT_VARIABLES = {"PRECOG_RUNTIME_API_URL": "http://127.0.0.1:8900/v4", "PRECOG_RUNTIME_DEADLINE_S": "-1"}

# What makes each release another one than the first: a text of the runtime's source, and what stands there instead.
RELEASES = {
    "good": ("__init__.py", '__version__ = "0.1.0"', '__version__ = "0.2.0"'),
    "third": ("__init__.py", '__version__ = "0.1.0"', '__version__ = "0.3.0"'),
    "crashes": (
        "serve.py",
        "    use_uvloop()\n    asyncio.run",
        '    raise OSError("a broken release")\n    asyncio.run',
    ),
    "wrong": ("serve.py", '"predictions": answer.predictions(),', '"predictions": {"btc": -1.0},'),
    "tenfold": (
        "serve.py",
        '"predictions": answer.predictions(),\n        "intervals": answer.intervals(),',
        '"predictions": {name: 10 * one for name, one in answer.predictions().items()},\n'
        '        "intervals": {name: [10 * low, 10 * high] for name, (low, high) in answer.intervals().items()},',
    ),
    "slow": (
        "serve.py",
        "        return _json(status(answer, self._settings), body(answer))",
        "        await asyncio.sleep(1.5)\n        return _json(status(answer, self._settings), body(answer))",
    ),
}


@dataclass(frozen=True)
class Run:
    """A run of the playbook: its code, all that it printed, and its report."""

    code: int
    output: str
    hosts: dict

    def touched(self) -> set[str]:
        """The hosts that the release came to; all of them are asked before whether they can be reached."""
        return {name for name, host in self.hosts.items() if host["settings"]}


class Client(threading.Thread):
    """Asks a host, from this machine and through SSH, a few times a second; keeps what came back.

    Each request has a connection of its own. `seen` has its begin, and "" or what was wrong with its answer.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__(name=host, daemon=True)
        self.seen: list[tuple[float, str]] = []
        self._port = port
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.2):
            began = time.monotonic()
            self.seen.append((began, self._ask()))

    def end(self) -> None:
        self._ended.set()
        self.join()

    def _ask(self) -> str:
        try:
            return ask(self._port)
        except Exception as error:  # whatever it is: it is no right answer, and the next one is asked for
            return repr(error)


def ask(port: int) -> str:
    """Ask a miner; return "", or what is wrong with its answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=16)
    try:
        connection.request("POST", "/predict", body="{}")
        answer = connection.getresponse()
        return judged(answer.status, json.loads(answer.read()))
    finally:
        connection.close()


def judged(status: int, answer: dict) -> str:
    """Whether an answer is right: every asset with a price inside its interval."""
    prices, intervals = answer.get("predictions", {}), answer.get("intervals", {})
    right = {asset for asset, (low, high) in intervals.items() if 0 < low <= prices.get(asset, -1) <= high}
    return "" if status == 200 and right == {"btc", "eth", "tao_bittensor"} else f"HTTP {status}: {answer}"


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes a release's source: the runtime with one thing in it changed."""

    def make(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind) / "runtime"
        folder.mkdir()
        for name in ("pyproject.toml", "README.md"):
            shutil.copy(PROJECT / "runtime" / name, folder)
        shutil.copytree(PROJECT / "runtime/src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
        name, text, instead = RELEASES[kind]
        file = folder / "src/precog_runtime" / name
        source = file.read_text()
        assert source.count(text) == 1, f"{name} has no such line any more: {text}"
        file.write_text(source.replace(text, instead))
        return folder

    return make


@pytest.fixture(scope="session")
def roll_out(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """Runs the playbook on the fleet with a release's source, and with variables of single hosts."""

    def run(source: Path, hosts: dict[str, dict] | None = None) -> Run:
        folder = tmp_path_factory.mktemp("run")
        report, more = folder / "report.json", folder / "more.json"
        more.write_text(json.dumps({"miners": {"hosts": hosts or {}}}))
        packages = {"python_env_packages": [str(source)]}
        argv = ["ansible-playbook", "-i", str(SCENARIO / "inventory"), "-i", str(more)]
        argv.append(str(PROJECT / "playbooks/miner.yml"))
        environ = {**os.environ, "PRECOG_FLEET_REPORT": str(report), "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg")}
        done = subprocess.run(
            [*argv, "--extra-vars", json.dumps(packages)],
            cwd=PROJECT,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )
        return Run(done.returncode, done.stdout + done.stderr, json.loads(report.read_text())["hosts"])

    return run


def free_ports(count: int) -> list[int]:
    """Ports that nobody has; all are held until the last is found, as the kernel may give a free one out again."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@pytest.fixture(scope="session")
def ports(fleet_folder: Path) -> Iterator[dict[str, int]]:
    """A port of this machine for each host, that leads to its miner through SSH."""
    found = dict(zip(HOSTS, free_ports(len(HOSTS)), strict=True))
    tunnels = []
    try:
        for name, port in found.items():
            forward = f"127.0.0.1:{port}:127.0.0.1:{PORT}"
            argv = ["ssh", "-F", str(fleet_folder / "ssh_config"), "-o", "ControlPath=none"]
            argv += ["-o", "ExitOnForwardFailure=yes", "-N", "-L", forward, name]
            tunnels.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL))
        for port, tunnel in zip(found.values(), tunnels, strict=True):
            wait_for(port, tunnel)
        yield found
    finally:
        for tunnel in tunnels:
            tunnel.terminate()
            tunnel.wait()


def wait_for(port: int, tunnel: subprocess.Popen) -> None:
    """Waits until a tunnel listens."""
    end = time.monotonic() + 30
    while True:
        assert tunnel.poll() is None, f"the tunnel from {port} has ended"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < end, f"nothing listens at {port}"
            time.sleep(0.1)


@dataclass(frozen=True)
class Step:
    """A rollout: its run, when it began and ended, and what each host was before it and is after it.

    `versions` is what its miner says of itself afterwards, `wrong` what is wrong with an answer then, or "".
    """

    run: Run
    began: float
    ended: float
    before: dict[str, str]
    after: dict[str, str]
    versions: dict[str, str]
    wrong: dict[str, str]


@dataclass(frozen=True)
class Story:
    """All that happened, in its order."""

    steps: dict[str, Step]
    clients: dict[str, Client]

    def asked(self, host: str, kind: str) -> list[str]:
        """What was wrong with a host's answers during a step: one text a request, "" for a right one."""
        step = self.steps[kind]
        return [told for began, told in self.clients[host].seen if step.began <= began <= step.ended]

    def errors(self, host: str, kind: str) -> list[str]:
        """What was wrong with a host's answers to requests during a step."""
        return [told for told in self.asked(host, kind) if told]


def version(port: int) -> str:
    """What a host's miner says of itself."""
    connection = HTTPConnection("127.0.0.1", port, timeout=16)
    try:
        connection.request("GET", "/healthz")
        found: str = json.loads(connection.getresponse().read())["version"]
        return found
    finally:
        connection.close()


@pytest.fixture(scope="session")
def look(fleet_folder: Path) -> Callable[[], dict[str, str]]:
    """Looks at every host: the processes of its miners, since when they run, and which release is current."""
    properties = "--property=Id,MainPID,ActiveEnterTimestampMonotonic"
    command = f"systemctl show {properties} {' '.join(MINERS)}; readlink /opt/precog/current"

    def run() -> dict[str, str]:
        argv = ["ssh", "-F", str(fleet_folder / "ssh_config"), "-o", "ControlPath=none"]
        return {name: subprocess.check_output([*argv, name, command], text=True) for name in HOSTS}

    return run


def kinds(session: pytest.Session) -> set[str]:
    """The steps that the tests of this run are about: those of the slow tests are left out where these are."""
    return {item.callspec.params["kind"] for item in session.items if "kind" in getattr(item, "fixturenames", ())}


@pytest.fixture(scope="session")
def story(
    request: pytest.FixtureRequest,
    release: Callable[[str], Path],
    roll_out: Callable[..., Run],
    look: Callable[[], dict[str, str]],
    ports: dict[str, int],
) -> Iterator[Story]:
    """Rolls the releases out one after the other, while clients ask all hosts."""
    clients = {name: Client(name, port) for name, port in ports.items()}
    for client in clients.values():
        client.start()
    story, wanted = Story({}, clients), kinds(request.session)
    unfit = {UNFIT: {"miner_service_variables": UNFIT_VARIABLES}}
    try:
        good, third = release("good"), release("third")
        steps = [
            ("good", good, {}),
            *((bad, release(bad), {}) for bad in BAD),
            ("good again", good, {}),
            ("third, unfit for one", third, unfit),
            ("third, mended", third, {}),
        ]
        for kind, source, hosts in [step for step in steps if step[0] in wanted]:
            before, began = look(), time.monotonic()
            run = roll_out(source, hosts)
            ended, after = time.monotonic(), look()
            versions = {name: version(port) for name, port in ports.items()}
            wrong = {name: ask(port) for name, port in ports.items()}
            story.steps[kind] = Step(run, began, ended, before, after, versions, wrong)
    finally:
        for client in clients.values():
            client.end()
    yield story
