# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks what host_audit is given and runs it on the host. Where it says nothing of the host's state, the task fails.

With the part preflight, a host that gives no answer of ours is left to preflight's own module to say why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ansible.errors import AnsibleConnectionFailure
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase
from ansible_collections.precog.fleet.plugins.module_utils._settings.parts import AUDIT, PARTS
from ansible_collections.precog.fleet.plugins.plugin_utils._action import shown, unwritable
from ansible_collections.precog.fleet.plugins.plugin_utils._payload import payload
from ansible_collections.precog.fleet.plugins.plugin_utils._settings import problem

if TYPE_CHECKING:
    from ansible_collections.precog.fleet.plugins.module_utils._engine.options import Options

# The roles' variables that are not named as the arguments of their modules.
VARIABLES = {("kernel_tuning", "name"): "file_name", ("preflight", "require_psutil"): "install_psutil"}
# The miner and its environment are audited by their own modules.
PACKAGES = ("_host", "_engine", "_settings")
# Ansible loads this file before it forks a process for each host, so it is packed once per run.
CODE = payload(PACKAGES)


class ActionModule(ActionBase):
    """The module's result. It fails where the host could not be looked at: a host that differs is no failure."""

    supports_check_mode = True

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module on the host.

        :returns: its result; a failure where it says nothing of the host's state.
        """
        super().run(tmp, task_vars)
        return shown(self._look(task_vars))

    def _look(self, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        try:
            parts = check(self._task.args)
        except ValueError as error:
            return {"failed": True, "msg": str(error), "settings": [], "unclean": []}
        arguments = {"parts": parts, "code": CODE}
        try:
            result = self._execute_module(
                module_name="precog.fleet.host_audit", module_args=arguments, task_vars=task_vars
            )
        except AnsibleConnectionFailure as error:
            failure = unwritable(error)
            if not failure:
                raise
            return {**failure, "unclean": []}
        if result.get("failed") and "unclean" not in result and "preflight" in parts:
            return unanswered(list(parts), result.get("msg", ""))
        return dict(result)


def check(given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the arguments of each part that is given, with defaults, as its own module takes them.

    :raises ValueError: they are not as they should be; says which, by the roles' variables, and why.
    """
    expect({part: (params, AUDIT[part]) for part, params in given.items() if part in AUDIT})
    wanted = {part: params for part, params in validated(given, AUDIT).items() if params is not None}
    for part, params in wanted.items():
        specification = PARTS[part]
        expect(
            {
                f"{part}_{VARIABLES.get((part, name), name)}": (value, specification[name])
                for name, value in params.items()
                if name in specification
            }
        )
    return {part: validated(params, PARTS[part], f"{part}: ") for part, params in wanted.items()}


def expect(values: dict[str, tuple[Any, dict[str, Any]]]) -> None:
    """Raise ValueError, with all of them, if values are not of their kinds.

    :param values: each with its specification, by the name that an operator knows it by.
    """
    problems = [problem(name, value, option) for name, (value, option) in values.items()]
    if any(problems):
        raise ValueError("\n".join(filter(None, problems)))


def unanswered(parts: list[str], why: str) -> dict[str, Any]:
    """Return the result for a host where the module could not run: an old Python, no sudo. Every part is to look."""
    return {"changed": False, "settings": [], "unclean": parts, "warnings": [f"host_audit could not run here: {why}"]}


def validated(given: dict[str, Any], specification: Options, place: str = "") -> dict[str, Any]:
    """Return arguments with their defaults and of their types.

    :param place: where they stand, for the error.
    :raises ValueError: one is not as the specification has it.
    """
    checked = ArgumentSpecValidator(specification).validate(given)
    if checked.error_messages:
        raise ValueError(place + "; ".join(checked.error_messages))
    return dict(checked.validated_parameters)
