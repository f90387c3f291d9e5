"""The metrics: their names, labels and figures, as a scraper reads them; and the page that tells of them."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from precog_runtime import __version__, errors
from precog_runtime.errors import RuntimeFault
from precog_runtime.metrics import CONTENT_TYPE, HOST, KINDS, RATIO_WINDOW, Metrics
from precog_runtime.types import Forecast
from precog_runtime.workers.pool import WorkerDied

PAGE = Path(__file__).parents[2] / "docs" / "runtime" / "metrics.md"
MADE = Forecast(100.0, 99.0, 102.0)
# What the library adds for itself: when a counter began.
CREATED = "_created"

CALLS: dict[str, Callable[[Metrics, str], None]] = {
    "request front": lambda metrics, name: metrics.request(name, "full", 0.1),
    "request outcome": lambda metrics, name: metrics.request("serve", name, 0.1),
    "api": lambda metrics, name: metrics.api(name, 0.1),
    "cache result": lambda metrics, name: metrics.cache(name),
    "error": lambda metrics, name: metrics.error(name),
    "age": lambda metrics, name: metrics.age(name, 1.0),
    "answer": lambda metrics, name: metrics.answer(name, 1.0, True),
    "forecast asset": lambda metrics, name: metrics.forecast(name, "default", MADE, 0.1),
    "forecast model": lambda metrics, name: metrics.forecast("btc", name, MADE, 0.1),
    "accuracy": lambda metrics, name: metrics.accuracy(name, 0.1, 0.9, 0.02, 0.5),
    "task kind": lambda metrics, name: metrics.task(name, "ok", 0.1),
    "task outcome": lambda metrics, name: metrics.task("numpy", name, 0.1),
    "warning": lambda metrics, name: metrics.warning(name, True),
    "host": lambda metrics, name: metrics.host({name: 1.0}),
}


def families(metrics: Metrics) -> dict[str, Metric]:
    """What a scraper reads, by name, without the library's own series."""
    found = text_string_to_metric_families(metrics.text().decode("utf-8"))
    return {family.name: family for family in found if not family.name.endswith(CREATED)}


def ours(metrics: Metrics) -> dict[str, Metric]:
    return {name: family for name, family in families(metrics).items() if name.startswith("precog_")}


def used(metrics: Metrics) -> Metrics:
    """Metrics with each of their calls made once."""
    for call in CALLS.values():
        call(metrics, "new")
    metrics.workers(2)
    metrics.tasks(1, 2, 0, 3)
    metrics.host(dict.fromkeys(HOST, 0.5))
    return metrics


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


UNITS = ("_seconds", "_bytes", "_bytes_per_second", "_ratio", "_usd", "_info")
UNITLESS = {"precog_workers", "precog_worker_processes", "precog_worker_tasks", "precog_process_threads"} | {
    "precog_monitor_warning"
}


def test_names_keep_to_the_conventions() -> None:
    text = used(Metrics()).text().decode("utf-8")
    for name, family in ours(used(Metrics())).items():
        assert re.fullmatch(r"precog(_[a-z0-9]+)+", name)
        exposed = f"{name}_total" if family.type == "counter" else name
        assert f"# TYPE {exposed} {family.type}\n" in text
        assert len(family.documentation) > 10
        assert not family.documentation.endswith(".")
        assert not re.search(r"_(milliseconds|ms|minutes|percent|kilobytes|mb|count|sum|bucket)$", name)
        assert name.rsplit("_", 1)[-1] != family.type
        if family.type == "counter":
            assert all(each.name == f"{name}_total" for each in family.samples if not each.name.endswith(CREATED))
        else:
            assert not name.endswith("_total")
            assert name.endswith(UNITS) or name in UNITLESS
        for each in family.samples:
            assert all(re.fullmatch(r"[a-z]+", label) for label in each.labels)
            assert not any(label in name.split("_") for label in each.labels)


def test_histograms_are_whole() -> None:
    histograms = [family for family in ours(used(Metrics())).values() if family.type == "histogram"]
    assert len(histograms) == 6
    for family in histograms:
        bounds = [float(each.labels["le"]) for each in family.samples if each.name.endswith("_bucket")]
        assert math.inf in bounds
        kinds = {each.name[len(family.name) :] for each in family.samples}
        assert {"_bucket", "_sum", "_count"} <= kinds


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_labels_are_bounded_whatever_is_called(call: Callable[[Metrics, str], None]) -> None:
    metrics = Metrics()
    for number in range(300):
        call(metrics, f"made-up-{number}")
    counted = {(each.name, str(each.labels)) for family in ours(metrics).values() for each in family.samples}
    assert len(counted) < 1500
    names = {value for family in ours(metrics).values() for each in family.samples for value in each.labels.values()}
    assert len([name for name in names if name.startswith("made-up")]) <= 32
    assert "made-up-299" not in names


