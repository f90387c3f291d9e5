# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Refuses variables of the inventory that can only be mistakes, for all hosts of a play at once; no host is asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.precog.fleet.plugins.plugin_utils import _names as names
from ansible_collections.precog.fleet.plugins.plugin_utils._action import shown
from ansible_collections.precog.fleet.plugins.plugin_utils._settings import origin, problem

BALANCERS = "load_balancers"
MOST_HOSTS = 3
# The beginnings of Ansible's own variables, and of those that are private to roles.
NOT_OURS = ("ansible_", "_")


class ActionModule(ActionBase):
    """The verdict on the variables of all hosts of the play."""

    TRANSFERS_FILES = False
    _requires_connection = False
    supports_check_mode = True

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return a failure that names each variable that can only be a mistake."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        hosts = list(variables.get("ansible_play_hosts_all") or ())
        if not variables.get("ansible_limit"):
            hosts += [host for host in variables.get("groups", {}).get(BALANCERS, ()) if host not in hosts]
        found: dict[str, list[str]] = {}
        checker = Checker()
        for host, own in inventory(variables["hostvars"], hosts):
            for why in checker.problems(own):
                found.setdefault(why, []).append(host)
        if not found:
            return {"changed": False, "msg": "All variables are known."}
        lines = [f"{why} [{told(where)}]" for why, where in found.items()]
        heading = f"{len(lines)} variable(s) of the inventory can't be meant as they are, so nothing was touched"
        heading += f". If an unknown one is your own, list it in {names.OWN}:" if checker.found_unknown else ":"
        return shown({"changed": False, "failed": True, "msg": "\n".join([heading, *lines]), "settings": []})


def inventory(hostvars: Any, hosts: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the variables of hosts as inventory and command line give them, without what tasks have registered."""
    manager = getattr(hostvars, "_variable_manager", None)
    registered = getattr(manager, "_nonpersistent_fact_cache", None) or {}
    for host in hosts:
        noted = registered.get(host) or ()
        yield host, {name: value for name, value in hostvars.raw_get(host).items() if name not in noted}


class Checker:
    """Looks at variables, at each value and each name once: most hosts have theirs from a group.

    :ivar found_unknown: whether the problems so far include an unknown name.
    """

    def __init__(self) -> None:
        self.found_unknown = False
        self._known = names.options()
        self._options = {name: option for options in self._known.values() for name, option in options.items()}
        self._others = names.of_playbooks()
        self._names: dict[tuple[str, tuple[str, ...]], str] = {}
        self._values: dict[tuple[str, int], tuple[Any, str]] = {}

    def problems(self, variables: dict[str, Any]) -> Iterator[str]:
        """Yield what is wrong with the variables of a host."""
        listed = variables.get(names.OWN)
        own = tuple(map(str, listed)) if isinstance(listed, list) else ()
        for name, value in variables.items():
            if name.startswith(NOT_OURS):
                continue
            why = self._value(name, value) if name in self._options else self._name(name, own)
            if why:
                yield why

    def _name(self, name: str, own: tuple[str, ...]) -> str:
        key = (name, own)
        if key not in self._names:
            why = names.unknown(name, own, self._known, self._others)
            place = origin(name)
            self.found_unknown |= bool(why)
            self._names[key] = f"{name}{f' ({place})' if place else ''}: {why}" if why else ""
        return self._names[key]

    def _value(self, name: str, value: Any) -> str:
        """A template has no kind yet; what it comes to is checked by its role."""
        if isinstance(value, str) and ("{{" in value or "{%" in value):
            return ""
        key = (name, id(value))
        if key not in self._values:
            # The value is kept, so that no other gets its ID.
            self._values[key] = (value, problem(name, value, self._options[name]))
        return self._values[key][1]


def told(hosts: list[str]) -> str:
    """Return some hosts' names, and how many more there are."""
    rest = len(hosts) - MOST_HOSTS
    return ", ".join(hosts[:MOST_HOSTS]) + (f" and {rest} more" if rest > 0 else "")
