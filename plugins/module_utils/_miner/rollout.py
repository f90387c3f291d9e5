# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The rollout of a release on one host: look, compare, switch, gate, and go back by itself where the gate fails.

It runs on the host alone, so a lost connection to the control node leaves no host between two releases: what was being
tried is noted on disk, and the next run starts and gates all instances again.
"""

from __future__ import annotations

import os
import re
import stat
import time
from contextlib import contextmanager, suppress
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from .._engine import ledger
from .._host.host import HostError, Meta
from . import drain, source, systemd
from . import plan as miner_plan
from .gate import ask, judge, limits, verdict
from .instances import API_REQUESTS, API_URL, SIMULATOR
from .plan import MINER, ROOT
from .store import Past, Release, Store, passed, refused
from .units import SECRETS, UNIT_ROOT, keeps, secrets_file, service, socket, user_of
from .units import user as unit_user

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from .._host.host import Host
    from .plan import Instance, Plan, Secret

LOCK = f"{ledger.FOLDER}/miner.lock"  # of root's own folder: in /run/lock anyone could hold or replace it
COMMENT = "Precog miner (made by precog.fleet)"  # of a user that is ours to remove
COMMENT_FIELD, FEWEST_FIELDS = 4, 4  # of /etc/passwd; of that and /etc/group
FIRST_FREE, NOBODY = 100, 65534  # Debian gives the user IDs below, and the last, to users of its own
NO_SHELLS = ("nologin", "false")
LOCAL = ("127.0.0.1", "localhost", "::1")
TOLERANCE = 0.07  # of its memory a host's firmware and kernel keep for themselves
TEMPLATE = f"{systemd.PREFIX}.service"
DROP_IN = "10-instance.conf"
POLL_S = 0.05
FRESH_S = 30.0  # for how long what a source has said counts
STILL_S = 300.0  # and where it has no turn for the gate: a price moves far less in it than a release may be off


class Seen(NamedTuple):
    """The host as it is.

    :ivar current: the release that the next start of an instance runs, "" for none.
    :ivar live: the instances by name: those that are wanted, and those that are there.
    :ivar units: our files below /etc/systemd/system, by their path there.
    :ivar secrets: the content of the secrets that are wanted, by path; None where there is none.
    :ivar drained: names of the instances that are to get no requests.
    """

    current: str
    live: Mapping[str, systemd.Live]
    units: Mapping[str, bytes]
    secrets: Mapping[str, bytes | None]
    drained: frozenset[str] = frozenset()


class Work(NamedTuple):
    """What has to be done for a release to run.

    :ivar switch: whether another release is the current one.
    :ivar units: files to write below /etc/systemd/system; None is one to remove.
    :ivar secrets: paths of the secrets that differ.
    :ivar start: names of the instances to start, or to start again, in order.
    :ivar sockets: names of those whose socket is another now.
    :ivar enable: names of those that run, but would not after a boot.
    :ivar stop: names of the instances that the release doesn't have.
    :ivar undrain: names of those that get no requests, as a killed run, or somebody, left them.
    """

    switch: bool
    units: Mapping[str, bytes | None]
    secrets: tuple[str, ...]
    start: tuple[str, ...]
    sockets: frozenset[str]
    enable: tuple[str, ...]
    stop: tuple[str, ...]
    undrain: tuple[str, ...] = ()

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        changes = (self.units, self.secrets, self.start, self.enable, self.stop, self.undrain)
        return not (self.switch or any(changes))


def compare(release: Release, secrets: Mapping[str, Secret], seen: Seen) -> Work:
    """Return what has to be done for a release to run. Pure."""
    wanted = {instance.name: instance for instance in release.instances}
    units: dict[str, bytes | None] = {
        name: data for name, data in release.units.items() if seen.units.get(name) != data
    }
    units.update({name: None for name in seen.units if name not in release.units})
    differing = tuple(path for path, secret in secrets.items() if seen.secrets.get(path) != secret.data)
    start = tuple(
        name
        for name, instance in wanted.items()
        if _differs(instance, seen.live.get(name, systemd.Live()), units)
        or any(keeps(name, path) for path in differing)
    )
    return Work(
        switch=seen.current != release.name,
        units=units,
        secrets=differing,
        start=start,
        sockets=frozenset(name for name in wanted if socket(name) in units),
        enable=tuple(name for name in wanted if name not in start and not seen.live[name].enabled),
        stop=tuple(name for name in seen.live if name not in wanted),
        undrain=tuple(name for name in wanted if name in seen.drained),
    )


def undoing(work: Work, previous: Release, now: Seen) -> Work:
    """Return what has to be done for the release before to run again, with the secrets of before in place. Pure.

    :param work: what was done, which may have failed half way.
    :param now: the host as it is after that.
    """
    found = compare(previous, {}, now)
    held = {name for name in work.start if any(keeps(name, path) for path in work.secrets)}
    start = tuple(one.name for one in previous.instances if one.name in found.start or one.name in held)
    return found._replace(start=start, enable=tuple(name for name in found.enable if name not in held))


def anew(work: Work, release: Release) -> Work:
    """Return what has to be done after a run that was cut short: all instances start again, and their sockets. Pure.

    What systemd knows and what processes run may be of either release, whatever the files say by now.
    """
    names = tuple(instance.name for instance in release.instances)
    return work._replace(start=names, enable=(), sockets=frozenset(name for name in names if _sockets(name, release)))


def in_the_way(release: Release, work: Work, held: Mapping[str, Collection[int]]) -> tuple[str, ...]:
    """Return the instances that have to stop before any starts: they hold another's port, or lose their socket. Pure.

    :param held: the ports that instances may listen at now, by name.
    """
    wanted = {one.name: ports(one) for one in release.instances if one.name in work.start}
    lose = [name for name in work.start if work.units.get(socket(name), b"") is None]
    hold = [
        name
        for name in (*work.start, *work.stop)
        if any(other != name and not theirs.isdisjoint(held.get(name, ())) for other, theirs in wanted.items())
    ]
    return tuple(dict.fromkeys([*lose, *hold]))


def ports(instance: Instance) -> frozenset[int]:
    """Return the ports that an instance listens at."""
    return frozenset({instance.port, instance.http_port})


def listening(units: Mapping[str, bytes], releases: Iterable[Release]) -> dict[str, set[int]]:
    """Return the ports that instances may listen at, by name: by socket units, and by releases that may run. Pure."""
    found: dict[str, set[int]] = {}
    for instance in (one for release in releases for one in release.instances):
        found.setdefault(instance.name, set()).update(ports(instance))
    for unit, data in units.items():
        for port in re.findall(rb"^ListenStream=.*:([0-9]+)$", data, re.MULTILINE):
            found.setdefault(names_in([unit])[0], set()).add(int(port))
    return found


def _differs(instance: Instance, live: systemd.Live, units: Mapping[str, bytes | None]) -> bool:
    own = {TEMPLATE, socket(instance.name), f"{service(instance.name)}.d/{DROP_IN}"}
    return live.active != "active" or live.digest != instance.digest or any(name in units for name in own)


def ours(host: Host) -> dict[str, bytes]:
    """Return our units as they lie below /etc/systemd/system, by their path there; drop-ins of others are not ours."""
    found = {}
    for name in host.list_dir(UNIT_ROOT):
        if not name.startswith(systemd.PREFIX):
            continue
        path = f"{name}/{DROP_IN}" if host.is_dir(f"{UNIT_ROOT}/{name}") else name
        if host.is_file(f"{UNIT_ROOT}/{path}"):
            found[path] = host.read_bytes(f"{UNIT_ROOT}/{path}")
    return found


def names_in(units: Iterable[str]) -> list[str]:
    """Return the names of the instances that units are of."""
    parts = [unit.partition("/")[0][len(systemd.PREFIX) :] for unit in units]
    names = [part.partition(".")[0] for part in parts]
    return list(dict.fromkeys(name for name in names if name))


def look(host: Host, store: Store, release: Release, secrets: Iterable[str]) -> Seen:
    """Look at the host."""
    units = ours(host)
    names = [*(instance.name for instance in release.instances), *names_in(units)]
    contents = {path: _content(host, path) for path in secrets}
    return Seen(store.current, systemd.look(host, names), units, contents, drain.marked(host))


def _content(host: Host, path: str) -> bytes | None:
    try:
        return host.read_bytes(path)
    except FileNotFoundError:
        return None


def unwanted(host: Host, wanted: Collection[str]) -> dict[str, Secret]:
    """Return the secrets that lie on the host and have to go, by path.

    :param wanted: the paths of those that stay.
    """
    found = (path for path in _files_below(host, SECRETS) if path not in wanted)
    return {path: miner_plan.Secret(None, ROOT if _is_variables(path) else MINER) for path in found}


def _files_below(host: Host, folder: str) -> Iterator[str]:
    for path in (f"{folder}/{name}" for name in host.list_dir(folder)):
        if host.is_dir(path):
            yield from _files_below(host, path)
        else:
            yield path


def _is_variables(path: str) -> bool:
    """Tell whether a secret is a file of variables, which systemd hands to the next start; not a part of a wallet."""
    return path.rpartition("/")[0] == SECRETS


class Fault(NamedTuple):
    """Something that went wrong.

    :ivar instance: the name of the instance that it went wrong with; "" where it is of none.
    """

    instance: str
    why: str

    def __str__(self) -> str:
        return f"{self.instance}: {self.why}." if self.instance else f"{self.why}."


class Failure(NamedTuple):
    """A release that did not come about.

    :ivar text: what failed, where, with which figures, and what runs now.
    :ivar first: what made this host go back.
    :ivar later: what went wrong on the way back.
    """

    text: str
    first: Fault
    later: tuple[Fault, ...]

    def of(self, instance: str) -> str:
        """Return why an instance is not as it is wanted: all of it for the one that failed first; "" for none."""
        if instance == self.first.instance:
            return self.text
        return " ".join(str(fault) for fault in self.later if fault.instance == instance)


class Turn(NamedTuple):
    """A release that takes the place of another.

    :ivar previous: what runs before it, and again if it fails; None for nothing.
    :ivar seen: the host before anything was touched.
    :ivar held: the ports that instances may listen at by then.
    :ivar baseline: the figures of those that ran, by name.
    :ivar known: whether the release was good before, with the secrets that are there: then it is not compared.
    """

    release: Release
    previous: Release | None
    work: Work
    secrets: Mapping[str, Secret]
    seen: Seen
    past: Past
    held: Mapping[str, Collection[int]]
    baseline: Mapping[str, judge.Figures]
    known: bool


class Begun(NamedTuple):
    """An instance that was told to start.

    :ivar pid: of the process that it had before.
    :ivar restarts: how often systemd had started it again by itself.
    :ivar since: when that was, seconds since the epoch.
    """

    pid: int
    restarts: int
    since: float


@contextmanager
def noting(faults: list[Fault]) -> Iterator[None]:
    """Go on after whatever goes wrong, and note it."""
    try:
        yield
    except Exception as error:
        faults.append(Fault("", _why(error)))


def _why(error: Exception) -> str:
    """Return what an error says; of one that nobody foresaw, its kind too."""
    return str(error) if isinstance(error, (OSError, HostError)) else f"{type(error).__name__}: {error}"


class Rollout:
    """One run on one host.

    :ivar figures: what was measured of the instances that run now, by name.
    :ivar answers: what the instances of a new release predicted at the gate that they passed, for other hosts to
        compare theirs with: `at`, seconds since the epoch, and `predictions`, USD by asset.
    :ivar started: the names of the instances that were started, forward or back.
    :ivar warnings: what went wrong, but does not make a release a bad one.
    """

    def __init__(self, host: Host, params: Mapping[str, Any]) -> None:
        if params["keep"] < 1:
            raise HostError(f"miner_service_keep is {params['keep']}: give 1 or more, as the release that runs is kept")
        self._host = host
        self._params = params
        self._limits = limits.limits(params["gate"])
        self.store = Store(host, params["root"])
        self.figures: dict[str, judge.Figures] = {}
        self.started: set[str] = set()
        self.warnings: list[str] = []
        self.answers: dict[str, Any] = {}
        self._doubts: list[str] = []
        self._asked: dict[source.Source, tuple[float, source.Market]] = {}

    def todo(self, release: Release, secrets: Mapping[str, Secret], seen: Seen) -> Work:
        """Return what has to be done for a release to run on this host."""
        work = compare(release, secrets, seen)
        return anew(work, release) if self.store.past().trying else work

    def carry_out(self, release: Release, work: Work, secrets: Mapping[str, Secret], seen: Seen) -> Failure | None:
        """Bring a release about; where its gate fails, go back.

        :raises OSError: nothing was touched.
        :raises HostError: a new release has no source of prices, so it does not begin; nothing was touched.
        """
        turn = self._turn(release, work, secrets, seen)
        self.store.note(turn.past._replace(trying=release.name))
        faults = self._go_on(turn)
        if faults:
            return self._go_back(turn, faults[0])
        self.warnings += [f"this release was good before, but {doubt}" for doubt in self._doubts]
        gone = [path for path in work.secrets if secrets[path].data is None]
        named = bool(self._params["release"])
        self._settle(passed(turn.past, release.name, self._params["keep"], named=named), gone)
        return None

    def _turn(self, release: Release, work: Work, secrets: Mapping[str, Secret], seen: Seen) -> Turn:
        past = self.store.past()
        if past.unsure and not past.good:
            self.warnings.append(
                f"{self._params['root']}/releases.json can't be read, so nobody knows which of these releases were "
                f"good, and 'previous' means none of them: {', '.join(past.unsure)}. They are kept for now"
            )
        # What a killed run left untried is no release to go back to.
        before = (past.good[-1] if past.good else "") if past.trying else seen.current
        previous = self.store.load(before) if before and before in self.store.names() else None
        held = listening(seen.units, self._releases(seen.current, past.trying, *past.good[-1:]))
        known = release.name in past.good and not work.secrets
        if not known:
            self._expect_sources(release, work, secrets)
        # A release that was good before is not compared, so nothing is measured for it.
        baseline = {} if known else self._measured(previous, work.start)
        return Turn(release, previous, work, secrets, seen, past, held, baseline, known)

    # -- the source of prices -----------------------------------------------------------------------------------------

    def _expect_sources(self, release: Release, work: Work, secrets: Mapping[str, Secret]) -> None:
        """Raise HostError unless each instance that a release starts has a source that gives it prices.

        A simulator that the release starts itself is no source yet: it is asked when its time has come.
        """
        started = [one for one in release.instances if one.name in work.start]
        own = {one.port for one in started if one.engine == SIMULATOR}
        for instance in started:
            asked = self._source(release, instance, secrets)
            if asked is None or (asked.address[0] in LOCAL and asked.address[1] in own):
                continue
            market = self._ask(asked)
            if market.refused:
                raise HostError(
                    f"{instance.name}: the source of its prices refuses its settings: {market.refused}. "
                    "Nothing was touched"
                )
            if market.busy:
                raise HostError(
                    f"{instance.name}: the source of its prices is up, and {market.busy}: what else asks it from this "
                    "host's address uses all of its limit. No new release begins, as nobody could judge its answers. "
                    f"Let instances ask less ({API_REQUESTS} in miner_service_variables), or run again; "
                    "nothing was touched"
                )
            if market.down:
                raise HostError(
                    f"{instance.name}: the source of its prices ({API_URL}) is down: {market.down}. No new release "
                    "begins without it, as nobody could judge its answers. If the address is right, run again when "
                    f"it answers; the release {release.name} was not begun, and what runs was not touched"
                )

    def _source(
        self, release: Release, instance: Instance, secrets: Mapping[str, Secret] | None = None
    ) -> source.Source | None:
        """Return where an instance of a release has its prices from; None for a simulator.

        :param secrets: those that are not in place yet.
        """
        if instance.engine == SIMULATOR:
            return None
        folder = f"{self.store.folder(release.name)}/instances/{instance.name}"
        path = secrets_file(instance.name)
        secret = (secrets or {}).get(path)
        hidden = secret.data if secret else _content(self._host, path)
        variables = {
            **source.parse_variables(self._host.read_text(f"{folder}/environment")),
            **source.parse_variables((hidden or b"").decode()),
        }
        return source.of(self._host.read_text(f"{folder}/start"), variables)

    def _ask(self, asked: source.Source, *, again: bool = False) -> source.Market:
        """Return what a source says; what it said FRESH_S ago counts, as each request is one less for the miners.

        Where its rate limit leaves none for the gate, what it said STILL_S ago counts too.

        :param again: whether to ask anew.
        """
        when, before = self._asked.get(asked, (-inf, source.Market()))
        if not again and time.monotonic() - when <= FRESH_S:
            return before
        market = source.ask(asked, self._limits.max_age_s)
        if market.busy and before.prices and time.monotonic() - when <= STILL_S:
            return before
        self._asked[asked] = (time.monotonic(), market)
        return market

    def _demand(self, release: Release, instance: Instance, *, known: bool, again: bool = False) -> judge.Demand:
        """Return what an instance has to show: right answers alone, where its source is down.

        :param known: whether its release was good before.
        :raises HostError: the source of a new release gives it no prices.
        """
        asked = self._source(release, instance)
        if asked is None:
            return judge.Demand(fresh=True, whole=not known)
        market = self._ask(asked, again=again)
        if market.busy and known:
            self._warn(f"{market.busy}, so the answers were not compared with its prices")
            return judge.Demand(fresh=True, whole=False)
        trouble = market.refused or market.down or market.busy
        if trouble and not known:
            raise HostError(f"the source of its prices gives it none: {trouble}")
        if trouble:
            self._warn(f"the source of prices gives none ({trouble}), so the form of the answers alone was checked")
            return judge.FORM
        # A simulator of the host's own has prices of its own.
        peers = [] if asked.address[0] in LOCAL else self._params["peers"]
        return judge.Demand(True, not known, market.prices, verdict.peers_prices(peers, time.time()))

    def _warn(self, warning: str) -> None:
        if warning not in self.warnings:
            self.warnings.append(warning)

    def _releases(self, *names: str) -> Iterator[Release]:
        """Return those releases that can be read."""
        for name in dict.fromkeys(names):
            with suppress(HostError):
                yield self.store.load(name)

    def _measured(self, release: Release | None, names: Sequence[str]) -> dict[str, judge.Figures]:
        """Return the figures of those instances that run, as they are before anything is touched."""
        if release is None:
            return {}
        live = systemd.look(self._host, names)
        running = [one for one in release.instances if one.name in names and live[one.name].digest == one.digest]
        return {one.name: ask.measure(one, self._limits, self._limits.soak_s) for one in running}

    # -- forward ------------------------------------------------------------------------------------------------------

    def _go_on(self, turn: Turn) -> list[Fault]:
        """Put a release in place, and start its instances one after the other, each through the gate.

        :returns: what went wrong first, at which it ends.
        """
        faults: list[Fault] = []
        for step in self._placing(turn.release, turn.work, turn.secrets, turn.seen, turn.held):
            with noting(faults):
                step()
            if faults:
                return faults
        for instance in turn.release.instances:
            with self._starting(instance, faults):
                self._bring_up(instance, turn)
            if faults:
                return faults
        with noting(faults):
            self._retire(turn.work, turn.seen)
        return faults

    def _placing(
        self,
        release: Release,
        work: Work,
        secrets: Mapping[str, Secret],
        seen: Seen,
        held: Mapping[str, Collection[int]],
    ) -> list[Callable[[], None]]:
        """Return the steps after which the next start of an instance is that of a release."""
        return [
            *(partial(self._place_secret, path, secrets[path]) for path in work.secrets),
            *(partial(drain.unmark, self._host, name) for name in work.undrain),
            partial(self._place_units, work, seen, in_the_way(release, work, held)),
            # Always: a killed run may have written units that systemd has not read yet.
            partial(systemd.reload, self._host),
            partial(self.store.switch, release.name),
        ]

    def _bring_up(self, instance: Instance, turn: Turn) -> None:
        """See to it that an instance runs, and that it passes the gate if it is started.

        :raises HostError: why it failed.
        """
        name = instance.name
        if name in turn.work.start:
            with self._drained([name], turn.seen):
                begun = self._start(name, turn.release, turn.work)
                self._wait_until_gone(name, begun.pid)
            self._judge(turn.release, instance, begun, turn.baseline.get(name), known=turn.known)
        elif name in turn.work.enable:
            systemd.enable(self._host, name, _sockets(name, turn.release))

    def _start(self, name: str, release: Release, work: Work) -> Begun:
        """Tell an instance to start, or to start again."""
        self.started.add(name)
        self._give_wallet(name, release)
        since, old = time.time(), systemd.look(self._host, [name])[name]
        systemd.start(self._host, name, _sockets(name, release), new_socket=name in work.sockets)
        return Begun(old.pid, systemd.look(self._host, [name])[name].restarts, since)

    def _judge(
        self, release: Release, instance: Instance, begun: Begun, before: judge.Figures | None, *, known: bool
    ) -> None:
        """See an instance that was started through the gate.

        :param known: whether its release was good before: then its answers have to be right and fresh, and no more.
        :raises HostError: why it failed.
        """
        self._wait_until_gone(instance.name, begun.pid)
        demand = self._demand(release, instance, known=known)
        problems = self._examined(instance, begun, before, demand)
        if problems and known and demand.fresh:
            # Its source may have gone down meanwhile.
            demand = self._demand(release, instance, known=known, again=True)
            problems = problems if demand.fresh else self._examined(instance, begun, before, demand)
        if problems:
            raise HostError(";\n  ".join(problems))
        if demand.whole and demand.prices and self._asked_afar(release, instance):
            predictions = {**self.answers.get("predictions", {}), **self.figures[instance.name].prices}
            self.answers = {"at": time.time(), "predictions": predictions}
        if known:
            far = verdict.far_prices(self.figures[instance.name], self._limits, demand.prices)
            self._doubts += [f"{instance.name}: {one}" for one in far]

    def _asked_afar(self, release: Release, instance: Instance) -> bool:
        """Tell whether an instance has its prices from somewhere that other hosts may ask too."""
        asked = self._source(release, instance)
        return asked is not None and asked.address[0] not in LOCAL

    def _examined(
        self, instance: Instance, begun: Begun, before: judge.Figures | None, demand: judge.Demand
    ) -> list[str]:
        """Return what speaks against an instance that was started."""
        name = instance.name
        hopeless = partial(systemd.hopeless, self._host, name, begun.restarts, begun.since)
        why = ask.wait_ready(instance, self._limits, hopeless, demand)
        if why:
            return [why]
        live = self._settled(name)
        if live.active != "active" or live.digest != instance.digest:
            return [f"its unit is {live.state} and runs {live.digest or 'nothing'}, not {instance.digest}"]
        memory = partial(systemd.memory, self._host, live.pid)
        self.figures[name], problems = ask.soak(instance, before, self._limits, demand, memory)
        return problems + verdict.unsteady(live, systemd.look(self._host, [name])[name])

    def _wait_until_gone(self, name: str, pid: int) -> None:
        """Wait until a process has ended that was told to: it answers until then, and would pass for its successor."""
        deadline = time.monotonic() + self._limits.ready_s
        while pid and systemd.look(self._host, [name])[name].pid == pid and time.monotonic() < deadline:
            time.sleep(POLL_S)

    def _settled(self, name: str) -> systemd.Live:
        """Return an instance that answers once its unit is active too: it tells systemd a moment later."""
        deadline = time.monotonic() + self._limits.ready_s
        while True:
            live = systemd.look(self._host, [name])[name]
            if live.active != "activating" or time.monotonic() > deadline:
                return live
            time.sleep(POLL_S)

    @contextmanager
    def _drained(self, names: Sequence[str], seen: Seen) -> Iterator[None]:
        """Stop instances in this, of which load balancers were told, and had time to see it.

        Those are told of that run now, and are of the engine that has a socket: others get no requests from balancers.
        """
        live = systemd.look(self._host, names) if self._limits.drain_s else {}
        balanced = [name for name in live if live[name].active == "active" and socket(name) in seen.units]
        try:
            for name in balanced:
                drain.mark(self._host, name)
            time.sleep(self._limits.drain_s if balanced else 0)
            yield
        finally:
            for name in balanced:
                drain.unmark(self._host, name)

    @contextmanager
    def _starting(self, instance: Instance, faults: list[Fault]) -> Iterator[None]:
        """Go on after whatever goes wrong with an instance, and note it, with who has its port."""
        try:
            yield
        except Exception as error:
            strangers: list[str] = []
            with noting([]):
                strangers = self._strangers(instance)
            faults.append(Fault(instance.name, "; ".join([_why(error), *strangers])))

    def _strangers(self, instance: Instance) -> list[str]:
        """Return who else listens at an instance's ports."""
        live = systemd.look(self._host, [instance.name])[instance.name]
        own = {live.pid, *([1] if systemd.is_active(self._host, socket(instance.name)) else [])}
        return [
            f"port {port} is held by {name} (process {pid})"
            for port in sorted(ports(instance))
            for pid, name in systemd.holders(port).items()
            if pid not in own and not systemd.runs(self._host, pid, instance.digest)
        ]

    def _retire(self, work: Work, seen: Seen) -> None:
        """Stop and remove the instances that a release doesn't have, after all others run."""
        if not work.stop:
            return
        with self._drained(work.stop, seen):
            systemd.stop(self._host, work.stop)
        for name in work.stop:
            drain.forget(self._host, name)
        _remove_units(self._host, [name for name, data in work.units.items() if data is None])
        systemd.reload(self._host)

    # -- back ---------------------------------------------------------------------------------------------------------

    def _go_back(self, turn: Turn, first: Fault) -> Failure:
        """Bring back what ran before. What goes wrong at one step keeps no other from being done."""
        faults: list[Fault] = []
        for path, data in turn.seen.secrets.items():
            with noting(faults):
                self._restore_secret(path, data, turn.secrets[path].owner)
        self.figures.clear()
        self.answers.clear()
        self._doubts.clear()
        if turn.previous is None:
            return self._leave_nothing(turn, first, faults)
        self._restart(turn, turn.previous, faults)
        name = turn.previous.name
        if name == turn.release.name and not turn.work.secrets:
            now = f"It is the release that was there before ({name}), so there is none to go back to."
            faults = [fault for fault in faults if fault.instance != first.instance]
            now = " ".join([now, *map(str, faults)])
        elif faults:
            now = f"Going back to {name} did not bring it right either: {' '.join(map(str, faults))}"
        else:
            self._settle(refused(turn.past, turn.release.name))
            now = f"This host is back on {name}, {self._told_health()}: {self._told_figures()}."
        return Failure(f"{first} {now}", first, tuple(faults))

    def _restart(self, turn: Turn, previous: Release, faults: list[Fault]) -> None:
        """Start all that the release before has and that does not run, and only then see it through the gate."""
        seen, work = self._way_back(turn, previous, faults)
        held = listening(seen.units, self._releases(turn.release.name, previous.name))
        for step in self._placing(previous, work, {}, seen, held):
            with noting(faults):
                step()
        begun = {}
        for instance in previous.instances:
            name = instance.name
            with self._starting(instance, faults):
                if name in work.start:
                    begun[name] = self._start(name, previous, work)
                elif name in work.enable:
                    systemd.enable(self._host, name, _sockets(name, previous))
        for instance in previous.instances:
            if instance.name in begun:
                with self._starting(instance, faults):
                    self._judge(previous, instance, begun[instance.name], None, known=True)
        with noting(faults):
            self._retire(work, seen)

    def _way_back(self, turn: Turn, previous: Release, faults: list[Fault]) -> tuple[Seen, Work]:
        """Return the host as it is, and what has to be done on it; where it can't be seen, all of that."""
        with noting(faults):
            now = look(self._host, self.store, previous, ())
            work = undoing(turn.work, previous, now)
            return now, anew(work, previous) if turn.past.trying else work
        names = tuple(instance.name for instance in previous.instances)
        return turn.seen, anew(Work(True, previous.units, (), names, frozenset(), (), ()), previous)

    def _leave_nothing(self, turn: Turn, first: Fault, faults: list[Fault]) -> Failure:
        """Stop a release that there was none before."""
        faults += leave_nothing(self._host)
        with noting(faults):
            self.store.switch("")
        if faults:
            now = f"There was no release before it, and it could not be stopped either: {' '.join(map(str, faults))}"
        else:
            self._settle(refused(turn.past, turn.release.name))
            now = "There was no release before it, so it was stopped and nothing runs on this host."
        return Failure(f"{first} {now}", first, tuple(faults))

    # -- afterwards ---------------------------------------------------------------------------------------------------

    def _settle(self, past: Past, gone: Iterable[str] = ()) -> None:
        """Note how it went, and remove what is too old. The gate has had its say, so what fails here is a warning.

        :param gone: the paths of secrets that nobody needs any more.
        """
        faults: list[Fault] = []
        with noting(faults):
            self.store.note(past)
            self._prune()
        with noting(faults):
            self._remove_secrets(gone)
        self.warnings += [
            f"what runs is as it was told, but {self._params['root']} and {SECRETS} could not be put in order: {fault} "
            "The next run tries again"
            for fault in faults
        ]

    def _prune(self) -> None:
        """Remove old releases, and the checkouts of upstream's repository that no release is linked to any more."""
        self.store.prune(self._params["keep"])
        if self._host.is_dir(f"{self._params['root']}/upstream"):
            from . import upstream

            upstream.remove_unused(self._host, self.store.checkouts(), self._params["root"])

    def _told_health(self) -> str:
        """Return how the release is that a host went back to: that it was good before makes its answers no better."""
        if not self._doubts:
            return "and that is healthy"
        return f"which runs, but its answers are doubtful ({'; '.join(self._doubts)})"

    def _told_figures(self) -> str:
        return "; ".join(f"{name}: {told(figures)}" for name, figures in self.figures.items()) or "nothing was touched"

    def _place_units(self, work: Work, seen: Seen, way: Sequence[str]) -> None:
        """Write the units that differ, once there is room for all of them and what is in the way has stopped.

        Those of instances that are wanted no more stay: the instances still run.
        """
        staged = []
        try:
            for name, data in work.units.items():
                if data is not None:
                    staged.append(self._host.stage(f"{UNIT_ROOT}/{name}", data, Meta(0o644, 0, 0)))
        except OSError:
            for file in staged:
                file.discard()
            raise
        # Before their units are gone: systemd has to know what it stops.
        with self._drained(way, seen):
            for name in way:
                self._clear_the_way(name, work)
        for file in staged:
            file.commit()
        _remove_units(
            self._host,
            [name for name, data in work.units.items() if data is None and not set(work.stop) & set(names_in([name]))],
        )

    def _clear_the_way(self, name: str, work: Work) -> None:
        if name in work.stop:
            systemd.stop(self._host, [name])
        elif work.units.get(socket(name), b"") is None:
            systemd.drop_socket(self._host, name)
        else:
            systemd.halt(self._host, name)

    def _place_secret(self, path: str, secret: Secret) -> None:
        if secret.data is None:
            # A wallet stays until the gate has passed: only with it can the release before it start again.
            if _is_variables(path):
                self._host.remove(path)
            return
        uid, gid = (0, 0) if secret.owner == ROOT else self._owner(_instance_of(path))
        self._host.make_folder(SECRETS, Meta(0o700, 0, 0))
        for folder in reversed(_folders_above(path)):
            self._host.make_folder(folder, Meta(0o750, 0, gid))
        self._host.stage(path, secret.data, Meta(0o400, uid, gid)).commit()

    def _remove_secrets(self, paths: Iterable[str]) -> None:
        for path in paths:
            self._host.remove(path)
            for folder in _folders_above(path):
                self._host.remove_if_empty(folder)

    def _restore_secret(self, path: str, data: bytes | None, owner: str) -> None:
        if data is None:
            self._host.remove(path)
        elif _content(self._host, path) != data:
            self._place_secret(path, miner_plan.Secret(data, owner))

    def _give_wallet(self, name: str, release: Release) -> None:
        """Let the user of an instance's unit read its wallet: in releases of before, all instances had one user."""
        folder, owner = f"{SECRETS}/{name}", user_of(release.units, name)
        if not owner or not self._host.is_dir(folder):
            return
        uid, gid = self._ids(owner)
        for path in list(_files_below(self._host, folder)):
            for above in reversed(_folders_above(path)):
                self._host.make_folder(above, Meta(0o750, 0, gid))
            if self._host.meta(path) != Meta(0o400, uid, gid):
                self._host.stage(path, self._host.read_bytes(path), Meta(0o400, uid, gid)).commit()

    def _owner(self, instance: str) -> tuple[int, int]:
        return self._ids(unit_user(self._params["user"], instance))

    def _ids(self, name: str) -> tuple[int, int]:
        ids = user(self._host, name)
        if ids is None:
            raise HostError(f"there is no user {name} on this host, though it was made: see /etc/passwd")
        return ids


