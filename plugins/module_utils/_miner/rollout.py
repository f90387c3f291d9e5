# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The rollout of a release on one host: look, compare, switch, gate, and go back by itself where the gate fails.

It runs on the host alone, so a lost connection to the control node leaves no host between two releases: what was being
tried is noted on disk, and the next run starts and gates all instances again.
"""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from .._engine import ledger
from .._host.host import HostError, Meta
from . import drain, systemd
from .compare import Seen, Work, anew, compare, in_the_way, listening, look, names_in, ports, sockets_of, undoing
from .faults import Failure, Fault, noting, why
from .gate import ask, judge, limits, verdict
from .place import Places, leave_nothing, remove_units
from .prices import Prices
from .store import Past, Release, Store, passed, refused
from .turn import Begun, Turn
from .units import SECRETS, UNIT_ROOT, socket

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from .._host.host import Host
    from .model import Instance, Secret

LOCK = f"{ledger.FOLDER}/miner.lock"  # of root's own folder: in /run/lock anyone could hold or replace it


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
        self._place = Places(host, params["user"])
        self._prices = Prices(host, self.store, params["peers"], self._limits.max_age_s, self.warnings)

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
            self._prices.expect(release, work.start, secrets)
        # A release that was good before is not compared, so nothing is measured for it.
        baseline = {} if known else self._measured(previous, work.start)
        return Turn(release, previous, work, secrets, seen, past, held, baseline, known)

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
            *(partial(self._place.secret, path, secrets[path]) for path in work.secrets),
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
                systemd.wait_until_gone(self._host, name, begun.pid, self._limits.ready_s)
            self._judge(turn.release, instance, begun, turn.baseline.get(name), known=turn.known)
        elif name in turn.work.enable:
            systemd.enable(self._host, name, sockets_of(name, turn.release))

    def _start(self, name: str, release: Release, work: Work) -> Begun:
        """Tell an instance to start, or to start again."""
        self.started.add(name)
        self._place.give_wallet(name, release)
        since, old = time.time(), systemd.look(self._host, [name])[name]
        systemd.start(self._host, name, sockets_of(name, release), new_socket=name in work.sockets)
        return Begun(old.pid, systemd.look(self._host, [name])[name].restarts, since)

    def _judge(
        self, release: Release, instance: Instance, begun: Begun, before: judge.Figures | None, *, known: bool
    ) -> None:
        """See an instance that was started through the gate.

        :param known: whether its release was good before: then its answers have to be right and fresh, and no more.
        :raises HostError: why it failed.
        """
        systemd.wait_until_gone(self._host, instance.name, begun.pid, self._limits.ready_s)
        demand = self._prices.demand(release, instance, known=known)
        problems = self._examined(instance, begun, before, demand)
        if problems and known and demand.fresh:
            # Its source may have gone down meanwhile.
            demand = self._prices.demand(release, instance, known=known, again=True)
            problems = problems if demand.fresh else self._examined(instance, begun, before, demand)
        if problems:
            raise HostError(";\n  ".join(problems))
        if demand.whole and demand.prices and self._prices.come_from_afar(release, instance):
            predictions = {**self.answers.get("predictions", {}), **self.figures[instance.name].prices}
            self.answers = {"at": time.time(), "predictions": predictions}
        if known:
            far = verdict.far_prices(self.figures[instance.name], self._limits, demand.prices)
            self._doubts += [f"{instance.name}: {one}" for one in far]

    def _examined(
        self, instance: Instance, begun: Begun, before: judge.Figures | None, demand: judge.Demand
    ) -> list[str]:
        """Return what speaks against an instance that was started."""
        name = instance.name
        hopeless = partial(systemd.hopeless, self._host, name, begun.restarts, begun.since)
        why = ask.wait_ready(instance, self._limits, hopeless, demand)
        if why:
            return [why]
        live = systemd.settled(self._host, name, self._limits.ready_s)
        if live.active != "active" or live.digest != instance.digest:
            return [f"its unit is {live.state} and runs {live.digest or 'nothing'}, not {instance.digest}"]
        memory = partial(systemd.memory, self._host, live.pid)
        self.figures[name], problems = ask.soak(instance, before, self._limits, demand, memory)
        return problems + verdict.unsteady(live, systemd.look(self._host, [name])[name])

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
                strangers = systemd.strangers(self._host, instance.name, ports(instance), instance.digest)
            faults.append(Fault(instance.name, "; ".join([why(error), *strangers])))

    def _retire(self, work: Work, seen: Seen) -> None:
        """Stop and remove the instances that a release doesn't have, after all others run."""
        if not work.stop:
            return
        with self._drained(work.stop, seen):
            systemd.stop(self._host, work.stop)
        for name in work.stop:
            drain.forget(self._host, name)
        remove_units(self._host, [name for name, data in work.units.items() if data is None])
        systemd.reload(self._host)

    # -- back ---------------------------------------------------------------------------------------------------------

    def _go_back(self, turn: Turn, first: Fault) -> Failure:
        """Bring back what ran before. What goes wrong at one step keeps no other from being done."""
        faults: list[Fault] = []
        for path, data in turn.seen.secrets.items():
            with noting(faults):
                self._place.restore(path, data, turn.secrets[path].owner)
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
                    systemd.enable(self._host, name, sockets_of(name, previous))
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
            self._place.remove_secrets(gone)
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
        lines = [f"{name}: {judge.summary(figures)}" for name, figures in self.figures.items()]
        return "; ".join(lines) or "nothing was touched"

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
        remove_units(
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
