"""podman, as the local fleet calls it. What to pass it is chosen from facts, by pure functions."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shlex
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from local_fleet.model import FleetError, Host, Problem
from local_fleet.process import Failed, Runner

LABEL = "precog.fleet"
# What a systemd unit may want; above this a larger limit only makes programs scan longer tables.
MOST_FILES = 1_048_576
_INIT = Path(__file__).with_name("guest-init.sh")
_RUNTIMES = ("crun", "runc")
# Certificates that this machine trusts beyond Debian's own, as behind a company's proxy: its hosts need them as much.
_CERTIFICATES = Path("/usr/local/share/ca-certificates")


@dataclass(frozen=True)
class Facts:
    """What decides how the engine is called.

    *files* and *processes* are this process's hard limits (RLIM_INFINITY is -1); *runtime* is empty for the default.
    *most_processes* is the kernel's pid_max, to which podman lowers its own limit before it starts anything.
    *certificates* is the folder of those that this machine trusts beyond Debian's own; empty where there are none.
    """

    name: str
    extra: tuple[str, ...]
    runtime: str
    files: int
    processes: int
    most_processes: int
    certificates: str = ""


def global_argv(facts: Facts) -> list[str]:
    """The engine's command up to its verb."""
    runtime = ["--runtime", facts.runtime] if facts.runtime else []
    return [facts.name, *runtime, *facts.extra]


def limit(hard: int, most: int) -> int:
    """The highest limit a container may get: at most *most*, and not above the *hard* one here (-1: there is none)."""
    return most if hard == resource.RLIM_INFINITY else min(hard, most)


def run_argv(facts: Facts, host: Host, cache: str, init: str, public_key: str) -> list[str]:
    """The whole command that starts *host*; *cache* is the id of the cache whose fleets are ours."""
    files, processes = limit(facts.files, MOST_FILES), limit(facts.processes, facts.most_processes)
    labels = {
        LABEL: cache,
        f"{LABEL}.fleet": host.fleet,
        f"{LABEL}.host": host.name,
        f"{LABEL}.suite": host.suite,
        f"{LABEL}.port": str(host.port),
        f"{LABEL}.image": host.image,
    }
    return [
        *global_argv(facts),
        "run",
        "--detach",
        "--privileged",
        "--systemd=always",
        f"--name={host.container}",
        f"--hostname={host.name}",
        f"--ulimit=nofile={files}:{files}",
        f"--ulimit=nproc={processes}:{processes}",
        *(f"--label={key}={value}" for key, value in labels.items()),
        f"--publish=127.0.0.1:{host.port}:22",
        *([f"--volume={facts.certificates}:{_CERTIFICATES}:ro"] if facts.certificates else []),
        host.image,
        "/bin/sh",
        "-c",
        init,
        "precog-host",
        public_key,
    ]


def parse_hosts(inspected: str, cache: str) -> list[Host]:
    """The hosts among what `inspect` printed (a JSON list) that carry the label of *cache*."""
    hosts = []
    for container in json.loads(inspected or "[]"):
        labels: dict[str, Any] = container["Config"].get("Labels") or {}
        if labels.get(LABEL) == cache:
            hosts.append(
                Host(
                    fleet=labels[f"{LABEL}.fleet"],
                    name=labels[f"{LABEL}.host"],
                    suite=labels[f"{LABEL}.suite"],
                    port=int(labels[f"{LABEL}.port"]),
                    image=labels[f"{LABEL}.image"],
                    container=container["Name"],
                    running=container["State"]["Status"] == "running",
                )
            )
    return sorted(hosts)


