# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options of resource_limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._engine.options import ON_UNSUPPORTED, STATE

if TYPE_CHECKING:
    from ..._engine.options import Options

OPTIONS: Options = {
    **STATE,
    "profile": {
        "type": "str",
        "choices": ["guide", "none"],
        "default": "guide",
        "description": [
            "V(guide) has the open files of the Precog performance guide, 65536 soft and hard, for V(*), for root "
            "(whom V(*) does not cover) and for all services.",
            "V(none) has no values.",
        ],
    },
    "parameters": {
        "type": "dict",
        "default": {},
        "description": [
            "Limits of logins, by domain of limits.conf (a user, C(@group), C(*) or a range of numbers) and item, "
            "merged over the profile.",
            "A value is a number for soft and hard, V(unlimited), V(soft:hard), or a dictionary of C(soft) and "
            "C(hard), in the unit that limits.conf has for the item, here and in the other options.",
            "V(null) for an item or a domain takes it out of the profile.",
        ],
    },
    "systemd": {
        "type": "dict",
        "default": {},
        "description": "Default limits of all services by item, merged over the profile. V(null) takes one out.",
    },
    "services": {
        "type": "dict",
        "default": {},
        "description": (
            "Limits by service and item, in a drop-in of each service. The service must exist; it is not restarted."
        ),
    },
    **ON_UNSUPPORTED,
}
ROWS = {
    "settings": "One row for each limit.",
    "name": "V(pam:DOMAIN:ITEM), V(systemd:DefaultLimitITEM) or V(unit:NAME:LimitITEM).",
    "desired": (
        "The expected value as V(soft:hard), of logins in the units of limits.conf, of services in the kernel's; null "
        "where the original is restored."
    ),
    "before": "What a login got, or systemd had loaded, before this run.",
    "after": "The same, read again after this run.",
}
