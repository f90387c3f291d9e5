# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Records what went wrong during a rollout, so that the remaining steps still run."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from .._host.host import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Fault(NamedTuple):
    """Something that went wrong.

    :ivar instance: the name of the instance that it went wrong with; "" where it is of none.
    """

    instance: str
    why: str

    def __str__(self) -> str:
        return f"{self.instance}: {self.why}." if self.instance else f"{self.why}."


class Failure(NamedTuple):
    """A release that did not come about.

    :ivar text: what failed, where, with which figures, and what runs now.
    :ivar first: what made this host go back.
    :ivar later: what went wrong on the way back.
    """

    text: str
    first: Fault
    later: tuple[Fault, ...]

    def of(self, instance: str) -> str:
        """Return why an instance is not as it is wanted: all of it for the one that failed first; "" for none."""
        if instance == self.first.instance:
            return self.text
        return " ".join(str(fault) for fault in self.later if fault.instance == instance)


@contextmanager
def noting(faults: list[Fault]) -> Iterator[None]:
    """Go on after whatever goes wrong, and note it."""
    try:
        yield
    except Exception as error:
        faults.append(Fault("", why(error)))


def why(error: Exception) -> str:
    """Return what an error says; of one that nobody foresaw, its kind too."""
    return str(error) if isinstance(error, (OSError, HostError)) else f"{type(error).__name__}: {error}"