class Engine:
    """podman on this machine, for the fleets of one cache."""

    def __init__(self, runner: Runner, cache: Path, facts: Facts) -> None:
        self._runner, self.cache, self.facts = runner, cache, facts
        # Two caches on one machine may both have a fleet `demo`: what tells their containers apart.
        self.cache_id = hashlib.sha256(str(cache).encode()).hexdigest()[:6]
        # podman's default limits exceed the hard ones where CAP_SYS_RESOURCE is missing, and then nothing starts.
        self._env = {"CONTAINERS_CONF": str(cache / "containers.conf")}
        write_if_other(cache / "containers.conf", "[containers]\ndefault_ulimits = []\n")

    def with_runner(self, runner: Runner) -> Engine:
        """The same engine, for cleaning up after *runner*'s predecessor was stopped."""
        return Engine(runner, self.cache, self.facts)

    def call(self, *args: str, timeout: float = 300) -> str:
        """Runs the engine's verb and arguments, and returns its output; raises Failed."""
        return self._runner.run([*global_argv(self.facts), *args], env=self._env, timeout=timeout)

    def has_image(self, tag: str) -> bool:
        """Whether the engine holds the image."""
        try:
            self.call("image", "inspect", "--format", "{{.Id}}", tag)
        except Failed:
            return False
        return True

    def pull(self, tag: str) -> None:
        """Fetches an image from its registry; raises Failed."""
        self.call("pull", "--quiet", tag, timeout=1800)

    def load(self, tar: Path, tag: str) -> None:
        """Makes the root file system in *tar* an image; whole or not at all."""
        self.call("import", str(tar), tag)

    def derive(self, image: str, tag: str, script: str) -> None:
        """Makes what a shell script turns *image* into another one, *tag*; whole or not at all. Raises Failed."""
        name = f"precog-{self.cache_id}-{tag.rpartition('/')[2].replace(':', '-')}"
        with suppress(Failed):  # what a killed run left
            self.call("rm", "--force", name)
        try:
            self.call("run", f"--name={name}", "--privileged", image, "/bin/sh", "-ec", script, timeout=1800)
            self.call("commit", "--quiet", name, tag)
        finally:
            self.call("rm", "--force", name)

    def drop_images(self, tag: str) -> None:
        """Removes images of the same name as *tag* with other recipes, where no container uses them."""
        name = tag.rpartition(":")[0]
        listed = self.call("images", "--format", "{{.Repository}}:{{.Tag}}", name).split()
        for other in {*listed} - {tag}:
            try:
                self.call("rmi", other)
            except Failed:  # a host of another fleet still runs it
                continue

    def hosts(self, fleet: str | None = None) -> list[Host]:
        """The hosts of one fleet of this cache, or of all."""
        ids = self.call("ps", "--all", "--quiet", "--no-trunc", "--filter", f"label={LABEL}={self.cache_id}").split()
        found = parse_hosts(self.call("inspect", *ids), self.cache_id) if ids else []
        return [host for host in found if fleet in (None, host.fleet)]

    def run(self, host: Host, public_key: str) -> None:
        """Creates and starts the container of *host*."""
        argv = run_argv(self.facts, host, self.cache_id, _INIT.read_text(), public_key)
        self._runner.run(argv, env=self._env)

    def start(self, host: Host) -> None:
        """Starts a container that was stopped, as after a reboot of the machine."""
        self.call("start", host.container)

    def remove(self, hosts: Sequence[Host]) -> None:
        """Removes the hosts' containers; those that aren't there are no error."""
        if hosts:
            self.call("rm", "--force", "--volumes", *(host.container for host in hosts))

    def execute(self, host: Host, *argv: str) -> str:
        """Runs *argv* as root in the host's container and returns its output; raises Failed."""
        return self.call("exec", host.container, *argv)


def write_if_other(path: Path, text: str) -> None:
    """Writes *text* unless it stands there already; atomically, for others may read it now."""
    if path.exists() and path.read_text() == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    part.write_text(text)
    part.replace(path)


def last_line(output: str) -> str:
    """The last line of what a program said, which names the cause; a remark when it said nothing."""
    return (output.strip().splitlines() or ["no message"])[-1]


def basic_facts(environ: dict[str, str]) -> Facts:
    """The facts that need no image: the engine's name, its extra arguments, this process's limits.

    Raises FleetError when the engine is missing or needs root.
    """
    name = environ.get("PRECOG_FLEET_ENGINE") or "podman"
    extra = tuple(shlex.split(environ.get("PRECOG_FLEET_ENGINE_ARGS", "")))
    facts = Facts(
        name,
        extra,
        "",
        resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        resource.getrlimit(resource.RLIMIT_NPROC)[1],
        int(Path("/proc/sys/kernel/pid_max").read_text()),
        str(_CERTIFICATES) if any(_CERTIFICATES.glob("*.crt")) else "",
    )
    problems = []
    if not shutil.which(name):
        problems.append(
            Problem(
                f"the container engine {name!r} is not installed",
                "Install podman (bin/local-fleet does, as root on Debian), or name yours in PRECOG_FLEET_ENGINE.",
            )
        )
    if os.geteuid():
        problems.append(
            Problem(
                "systemd in privileged containers needs root",
                "Run it again with sudo.",
            )
        )
    if problems:
        raise FleetError(*problems)
    return facts if "--runtime" in extra else with_runtime(facts, installed_runtimes()[:1])


def installed_runtimes() -> list[str]:
    """The container runtimes on this machine that podman knows, best first."""
    return [name for name in _RUNTIMES if shutil.which(name)]


def with_runtime(facts: Facts, runtimes: Sequence[str]) -> Facts:
    """*facts* with the first of *runtimes*; unchanged when there is none."""
    if not runtimes:
        return facts
    return replace(facts, runtime=runtimes[0])


def probe_runtime(engine: Engine, image: str) -> Facts:
    """The facts with the first runtime that really starts a container of *image*: crun refuses hybrid cgroups.

    Raises FleetError with what each runtime said when none works.
    """
    facts = engine.facts
    if not facts.runtime:
        return facts
    said = []
    for runtime in installed_runtimes():
        engine.facts = with_runtime(facts, [runtime])
        try:
            engine.call("run", "--rm", "--network=none", "--privileged", image, "true")
        except Failed as failure:
            said.append(f"{runtime}: {last_line(failure.output)}")
        else:
            return engine.facts
    raise FleetError(
        Problem(
            f"no container runtime starts a container ({'; '.join(said)})",
            "Install crun (cgroup v2) or runc (cgroup v1 or hybrid).",
        )
    )
