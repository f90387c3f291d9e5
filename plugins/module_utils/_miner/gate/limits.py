# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The limits of the gate, and the range of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..._host.host import HostError
from ..options import GATE
from .values import as_number

if TYPE_CHECKING:
    from collections.abc import Mapping

READY_S = {"upstream": 300.0}  # where `ready_s` is not given: it asks the chain before it is ready


class Limits(NamedTuple):
    """What an instance is held to; the names and defaults are those of `miner_service_gate`.

    :ivar ready_s: as it was given, or its default; `ready_for` knows what holds for an engine.
    :ivar rejoin_s: how long load balancers take to hand requests to an instance that is ready again.
    :ivar ready_given: whether `ready_s` was given, and so holds for every engine.
    """

    ready_s: float
    soak_s: float
    rate_hz: float
    deadline_ms: float
    p99_ms: float
    p99_factor: float
    p99_slack_ms: float
    error_rate: float
    price_tolerance: float
    max_age_s: float
    interval_min: float
    interval_max: float
    growth_kb: float
    drain_s: float
    rejoin_s: float
    ready_given: bool = False

    def ready_for(self, engine: str) -> float:
        """Return how long an instance of an engine may take to be ready, seconds."""
        return self.ready_s if self.ready_given else READY_S.get(engine, self.ready_s)


class Bounds(NamedTuple):
    """Which values a limit can have."""

    least: float
    most: float
    unit: str


BOUNDS = {
    "ready_s": Bounds(0.1, 3600, "seconds"),
    "soak_s": Bounds(0, 600, "seconds"),
    "rate_hz": Bounds(0.1, 200, "requests a second"),
    "deadline_ms": Bounds(1, 60_000, "milliseconds"),
    "p99_ms": Bounds(1, 60_000, "milliseconds"),
    "p99_factor": Bounds(1, 1000, "times the p99 of before"),
    "p99_slack_ms": Bounds(0, 60_000, "milliseconds"),
    "error_rate": Bounds(0, 1, "the share of requests"),
    "price_tolerance": Bounds(0, 1000, "the share of the source's price"),
    "max_age_s": Bounds(1, 86400, "seconds"),
    "interval_min": Bounds(0, 1000, "the share of the prediction"),
    "interval_max": Bounds(0, 1e12, "the share of the prediction"),
    "growth_kb": Bounds(0, 1 << 30, "KB of memory for each request"),
    "drain_s": Bounds(0, 600, "seconds"),
    "rejoin_s": Bounds(0, 600, "seconds"),
}


def limits(given: Mapping[str, Any] | None) -> Limits:
    """Return the limits, those that are not given at their defaults.

    :param given: `miner_service_gate`; a null leaves the default.
    :raises HostError: a name or a value can't be used; all of them are told.
    """
    values = {name: float(argument["default"]) for name, argument in GATE.items()}
    problems = []
    for name, value in (given or {}).items():
        bounds = BOUNDS.get(name)
        number = _amount(value)
        if bounds is None:
            problems.append(f"there is no {name}. Choose from {', '.join(BOUNDS)}")
        elif value is not None and (number is None or not bounds.least <= number <= bounds.most):
            wanted = f"give {bounds.unit} from {bounds.least:g} to {bounds.most:g}"
            problems.append(f"{name} is {value!r}: {wanted}")
        elif number is not None:
            values[name] = number
    if problems:
        raise HostError("\n".join(f"miner_service_gate: {problem}" for problem in problems))
    return Limits(**values, ready_given=(given or {}).get("ready_s") is not None)


def _amount(value: object) -> float | None:
    """Return a number that may come as text, as from the command line; None if it is none."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return as_number(value)