def _instance_of(path: str) -> str:
    """Return the name of the instance that a part of a wallet is of."""
    return path[len(SECRETS) + 1 :].partition("/")[0]


def _folders_above(path: str) -> list[str]:
    """Return the folders between a secret and SECRETS, the innermost first."""
    parts = path[len(SECRETS) + 1 :].split("/")[:-1]
    return [f"{SECRETS}/{'/'.join(parts[:depth])}" for depth in range(len(parts), 0, -1)]


def leave_nothing(host: Host, drain_s: float = 0) -> list[Fault]:
    """Stop all instances and remove our units.

    :param drain_s: seconds for load balancers to see it coming.
    :returns: what went wrong; the rest is done.
    """
    faults: list[Fault] = []
    units = ours(host)
    names = names_in(units)
    balanced = [name for name in names if socket(name) in units] if drain_s else []
    with noting(faults):
        for name in balanced:
            drain.mark(host, name)
        time.sleep(drain_s if balanced else 0)
    for name in names:
        with noting(faults):
            systemd.stop(host, [name])
            drain.forget(host, name)
            _remove_units(host, [unit for unit in units if names_in([unit]) == [name]])
    with noting(faults):
        for name in balanced:
            drain.unmark(host, name)
        # The template of an instance that could not be stopped is what stops it next time.
        _remove_units(host, [] if faults else [unit for unit in units if not names_in([unit])])
        systemd.reload(host)
    return faults


