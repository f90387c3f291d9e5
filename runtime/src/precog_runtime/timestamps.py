"""Timestamps as validators and the market data API write them."""

from __future__ import annotations

from datetime import datetime, timezone

from precog_runtime.errors import RequestRefused

LONGEST = 40  # characters of a timestamp; "2026-11-23T21:05:00.000000000+00:00" has 35
MOST = 1e15  # a number of more digits is no second of any calendar, and Python refuses to print a very long one


def parse(value: object) -> int:
    """Return the second since the epoch that a timestamp lies in.

    :param value: ISO 8601 text (without an offset it is UTC; fractions of a second are cut off), or seconds.
    :raises RequestRefused: it is neither.
    """
    try:
        if isinstance(value, str):
            return _parse_text(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < MOST:
            return int(value // 1)
    except (ValueError, OverflowError):
        pass
    shown = repr(value[:LONGEST]) if isinstance(value, str) else show(value)
    raise RequestRefused(f"timestamp {shown} is neither ISO 8601 text nor a number of seconds since 1970")


def show(value: object) -> str:
    """Return how something that is no text is named in a refusal: a number by itself, anything else by its kind.

    What a caller sends may be nested so deeply that its repr() fails.
    """
    if value is None or isinstance(value, (bool, float)) or (isinstance(value, int) and abs(value) < MOST):
        return repr(value)
    return f"({type(value).__name__})"


def _parse_text(text: str) -> int:
    if len(text) > LONGEST:
        raise ValueError("too long")
    # Before 3.11 fromisoformat knows neither Z nor fractions of 1 to 9 digits; whole seconds are all that is wanted.
    whole, _, fraction = text.strip().replace("z", "Z").replace("Z", "+00:00").partition(".")
    offset = fraction.lstrip("0123456789")
    moment = datetime.fromisoformat(whole + offset)
    aware = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    return int(aware.timestamp() // 1)


def text(second: int) -> str:
    """Return a second since the epoch as the API and the validators write it: 2026-11-23T21:05:00.000000Z."""
    return datetime.fromtimestamp(second, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
