"""The cache of forecasts: against a model of it, its time to live, its bound, and its metrics."""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from precog_runtime.cache import ENTRY_BYTES, Key, PredictionCache
from precog_runtime.metrics import Metrics
from precog_runtime.settings import Settings
from precog_runtime.types import Forecast

KEY: Key = ("default", "btc", 1_700_000_100, 12345)
FORECAST = Forecast(64000.5, 63000.25, 65000.125)


class Clock:
    def __init__(self) -> None:
        self.time = 1_700_000_000.0

    def __call__(self) -> float:
        return self.time


def made(number: float) -> Forecast:
    return Forecast(number + 1.0, number + 0.5, number + 1.5)


def counted(metrics: Metrics, result: str) -> float:
    return metrics.registry.get_sample_value("precog_cache_requests_total", {"result": result}) or 0.0


def evictions(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("precog_cache_evictions_total")


@pytest.fixture
def clock() -> Clock:
    return Clock()


OTHERS: list[Key] = [
    ("other", "btc", 1_700_000_100, 12345),
    ("default", "eth", 1_700_000_100, 12345),
    ("default", "btc", 1_700_000_101, 12345),
    ("default", "btc", 1_700_000_100, 12346),
    ("default", "btc", 1_700_000_100, 12345 + 2**64),
]


@pytest.mark.parametrize("other", OTHERS)
def test_another_model_asset_timestamp_or_version_is_another_entry(clock: Clock, other: Key) -> None:
    cache = PredictionCache(Settings(), Metrics(), clock)
    cache.put(KEY, made(1))
    cache.put(other, made(2))
    assert (cache.get(KEY), cache.get(other)) == (made(1), made(2))


@pytest.mark.parametrize("other", OTHERS)
def test_the_key_of_another_is_a_miss(clock: Clock, other: Key) -> None:
    metrics = Metrics()
    cache = PredictionCache(Settings(), metrics, clock)
    cache.put(KEY, FORECAST)
    assert cache.get(other) is None
    assert cache.get(KEY) is FORECAST
    assert (counted(metrics, "hit"), counted(metrics, "miss")) == (1, 1)


@pytest.mark.parametrize(
    ("passed_s", "there"), [(0, True), (599, True), (599.999, True), (600, False), (601, False), (1e9, False)]
)
def test_time_to_live_to_the_second(clock: Clock, passed_s: float, there: bool) -> None:
    cache = PredictionCache(Settings(), Metrics(), clock)
    cache.put(KEY, FORECAST)
    clock.time += passed_s
    assert (cache.get(KEY) == FORECAST) is there
    cache.clean()
    assert len(cache) == there


def test_putting_again_begins_the_time_anew(clock: Clock) -> None:
    cache = PredictionCache(Settings(), Metrics(), clock)
    cache.put(KEY, made(1))
    clock.time += 500
    cache.put(KEY, made(2))
    clock.time += 500
    assert cache.get(KEY) == made(2)
    assert len(cache) == 1


KEYS = st.tuples(st.sampled_from(["m", "n" * 50]), st.sampled_from(["btc", "eth"]), st.integers(0, 12), st.just(7))


class AgainstAModel(RuleBasedStateMachine):
    """Whatever is done, an answer is the last one put, and not too old; what fits and is not too old is there."""

    @initialize(cache_mb=st.sampled_from([0.1, 1.0]))
    def begin(self, cache_mb: float) -> None:
        self.clock, self.metrics, self.cache_mb = Clock(), Metrics(), cache_mb
        self.cache = PredictionCache(Settings(cache_mb=cache_mb, cache_ttl_s=60), self.metrics, self.clock)
        self.known: dict[Key, tuple[Forecast, float]] = {}
        self.moment = 0.0
        self.number = 0
        self.flooded = False

    @rule(key=KEYS)
    def put(self, key: Key) -> None:
        self.number += 1
        self.known[key] = (made(self.number), self.moment)
        self.cache.put(key, made(self.number))

    @rule(key=KEYS)
    def get(self, key: Key) -> None:
        forecast, put = self.known.get(key, (None, 0.0))
        alive = forecast is not None and self.moment < put + 60
        found = self.cache.get(key)
        assert found == (forecast if alive else None) or (self.flooded and found is None)

    @rule(passed_s=st.sampled_from([0, 1, 29, 30, 59, 60, 61]))
    def wait(self, passed_s: int) -> None:
        self.clock.time += passed_s
        self.moment += passed_s

    @rule()
    def clean(self) -> None:
        self.cache.clean()

    @rule(count=st.integers(1, 200))
    def flood(self, count: int) -> None:
        self.flooded = True
        for _ in range(count):
            self.number += 1
            self.cache.put(("flood", "btc", self.number, 0), made(self.number))

    @invariant()
    def bounded(self) -> None:
        if hasattr(self, "cache"):
            assert self.cache.nbytes <= self.cache_mb * 1e6


AgainstAModel.TestCase.settings = hypothesis_settings(max_examples=60, stateful_step_count=40, deadline=None)
test_against_a_model = AgainstAModel.TestCase


def scan(number: int) -> int:
    return number


def loop_just_too_large(number: int) -> int:
    return number % 700


def back_and_forth(number: int) -> int:
    return abs(number % 2000 - 1000)


def drawn(number: int) -> int:
    return int(random.Random(number).paretovariate(0.6)) % 5000


@pytest.mark.parametrize("pattern", [scan, loop_just_too_large, back_and_forth, drawn])
@pytest.mark.parametrize("cache_mb", [0.1, 0.5])
def test_the_bound_holds_whatever_is_asked(clock: Clock, pattern: Callable[[int], int], cache_mb: float) -> None:
    cache = PredictionCache(Settings(cache_mb=cache_mb), Metrics(), clock)
    for number in range(6000):
        key = ("m" * (number % 90), "a" * (number % 70), pattern(number), 0)
        if cache.get(key) is None:
            cache.put(key, made(number))
        assert cache.nbytes <= cache_mb * 1e6
        if number % 100 == 0:
            cache.clean()
            clock.time += 7
    assert len(cache) > 10


@pytest.mark.parametrize(("count", "times"), [(1500, 1), (1500, 2), (3100, 1), (3100, 2), (20000, 1)])
def test_the_bytes_are_what_python_takes(clock: Clock, count: int, times: int) -> None:
    """Entries and replaced ones, with nothing shared between keys."""
    cache = PredictionCache(Settings(cache_mb=4), Metrics(), clock)
    gc.collect()
    tracemalloc.start()
    for _ in range(times):
        for number in range(count):
            key = ("".join(["model", str(number)]), "".join(["asset", str(number)]), 10**9 + number, 2**40 + number)
            cache.put(key, Forecast(number + 0.1, number + 0.2, number + 0.3))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.5 * cache.nbytes < taken <= cache.nbytes


def test_what_is_used_often_outlives_what_is_used_once(clock: Clock) -> None:
    cache = PredictionCache(Settings(cache_mb=0.1), Metrics(), clock)
    cache.put(KEY, FORECAST)
    for number in range(2000):
        cache.put(("scan", "btc", number, 0), made(number))
        if number % 10 == 0:
            assert cache.get(KEY) is FORECAST


def test_lack_of_room_is_counted_as_eviction_and_expiry_is_not(clock: Clock) -> None:
    metrics = Metrics()
    cache = PredictionCache(Settings(cache_mb=0.1), metrics, clock)
    room = 100_000 // ENTRY_BYTES
    for number in range(room):
        cache.put(("m", "btc", number, 0), made(number))
    assert evictions(metrics) == 0
    cache.put(("m", "btc", 0, 0), made(0))  # takes no more room
    assert evictions(metrics) == 0
    for number in range(room, room + 7):
        cache.put(("m", "btc", number, 0), made(number))
    assert evictions(metrics) == 7
    clock.time += 600
    cache.clean()
    assert (len(cache), evictions(metrics)) == (0, 7)


def test_the_metric_of_the_size_follows_the_load(clock: Clock) -> None:
    metrics = Metrics()
    cache = PredictionCache(Settings(), metrics, clock)
    sizes = []
    for count in (0, 50, 200):
        for number in range(count):
            cache.put(("m", "btc", number, clock.time), made(number))
        sizes.append(metrics.registry.get_sample_value("precog_cache_bytes"))
        clock.time += 300
    assert sizes == [0, 50 * ENTRY_BYTES, 250 * ENTRY_BYTES]
    clock.time += 299
    cache.clean()
    assert metrics.registry.get_sample_value("precog_cache_bytes") == 200 * ENTRY_BYTES
    clock.time += 1
    cache.clean()
    assert metrics.registry.get_sample_value("precog_cache_bytes") == 0
