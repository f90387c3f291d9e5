"""Timestamps in every way that validators, upstream's code and people write them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precog_runtime import timestamps
from precog_runtime.errors import RequestRefused

SECOND = 1795473900  # 2026-11-23T22:45:00Z

GOOD = [
    ("2026-11-23T22:45:00.000000Z", SECOND),
    ("2026-11-23T22:45:00.999999Z", SECOND),
    ("2026-11-23T22:45:00.123456789Z", SECOND),
    ("2026-11-23T22:45:00Z", SECOND),
    ("2026-11-23t22:45:00z", SECOND),
    (" 2026-11-23T22:45:00Z ", SECOND),
    ("2026-11-23T22:45:00", SECOND),
    ("2026-11-23 22:45:00", SECOND),
    ("2026-11-23T22:45:00+00:00", SECOND),
    ("2026-11-23T23:45:00.5+01:00", SECOND),
    ("2026-11-23T20:15:00-02:30", SECOND),
    (SECOND, SECOND),
    (SECOND + 0.9, SECOND),
]
BAD = [
    "",
    "yesterday",
    "2026-13-01T00:00:00Z",
    "2026-11-23T22:45:00.Z0",
    "9" * 100,
    None,
    True,
    [],
    float("nan"),
    1e400,
]


@pytest.mark.parametrize(("value", "second"), GOOD)
def test_a_timestamp_is_understood(value, second):
    assert timestamps.parse(value) == second


@pytest.mark.parametrize("value", BAD, ids=lambda value: repr(value)[:20])
def test_what_is_no_timestamp_is_refused_by_a_short_message(value):
    with pytest.raises(RequestRefused, match="neither ISO 8601 text nor a number of seconds") as told:
        timestamps.parse(value)
    assert len(str(told.value)) < 150


@given(st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1)), st.integers(-14 * 60, 14 * 60))
def test_whatever_the_offset_and_the_fraction_the_second_is_right(moment, minutes):
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    assert timestamps.parse(aware.isoformat()) == int(aware.replace(microsecond=0).timestamp())


@given(st.integers(0, 4_000_000_000))
def test_what_is_written_can_be_read(second):
    assert timestamps.parse(timestamps.text(second)) == second


@given(st.text(max_size=60))
def test_no_text_does_harm(text):
    try:
        assert isinstance(timestamps.parse(text), int)
    except RequestRefused:
        pass
