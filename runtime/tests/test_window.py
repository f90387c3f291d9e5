from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precog_runtime.market.window import REMEMBERED, Window, ordered
from precog_runtime.types import Series

YEAR_2030 = 1_893_456_000


def made(rows: dict[int, float]) -> Series:
    times = sorted(rows)
    return Series(np.array(times, np.int64), np.array([rows[time] for time in times]))


def shown(series: Series) -> dict[int, float]:
    return dict(zip(series.times.tolist(), series.prices.tolist(), strict=True))


class Model:
    """What a window is, said plainly."""

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds
        self.rows: dict[int, float] = {}

    def extend(self, rows: dict[int, float]) -> bool:
        newest = max([*self.rows, *rows])
        after = {time: price for time, price in {**self.rows, **rows}.items() if time > newest - self.seconds}
        changed = any(self.rows.get(time) != after[time] for time in rows if time in after)
        self.rows = after
        return changed


batches = st.dictionaries(st.integers(0, 60), st.sampled_from([1.0, 2.0, 3.5]), min_size=1, max_size=40)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 30), st.lists(st.tuples(st.integers(0, 100), batches), max_size=8))
def test_window_is_a_dict_of_the_newest_seconds(size: int, steps: list[tuple[int, dict[int, float]]]) -> None:
    window, model = Window(size), Model(size)
    for shift, batch in steps:
        rows = {time + shift: price for time, price in batch.items()}
        before = {key: window.version(*key) for key in ((0, 200), (20, 40), (shift, shift + 9))}
        held = {(start, end): _between(model.rows, start, end) for start, end in before}
        assert window.extend(made(rows)) == model.extend(rows)
        assert window.newest == max(model.rows)
        for start, end in ((0, 200), (-5, 10), (shift, shift + 9), (20, 40), (50, 40), (YEAR_2030, YEAR_2030 + 9)):
            assert shown(window.series(start, end)) == _between(model.rows, start, end)
        for key, version in before.items():
            same = held[key] == _between(model.rows, *key)
            assert (window.version(*key) == version) == same
        for second in (-1, 0, shift, shift + 30, max(model.rows), YEAR_2030):
            assert window.price(second) == model.rows.get(second)
            assert window.last(second) == max((time for time in model.rows if time <= second), default=None)
            assert window.first(second) == min((time for time in model.rows if time >= second), default=None)


def _between(rows: dict[int, float], start: int, end: int) -> dict[int, float]:
    return {time: price for time, price in sorted(rows.items()) if start <= time <= end}


def test_an_empty_window_has_nothing() -> None:
    window = Window(600)
    assert window.newest is None
    assert len(window.series(0, 2**40)) == 0
    assert window.price(5) is None
    assert window.last(5) is None
    assert window.first(5) is None
    assert not window.extend(made({}))
    assert window.version(0, 9) == Window(60).version(5, 6)


def test_far_off_ranges_change_nothing() -> None:
    window = Window(600)
    window.extend(made({1000: 1.0, 1001: 2.0}))
    version = window.version(0, 2000)
    for start, end in ((YEAR_2030, YEAR_2030 + 3600), (-(10**30), -(10**29)), (10**29, 10**30), (10**30, -(10**30))):
        assert len(window.series(start, end)) == 0
        window.version(start, end)
    assert window.price(10**30) is None
    assert window.last(10**30) == 1001
    assert window.last(-(10**30)) is None
    assert window.first(10**30) is None
    assert shown(window.series(-(10**30), 10**30)) == {1000: 1.0, 1001: 2.0}
    assert window.version(0, 2000) == version
    assert window.newest == 1001


def test_last_and_first_look_across_long_gaps() -> None:
    window = Window(86400)
    window.extend(made({100_000: 1.0, 160_000: 2.0}))
    assert window.last(159_999) == 100_000
    assert window.last(99_999) is None
    assert window.first(100_001) == 160_000


def test_series_are_copies() -> None:
    window = Window(600)
    window.extend(made({10: 1.0}))
    window.series(0, 20).prices[0] = 99.0
    assert window.price(10) == 1.0


def test_versions_are_remembered_within_bounds_and_survive_what_does_not_concern_them() -> None:
    window = Window(1000)
    window.extend(made({second: 1.0 + second for second in range(900)}))
    first = window.version(100, 200)
    for end in range(300, 300 + 3 * REMEMBERED):
        window.version(250, end)
    assert len(window._versions) <= REMEMBERED
    assert window.version(100, 200) == first
    window.extend(made({901: 5.0}))
    assert (100, 200) in window._versions
    window.extend(made({150: 7.0}))
    assert (100, 200) not in window._versions
    assert window.version(100, 200) != first


def test_versions_are_the_same_in_another_process() -> None:
    program = (
        "import numpy as np; from precog_runtime.market.window import Window; from precog_runtime.types import Series;"
        "w = Window(700); t = np.arange(1000, 1600); w.extend(Series(t, 1.0 + t / 7)); print(w.version(1100, 1500))"
    )
    # Another size of ring, another order of arrival, other prices around: the same data.
    window = Window(900)
    times = np.arange(900, 1600)
    prices = np.where(times < 1000, 3.0, 1.0 + times / 7)
    window.extend(Series(times[300:], prices[300:]))
    window.extend(Series(times[:300], prices[:300]))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    command = [sys.executable, "-c", program]
    told = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert int(told) == window.version(1100, 1500)
    assert 0 <= int(told) < 2**63


def test_three_assets_of_a_day_fit_into_4_2_megabytes() -> None:
    windows = [Window(86400) for _ in range(3)]
    times = np.arange(1_700_000_000, 1_700_000_000 + 2 * 86400)
    for window in windows:
        window.extend(Series(times, np.ones(len(times))))
        assert len(window.series(0, 2**40)) == 86400
    assert sum(window.nbytes for window in windows) <= 4.2e6


@pytest.mark.parametrize(
    ("times", "prices", "wanted"),
    [
        ([], [], {}),
        ([5], [1.0], {5: 1.0}),
        ([1, 2, 3], [1.0, 2.0, 3.0], {1: 1.0, 2: 2.0, 3: 3.0}),
        ([3, 1, 2], [3.0, 1.0, 2.0], {1: 1.0, 2: 2.0, 3: 3.0}),
        ([1, 1, 1], [3.0, 1.0, 2.0], {1: 2.0}),
        ([2, 1, 2, 1], [1.0, 2.0, 3.0, 4.0], {1: 4.0, 2: 3.0}),
    ],
)
def test_ordered(times: list[int], prices: list[float], wanted: dict[int, float]) -> None:
    series = ordered(np.array(times, np.int64), np.array(prices))
    assert shown(series) == wanted
    assert series.times.tolist() == sorted(wanted)
