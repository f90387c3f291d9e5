"""The monitor: what the host, this process and its event loop are at, as rates, with one line per warning."""

from __future__ import annotations

import asyncio
import errno
import logging
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import psutil

from precog_runtime.errors import SettingError
from precog_runtime.metrics import Metrics

if TYPE_CHECKING:
    from precog_runtime.settings import Settings

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

BEAT_S = 0.5  # how often the event loop's lag is measured: each time costs a tenth of a sample
BACK = 0.9  # a figure is back below this part of its threshold
CALM = 10  # samples in a row that it has to be back for

Figures = dict[str, float]


@dataclass(frozen=True)
class Thresholds:
    """Beyond which a figure is warned of.

    :ivar host_cpu_ratio: 0 to 1, of all processors; for `STEADY` samples in a row.
    :ivar host_memory_used_ratio: 0 to 1.
    :ivar process_fds_ratio: open file descriptors by the limit, 0 to 1.
    :ivar event_loop_lag_seconds: seconds.
    """

    host_cpu_ratio: float = 0.8
    host_memory_used_ratio: float = 0.8
    process_fds_ratio: float = 0.8
    event_loop_lag_seconds: float = 0.25

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not 0 < value < math.inf:
                raise SettingError(
                    f"threshold {each.name} is {value!r}: it is not above 0. Its default is {each.default}"
                )


def thresholds(settings: Settings) -> Thresholds:
    """Return the thresholds that the settings give."""
    return Thresholds(
        host_cpu_ratio=settings.warn_cpu_ratio,
        host_memory_used_ratio=settings.warn_memory_ratio,
        process_fds_ratio=settings.warn_fds_ratio,
        event_loop_lag_seconds=settings.warn_lag_s,
    )


STEADY = {"host_cpu_ratio": 3}  # samples in a row beyond the threshold; a moment of full use is nothing to warn of


class Alarm:
    """One figure's threshold, with hysteresis. Pure.

    :param limit: raised above it, for `steady` samples in a row.
    """

    def __init__(self, limit: float, steady: int = 1) -> None:
        self.limit, self.active = limit, False
        self._steady, self._row = steady, 0

    def changed(self, value: float) -> bool:
        """Take a sample; return whether the alarm was raised or is over. NaN says nothing."""
        if math.isnan(value):
            return False
        against = value <= self.limit * BACK if self.active else value > self.limit
        self._row = self._row + 1 if against else 0
        if self._row < (CALM if self.active else self._steady):
            return False
        self.active, self._row = not self.active, 0
        return True


class Rates:
    """Turns counters that only grow into rates. Pure."""

    def __init__(self) -> None:
        self._before: tuple[float, Mapping[str, float]] | None = None

    def of(self, counters: Mapping[str, float], now: float) -> Figures:
        """Return the growth of each counter since the last call, per second; nothing the first time.

        A counter that has gone back was reset: its rate is 0 this once.

        :param now: seconds on a clock that never goes back.
        """
        before, self._before = self._before, (now, counters)
        if before is None or now <= before[0]:
            return {}
        then, old = before
        return {name: max(0.0, value - old[name]) / (now - then) for name, value in counters.items() if name in old}


