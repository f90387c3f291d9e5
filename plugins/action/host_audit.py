# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs host_audit, and tells drift from failure to look by ansible-playbook's own exit codes."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """The module's result; a failure without a finding makes the host unreachable: it could not be looked at."""

    supports_check_mode = True

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module on the host.

        :returns: its result; with `unreachable` where it says nothing of the host's state.
        """
        super().run(tmp, task_vars)
        result = self._execute_module(module_name="precog.fleet.host_audit", task_vars=task_vars)
        if result.get("failed") and (result.get("errors") or not result.get("unclean")):
            del result["failed"]
            result["unreachable"] = True
        return result
