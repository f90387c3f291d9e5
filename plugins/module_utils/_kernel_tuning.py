# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A call of sysctl_profile: its arguments, and the subsystems that they stand for."""

from __future__ import annotations

import re
from typing import Any

from ansible_collections.precog.fleet.plugins.module_utils import _engine as engine
from ansible_collections.precog.fleet.plugins.module_utils import _profiles
from ansible_collections.precog.fleet.plugins.module_utils._host import HostError
from ansible_collections.precog.fleet.plugins.module_utils._sysctl import Sysctl
from ansible_collections.precog.fleet.plugins.module_utils._thp import MODES, TransparentHugePages

UNMANAGED = "unmanaged"

ARGUMENTS = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "profile": {"type": "str", "choices": list(_profiles.NAMES), "default": _profiles.GUIDE},
    "parameters": {"type": "dict", "default": {}},
    "bandwidth_mbit": {"type": "int", "default": _profiles.DEFAULT_PATH.bandwidth},
    "round_trip_ms": {"type": "int", "default": _profiles.DEFAULT_PATH.round_trip},
    "transparent_hugepage": {"type": "str", "choices": [UNMANAGED, *MODES], "default": UNMANAGED},
    "name": {"type": "str", "default": "99-zz-precog-fleet"},
    "on_unsupported": {"type": "str", "choices": ["report", "fail"], "default": "report"},
    "shared_kernel": {"type": "str", "choices": ["leave", "apply"], "default": "leave"},
}


def subsystems(params: dict[str, Any], facts: dict[str, Any]) -> list[engine.Subsystem]:
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
        path=_profiles.Path(params["bandwidth_mbit"], params["round_trip_ms"]),
        memory=facts.get("virtual_memory", {}).get("total"),
        apply_shared=shared,
    )
    mode = params["transparent_hugepage"]
    return [keys, TransparentHugePages(mode if present and mode != UNMANAGED else None, apply_shared=shared)]
