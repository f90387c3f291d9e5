# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the tuning modules share: one run of the engine, told to Ansible."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from .._host.host import NOT_ROOT, HostError
from . import model
from . import run as engine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ansible.module_utils.basic import AnsibleModule

    from .._host.host import Host


def tune(
    module: AnsibleModule,
    host: Host,
    make: Callable[[], Sequence[model.Subsystem]],
    facts: Callable[[bool], Mapping[str, Any]],
) -> None:
    """Bring what the module's arguments say into place, and end the module with the report.

    :param make: returns the subsystems that the arguments stand for.
    :param facts: returns what the report tells of psutil; it is told whether the run changed anything.
    """
    try:
        if os.geteuid() != 0:
            raise HostError(NOT_ROOT)
        report = engine.run(host, make(), check_mode=module.check_mode)
    except HostError as error:
        module.fail_json(msg=str(error), settings=[], psutil=facts(False))
    result = {**report.result(), "psutil": facts(report.changed and not module.check_mode)}
    for warning in _warnings(report):
        module.warn(warning)
    failures = report.failures(on_unsupported=module.params.get("on_unsupported", "report"))
    if failures:
        module.fail_json(msg=engine.explain_failures(failures), **result)
    module.exit_json(**result)


def _warnings(report: engine.Report) -> list[str]:
    overridden = [change for change in report.changes if change.verdict == model.OVERRIDDEN]
    return report.warnings + [f"{change.name}: {change.overridden_by}" for change in overridden]