@pytest.mark.parametrize("name", ["age", "answer", "forecast asset", "accuracy"])
def test_an_asset_that_is_not_configured_is_no_label_but_counted(name: str) -> None:
    metrics = Metrics(["btc"])
    for asset in ("doge", "eth", "x" * 1000, "\udc80"):
        CALLS[name](metrics, asset)
    labels = {each.labels.get("asset") for family in ours(metrics).values() for each in family.samples}
    assert labels == {None, "btc"}
    assert sample(metrics, "precog_errors_total", kind="label") == 4


def test_more_values_than_a_label_takes_are_counted_together() -> None:
    metrics = Metrics()
    for number in range(100):
        metrics.error(f"kind-{number}")
    assert sample(metrics, "precog_errors_total", kind="kind-0") == 1
    assert sample(metrics, "precog_errors_total", kind="other") == 100 - 32


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(st.characters(exclude_categories=())))
@example("model-\udcff.py")
def test_a_strange_label_never_breaks_the_scrape(name: str) -> None:
    metrics = Metrics()
    for call in CALLS.values():
        call(metrics, name)
    assert "precog_errors" in families(metrics)


def test_what_is_counted_is_what_is_scraped() -> None:
    metrics = Metrics()
    metrics.request("serve", "full", 0.003)
    metrics.request("serve", "full", 0.3)
    metrics.api("ok", 0.2)
    metrics.error("model")
    metrics.age("btc", 1.5)
    metrics.answer("btc", 3.0, True)
    metrics.answer("btc", 0.0, False)
    metrics.forecast("eth", "default", MADE, 0.25)
    metrics.accuracy("eth", 0.01, 0.9, 0.02, 0.45)
    metrics.workers(3)
    metrics.tasks(1, 2, 3, 4)
    metrics.task("numpy", "died", 0.5)
    metrics.host({"host_cpu_ratio": 0.25, "process_fds": 9})
    metrics.warning("host_cpu_ratio", True)
    serve = {"front": "serve", "outcome": "full"}
    assert sample(metrics, "precog_request_duration_seconds_count", **serve) == 2
    assert sample(metrics, "precog_request_duration_seconds_sum", **serve) == pytest.approx(0.303)
    assert sample(metrics, "precog_request_duration_seconds_bucket", **serve, le="0.005") == 1
    assert sample(metrics, "precog_api_request_duration_seconds_sum", outcome="ok") == pytest.approx(0.2)
    assert sample(metrics, "precog_errors_total", kind="model") == 1
    assert sample(metrics, "precog_data_age_seconds", asset="btc") == 1.5
    assert sample(metrics, "precog_data_age_seconds", asset="eth") == math.inf
    assert sample(metrics, "precog_answer_age_seconds_count", asset="btc") == 2
    assert sample(metrics, "precog_answer_age_seconds_bucket", asset="btc", le="0.0") == 1
    assert sample(metrics, "precog_degraded_answers_total", asset="btc") == 1
    assert sample(metrics, "precog_forecast_duration_seconds_sum", model="default") == 0.25
    assert sample(metrics, "precog_forecast_score_ratio", asset="eth") == 0.45
    assert math.isnan(sample(metrics, "precog_forecast_score_ratio", asset="btc"))
    values = [sample(metrics, "precog_forecast_usd", asset="eth", value=each) for each in ("point", "low", "high")]
    assert values == [100, 99, 102]
    assert sample(metrics, "precog_forecast_error_ratio", asset="eth") == 0.01
    assert sample(metrics, "precog_forecast_coverage_ratio", asset="eth") == 0.9
    assert sample(metrics, "precog_forecast_width_ratio", asset="eth") == 0.02
    assert math.isnan(sample(metrics, "precog_forecast_width_ratio", asset="btc") or 0)
    assert sample(metrics, "precog_workers") == 3
    assert sample(metrics, "precog_worker_processes") == 4
    assert sample(metrics, "precog_worker_tasks", state="busy") == 1
    assert sample(metrics, "precog_worker_tasks", state="waiting") == 2
    assert sample(metrics, "precog_worker_tasks", state="abandoned") == 3
    assert sample(metrics, "precog_worker_task_duration_seconds_sum", kind="numpy", outcome="died") == 0.5
    assert sample(metrics, "precog_host_cpu_ratio") == 0.25
    assert sample(metrics, "precog_monitor_warning", figure="host_cpu_ratio") == 1
    assert sample(metrics, "precog_build_info", version=__version__) == 1


