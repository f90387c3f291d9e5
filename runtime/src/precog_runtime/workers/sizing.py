"""How many workers a load wants: at once more, slowly fewer, and no change in between. Pure: the time is passed in."""

from __future__ import annotations

import os
from dataclasses import dataclass

BUSY = 1.0  # above this load tasks wait: more workers at once
SLACK = 0.5  # below it, for a while, a worker goes
SLACK_S = 30.0  # how long the load has to be below SLACK; a new process costs some tenths of a second
MOST_BY_DEFAULT = 4


def bounds(least: int, most: int) -> tuple[int, int]:
    """Return the bounds of a pool's size.

    :param most: 0 means the number of CPUs that this process may use, 4 at the most.
    :raises ValueError: they can't be used.
    """
    if least < 1 or most < 0:
        raise ValueError(f"a pool of {least} to {most} workers can't work. Give at least 1, and 0 or more at most")
    most = most or min(_processors(), MOST_BY_DEFAULT)
    return least, max(least, most)


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass
class Sizer:
    """The size of a pool, steered by its load: tasks, waiting or at work, by workers.

    Above BUSY it grows at once to one worker for each task. Below SLACK, without a break for SLACK_S, it shrinks by
    one, and by one more after each further SLACK_S. Between the two it stays. A constant load never makes it swing:
    below SLACK a pool of n >= 2 workers has fewer than n / 2 tasks, so n - 1 workers are not above BUSY.

    :ivar least: lower bound.
    :ivar most: upper bound.
    """

    least: int
    most: int

    def __post_init__(self) -> None:
        self.size = self.least
        self._slack_since: float | None = None

    def step(self, tasks: int, now: float) -> int:
        """Return the size for a number of tasks, from now on.

        :param now: seconds on a clock that never goes back.
        """
        load = tasks / self.size
        if load > BUSY:
            self.size = min(self.most, tasks)
        if load >= SLACK or self.size == self.least:
            self._slack_since = None
        elif self._slack_since is None:
            self._slack_since = now
        elif now - self._slack_since >= SLACK_S:
            self.size -= 1
            self._slack_since = now
        return self.size

    @property
    def due(self) -> float | None:
        """When the size may shrink next, so that a step is wanted even if nothing happens; None if it may not."""
        return None if self._slack_since is None else self._slack_since + SLACK_S
