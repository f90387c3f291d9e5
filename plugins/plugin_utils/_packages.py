# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs a module that may need Debian packages: when it reports what is missing, install that and run it again."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.precog.fleet.plugins.plugin_utils._action import Result, shown, unwritable

# lock_timeout (seconds): unattended-upgrades may hold dpkg's lock. apt's message names the process that holds it.
APT = {"update_cache": True, "cache_valid_time": 3600, "install_recommends": False, "lock_timeout": 300}
MOST_ROUNDS = 3  # a package may reveal that another one is missing


class PackagesAction(ActionBase):
    """Runs the module MODULE, brings what it reports in `needs`, and runs it again.

    A host that can't be reached is a failure: Ansible does not count unreachable hosts for max_fail_percentage, and a
    rollout would go on to the next batch.
    """

    supports_check_mode = True
    MODULE = ""
    ADVICE = ""  # added to the error when a package can't be installed

    def run(self, tmp: None = None, task_vars: Mapping[str, Any] | None = None) -> Result:
        """Run the module on the host.

        :returns: its last result; `changed` if anything was brought.
        """
        super().run(tmp, task_vars)
        return shown(self._result(dict(task_vars or {})))

    def act(self, variables: dict[str, Any]) -> Result:
        """Prepare the arguments and return the result of `rounds`.

        :raises AnsibleError, OSError, ValueError: the task fails with this message.
        """
        raise NotImplementedError

    def bring(self, needs: dict[str, Any], args: dict[str, Any]) -> None:
        """Bring what the module needs besides Debian packages, and put it into its arguments."""

    def rounds(self, args: dict[str, Any], variables: dict[str, Any]) -> Result:
        """Run the module, and again after what it needs is there. In check mode nothing is brought."""
        brought = False
        for _round in range(MOST_ROUNDS):
            result: Result = self._execute_module(module_name=self.MODULE, module_args=args, task_vars=variables)
            needs = result.pop("needs", None)
            if not needs or self._task.check_mode:
                return {**result, "changed": bool(result.get("changed")) or brought}
            brought = self._install(needs["debian"], variables) or brought
            self.bring(needs, args)
        lacking = ", ".join([*needs["debian"], *needs.get("wheels", [])])
        raise AnsibleError(
            f"the module still reports {lacking} as missing after {MOST_ROUNDS} installations. Look at it on the host: "
            f"dpkg -l {' '.join(needs['debian'])}"
        )

    def _result(self, variables: dict[str, Any]) -> Result:
        try:
            return self.act(variables)
        except AnsibleConnectionFailure as error:
            if failure := unwritable(error):
                return failure
            reason = (
                f"this host can't be reached: {error}. What runs there is unknown. Bring the host back or remove it "
                "from the inventory, then run again"
            )
            return {"failed": True, "msg": reason, "settings": [], "unreached": True}
        except (AnsibleError, OSError, ValueError) as error:
            return {"failed": True, "msg": str(error), "settings": []}
        finally:
            # On a host that can't be reached, the task's folder below /tmp is left behind.
            with suppress(AnsibleConnectionFailure):
                self._remove_tmp_path(self._connection._shell.tmpdir)

    def _install(self, names: list[str], variables: dict[str, Any]) -> bool:
        """Install Debian packages; tells whether that changed anything."""
        if not names:
            return False
        result = self._execute_module(
            module_name="ansible.builtin.apt", module_args={**APT, "name": names}, task_vars=variables
        )
        if result.get("failed"):
            raise AnsibleError(
                f"this host needs the Debian package{'s' if names[1:] else ''} {', '.join(names)}, which could not be "
                f"installed: {result.get('msg')}{self.ADVICE and f'. {self.ADVICE}'}"
            )
        return bool(result.get("changed"))