class Monitor:
    """Samples the host and this process in the event loop; the calls are short and don't wait.

    :param interval_s: from sample to sample, seconds.
    :param window: how many samples `summary` looks back on.
    :param warn: takes a line when a threshold is crossed, and one when the figure is back.
    :raises SettingError: the interval or the window can't be used.
    """

    def __init__(
        self,
        metrics: Metrics,
        interval_s: float,
        window: int = 120,
        warn: Callable[[str], None] = logger.warning,
        thresholds: Thresholds | None = None,
    ) -> None:
        if not 0 < interval_s < math.inf or window < 1:
            raise SettingError(f"a monitor with a sample each {interval_s} s and {window} samples kept can't work")
        self._metrics, self._interval_s, self._window, self._warn = metrics, interval_s, window, warn
        limits = thresholds or Thresholds()
        self._alarms = {
            each.name: Alarm(getattr(limits, each.name), STEADY.get(each.name, 1)) for each in fields(limits)
        }
        for name in self._alarms:
            metrics.warning(name, False)
        self._process = psutil.Process()
        self._disk, self._network = Rates(), Rates()
        self._probes: dict[str, Callable[[float], Figures]] = {
            "CPU": self._cpu,
            "memory": self._memory,
            "disk": self._disk_rates,
            "network": self._network_rates,
            "process": self._own,
            "file descriptors": self._descriptors,
        }
        self._failing: set[str] = set()
        self._samples: dict[str, deque[float]] = {}
        # The use of processors is measured from call to call: the first call begins it.
        self._begun = False
        self._lag = 0.0

    async def run(self) -> None:
        """Sample until cancelled."""
        loop = asyncio.get_running_loop()
        self.sample(loop.time())
        beat = min(BEAT_S, self._interval_s)
        due = loop.time() + self._interval_s
        while True:
            slept = loop.time()
            await asyncio.sleep(beat)
            now = loop.time()
            self._lag = max(self._lag, now - slept - beat)
            if now >= due:
                self.sample(now)
                due = max(due + self._interval_s, loop.time())

    def sample(self, now: float) -> Figures:
        """Take one sample, and return it; the first begins the rates.

        :param now: seconds on the event loop's clock.
        """
        found: Figures = {}
        for name, probe in self._probes.items():
            found.update(self._probed(name, probe, now))
        found["event_loop_lag_seconds"], self._lag = self._lag, 0.0
        self._begun = True
        self._keep(found)
        self._check(found)
        return found

    def summary(self) -> dict[str, Figures]:
        """Return current, average, max, min and p95 of each figure over the window, by its name.

        A figure that can't be had now has NaN as its current value.
        """
        return {name: _summary(np.array(values)) for name, values in self._samples.items()}

    def _probed(self, name: str, probe: Callable[[float], Figures], now: float) -> Figures:
        """Return what a probe finds: nothing if it fails, which is told when it begins and not again."""
        try:
            found = probe(now)
        except Exception as error:  # psutil raises what reading /proc may raise, ValueError and KeyError included
            if name not in self._failing:
                self._failing.add(name)
                self._metrics.error("monitor")
                logger.info("no figures of %s: %s: %s", name, type(error).__name__, error)
            return {}
        self._failing.discard(name)
        return found

    def _keep(self, found: Figures) -> None:
        for name in found.keys() - self._samples.keys():
            self._samples[name] = deque(maxlen=self._window)
        told = {}
        for name, values in self._samples.items():
            values.append(found.get(name, math.nan))
            told[name] = values[-1]
        self._metrics.host(told)

    def _check(self, found: Figures) -> None:
        for name, alarm in self._alarms.items():
            value = found.get(name, math.nan)
            if alarm.changed(value):
                self._metrics.warning(name, alarm.active)
                state = f"above {alarm.limit:g}" if alarm.active else f"back below {alarm.limit * BACK:g}"
                self._warn(f"{name} is {value:.3g}: {state}")

    def _cpu(self, now: float) -> Figures:
        ratio = psutil.cpu_percent(interval=None) / 100
        return {"host_cpu_ratio": ratio} if self._begun else {}

    def _memory(self, now: float) -> Figures:
        memory = psutil.virtual_memory()
        return {
            "host_memory_used_ratio": 1 - memory.available / memory.total,
            "host_memory_available_bytes": memory.available,
        }

    # Rates see for themselves to counters that go back, which psutil would watch at a price.

    def _disk_rates(self, now: float) -> Figures:
        found = psutil.disk_io_counters(nowrap=False)
        if found is None:  # no disk, as in many containers
            return {}
        return self._disk.of(
            {
                "host_disk_read_bytes_per_second": found.read_bytes,
                "host_disk_written_bytes_per_second": found.write_bytes,
            },
            now,
        )

    def _network_rates(self, now: float) -> Figures:
        found = psutil.net_io_counters(nowrap=False)
        if found is None:
            return {}
        return self._network.of(
            {
                "host_network_received_bytes_per_second": found.bytes_recv,
                "host_network_sent_bytes_per_second": found.bytes_sent,
            },
            now,
        )

    def _own(self, now: float) -> Figures:
        with self._process.oneshot():
            used = self._process.cpu_percent(interval=None) / 100
            figures: Figures = {
                "process_resident_memory_bytes": self._process.memory_info().rss,
                "process_threads": self._process.num_threads(),
            }
        return {**figures, "process_cpu_ratio": used} if self._begun else figures

    def _descriptors(self, now: float) -> Figures:
        if resource is None:
            return {}
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        try:
            number = self._process.num_fds()
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            number = limit  # none is left to count the others with, which is what has to be told
        figures: Figures = {"process_fds": number}
        return figures if limit == resource.RLIM_INFINITY else {**figures, "process_fds_ratio": number / limit}


def _summary(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Figures:
    known = values[~np.isnan(values)]
    if not len(known):
        return dict.fromkeys(("current", "average", "max", "min", "p95"), math.nan)
    return {
        "current": float(values[-1]),
        "average": float(known.mean()),
        "max": float(known.max()),
        "min": float(known.min()),
        "p95": float(np.percentile(known, 95)),
    }
