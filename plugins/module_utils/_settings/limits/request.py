# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What an operator wants of limits: names and files of the settings, and parameters merged over a profile. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from ..._engine import model
from ..._engine.ledger import PATH as LEDGER
from ..._host import rlimits as values
from ..._host.host import HostError
from ..._host.rlimits import ITEMS, Pair
from . import pam, systemd

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "99-zz-precog-fleet.conf"
PAM_FILE = f"{pam.FOLDER}/{NAME}"
MANAGER_FILE = f"/etc/systemd/system.conf.d/{NAME}"
UNIT_ROOT = "/etc/systemd/system"

GUIDE, NONE = "guide", "none"
# The guide's `* soft nofile 65536` and `* hard nofile 65536`, for whom it means them: `*` covers neither root nor
# services.
GUIDE_LIMITS: dict[str, Any] = {values.NOFILE: 65536}
GUIDE_DOMAINS = (pam.EVERYONE, pam.ROOT)

LOGIN, DEFAULT, UNIT = "pam", "systemd", "unit"
KINDS = (LOGIN, DEFAULT, UNIT)

_DOMAIN = re.compile(r"[!-\"$-~]{1,200}")  # what scanf takes for one word, without the sign of a comment
# As systemd's own rule, without templates: only their instances are services.
_UNIT_NAME = re.compile(r"(?!.*@\.service)[A-Za-z0-9:_\\][A-Za-z0-9:_.\\@-]{0,240}\.service")


class Setting(NamedTuple):
    """One limit: of whom (a domain, a unit, or "" for systemd's default), and which.

    :ivar kind: one of KINDS.
    """

    kind: str
    place: str
    item: str

    @property
    def name(self) -> str:
        """The name in the report and in the ledger."""
        if self.kind == LOGIN:
            return f"{LOGIN}:{self.place}:{self.item}"
        if self.kind == DEFAULT:
            return f"{DEFAULT}:Default{systemd.directive(self.item)}"
        return f"{UNIT}:{self.place}:{systemd.directive(self.item)}"

    @property
    def key(self) -> str:
        """The key in systemd's files."""
        return f"{'Default' if self.kind == DEFAULT else ''}{systemd.directive(self.item)}"

    @property
    def path(self) -> str:
        """The managed file that makes it last."""
        if self.kind == LOGIN:
            return PAM_FILE
        return MANAGER_FILE if self.kind == DEFAULT else f"{UNIT_ROOT}/{self.place}.d/{NAME}"

    @property
    def section(self) -> str:
        """The section of systemd's file."""
        return systemd.MANAGER_SECTION if self.kind == DEFAULT else systemd.UNIT_SECTION

    def text(self, pair: Pair) -> str | None:
        """Return a value as the report has it."""
        return values.pam_text(self.item, pair) if self.kind == LOGIN else values.systemd_text(pair)

    @classmethod
    def of(cls, name: str) -> Setting:
        """Return the setting of a name from the ledger.

        :raises HostError: there is none of that name.
        """
        kind, _colon, rest = name.partition(":")
        place, _colon, last = rest.rpartition(":")
        item = last if kind == LOGIN else last.rpartition("Limit")[2].lower()
        setting = cls(kind, place, item)
        if kind not in KINDS or item not in ITEMS or setting.name != name:
            raise HostError(f"the ledger of originals {LEDGER} is damaged: {name!r} is no limit")
        return setting


class Bad(NamedTuple):
    """A parameter that is rejected before the host is looked at."""

    name: str
    value: str
    status: str
    reason: str


class Request(NamedTuple):
    """What an operator wants."""

    desired: Mapping[Setting, Pair]
    bad: tuple[Bad, ...] = ()


def understand(profile: str, domains: Any, defaults: Any, services: Any) -> Request:
    """Merge parameters over a profile. Pure.

    :param domains: items and values by domain of limits.conf; null for a domain, or an item, takes it out.
    :param defaults: items and values for all services.
    :param services: items and values by service.
    """
    guide = profile == GUIDE
    desired = {Setting(LOGIN, domain, values.NOFILE): GUIDE_LIMITS for domain in GUIDE_DOMAINS if guide}
    desired.update({Setting(DEFAULT, "", values.NOFILE): GUIDE_LIMITS} if guide else {})
    found = {setting: values.understand(setting.item, given[setting.item]) for setting, given in desired.items()}
    bad: list[Bad] = []
    for kind, groups in ((LOGIN, domains), (DEFAULT, {"": defaults}), (UNIT, services)):
        seen: set[str] = set()
        for raw, items in groups.items():
            place = _place(kind, str(raw))
            objection = _objection(kind, place, items, seen)
            seen.add(place)
            if objection:
                bad.append(Bad(f"{kind}:{place}", str(items), model.REFUSED, objection))
                continue
            if items is None:
                found = {setting: pair for setting, pair in found.items() if setting[:2] != (kind, place)}
            for item, value in (items or {}).items():
                bad += _take(Setting(kind, place, str(item)), value, found)
    return Request(found, tuple(bad))


def _place(kind: str, name: str) -> str:
    """Return a domain as it is, a unit's name with its suffix."""
    return f"{name}{systemd.SUFFIX}" if kind == UNIT and "." not in name else name


def _objection(kind: str, place: str, items: Any, seen: set[str]) -> str:
    """Tell why nothing can be made of what is given for a domain or a unit, or ""."""
    if kind == LOGIN and not _DOMAIN.fullmatch(place):
        return "is no domain of limits.conf: a user, @group, *, or a range of numbers is wanted"
    if kind == UNIT and not _UNIT_NAME.fullmatch(place):
        return "is no name of a service, such as precog-miner.service"
    if place in seen:
        return "is given twice: keep one of them"
    if items is not None and not isinstance(items, dict):
        return "items and their values are wanted, such as nofile: 65536"
    return ""


def _take(setting: Setting, value: Any, desired: dict[Setting, Pair]) -> list[Bad]:
    """Add one value to those desired, or say why not."""
    shown = "null" if value is None else str(value)
    if setting.item not in ITEMS:
        from difflib import get_close_matches

        near = next(iter(get_close_matches(setting.item.lower(), ITEMS, 1)), "")
        meant = f"; is {near} meant?" if near else ""
        return [Bad(setting.name, shown, model.UNKNOWN, f"limits.conf has no such item{meant}")]
    if setting.kind != LOGIN and not ITEMS[setting.item].of_process:
        return [Bad(setting.name, shown, model.REFUSED, "a limit of logins, which systemd does not have")]
    if value is None:
        desired.pop(setting, None)
        return []
    desired.pop(setting, None)
    try:
        desired[setting] = values.understand(setting.item, value)
    except ValueError as reason:
        return [Bad(setting.name, shown, model.REFUSED, str(reason))]
    return []
