# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The data of one rollout: the release and the one before it, and an instance that is starting."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .compare import Seen, Work
from .gate import judge
from .store import Past, Release

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from .model import Secret


class Turn(NamedTuple):
    """A release that takes the place of another.

    :ivar previous: what runs before it, and again if it fails; None for nothing.
    :ivar seen: the host before anything was touched.
    :ivar held: the ports that instances may listen at by then.
    :ivar baseline: the figures of those that ran, by name.
    :ivar known: whether the release was good before, with the secrets that are there: then it is not compared.
    """

    release: Release
    previous: Release | None
    work: Work
    secrets: Mapping[str, Secret]
    seen: Seen
    past: Past
    held: Mapping[str, Collection[int]]
    baseline: Mapping[str, judge.Figures]
    known: bool


class Begun(NamedTuple):
    """An instance that was told to start.

    :ivar pid: of the process that it had before.
    :ivar restarts: how often systemd had started it again by itself.
    :ivar since: when that was, seconds since the epoch.
    """

    pid: int
    restarts: int
    since: float