def _remove_units(host: Host, names: Iterable[str]) -> None:
    for name in names:
        host.remove(f"{UNIT_ROOT}/{name}")
        if "/" in name:
            host.remove_if_empty(f"{UNIT_ROOT}/{name.partition('/')[0]}")


def told(figures: judge.Figures) -> str:
    """Return what was measured at the gate."""
    errors = f"{figures.errors} errors in {figures.requests} requests"
    return f"{errors}, p50 {figures.p50_ms:.0f} ms, p99 {figures.p99_ms:.0f} ms"


def _sockets(name: str, release: Release) -> list[str]:
    """Return the socket unit of an instance, if it has one."""
    unit = socket(name)
    return [unit] if unit in release.units else []


def user(host: Host, name: str) -> tuple[int, int] | None:
    """Return the numbers of a user and its group, or None if there is none of this name."""
    fields = _entry(host, "/etc/passwd", name)
    return (int(fields[2]), int(fields[3])) if fields else None


def _entry(host: Host, path: str, name: str) -> list[str]:
    """Return the fields of a user or a group, none where there is none of this name."""
    lines = (line.split(":") for line in host.read_text(path).splitlines())
    return next((fields for fields in lines if fields[0] == name and len(fields) >= FEWEST_FIELDS), [])


def expect_user(host: Host, name: str, instance: str = "") -> None:
    """Raise HostError unless a user is there that the miner can run as, or can be made.

    :param instance: whose it is; "" for what the names of all instances' users begin with.
    """
    fields, group = _entry(host, "/etc/passwd", name), _entry(host, "/etc/group", name)
    told = f"instances.{instance} would run as {name!r} (miner_service_user and its name)"
    told = told if instance else f"miner_service_user is {name!r}"
    remedy = "Name a user of the miner's own, such as precog-miner; one that is missing is made"
    if fields and fields[-1].rpartition("/")[2] not in NO_SHELLS:
        shell = fields[-1] or "/bin/sh"
        raise HostError(
            f"{told}, which is a login of this host (its shell is {shell}): it would have the keys. {remedy}"
        )
    if fields and not is_our_user(host, name):
        why = _others(host, int(fields[2]))
        if why:
            raise HostError(f"{told}, {why}: who takes over one of them would have the keys. {remedy}")
    if fields and not group:
        raise HostError(
            f"{told}, and this host has that user, but no group of its name, which the unit wants. {remedy}"
        )
    if group and not fields:
        raise HostError(
            f"{told}, and this host has a group of that name without the user: `groupdel {name}` if nobody is in it, "
            "or name another user"
        )


