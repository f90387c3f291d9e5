"""`precog-runtime monitor`: the summary of this host, and of a running service; thresholds and the log's level."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest
from processes import call, done, environment, running, wait_until, words

from precog_runtime.monitor_command import COLUMNS, table

# What the guide's summary is of.
TITLES = [
    *("CPU (%)", "memory (%)", "disk, read (kB/s)", "disk, written (kB/s)"),
    *("network, received (kB/s)", "network, sent (kB/s)"),
]


def rows(text):
    """Return a table's cells by the title of the row."""
    lines = text.splitlines()
    assert lines[0].split() == list(COLUMNS)
    return {line[:24].strip(): line[24:].split() for line in lines[1:]}


def test_the_host_is_sampled_and_summed_up():
    ended = done("monitor", "--every-s", 0.2, "--duration-s", 1, "--log-level", "error")
    assert (ended.returncode, ended.stderr) == (0, "")
    found = rows(ended.stdout)
    assert [*found] == TITLES
    now, mean, most, least = (float(cell) for cell in found["memory (%)"])
    assert 0 < least <= now <= most < 100
    assert least <= mean <= most


def test_as_json_all_figures_of_the_host_are_there():
    ended = done("monitor", "--every-s", 0.2, "--duration-s", 0.4, "--json", "--log-level", "error")
    found = json.loads(ended.stdout)
    assert set(found["host_cpu_ratio"]) == {"current", "average", "max", "min", "p95"}
    assert all(name.startswith("host_") for name in found)


def test_what_cannot_be_had_is_a_dash():
    figures = {"host_cpu_ratio": {"current": float("nan"), "average": 0.5, "max": 1.0, "min": None}}
    found = rows(table(figures))
    assert found["CPU (%)"] == ["-", "50.0", "100.0", "-"]
    assert found["disk, read (kB/s)"] == ["-"] * 4


def test_when_told_to_end_it_prints_what_it_has():
    command = words("monitor", "--every-s", 0.1, "--duration-s", 600)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        try:
            status = f"/proc/{process.pid}/status"
            wait_until(lambda: _catches(status, signal.SIGTERM))
            process.send_signal(signal.SIGTERM)
            printed = process.communicate(timeout=30)[0]
        finally:
            process.kill()
    assert process.returncode == 0
    assert float(rows(printed)["memory (%)"][0]) > 0


def _catches(status, number):
    """Whether a process has a handler for a signal."""
    caught = next(line for line in Path(status).read_text().splitlines() if line.startswith("SigCgt:"))
    return int(caught.split()[1], 16) >> (number - 1) & 1


@pytest.fixture(scope="module")
def service():
    options = ("--port", 0, "--api-url", "http://127.0.0.1:9/v4", "--monitor-s", 0.1)
    with running("serve", *options, PRECOG_RUNTIME_WARN_MEMORY_RATIO="0.01", PRECOG_RUNTIME_LOG_LEVEL="error") as made:
        wait_until(lambda: "host_cpu_ratio" in call(f"{made.url}/monitor")[1]["figures"])
        yield made


def test_a_running_service_is_summed_up_by_its_own_samples(service):
    ended = done("monitor", "--url", service.url)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert float(rows(ended.stdout)["memory (%)"][1]) > 0
    shown = json.loads(done("monitor", "--url", service.url, "--json").stdout)
    assert {"process_fds_ratio", "event_loop_lag_seconds"} <= set(shown)


def test_thresholds_are_settings(service):
    text = call(f"{service.url}/metrics")[1]
    assert 'precog_monitor_warning{figure="host_memory_used_ratio"} 1.0' in text


def test_a_service_without_a_monitor_and_none_at_all_are_told():
    with running("serve", "--port", 0, "--api-url", "http://127.0.0.1:9/v4", "--monitor-s", 0) as without:
        assert call(f"{without.url}/monitor")[0] == 404
        ended = done("monitor", "--url", without.url)
    assert (ended.returncode, "it answers 404" in ended.stderr, "monitor_s is 0" in ended.stderr) == (2, True, True)
    ended = done("monitor", "--url", without.url)
    assert (ended.returncode, "no summary can be read" in ended.stderr) == (2, True)
    assert "Traceback" not in ended.stderr


WARNING = ("monitor", "--every-s", 0.1, "--duration-s", 0.2, "--warn-memory-ratio", 0.01)


@pytest.mark.parametrize(
    ("options", "environ", "lines"),
    [((), "", True), ((), "error", False), ((), "ERROR", False), (("--log-level", "info"), "error", True)],
)
def test_the_logs_level_is_the_options_else_the_environments(options, environ, lines):
    ended = done(*WARNING, *options, PRECOG_RUNTIME_LOG_LEVEL=environ)
    assert ended.returncode == 0
    assert ("host_memory_used_ratio" in ended.stderr) is lines


def test_a_wrong_level_in_the_environment_is_told_without_its_value():
    ended = done(*WARNING, PRECOG_RUNTIME_LOG_LEVEL="hush-hush")
    assert ended.returncode == 2
    assert "PRECOG_RUNTIME_LOG_LEVEL is not a log level. Give one of debug, info" in ended.stderr
    assert "hush" not in ended.stderr
