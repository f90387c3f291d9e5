"""Statistics of measured times, and how they are shown. Pure: no input or output."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Summary(NamedTuple):
    """What is shown of a series of times, in seconds."""

    median: float
    low: float
    high: float
    runs: int


class Target(NamedTuple):
    """A figure to reach: a ratio of two medians and its upper limit."""

    name: str
    ratio: float
    limit: float

    @property
    def met(self) -> bool:
        """Whether the figure is reached."""
        return self.ratio <= self.limit


def summarize(seconds: Sequence[float]) -> Summary:
    """Return median and range of a series.

    :raises ValueError: it is empty.
    """
    if not seconds:
        raise ValueError("no times to summarize")
    return Summary(statistics.median(seconds), min(seconds), max(seconds), len(seconds))


def without_warm_up(rounds: Sequence[float]) -> Sequence[float]:
    """Return the rounds that count: all but the first, or the first where there is no other."""
    return rounds[1:] or rounds


def ratio(series: Mapping[str, Sequence[float]], name: str, base: str) -> float:
    """Return how many times longer than *base* something took, by medians."""
    return summarize(series[name]).median / summarize(series[base]).median


def worst_ratio(hosts: Mapping[str, Mapping[str, Sequence[float]]], name: str, base: str) -> float:
    """Return the largest of the hosts' ratios."""
    return max(ratio(series, name, base) for series in hosts.values())


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as aligned lines: the first column to the left, the others to the right."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]


def series_table(
    series: Mapping[str, Sequence[float]],
    bases: Mapping[str, str],
    *,
    unit: str = "s",
    processor: Mapping[str, Sequence[float]] | None = None,
) -> list[str]:
    """Return a line per series, headed: median, range and the ratio to each of *bases* (heading by series).

    :param unit: `s`, or `ms` for times far below one second.
    :param processor: what each used of the processor; shown by its median and the same ratios.
    """
    scale, digits = (1000, 1) if unit == "ms" else (1, 2)
    rows = [["", f"median {unit}", "min", "max", *bases.values()]]
    if processor:
        rows[0] += [f"cpu {unit}", *bases.values()]
    for name, seconds in series.items():
        found = summarize(seconds)
        times = [f"{scale * value:.{digits}f}" for value in (found.median, found.low, found.high)]
        rows.append([name, *times, *(f"{ratio(series, name, base):.2f}" for base in bases)])
        if processor:
            used = f"{scale * summarize(processor[name]).median:.{digits}f}"
            rows[-1] += [used, *(f"{ratio(processor, name, base):.2f}" for base in bases)]
    return columns(rows)


def target_lines(targets: Sequence[Target]) -> list[str]:
    """Return a line per figure: what it is, its limit, and whether it is met."""
    rows = [["", "measured", "target", ""]]
    rows += [
        [one.name, f"{one.ratio:.2f}x", f"<= {one.limit:.2f}x", "met" if one.met else "not met"] for one in targets
    ]
    return columns(rows)


def series_document(series: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return series for the JSON report: every time, and the summary."""
    return {name: {"seconds": list(seconds), **summarize(seconds)._asdict()} for name, seconds in series.items()}
