# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the actions of this collection share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible import constants, context
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.precog.fleet.plugins.plugin_utils._brief import brief

REPORT = "precog.fleet.fleet_report"
Result = dict[str, Any]


def shown(result: Result) -> Result:
    """Return a result as this run of ansible-playbook is to print it; for `ansible` itself it stays as it is."""
    if context.CLIARGS.get("module_name"):
        return result
    return brief(result, Display().verbosity, REPORT in constants.config.get_config_value("CALLBACKS_ENABLED"))


class BriefAction(ActionBase):
    """Runs the module of the task's name, and shows little of its result."""

    supports_check_mode = True

    def run(self, tmp: None = None, task_vars: Mapping[str, Any] | None = None) -> Result:
        """Run the module on the host."""
        super().run(tmp, task_vars)
        return shown(self._execute_module(task_vars=task_vars))
