# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Variables of the miners that are secrets: taken out of the module's arguments on the control node. Pure.

Variables are kept in each release and shown with the module's arguments. A secret one travels in an argument of its own
that Ansible masks, as one text for each instance: of single values Ansible would mask each 1 that it prints.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ansible_collections.precog.fleet.plugins.module_utils._miner.secrecy import is_secret_value, is_secret_variable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SENT = ("hotkeys", "api_key", "secrets")


def separated(args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the module's arguments with secret variables moved to `secrets`, by the instance's name.

    :raises ValueError: a secret is neither text nor a number; the message does not have it.
    """
    marked = args.get("secret_variables") or []
    names = {name.strip() for name in (marked.split(",") if isinstance(marked, str) else map(str, marked))}
    instances, defaults = args.get("instances"), args.get("instance_defaults")
    if instances and not isinstance(instances, dict):
        return dict(args)  # the module refuses it
    given = instances or {"main": {}}
    shared = [_of(args), _of(defaults)]
    layers = {str(name): [*shared, _of(own)] for name, own in given.items()}
    secret = {
        name
        for name, value in _items([*shared, *(own[-1] for own in layers.values())])
        if name in names or is_secret_variable(name) or is_secret_value(value)
    }
    if not secret:
        return dict(args)
    found = {name: _merged(name, own, secret) for name, own in layers.items()}
    return {
        **args,
        **_without(args, secret),
        "instances": {name: _without(own, secret) for name, own in given.items()},
        "instance_defaults": _without(defaults, secret),
        "secrets": {name: json.dumps(values, sort_keys=True) for name, values in found.items() if values},
    }


def in_the_open(args: Mapping[str, Any]) -> str:
    """Say why arguments can't be sent without pipelining; "" if there is no secret in them."""
    sent = [f"miner_service_{name}" for name in SENT if args.get(name)]
    return unsafe([name.replace("_secrets", "_variables") for name in sent])


def unsafe(names: Iterable[str]) -> str:
    """Say why secrets can't be sent without pipelining; "" if there are none."""
    told = ", ".join(names)
    return told and (
        f"{told}: not sent, because pipelining is off for this host. Ansible would write the secret in clear to its "
        "temporary folder there, and a run that is cut would leave it. Set pipelining = True under [ssh_connection] "
        "in ansible.cfg (or ANSIBLE_PIPELINING=1), and leave ANSIBLE_KEEP_REMOTE_FILES off"
    )


def _of(options: Any) -> dict[str, Any]:
    variables = options.get("variables") if isinstance(options, dict) else None
    return variables if isinstance(variables, dict) else {}


def _items(layers: Iterable[Mapping[str, Any]]) -> Iterable[tuple[str, Any]]:
    return ((str(name), value) for layer in layers for name, value in layer.items())


def _without(options: Any, secret: Iterable[str]) -> Any:
    """Return options without the variables that are secret."""
    if not _of(options):
        return options
    return {**options, "variables": {name: value for name, value in _of(options).items() if str(name) not in secret}}


def _merged(instance: str, layers: Iterable[Mapping[str, Any]], secret: Iterable[str]) -> dict[str, str]:
    """Return an instance's secret variables; a null takes one out."""
    found: dict[str, str] = {}
    for name, value in _items(layers):
        if name not in secret:
            continue
        found.pop(name, None)
        if isinstance(value, bool) or not isinstance(value, (str, int, float, type(None))):
            raise ValueError(f"miner_service_variables: {name} of instance {instance} is neither text nor a number")
        if value is not None:
            found[name] = str(value)
    return found
