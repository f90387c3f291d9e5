# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Collects problems with options, so that one message reports them all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


class Notes:
    """Problems and warnings, collected; each names the setting, its value, the reason and what to do."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.warnings: list[str] = []

    def refuse(self, setting: str, value: Any, reason: str) -> None:
        """Note that a setting can't be used."""
        self.problems.append(f"{setting}: {value!r} {reason}")

    def nearest(self, setting: str, unknown: str, known: Iterable[str]) -> None:
        """Note a name that there is not, with the nearest that there is."""
        from difflib import get_close_matches

        names = sorted(known)
        near = get_close_matches(unknown.lower(), names, 1)
        self.problems.append(
            f"{setting}: there is no {unknown!r}. "
            + (f"Is {near[0]} meant?" if near else f"There are {', '.join(names)}")
        )
