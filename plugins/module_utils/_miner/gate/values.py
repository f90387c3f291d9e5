# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads numbers, prices, timestamps and tables from JSON; None or empty for anything else. Pure."""

from __future__ import annotations

import json
import math
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST_TEXT = 120  # characters of an answer that are shown
MOMENT = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.[0-9]{1,9})?(?:Z|\+00:00)")


def as_number(value: object) -> float | None:
    """Return a number of JSON, or None: for what is none, and for what is too large for a float."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def as_object(body: bytes) -> dict[str, Any]:
    """Return a JSON object; an empty one for what is none."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def as_table(answer: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = answer.get(name)
    return found if isinstance(found, dict) else {}


def as_price(value: object) -> float | None:
    number = as_number(value)
    return number if number is not None and 0 < number < math.inf else None


def as_moment(text: object) -> float | None:
    """Return the second of a timestamp such as 2026-11-23T21:05:00.000000Z, since the epoch, or None."""
    whole = MOMENT.fullmatch(text) if isinstance(text, str) else None
    try:
        return datetime.fromisoformat(f"{whole[1]}+00:00").timestamp() if whole else None
    except ValueError:
        return None


def shortened(value: object) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    try:
        shown = text if isinstance(text, str) else repr(value)
    except (RecursionError, ValueError):  # too deep, or a number of too many digits
        shown = "..."
    return shown if len(shown) <= LONGEST_TEXT else f"{shown[:LONGEST_TEXT]}..."
