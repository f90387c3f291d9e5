# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Hands the module's arguments on: to each host the hotkeys of its own instances only, and those as text.

Variables that are secrets travel apart from the others. No secret is sent where Ansible would write it to a file.

Only on the control node can be told where a value comes from, so a hotkey that was in no vault is warned of here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible_collections.precog.fleet.plugins.plugin_utils import _secrets as secrets
from ansible_collections.precog.fleet.plugins.plugin_utils._action import Result
from ansible_collections.precog.fleet.plugins.plugin_utils._packages import PackagesAction

try:
    from ansible._internal._datatag._tags import Origin
    from ansible.parsing.vault import VaultHelper
except ImportError:  # ansible-core may move them, as they are not part of its interface: then nothing is warned of
    VaultHelper = None

VAULT_HEADER = b"$ANSIBLE_VAULT;"


class ActionModule(PackagesAction):
    """The module's result, with a warning for each hotkey that lies open on the control node."""

    MODULE = "precog.fleet.miner_service"

    def act(self, variables: dict[str, Any]) -> Result:
        """Run the module with what may be sent to this host."""
        args = dict(self._task.args)
        given = args.get("hotkeys")
        if isinstance(given, dict):
            args["hotkeys"] = as_text(needed(given, args.get("instances")))
        args = secrets.separated(args)
        if args.get("state") == "absent":
            args = {name: value for name, value in args.items() if name not in secrets.SENT}
        why = "" if self._is_pipelining_enabled("new", self._task.async_val > 0) else secrets.in_the_open(args)
        if why:
            raise AnsibleError(why)
        result = self.rounds(args, variables)
        warnings = [warning(name) for name in open_ones(given, args.get("hotkeys"))]
        return {**result, "warnings": [*result.get("warnings", []), *warnings]}


def needed(hotkeys: dict[str, Any], instances: Any) -> dict[str, Any]:
    """Return the hotkeys of a host's own instances; where it isn't clear which those are, none."""
    names = set(instances) if isinstance(instances, dict) else {"main"}
    return {str(name): hotkey for name, hotkey in hotkeys.items() if str(name) in names}


def as_text(hotkeys: dict[str, Any]) -> dict[str, Any]:
    """Return hotkeys as text: of an object, Ansible would take each value, a mere 1 too, for a secret to mask."""
    return {name: json.dumps(key) if isinstance(key, dict) else str(key) for name, key in hotkeys.items()}


def open_ones(given: Any, handed_on: Any) -> list[str]:
    """Return the names of hotkeys that are handed on, but come from no vault."""
    if VaultHelper is None or not isinstance(given, dict) or not isinstance(handed_on, dict):
        return []
    return [str(name) for name, key in given.items() if str(name) in handed_on and not from_vault(key)]


def from_vault(value: Any) -> bool:
    """Tell whether a value was encrypted: itself, the file that it comes from, or all values in it."""
    if VaultHelper.get_ciphertext(value, with_tags=False) is not None:
        return True
    if isinstance(value, dict) and value:
        return all(from_vault(one) for one in value.values())
    origin = Origin.get_tag(value)
    return bool(origin and origin.path and is_vault(Path(origin.path)))


def is_vault(path: Path) -> bool:
    """Tell whether a file is one that ansible-vault encrypted as a whole."""
    try:
        with path.open("rb") as file:
            return file.read(len(VAULT_HEADER)) == VAULT_HEADER
    except OSError:
        return False


def warning(name: str) -> str:
    """Return what is said of a hotkey from no vault."""
    return (
        f"miner_service_hotkeys.{name} does not come from Ansible Vault, as far as can be seen: whoever reads the "
        f"inventory could sign as this miner. Encrypt it: ansible-vault encrypt_string --stdin-name {name}"
    )
