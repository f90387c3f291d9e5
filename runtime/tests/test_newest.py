"""Answers are made from the newest price that is known when they are given, and say which one that was."""

from __future__ import annotations

import asyncio
import sqlite3
import time

import pytest
from processes import call, running, wait_until
from world import EPOCH, LEVELS, Spy, quiet, use, virtual, walk, world

from precog_runtime.log import FILE
from precog_runtime.settings import Settings
from precog_runtime.timestamps import parse

MARK = EPOCH + 300


def newest(**changes):
    return quiet(**{"price_basis": "newest", "mark_s": 300, "poll_s": 5.0, **changes})


@virtual
async def test_answer_for_a_mark_follows_the_price_each_second_until_the_last_validator_has_asked():
    async with world(newest()) as running:
        use(running, Spy())
        engine = running.runtime.engine
        await asyncio.sleep(MARK - running.now + 0.3)
        for second in range(MARK, MARK + 32):
            answer = engine.ready(running.request(MARK))
            assert answer.timestamp == MARK
            assert answer.predictions() == {asset: walk(asset, second) for asset in LEVELS}, second - MARK
            assert {(one.age_s, one.degraded, one.price_time) for one in answer.assets.values()} == {(0, "", second)}
            await asyncio.sleep(1)


@virtual
async def test_answer_for_a_mark_stays_the_marks_where_that_is_set():
    async with world(newest(price_basis="mark")) as running:
        use(running, Spy())
        await asyncio.sleep(MARK - running.now + 11.5)
        answer = running.runtime.engine.ready(running.request(MARK))
        assert answer.predictions() == {asset: walk(asset, MARK) for asset in LEVELS}
        assert {one.price_time for one in answer.assets.values()} == {MARK}


@virtual
async def test_every_timestamp_is_answered_by_one_forecast_of_the_newest_prices():
    async with world(newest()) as running:
        spy = use(running, Spy())
        await asyncio.sleep(60.5)
        spy.shown.clear()
        now = int(running.now)
        answers = [await running.ask(now - ago) for ago in [None, *range(-60, 3600, 7)][1:]]
        assert {str(each.predictions()) for each in answers} == {str(answers[0].predictions())}
        assert len(spy.shown) <= len(LEVELS)
        shown = use(running, Spy())
        await asyncio.sleep(5)
        await running.ask(now - 3000)
        for _, timestamp, series in shown.shown:
            assert timestamp == series.times[-1]  # as the interface promises: none is later


@virtual
async def test_stale_prices_age_by_the_moment_of_the_answer():
    async with world(newest(max_age_s=600.0)) as running:
        await asyncio.sleep(10)
        price_time = running.runtime.market.windows["btc"].newest
        running.market.failing = True
        await asyncio.sleep(400)
        for timestamp in (price_time, MARK, int(running.now)):
            one = (await running.ask(timestamp)).assets["btc"]
            assert one.age_s == int(running.now) - price_time
            assert one.degraded == f"prices are {one.age_s:.0f} s old"
            assert one.price_time == price_time
        await asyncio.sleep(300)
        assert not (await running.ask(price_time)).assets


@virtual
async def test_log_and_metrics_say_which_price_was_used():
    async with world(newest()) as running:
        await asyncio.sleep(MARK - running.now + 7.3)
        running.runtime.engine.ready(running.request(MARK), "serve")
        running.runtime.log.store.flush()
        rows = running.runtime.log.store.query("SELECT asset, priced, asked_for FROM log ORDER BY asset")
        assert rows == [(asset, "2026-11-23 23:05:07", "2026-11-23 23:05:00") for asset in sorted(LEVELS)]
        value = running.runtime.metrics.registry.get_sample_value
        assert value("precog_answer_price_lead_seconds_sum", {"asset": "btc"}) == 7
        assert value("precog_answer_price_lead_seconds_bucket", {"asset": "btc", "le": "5.0"}) == 0


def test_serve_says_which_price_was_used():
    with (
        running("simulate-market", "--port", 0, "--rate-limit", 0) as market,
        running("serve", "--port", 0, "--api-url", market.url, "--window-s", 600) as serve,
    ):
        wait_until(lambda: call(f"{serve.url}/readyz")[0] == 200)
        mark = int(time.time()) // 300 * 300
        answer = call(f"{serve.url}/predict", {"timestamp": mark})[1]
        assert parse(answer["timestamp"]) == mark
        for asset, price_time in answer["price_time"].items():
            assert abs(time.time() - answer["age_s"][asset] - parse(price_time)) <= 3
        assert set(answer["price_time"]) == set(Settings.assets)


@virtual
async def test_log_of_an_earlier_release_gets_the_column_and_keeps_its_rows(tmp_path):
    async with world(newest(state_dir=str(tmp_path))) as running:
        await running.ask()
    with sqlite3.connect(tmp_path / FILE) as file:  # as an earlier release has it
        file.execute("DROP VIEW log")
        file.execute("ALTER TABLE answers DROP COLUMN price_time")
        file.execute("CREATE VIEW log AS SELECT id, asset FROM requests LEFT JOIN answers ON request_id = id")
    async with world(newest(state_dir=str(tmp_path))) as running:
        await running.ask()
        running.runtime.log.store.flush()
        rows = running.runtime.log.store.query("SELECT priced IS NULL, count(*) FROM log GROUP BY 1 ORDER BY 1")
        assert rows == [(0, 3), (1, 3)]
    assert not list(tmp_path.glob("*.damaged*"))


def test_unknown_basis_is_refused():
    with pytest.raises(Exception, match="price_basis is 'last': give one of newest, mark"):
        Settings(price_basis="last")