def test_the_hit_ratio_looks_back_on_the_latest_lookups_only() -> None:
    metrics = Metrics()

    def ratio() -> Any:
        return sample(metrics, "precog_cache_hit_ratio")

    assert math.isnan(ratio())
    for result in ("hit", "hit", "hit", "miss"):
        metrics.cache(result)
    assert ratio() == 0.75
    for _ in range(RATIO_WINDOW):
        metrics.cache("miss")
    assert ratio() == 0
    assert sample(metrics, "precog_cache_requests_total", result="hit") == 3


def test_all_that_can_fail_is_there_from_the_start_at_0() -> None:
    faults = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, RuntimeFault)]
    kinds = {each.kind for each in [*faults, WorkerDied]}
    assert len(faults) > 5
    assert kinds <= set(KINDS)
    assert all(sample(Metrics(), "precog_errors_total", kind=kind) == 0 for kind in KINDS)


def test_two_runtimes_do_not_mix() -> None:
    first, second = Metrics(), Metrics()
    first.error("model")
    assert sample(second, "precog_errors_total", kind="model") == 0


def test_the_process_the_interpreter_and_its_garbage_collector_are_told() -> None:
    found = families(Metrics())
    assert {"process_cpu_seconds", "process_resident_memory_bytes", "process_open_fds", "python_info"} <= found.keys()
    assert "python_gc_collections" in found


def test_the_content_type_is_that_of_the_text() -> None:
    assert CONTENT_TYPE.startswith("text/plain; version=")
    assert "charset=utf-8" in CONTENT_TYPE


def test_the_page_and_the_registry_name_the_same_metrics() -> None:
    page = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|([^|]*)\|", page, re.MULTILINE)
    told = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    there = {}
    for name, family in families(used(Metrics())).items():
        labels = {label for each in family.samples for label in each.labels} - {"le"}
        suffix = "_total" if family.type == "counter" else ""
        there[f"{name}{suffix}"] = (family.type, labels)
    assert told.keys() == there.keys()
    assert {name: row for name, row in told.items() if name.startswith("precog_")} == {
        name: row for name, row in there.items() if name.startswith("precog_")
    }


def counted_kinds() -> set[str]:
    """The kinds that our sources count by name: texts within the argument of `metrics.error(...)`."""
    source = Path(errors.__file__).parent
    calls = [
        call
        for path in source.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and re.search(r"(metrics|self)\.error$", ast.unparse(call.func))
    ]
    texts = [each for call in calls for each in ast.walk(call.args[0]) if isinstance(each, ast.Constant)]
    return {each.value for each in texts if isinstance(each.value, str)}


def test_the_page_names_the_kinds_of_errors_that_there_are() -> None:
    page = PAGE.read_text(encoding="utf-8")
    table = page.partition("| kind |")[2].partition("\n\n")[0]
    told = {kind for cell in re.findall(r"^\|(.*?)\|", table, re.MULTILINE) for kind in re.findall(r"`(\w+)`", cell)}
    counted = counted_kinds()
    assert {"late", "store_row", "internal", "label"} <= counted
    assert counted <= set(KINDS)
    assert told == {*KINDS, "other"}


def test_the_pages_alerts_name_metrics_and_labels_that_there_are() -> None:
    page = PAGE.read_text(encoding="utf-8")
    expressions = "\n".join(re.findall(r"```promql\n(.*?)```", page, re.DOTALL))
    text = used(Metrics()).text().decode("utf-8")
    names = set(re.findall(r"\b(?:precog|process)_\w+", expressions))
    assert len(names) > 8
    for name in names:
        assert re.search(rf"^{name}[{{ ]", text, re.MULTILINE), name
    for label, value in re.findall(r"(\w+)=\"(\w+)\"", expressions):
        assert f'{label}="{value}"' in text
