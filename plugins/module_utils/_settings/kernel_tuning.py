# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A call of sysctl_profile: its arguments, and the subsystems that they stand for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from .._engine import model
from .._host.host import HostError
from .sysctl import profiles
from .sysctl.sysctl import Sysctl
from .sysfs.thp import TransparentHugePages

if TYPE_CHECKING:
    from collections.abc import Mapping

UNMANAGED = "unmanaged"


def subsystems(params: dict[str, Any], facts: Mapping[str, Any]) -> list[model.Subsystem]:
    """Return what one call brings into place, in order: the keys, then huge pages.

    :param params: the module's parameters.
    :param facts: of psutil, with `virtual_memory` unless psutil is missing.
    :raises HostError: a parameter makes no sense.
    """
    present = params["state"] == "present"
    shared = params["shared_kernel"] == "apply"
    # Nothing hidden: systemd-sysctl passes over such files.
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,199}", params["name"]):
        raise HostError(
            f"name = {params['name']!r} is no name for a file: letters, digits, dots and dashes are wanted, as in "
            "99-zz-precog-fleet"
        )
    if min(params["bandwidth_mbit"], params["round_trip_ms"]) < 1:
        raise HostError("bandwidth_mbit and round_trip_ms must be 1 or more")
    keys = Sysctl(
        params["name"],
        present=present,
        profile=params["profile"],
        parameters=params["parameters"],
        path=profiles.Path(params["bandwidth_mbit"], params["round_trip_ms"]),
        memory=facts.get("virtual_memory", {}).get("total"),
        apply_shared=shared,
        only_file=params["only_file"],
    )
    mode = params["transparent_hugepage"]
    return [keys, TransparentHugePages(mode if present and mode != UNMANAGED else None, apply_shared=shared)]