def _others(host: Host, number: int) -> str:
    """Say who else runs, or may run, as a user that was there before; "" for nobody."""
    if number < FIRST_FREE or number == NOBODY:
        return f"which is one of Debian's own users (ID {number}) that other services run as"
    for process in filter(str.isdigit, host.list_dir("/proc")):
        with suppress(OSError):
            status = host.read_text(f"/proc/{process}/status")
            if re.search(rf"^Uid:\s+{number}\s", status, re.MULTILINE) and systemd.PREFIX not in host.read_text(
                f"/proc/{process}/cgroup"
            ):
                return f"and other processes run as that user (process {process})"
    return ""


def expect_roots(host: Host, setting: str, path: str) -> None:
    """Raise HostError if somebody who is not root could replace what lies at a path: root runs code from there."""
    here = ""
    for part in host.locate(path)[len(host.root.rstrip("/")) :].strip("/").split("/"):
        here = f"{here}/{part}"
        meta = host.meta(here)
        if meta is None:
            return
        if meta.uid not in (0, os.geteuid()) or (meta.mode & 0o022 and not meta.mode & stat.S_ISVTX):
            raise HostError(
                f"{setting} is {path!r}, but {here} can be changed by others than root (owner ID {meta.uid}, mode "
                f"{meta.mode:04o}), who could replace the miners' code. Give {here} to root with mode 0755, or choose "
                "another folder, such as one below /opt"
            )


