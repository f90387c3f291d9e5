"""The files that tell Ansible and SSH how to reach a fleet. Text only; writing them is the caller's."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

from local_fleet.model import Host

USER = "operator"


def _options(directory: Path) -> dict[str, str]:
    """SSH options that let in known hosts only, with the fleet's own key only, and notice a host that is gone."""
    return {
        "UserKnownHostsFile": _quoted(directory / "known_hosts"),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "IdentitiesOnly": "yes",
        "ServerAliveInterval": "5",
    }


def _quoted(path: Path) -> str:
    """*path* as a value in SSH's configuration, where a blank would end it."""
    return f'"{path}"' if " " in str(path) else str(path)


def _variables(host: Host, directory: Path) -> dict[str, str | int]:
    """What Ansible has to know to reach *host*."""
    return {
        "ansible_host": "127.0.0.1",
        "ansible_port": host.port,
        "ansible_user": USER,
        "ansible_ssh_private_key_file": str(directory / "id_ed25519"),
        "ansible_ssh_common_args": " ".join(
            shlex.join(["-o", f"{key}={value}"]) for key, value in _options(directory).items()
        ),
    }


def inventory_text(hosts: Iterable[Host], directory: Path) -> str:
    """An inventory that only says how each host is reached, to be given after one that says what the hosts are."""
    lines = ["# Written by this tool: how to reach the hosts. Give it as a second -i.", "all:", "  hosts:"]
    for host in sorted(hosts):
        lines.append(f"    {host.name}:")
        lines += [f"      {key}: {json.dumps(value)}" for key, value in _variables(host, directory).items()]
    return "\n".join(lines) + "\n"


def script_text(hosts: Iterable[Host], directory: Path) -> str:
    """The same as the JSON that an inventory script prints."""
    variables = {host.name: _variables(host, directory) for host in hosts}
    return json.dumps({"_meta": {"hostvars": variables}, "all": {"hosts": sorted(variables)}}, indent=1) + "\n"


def ssh_config_text(hosts: Iterable[Host], directory: Path) -> str:
    """The same for ``ssh -F``: one entry per host."""
    lines = ["# Written by this tool: how to reach the hosts."]
    for host in sorted(hosts):
        entry = {
            "HostName": "127.0.0.1",
            "Port": str(host.port),
            "User": USER,
            "IdentityFile": _quoted(directory / "id_ed25519"),
            **_options(directory),
        }
        lines += [f"Host {host.name}", *(f"    {key} {value}" for key, value in entry.items())]
    return "\n".join(lines) + "\n"


def known_hosts_text(hosts: Iterable[Host], keys: Mapping[str, str]) -> str:
    """One line per host; *keys* maps a host's name to its public key as read out of the container."""
    lines = []
    for host in sorted(hosts):
        kind, key = keys[host.name].split()[:2]
        lines.append(f"[127.0.0.1]:{host.port} {kind} {key}\n")
    return "".join(lines)
