"""A host whose clock is off answers by the source's clock, says so, and is not ready where it is far off."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from email.utils import formatdate

import aiohttp
import pytest
from made_api import START, Api

from precog_runtime import wallclock
from precog_runtime.market.coinmetrics import CoinMetrics
from precog_runtime.metrics import Metrics
from precog_runtime.runtime import open_runtime
from precog_runtime.serve import listening
from precog_runtime.settings import Settings
from precog_runtime.simulator.server import Config, start
from precog_runtime.timestamps import parse
from precog_runtime.wallclock import KEPT, LEAST, WallClock

TRUE = 1_795_474_800.0


class Host:
    """A clock made of one that a test moves, and one that nobody sets."""

    def __init__(self, ahead_s):
        self.ahead_s = ahead_s
        self.passed_s = 0.0
        self.metrics = Metrics()
        self.wall = WallClock(self.metrics, lambda: TRUE + self.passed_s + self.ahead_s, lambda: self.passed_s)

    def hear(self, *off_s, took_s=0.0, **headers):
        """Hear answers whose Date is off by so many seconds."""
        for each in off_s:
            self.passed_s += 1.3
            date = formatdate(TRUE + self.passed_s - took_s / 2 + each, usegmt=True)
            self.wall.heard({"Date": date, **headers}, took_s)

    def off_s(self):
        return self.wall() - TRUE - self.passed_s


@pytest.mark.parametrize("ahead_s", [-3600.0, -90.0, -7.0, 7.0, 300.0])
def test_time_is_the_sources_once_five_answers_were_heard(ahead_s):
    host = Host(ahead_s)
    host.hear(*[0] * (LEAST - 1))
    assert host.off_s() == pytest.approx(ahead_s, abs=1e-3)
    assert math.isnan(host.wall.skew_s())
    host.hear(0)
    assert abs(host.off_s()) <= wallclock.UNCERTAIN_S / 2
    assert host.wall.skew_s() == pytest.approx(ahead_s, abs=wallclock.UNCERTAIN_S)
    assert host.metrics.registry.get_sample_value("precog_clock_skew_seconds") == pytest.approx(ahead_s, abs=1)


@pytest.mark.parametrize("ahead_s", [-0.4, 0.0, 0.4])
def test_clock_that_is_right_within_the_headers_resolution_is_taken_as_it_is(ahead_s):
    host = Host(ahead_s)
    host.hear(*[0] * KEPT)
    assert host.off_s() == pytest.approx(ahead_s, abs=1e-3)
    assert host.wall.trouble() == ""


@pytest.mark.parametrize("lie_s", [-86400, -300, 300, 10**9])
def test_lying_headers_among_true_ones_are_ignored(lie_s):
    host = Host(0.0)
    for _ in range(20):
        host.hear(0, lie_s, 0)
        assert host.off_s() == pytest.approx(0.0, abs=1e-3)
    assert host.wall.trouble() == ""


@pytest.mark.parametrize("date", ["", "now", "Mon, 23 Nov 2026", "Mon, 99 Nov 2026 23:00:00 GMT", "0" * 9999])
def test_headers_that_say_no_time_are_passed_over(date):
    host = Host(90.0)
    for _ in range(LEAST):
        host.wall.heard({"Date": date}, 0.0)
        host.wall.heard({}, 0.0)
    host.hear(*[0] * LEAST, Age="30")
    assert host.off_s() == pytest.approx(90.0, abs=1e-3)


def test_half_of_a_slow_answers_way_is_taken_off():
    host = Host(10.0)
    host.hear(*[0] * LEAST, took_s=4.0)
    assert abs(host.off_s()) <= 0.5


def test_clock_that_is_set_right_is_believed_at_once_and_told(caplog):
    host = Host(-90.0)
    host.hear(*[0] * LEAST)
    assert "the host's clock is 90 s slow; 60 s at most are accepted" in host.wall.trouble()
    host.ahead_s = 0.0
    assert host.wall.trouble() == ""
    assert host.off_s() == pytest.approx(0.0, abs=1e-3)
    host.hear(*[0] * LEAST)
    told = [each.getMessage() for each in caplog.records if each.name == wallclock.__name__]
    assert [each[:36] for each in told] == [
        "the host's clock is 90 s slow by the",
        "the host's clock is right again with",
    ]


def test_source_hands_over_the_headers_of_each_answer():
    async def work():
        async with Api() as api:
            heard = []
            source = CoinMetrics(Settings(api_url=api.url), Metrics(), lambda *said: heard.append(said))
            await source.fetch(["btc"], START, START + 5, 5.0)
            await source.close()
            return heard

    [(headers, took_s)] = asyncio.run(work())
    assert "Date" in headers
    assert 0 <= took_s < 5


@pytest.mark.parametrize("ahead_s", [-90, -20, 20, 300])
def test_host_whose_clock_is_off_answers_freshly_and_says_so(ahead_s, caplog):
    """The simulator's clock is right, and that of the runtime differs."""
    caplog.set_level(logging.WARNING)
    far = abs(ahead_s) > wallclock.WRONG_S

    async def test():
        market = await start(Config(port=0, rate_limit=0, regime="calm"))
        settings = Settings(api_url=market.url, api_requests=1000, window_s=7200, poll_s=0.3, monitor_s=0.0)
        try:
            async with (
                open_runtime(settings, now=lambda: time.time() + ahead_s) as runtime,
                listening(runtime, "127.0.0.1", 0, parting_s=0) as url,
                aiohttp.ClientSession() as session,
            ):
                ends = time.monotonic() + 20
                while abs(runtime.wall() - time.time()) > 1 or max(runtime.engine.ages().values()) > 3:
                    assert time.monotonic() < ends, (runtime.wall() - time.time(), runtime.engine.ages())
                    await asyncio.sleep(0.05)
                for _ in range(5):
                    await asyncio.sleep(0.4)
                    for asked in ({}, {"timestamp": int(time.time())}, {"timestamp": int(time.time()) // 300 * 300}):
                        async with session.post(f"{url}/predict", json=asked) as response:
                            answer = await response.json()
                        assert (response.status, set(answer["predictions"])) == (200, set(settings.assets))
                        assert abs(parse(answer["timestamp"]) - asked.get("timestamp", time.time())) <= 2.5
                        assert max(answer["age_s"].values()) <= 3
                async with session.get(f"{url}/readyz") as response:
                    told = await response.json()
                assert (response.status, told["ready"]) == ((503, False) if far else (200, True))
                assert told["trouble"].startswith("the host's clock is" if far else "")
                assert bool(told["trouble"]) == far
                async with session.get(f"{url}/metrics") as response:
                    [line] = [each for each in (await response.text()).split("\n") if each.startswith("precog_clock")]
                assert float(line.split()[1]) == pytest.approx(ahead_s, abs=1.5)
        finally:
            await market.close()

    asyncio.run(test())
    [told] = [each.getMessage() for each in caplog.records if each.name == wallclock.__name__]
    assert ("slow" if ahead_s < 0 else "fast") in told
