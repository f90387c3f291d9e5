"""The runtime's metrics, by the conventions of Prometheus: base units, `_total` for counters (docs/runtime/metrics.md).

Labels are bounded: what a caller sends never becomes one, assets are those configured, and every other label takes a
fixed number of values at most, then "other".
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from precog_runtime import __version__
from precog_runtime.settings import Settings
from precog_runtime.types import Forecast

CONTENT_TYPE = CONTENT_TYPE_LATEST  # of what Metrics.text() returns

# Seconds: from a ready answer to one that waited for the source until its deadline.
LATENCIES = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0)
# Seconds: from prices of the timestamp itself to the limit of what is answered.
# Seconds: from prices up to the timestamp to those of the validator that is answered last, and beyond.
LEADS = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 32.0, 60.0, 3600.0)
AGES = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)

OTHER = "other"
LONGEST_LABEL = 64  # characters
RATIO_WINDOW = 1000  # lookups that the hit ratio is taken over

FRONTS = ("axon", "serve")
OUTCOMES = ("full", "partial", "none")
REFUSED = ("400", "401", "403", "404")  # by the axon: unreadable, not verified, forbidden, no such synapse
RESULTS = ("hit", "miss")
KINDS = (
    *("internal", "setting", "source", "rate_limited", "refused", "model", "model_slow", "busy"),  # of the errors
    *("slow_caller", "crowded", "bad_http"),
    *("worker", "patience", "late", "no_data", "asset_refused", "bad_row", "garbage", "garbage_page"),
    *("state", "store_damaged", "store_full", "store_read", "store_row", "store_unavailable", "monitor", "label"),
)
API_OUTCOMES = ("ok", "rate_limited", "server_error", "refused", "timeout", "dropped")
TASK_KINDS = ("numpy", "python")
TASK_OUTCOMES = ("ok", "failed", "died", "cancelled")

# What the monitor tells, by the name in its summary; the metric's name has the prefix "precog_". The other figures of
# its summary are among those of prometheus_client's own process collector.
HOST = {
    "host_cpu_ratio": "Use of all processors of the host, 0 to 1",
    "host_memory_used_ratio": "Part of the host's memory that programs can't get any more, 0 to 1",
    "host_memory_available_bytes": "Memory of the host that programs can get without swapping",
    "host_disk_read_bytes_per_second": "Read from the host's disks",
    "host_disk_written_bytes_per_second": "Written to the host's disks",
    "host_network_received_bytes_per_second": "Received on all network interfaces of the host",
    "host_network_sent_bytes_per_second": "Sent on all network interfaces of the host",
    "process_cpu_ratio": "Use of the processor by this process: 1 is one core, always busy",
    "process_threads": "Threads of this process",
    "process_fds_ratio": "Open file descriptors of this process as a part of its limit, 0 to 1",
    "event_loop_lag_seconds": "Worst delay of the event loop since the last sample",
}

T = TypeVar("T")
Values = tuple[str, ...]


class _Children(dict[Values, T], Generic[T]):
    """A metric's children by label values: each is made once, so the hot path is one look-up.

    :param labels: makes the child of some label values.
    :param known: those that are there from the start, at 0.
    :param more: how many others are let in.
    """

    def __init__(self, labels: Callable[..., T], known: Iterable[Values], more: int) -> None:
        super().__init__((values, labels(*values)) for values in known)
        self._labels, self._bound = labels, len(self) + more

    def __missing__(self, values: Values) -> T:
        if len(self) >= self._bound:
            return self._labels(*[OTHER] * len(values))
        # A lone surrogate (a file name that is not UTF-8) in one label would make every later scrape fail.
        clean = [value.encode("utf-8", "replace").decode()[:LONGEST_LABEL] for value in values]
        child = self[values] = self._labels(*clean)
        return child


class _Latest:
    """The part of hits among the latest lookups."""

    def __init__(self) -> None:
        self._hits: deque[bool] = deque(maxlen=RATIO_WINDOW)
        self.add = self._hits.append

    def ratio(self) -> float:
        """Return hits by lookups; NaN where there was none."""
        return sum(self._hits) / len(self._hits) if self._hits else math.nan


class Metrics:
    """All that is counted, in a registry of its own, so that two runtimes in one process don't mix.

    :param assets: those configured, the only ones that become labels.
    """

    def __init__(self, assets: Iterable[str] = Settings.assets) -> None:
        self.registry = CollectorRegistry()
        self._assets = tuple(assets)
        self._of_path()
        self._of_data()
        self._of_forecasts()
        self._of_workers()
        self._of_host()

    def request(self, front: str, outcome: str, seconds: float) -> None:
        """Count a request that was answered after so many seconds."""
        self._requests[front, outcome].observe(seconds)

    def refused(self, status: int) -> None:
        """Count a request that the axon refused with an HTTP status before it reached us. From any thread."""
        self._refused[(f"{status}",)].inc()

    def api(self, outcome: str, seconds: float) -> None:
        """Count a request to the source."""
        self._api[(outcome,)].observe(seconds)

    def cache(self, result: str) -> None:
        """Count a lookup in the cache of forecasts: "hit" or "miss"."""
        self._lookups[(result,)].inc()
        self._latest.add(result == "hit")

    def cache_evicted(self) -> None:
        """Count a forecast that the cache dropped for lack of room, before its time."""
        self._evictions.inc()

    def cache_size(self, nbytes: int) -> None:
        """Report how many bytes the cache of forecasts uses."""
        self._cache_bytes.set(nbytes)

    def error(self, kind: str) -> None:
        """Count something that failed."""
        self._errors[(kind,)].inc()

    def age(self, asset: str, seconds: float) -> None:
        """Tell the age of an asset's newest price; infinite where there is none."""
        if self._known(asset):
            self._ages[(asset,)].set(seconds)

    def clock(self, skew_s: float) -> None:
        """Tell by how many seconds the host's clock is ahead of the source's."""
        self._skew.set(skew_s)

    def answer(self, asset: str, age_s: float, degraded: bool) -> None:
        """Count the answer for one asset.

        :param age_s: by how much its newest price is older than the answer, or its timestamp.
        :param degraded: whether it is made from old prices or by the fallback model.
        """
        if self._known(asset):
            self._answers[(asset,)].observe(age_s)
            if degraded:
                self._degraded[(asset,)].inc()

    def lead(self, asset: str, seconds: float) -> None:
        """Tell by how much an answer's newest price is later than its timestamp; a negative number counts as 0."""
        if self._known(asset):
            self._leads[(asset,)].observe(max(0.0, seconds))

    def forecast(self, asset: str, model: str, made: Forecast, seconds: float) -> None:
        """Tell a forecast that a model made in so many seconds."""
        self._forecasts[(model,)].observe(seconds)
        if self._known(asset):
            for name in ("point", "low", "high"):
                self._prices[asset, name].set(getattr(made, name))

    def accuracy(
        self, asset: str, error_ratio: float, coverage_ratio: float, width_ratio: float, score_ratio: float
    ) -> None:
        """Tell how good an asset's forecasts were that have come to their end.

        :param error_ratio: mean of abs(point - price) / price.
        :param coverage_ratio: mean part of the hour's prices that lay within the interval, 0 to 1.
        :param width_ratio: mean of (high - low) / price.
        :param score_ratio: mean of the intervals' scores, as validators make them, 0 to 1.
        """
        if self._known(asset):
            self._error_ratios[(asset,)].set(error_ratio)
            self._coverages[(asset,)].set(coverage_ratio)
            self._widths[(asset,)].set(width_ratio)
            self._scores[(asset,)].set(score_ratio)

    def workers(self, size: int) -> None:
        """Tell the size of the worker pool."""
        self._workers.set(size)

    def tasks(self, busy: int, waiting: int, abandoned: int, processes: int) -> None:
        """Tell what the worker pool is at: tasks by state, and its processes."""
        self._tasks[("busy",)].set(busy)
        self._tasks[("waiting",)].set(waiting)
        self._tasks[("abandoned",)].set(abandoned)
        self._processes.set(processes)

    def task(self, kind: str, outcome: str, seconds: float) -> None:
        """Count a task of the worker pool: "ok", "failed", "died" or "cancelled" after so many seconds of work."""
        self._durations[kind, outcome].observe(seconds)

    def host(self, figures: Mapping[str, float]) -> None:
        """Tell what the monitor has sampled, those of HOST; NaN is what can't be had."""
        for name, gauge in self._hosts.items():
            if name in figures:
                gauge.set(figures[name])

    def warning(self, figure: str, active: bool) -> None:
        """Tell whether a figure of the monitor is beyond its threshold."""
        self._warnings[(figure,)].set(active)

    def text(self) -> bytes:
        """Return all metrics as Prometheus scrapes them; their type is CONTENT_TYPE."""
        return generate_latest(self.registry)

    def _known(self, asset: str) -> bool:
        """Whether an asset may be a label; counts one that may not."""
        known = asset in self._assets
        if not known:
            self.error("label")
        return known

    def _of_path(self) -> None:
        self._requests = self._histogram(
            "precog_request_duration_seconds",
            "From a request to its answer, by front end and outcome (full, partial, none)",
            ["front", "outcome"],
            [(front, outcome) for front in FRONTS for outcome in OUTCOMES],
            more=12,
        )
        self._refused = self._counter(
            "precog_axon_refused_requests_total",
            "Requests that the axon refused, by HTTP status: 403 for who may not ask, 401 for who isn't verified",
            ["status"],
            [(status,) for status in REFUSED],
        )
        self._api = self._histogram(
            "precog_api_request_duration_seconds",
            "One request to the source of prices, by outcome",
            ["outcome"],
            [(outcome,) for outcome in API_OUTCOMES],
            more=10,
        )
        self._lookups = self._counter(
            "precog_cache_requests_total",
            "Lookups in the cache of forecasts, by result (hit, miss)",
            ["result"],
            [(result,) for result in RESULTS],
        )
        self._latest = _Latest()
        Gauge(
            "precog_cache_hit_ratio",
            f"Part of hits among the latest {RATIO_WINDOW} lookups in the cache of forecasts",
            registry=self.registry,
        ).set_function(self._latest.ratio)
        self._evictions = Counter(
            "precog_cache_evictions_total",
            "Forecasts that the cache dropped for lack of room (cache_mb), before their time",
            registry=self.registry,
        )
        self._cache_bytes = Gauge("precog_cache_bytes", "Size of the cache of forecasts", registry=self.registry)
        self._errors = self._counter(
            "precog_errors_total", "What failed, by kind", ["kind"], [(kind,) for kind in KINDS], more=32
        )

    def _of_data(self) -> None:
        assets = [(asset,) for asset in self._assets]
        self._ages = self._gauge("precog_data_age_seconds", "Age of the newest price, by asset", ["asset"], assets)
        for age in self._ages.values():
            age.set(math.inf)  # 0 would say that prices are fresh before there is one
        self._skew = Gauge(
            "precog_clock_skew_seconds",
            "By how much the host's clock is ahead of the source's, within 1 s",
            registry=self.registry,
        )
        self._skew.set(math.nan)
        self._answers = self._histogram(
            "precog_answer_age_seconds",
            "By how much the newest price of an answer is older than the answer, or its timestamp, by asset",
            ["asset"],
            assets,
            buckets=AGES,
        )
        self._leads = self._histogram(
            "precog_answer_price_lead_seconds",
            "By how much the newest price of an answer is later than its timestamp, by asset",
            ["asset"],
            assets,
            buckets=LEADS,
        )
        self._degraded = self._counter(
            "precog_degraded_answers_total",
            "Answers made from old prices or by the fallback model, by asset",
            ["asset"],
            assets,
        )

    def _of_forecasts(self) -> None:
        assets = [(asset,) for asset in self._assets]
        self._forecasts = self._histogram(
            "precog_forecast_duration_seconds", "A model's work on one forecast, by model", ["model"], [], more=7
        )
        self._prices = self._gauge(
            "precog_forecast_usd",
            "The latest forecast, by asset and value (point, low, high)",
            ["asset", "value"],
            [(asset, value) for asset in self._assets for value in ("point", "low", "high")],
        )
        self._error_ratios = self._gauge(
            "precog_forecast_error_ratio", "Mean error of realised points, by asset: 0.01 is 1 %", ["asset"], assets
        )
        self._coverages = self._gauge(
            "precog_forecast_coverage_ratio",
            "Mean part of the realised prices that lay within the interval, by asset",
            ["asset"],
            assets,
        )
        self._widths = self._gauge(
            "precog_forecast_width_ratio", "Mean width of the intervals by the price, by asset", ["asset"], assets
        )
        self._scores = self._gauge(
            "precog_forecast_score_ratio",
            "Mean score of the intervals, as validators make it, by asset: 1 is the best",
            ["asset"],
            assets,
        )
        for children in (self._prices, self._error_ratios, self._coverages, self._widths, self._scores):
            for child in children.values():
                child.set(math.nan)  # nothing is known yet, and 0 would be a perfect score

    def _of_workers(self) -> None:
        self._workers = Gauge("precog_workers", "Size of the worker pool", registry=self.registry)
        self._processes = Gauge("precog_worker_processes", "Processes of the worker pool", registry=self.registry)
        self._tasks = self._gauge(
            "precog_worker_tasks",
            "Tasks in the worker pool, by state (busy, waiting; abandoned: given up, and still at work)",
            ["state"],
            [("busy",), ("waiting",), ("abandoned",)],
        )
        self._durations = self._histogram(
            "precog_worker_task_duration_seconds",
            "Work on one task, by kind (numpy, python) and outcome (ok, failed, died, cancelled)",
            ["kind", "outcome"],
            [(kind, outcome) for kind in TASK_KINDS for outcome in TASK_OUTCOMES],
        )

    def _of_host(self) -> None:
        self._hosts = {name: Gauge(f"precog_{name}", told, registry=self.registry) for name, told in HOST.items()}
        for gauge in self._hosts.values():
            gauge.set(math.nan)  # until the first sample
        self._warnings = self._gauge(
            "precog_monitor_warning",
            "1 while a figure of the monitor is beyond its threshold, by figure",
            ["figure"],
            [],
            more=len(HOST),
        )
        Info("precog_build", "Version of the runtime", registry=self.registry).info({"version": __version__})
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def _counter(
        self, name: str, told: str, labels: list[str], known: Iterable[Values], more: int = 0
    ) -> _Children[Counter]:
        return _Children(Counter(name, told, labels, registry=self.registry).labels, known, more)

    def _gauge(
        self, name: str, told: str, labels: list[str], known: Iterable[Values], more: int = 0
    ) -> _Children[Gauge]:
        return _Children(Gauge(name, told, labels, registry=self.registry).labels, known, more)

    def _histogram(
        self,
        name: str,
        told: str,
        labels: list[str],
        known: Iterable[Values],
        more: int = 0,
        buckets: tuple[float, ...] = LATENCIES,
    ) -> _Children[Histogram]:
        return _Children(Histogram(name, told, labels, registry=self.registry, buckets=buckets).labels, known, more)
