# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the actions of this collection share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible import constants, context
from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.precog.fleet.plugins.plugin_utils._brief import brief

REPORT = "precog.fleet.fleet_report"
# What Ansible says, as of a host that can't be reached, where it could log in and write nothing.
NO_ROOM = "Failed to create temporary directory"
Result = dict[str, Any]


def shown(result: Result) -> Result:
    """Return a result as this run of ansible-playbook is to print it; for `ansible` itself it stays as it is."""
    if context.CLIARGS.get("module_name"):
        return result
    return brief(result, Display().verbosity, REPORT in constants.config.get_config_value("CALLBACKS_ENABLED"))


def unwritable(error: AnsibleConnectionFailure) -> Result | None:
    """Return the failure of a host that can be reached but not written to; None for one that can't be reached."""
    if NO_ROOM not in str(error):
        return None
    return {
        "failed": True,
        "settings": [],
        "msg": "Ansible can log in here, but can't write its temporary files (remote_tmp): the disk is full or "
        "read-only, or the folder is not the login user's. Nothing was done. Look at it: df -h; findmnt -O ro",
    }


class BriefAction(ActionBase):
    """Runs the module of the task's name, and shows little of its result."""

    supports_check_mode = True

    def run(self, tmp: None = None, task_vars: Mapping[str, Any] | None = None) -> Result:
        """Run the module on the host."""
        super().run(tmp, task_vars)
        try:
            return shown(self._execute_module(task_vars=task_vars))
        except AnsibleConnectionFailure as error:
            failure = unwritable(error)
            if not failure:
                raise
            return failure
