"""What `open_runtime` wires together: each part is seen at work by what it leaves, in virtual time."""

from __future__ import annotations

import asyncio
import math
import sqlite3

from world import quiet, run, world


def rows(path, table):
    with sqlite3.connect(path) as file:
        return file.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def test_an_answer_is_logged_and_no_forecast_is_kept_on_disk(tmp_path):
    async def test():
        async with world(quiet(state_dir=str(tmp_path))) as made:
            assert len((await made.ask()).assets) == 3

    run(test)
    assert rows(tmp_path / "predictions.sqlite", "answers") == 3
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("forecasts")]


def test_each_minute_what_is_old_is_removed_from_cache_and_log(tmp_path):
    async def test():
        settings = quiet(state_dir=str(tmp_path), cache_ttl_s=60.0, retention_days=0.01)
        async with world(settings) as made:
            cache = made.runtime.engine._forecaster._cache
            await made.ask()
            assert len(cache) == 3
            await asyncio.sleep(settings.retention_days * 86400 + 120)
            assert len(cache) == 0
            await made.ask()

    run(test)
    assert rows(tmp_path / "predictions.sqlite", "requests") == 1


def test_what_came_true_is_told_by_the_metrics():
    async def test():
        async with world() as made:
            registry = made.runtime.metrics.registry
            await made.ask()
            told = {"asset": "btc"}
            assert math.isnan(registry.get_sample_value("precog_forecast_coverage_ratio", told))
            # The writer of the log lives in real time, of which virtual time leaves it little.
            for _ in range(100):
                await asyncio.sleep(120)
                made.runtime.log.store.flush()
                coverage = registry.get_sample_value("precog_forecast_coverage_ratio", told)
                if not math.isnan(coverage):
                    return
            raise AssertionError("nothing was told")

    run(test)


def test_the_monitor_runs_as_often_as_it_is_set():
    async def test():
        async with world(quiet(monitor_s=1.0)) as made:
            await asyncio.sleep(10)
            assert made.runtime.metrics.registry.get_sample_value("precog_process_threads") >= 1
            assert len(made.runtime.monitor._samples["process_threads"]) >= 8

    run(test)