def is_our_user(host: Host, name: str) -> bool:
    """Tell whether a user was made by `make_user`."""
    fields = _entry(host, "/etc/passwd", name)
    return len(fields) > COMMENT_FIELD and fields[COMMENT_FIELD] == COMMENT


def our_users(host: Host) -> list[str]:
    """Return the users that were made by `make_user`."""
    lines = host.read_text("/etc/passwd").splitlines()
    return [name for name in (line.partition(":")[0] for line in lines) if is_our_user(host, name)]


def make_user(host: Host, name: str, home: str) -> None:
    """Make a user of the system, without a shell and without a password.

    :raises HostError: the system refused.
    """
    argv = ["useradd", "--system", "--user-group", "--no-create-home", f"--home-dir={home}"]
    host.run([*argv, "--shell=/usr/sbin/nologin", f"--comment={COMMENT}", name])


def small(host: Host, params: Mapping[str, Any], plan: Plan) -> list[str]:
    """Return a warning for each engine that this host is too small for, with the figures.

    :param params: `minimum_memory_mb` and `minimum_cpus`, as the plan has checked them.
    """
    memory_mb = int(host.read_text("/proc/meminfo").split("MemTotal:")[1].split()[0]) // 1024
    cpus = len(os.sched_getaffinity(0))
    found = []
    for engine in dict.fromkeys(instance.engine for instance in plan.instances):
        wanted_mb, wanted_cpus = (int(params[name].get(engine) or 0) for name in ("minimum_memory_mb", "minimum_cpus"))
        if memory_mb < wanted_mb * (1 - TOLERANCE) or cpus < wanted_cpus:
            found.append(
                f"this host has {memory_mb} MB of memory and {cpus} CPUs; the engine {engine} wants {wanted_mb} MB and "
                f"{wanted_cpus} (miner_service_minimum_memory_mb, of which {TOLERANCE:.0%} may lack, as firmware and "
                "kernel keep some; miner_service_minimum_cpus)"
            )
    return found
