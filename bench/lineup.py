"""The contestants of one run, for a fleet and a set of keys. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from bench import contestants
from bench.contestants import Contestant

DEPLOY = "bench/pyinfra_deploy.py"


def lineup(keys: Mapping[str, str], fleet: Mapping[str, Mapping[str, str]], inventory: str) -> list[Contestant]:
    """Return all contestants in the order in which they take turns.

    :param fleet: how pyinfra reaches each host.
    :param inventory: how Ansible does.
    """
    hosts = sorted(fleet)
    limits = sum(len(items) for items in contestants.LIMITS.values())
    return [
        _ansible(contestants.PING, contestants.ping_play(), inventory, hosts),
        _ansible(contestants.OURS, contestants.our_play(keys), inventory, hosts),
        _ansible(contestants.STOCK, contestants.stock_play(keys), inventory, hosts, items=len(keys)),
        Contestant(
            name=contestants.PYINFRA,
            files={"inventory.py": contestants.pyinfra_inventory(fleet, keys)},
            argv=("pyinfra", "-y", "{work}/inventory.py", DEPLOY),
            objection=partial(contestants.pyinfra_objection, operations=len(keys) * len(hosts)),
        ),
        # The roles before the audit, which then finds nothing.
        _ansible(contestants.ROLES, contestants.roles_play(keys), inventory, hosts),
        _own(contestants.AUDIT, "audit.yml", contestants.tuning_variables(keys), inventory, hosts, skips=True),
        # Without a canary, which would have all be run twice.
        _own(
            contestants.FIRST,
            "tune.yml",
            {**contestants.tuning_variables(keys), "precog_batches": ["100%"]},
            inventory,
            hosts,
        ),
        _ansible(
            contestants.STOCK_ROLES, contestants.stock_roles_play(keys), inventory, hosts, items=len(keys) + limits
        ),
    ]


def _ansible(name: str, play: Any, inventory: str, hosts: Sequence[str], *, items: int = 0) -> Contestant:
    file = f"{name.replace(' ', '-')}.yml"
    return Contestant(
        name=name,
        files={file: json.dumps(play, indent=1)},  # JSON is YAML
        argv=("ansible-playbook", "-i", inventory, f"{{work}}/{file}"),
        objection=partial(contestants.ansible_objection, hosts=hosts, items=items),
    )


def _own(
    name: str, playbook: str, variables: Mapping[str, Any], inventory: str, hosts: Sequence[str], *, skips: bool = False
) -> Contestant:
    """One of the project's playbooks, as it is."""
    given = f"{name.replace(' ', '-')}.json"
    files = {given: json.dumps(variables), "groups.yml": json.dumps(contestants.as_groups(hosts))}
    options = ("-i", inventory, "-i", "{work}/groups.yml", "-e", f"@{{work}}/{given}")
    return Contestant(
        name=name,
        files=files,
        argv=("ansible-playbook", *options, f"playbooks/{playbook}"),
        objection=partial(contestants.ansible_objection, hosts=hosts, skips=skips),
    )
