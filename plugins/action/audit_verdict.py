# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Says whether a host is as wanted: by a failure, or as unreachable if it was lost while it was looked at."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.precog.fleet.plugins.plugin_utils._brief import lines_of


class ActionModule(ActionBase):
    """The verdict on a host, of what others have found; the host itself is not asked."""

    TRANSFERS_FILES = False
    _requires_connection = False
    supports_check_mode = True

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the verdict, with `failed` or `unreachable` where it is not good."""
        super().run(tmp, task_vars)
        texts = {"type": "list", "elements": "str", "default": []}
        _validated, given = self.validate_argument_spec(dict.fromkeys(("found", "unseen", "lost"), texts))
        found, unseen, lost = (list(filter(None, given[name])) for name in ("found", "unseen", "lost"))
        told = [*(f"Could not be looked at: {why}" for why in (*lost, *unseen)), *found]
        if lost:
            return {"changed": False, "unreachable": True, "msg": listed(told)}
        return {"changed": False, "failed": bool(told), "msg": listed(told) or "This host is as expected."}


def listed(texts: list[str]) -> str:
    """Return texts as one of at most ten lines."""
    return "\n".join(lines_of("\n".join(texts)))
