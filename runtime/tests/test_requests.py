"""What of a request is answered: in part where a part is wrong, never at the cost of the rest."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precog_runtime import timestamps
from precog_runtime.requests import LONGEST_NAME, check
from precog_runtime.settings import Settings
from precog_runtime.types import NEWEST, Request

SETTINGS = Settings()
NOW = 1_795_473_900.25
EVERYTHING = ("btc", "eth", "tao_bittensor")


def checked(timestamp=None, assets=EVERYTHING, settings=SETTINGS):
    return check(Request(timestamp, assets, deadline=0.0), settings, NOW)


CASES = [
    (EVERYTHING, EVERYTHING, []),
    (["BTC", " Eth "], ("btc", "eth"), []),
    (["eth", "eth", "ETH"], ("eth",), []),
    (["btc", "doge"], ("btc",), ["doge"]),
    (["doge"], (), ["doge"]),
    ([5, None, "btc"], ("btc",), ["5", "None"]),
    ([], (), [""]),
    ("btc", (), [""]),
    (None, (), [""]),
    (["x" * 5000, "btc"], ("btc",), ["x" * LONGEST_NAME]),
]


@pytest.mark.parametrize(("asked", "answered", "refused"), CASES, ids=lambda value: repr(value)[:25])
def test_known_assets_are_answered_and_the_others_refused_by_name(asked, answered, refused):
    found = checked(assets=asked)
    assert (found.assets, list(found.refused)) == (answered, refused)


def test_a_huge_list_costs_no_more_than_its_beginning():
    found = checked(assets=["btc", *(str(number) for number in range(1_000_000))])
    assert found.assets == ("btc",)
    assert len(found.refused) == SETTINGS.max_assets
    assert found.refused["..."] == "999969 more assets: at most 32 are looked at"


BOUNDS = [(-3600, True), (-3601, False), (0, True), (120, True), (150, True), (151, False), (4 * 365 * 86400, False)]


@pytest.mark.parametrize(("offset", "fine"), BOUNDS)
def test_a_timestamp_beyond_the_bounds_is_refused_and_told(offset, fine):
    found = checked(timestamp=int(NOW) + offset)
    assert (found.timestamp is not None) == fine
    assert fine or "s at most" in found.refused[""]


def test_without_a_timestamp_it_is_now():
    assert checked().timestamp == int(NOW)
    assert checked(timestamp=timestamps.text(int(NOW))).timestamp == int(NOW)


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


WILD = [nested(100_000), {"a": nested(100_000)}, 10**5000, -(10**5000), float("nan"), b"x" * 100_000]


@pytest.mark.parametrize("wild", WILD, ids=lambda value: type(value).__name__)
def test_what_cannot_be_shown_is_refused_by_its_kind(wild):
    found = checked(assets=["btc", wild])
    assert found.assets == ("btc",)
    [shown] = found.refused
    assert shown in (f"({type(wild).__name__})", "nan")
    told = checked(timestamp=wild).refused[""]
    assert shown in told
    assert len(told) < 150


def test_json_that_is_nested_as_deeply_as_it_may_be_is_refused_and_no_bug():
    deep = orjson.loads("[" * 1000 + "]" * 1000)
    assert list(checked(assets=["btc", deep]).refused) == ["(list)"]
    assert checked(timestamp=deep).timestamp is None


anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.lists(st.text())


@given(anything, st.lists(anything | st.sampled_from(EVERYTHING), max_size=40) | anything)
def test_nothing_that_is_sent_does_harm(timestamp, assets):
    found = checked(timestamp, assets)
    assert set(found.assets) <= set(EVERYTHING)
    assert len(found.refused) <= SETTINGS.max_assets + 1
    asked = [name.strip().lower() for name in assets if isinstance(name, str)] if isinstance(assets, list) else []
    if found.timestamp is not None:
        assert set(found.assets) == set(asked[: SETTINGS.max_assets]) & set(EVERYTHING) or "..." in found.refused


MARK = int(NOW) // 300 * 300
MARKS = Settings(price_basis="mark")
SECONDS = [
    (MARK - 3000, MARK - 3000),
    (MARK - 3001, MARK - 3000),
    (MARK - 2851, MARK - 3000),
    (MARK - 2850, MARK - 2700),
]


@pytest.mark.parametrize(("timestamp", "second"), SECONDS)
def test_timestamp_between_marks_has_the_forecast_of_the_nearest(timestamp, second):
    assert checked(timestamp, settings=MARKS).second == second
    assert checked(timestamp, settings=MARKS).timestamp == timestamp
    assert checked(timestamp, settings=Settings(price_basis="mark", mark_s=0)).second == timestamp
    assert checked(timestamp).second == NEWEST


@pytest.mark.parametrize("offset", [-10, -1, 0, 1, 10])
def test_the_present_has_forecasts_of_its_own(offset):
    assert checked(int(NOW) + offset, settings=MARKS).second == int(NOW) + offset
    assert checked(settings=MARKS).second == int(NOW)
    assert checked().second == NEWEST
