"""The monitor: rates, windows, warnings with hysteresis, and what happens where figures can't be had."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import socket
import tempfile
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from precog_runtime import monitor as module
from precog_runtime.errors import SettingError
from precog_runtime.metrics import HOST, Metrics
from precog_runtime.monitor import CALM, STEADY, Alarm, Monitor, Rates, Thresholds

NEVER = Thresholds(10.0, 10.0, 10.0, 1000.0)


def monitor(**more: Any) -> tuple[Monitor, Metrics, list[str]]:
    metrics, lines = Metrics(), []
    more.setdefault("thresholds", NEVER)
    return Monitor(metrics, more.pop("interval_s", 1.0), warn=lines.append, **more), metrics, lines


def gauge(metrics: Metrics, name: str) -> float:
    found = metrics.registry.get_sample_value(f"precog_{name}")
    return math.nan if found is None else found


def counters(monkeypatch: pytest.MonkeyPatch, name: str, *values: Any) -> None:
    """Have a function of psutil return or raise these, one after another."""
    rest = iter(values)

    def function(*_args: object, **_more: object) -> Any:
        found = next(rest)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(psutil, name, function)


def disk(read: int, written: int) -> SimpleNamespace:
    return SimpleNamespace(read_bytes=read, write_bytes=written)


def net(received: int, sent: int) -> SimpleNamespace:
    return SimpleNamespace(bytes_recv=received, bytes_sent=sent)


def test_the_second_sample_has_all_figures_of_this_host() -> None:
    watch, metrics, lines = monitor()
    first = watch.sample(10.0)
    # Use and rates are of the time from one sample to the next: the first has none.
    assert "host_cpu_ratio" not in first
    assert "process_cpu_ratio" not in first
    assert "host_network_sent_bytes_per_second" not in first
    deadline = time.process_time() + 0.05
    while time.process_time() < deadline:
        pass
    found = watch.sample(11.0)
    disks = {name for name in HOST if "disk" in name} if psutil.disk_io_counters() is None else set()
    assert set(HOST) - disks <= found.keys()
    assert 0 < found["host_cpu_ratio"] <= 1
    assert found["process_cpu_ratio"] > 0
    assert 0 < found["host_memory_used_ratio"] < 1
    assert found["host_memory_available_bytes"] > 2**20
    assert found["process_resident_memory_bytes"] > 2**20
    assert found["process_threads"] >= 1
    assert 0 < found["process_fds_ratio"] < 1
    for name in set(HOST) - disks:
        assert gauge(metrics, name) == found[name]
    assert lines == []


def test_traffic_is_told_as_a_rate() -> None:
    watch, _, _ = monitor()
    watch.sample(0.0)
    before = psutil.net_io_counters()
    data = os.urandom(1_000_000)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as ours:
        theirs, _ = server.accept()
        with theirs:
            ours.setblocking(False)
            sent = received = 0
            while received < len(data):
                try:
                    sent += ours.send(data[sent : sent + 65536])
                except BlockingIOError:
                    pass
                received += len(theirs.recv(65536))
    moved = psutil.net_io_counters().bytes_sent - before.bytes_sent
    found = watch.sample(2.0)
    assert moved >= len(data)
    assert found["host_network_sent_bytes_per_second"] >= moved / 2


def test_counters_that_only_grow_become_rates_per_second(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, metrics, _ = monitor()
    counters(monkeypatch, "disk_io_counters", disk(1000, 50), disk(3000, 50), disk(3000, 150), disk(500, 160))
    counters(monkeypatch, "net_io_counters", net(0, 0), net(10, 20), net(10, 20), net(110, 20))
    found = [watch.sample(now) for now in (0.0, 2.0, 4.0, 5.0)]
    assert [each.get("host_disk_read_bytes_per_second") for each in found] == [None, 1000, 0, 0]
    assert [each.get("host_disk_written_bytes_per_second") for each in found] == [None, 0, 50, 10]
    assert [each.get("host_network_received_bytes_per_second") for each in found] == [None, 5, 0, 100]
    assert gauge(metrics, "host_network_received_bytes_per_second") == 100


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 2**70)), max_size=20))
def test_rates_are_finite_and_never_below_0(steps: list[tuple[float, int]]) -> None:
    rates, now = Rates(), 0.0
    for pause, value in steps:
        now += pause
        assert all(0 <= each < math.inf for each in rates.of({"x": value}, now).values() if pause > 1e-6)


def test_the_summary_is_of_the_window() -> None:
    watch, _, _ = monitor(window=5)
    ages = [0.9, 0.1, 0.2, 0.3, 0.4, 0.5]
    for now, lag in enumerate(ages):
        watch._lag = lag
        watch.sample(float(now))
    found = watch.summary()["event_loop_lag_seconds"]
    kept = ages[1:]
    assert found == {
        "current": 0.5,
        "average": pytest.approx(np.mean(kept)),
        "max": 0.5,
        "min": 0.1,
        "p95": pytest.approx(np.percentile(kept, 95)),
    }
    assert {"host_memory_used_ratio", "process_resident_memory_bytes", "process_fds"} <= watch.summary().keys()
    for _ in range(5):
        watch.sample(9.0)
    assert watch.summary()["event_loop_lag_seconds"]["max"] == 0


ROWS: list[tuple[int, list[tuple[float, int]], list[int]]] = [
    # steady, [(value, how often)], at which samples it changes; the threshold is 0.8
    (1, [(0.8, 50)], []),
    (1, [(0.81, 50)], [0]),
    (3, [(0.9, 2), (0.5, 1), (0.9, 2), (0.5, 1)], []),
    (3, [(0.9, 50)], [2]),
    (1, [(0.9, 1), (0.73, 50)], [0]),  # between the two lines: still raised
    (1, [(0.9, 1), (0.7, CALM)], [0, CALM]),
    (1, [(0.9, 1), (0.7, CALM - 1)], [0]),
    (1, [(0.9, 1), (0.7, CALM - 1), (0.9, 1), (0.7, CALM - 1), (0.75, 1), (0.7, 5)], [0]),
    (1, [(0.9, 1), (math.nan, 100), (0.7, CALM)], [0, 100 + CALM]),
    (1, [(math.nan, 10)], []),
    (1, [(0.9, 1), (0.1, CALM), (0.9, 1)], [0, CALM, CALM + 1]),
]


@pytest.mark.parametrize(("steady", "runs", "changes"), ROWS)
def test_when_an_alarm_changes(steady: int, runs: list[tuple[float, int]], changes: list[int]) -> None:
    alarm = Alarm(0.8, steady)
    values = [value for value, times in runs for _ in range(times)]
    assert [at for at, value in enumerate(values) if alarm.changed(value)] == changes
    assert alarm.active == bool(len(changes) % 2)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.floats(0, 2), max_size=200))
def test_an_alarm_that_is_raised_stays_for_a_while(values: list[float]) -> None:
    alarm = Alarm(0.8)
    changes = [at for at, value in enumerate(values) if alarm.changed(value)]
    raised, over = changes[::2], changes[1::2]
    assert all(values[at] > 0.8 for at in raised)
    assert all(max(values[at - CALM + 1 : at + 1]) <= 0.72 for at in over)


def test_a_threshold_crossed_is_one_line_and_its_end_another(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = [0.0] + [95.0] * 20 + [79.0] * 20 + [10.0] * 40
    counters(monkeypatch, "cpu_percent", *loads)
    watch, metrics, lines = monitor(thresholds=Thresholds(0.8, 10.0, 10.0, 10.0))
    told = []
    for now in range(len(loads)):
        watch.sample(float(now))
        told.append(metrics.registry.get_sample_value("precog_monitor_warning", {"figure": "host_cpu_ratio"}))
    assert lines == ["host_cpu_ratio is 0.95: above 0.8", "host_cpu_ratio is 0.1: back below 0.72"]
    begin, end = STEADY["host_cpu_ratio"], 40 + CALM
    assert told == [0.0] * begin + [1.0] * (end - begin) + [0.0] * (len(loads) - end)


@pytest.mark.parametrize(
    ("figure", "thresholds"),
    [
        ("host_memory_used_ratio", Thresholds(10.0, 1e-6, 10.0, 10.0)),
        ("process_fds_ratio", Thresholds(10.0, 10.0, 1e-9, 10.0)),
    ],
)
def test_each_figure_has_a_threshold_of_its_own(figure: str, thresholds: Thresholds) -> None:
    watch, _, lines = monitor(thresholds=thresholds)
    for now in range(30):
        watch.sample(float(now))
    assert len(lines) == 1
    assert lines[0].startswith(f"{figure} is ")


def test_warnings_go_to_the_log_by_default(caplog: pytest.LogCaptureFixture) -> None:
    watch = Monitor(Metrics(), 1.0, thresholds=Thresholds(10.0, 1e-6, 10.0, 10.0))
    watch.sample(0.0)
    assert [(each.levelno, each.name) for each in caplog.records] == [(logging.WARNING, "precog_runtime.monitor")]


FAILURES: list[tuple[str, Callable[[], Any], str]] = [
    ("disk_io_counters", lambda: RuntimeError("no such file"), "disk"),
    ("net_io_counters", lambda: OSError(24, "Too many open files"), "network"),
    ("virtual_memory", lambda: psutil.AccessDenied(1), "memory"),
    ("cpu_percent", lambda: ValueError("not sure"), "CPU"),
]


@pytest.mark.parametrize(("function", "error", "what"), FAILURES)
def test_a_call_that_fails_is_told_once_and_left_out_until_it_works_again(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    function: str,
    error: Callable[[], Exception],
    what: str,
) -> None:
    caplog.set_level(logging.INFO)
    good = getattr(psutil, function)()
    counters(monkeypatch, function, good, good, *(error() for _ in range(50)), good, good, error())
    watch, metrics, _ = monitor()
    found = [watch.sample(float(now)) for now in range(55)]
    missing = found[1].keys() - found[2].keys()
    assert missing
    assert all(name.startswith(("host_", "process_cpu")) for name in missing)
    assert found[53].keys() == found[1].keys()
    assert [each.message.split(":")[0] for each in caplog.records] == [f"no figures of {what}"] * 2
    assert metrics.registry.get_sample_value("precog_errors_total", {"kind": "monitor"}) == 2
    assert all(math.isnan(gauge(metrics, name)) for name in missing)
    summary = watch.summary()
    assert all(math.isnan(summary[name]["current"]) for name in missing)
    assert all(summary[name]["max"] >= 0 for name in missing)


def test_without_disks_there_is_no_figure_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    counters(monkeypatch, "disk_io_counters", *[None] * 5)
    watch, metrics, _ = monitor()
    for now in range(5):
        found = watch.sample(float(now))
    assert not any("disk" in name for name in found)
    assert not any("disk" in name for name in watch.summary())
    assert metrics.registry.get_sample_value("precog_errors_total", {"kind": "monitor"}) == 0


def test_file_descriptors_are_counted_by_the_limit() -> None:
    watch, _, _ = monitor()
    # What other tests left open is closed by a collection, which may come at any moment.
    gc.collect()
    gc.disable()
    try:
        before = watch.sample(0.0)
        with tempfile.TemporaryFile(), tempfile.TemporaryFile():
            found = watch.sample(1.0)
    finally:
        gc.enable()
    assert found["process_fds"] == before["process_fds"] + 2
    limit = module.resource.getrlimit(module.resource.RLIMIT_NOFILE)[0]
    assert found["process_fds_ratio"] == found["process_fds"] / limit


def test_it_runs_in_the_event_loop_and_sees_it_blocked() -> None:
    async def main() -> None:
        watch, _, lines = monitor(interval_s=0.01, thresholds=Thresholds(10.0, 10.0, 10.0, 0.2))
        running = asyncio.ensure_future(watch.run())
        while "host_cpu_ratio" not in watch.summary():  # the second sample
            await asyncio.sleep(0.005)
        time.sleep(0.3)  # what a miner must not do
        while watch.summary()["event_loop_lag_seconds"]["max"] < 0.2:
            await asyncio.sleep(0.005)
        assert any("event_loop_lag_seconds is" in line for line in lines)
        assert not running.done()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(asyncio.wait_for(main(), 20))


@pytest.mark.parametrize(
    ("interval_s", "window"), [(0.0, 120), (-1.0, 120), (math.nan, 120), (math.inf, 120), (1.0, 0)]
)
def test_an_interval_or_window_that_cannot_work_is_refused(interval_s: float, window: int) -> None:
    with pytest.raises(SettingError, match="a monitor with a sample each"):
        Monitor(Metrics(), interval_s, window)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_threshold_that_cannot_work_is_refused(value: float) -> None:
    with pytest.raises(SettingError, match=r"threshold process_fds_ratio is .*default is 0\.8"):
        Thresholds(process_fds_ratio=value)
