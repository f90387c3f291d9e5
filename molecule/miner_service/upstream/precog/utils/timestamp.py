"""Timestamps as validators write them."""

from datetime import datetime

from pytz import timezone


def parse(text: str) -> datetime:
    """Return the time that a text says, in UTC."""
    return datetime.fromisoformat(text).astimezone(timezone("UTC"))
