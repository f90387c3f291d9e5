# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which instances of a fleet a load balancer hands requests to, and at which addresses. Runs on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
name: load_balancer_servers
short_description: The instances that a load balancer hands requests to
version_added: "0.1.0"
description:
  - Takes the variables of the hosts and returns every instance of the engine V(runtime), with the address at which the
    balancer reaches it. A simulator is left out.
  - Fails, with all reasons at once, where an instance can't be balanced or reached.
options:
  _input:
    description: Variables of the hosts, as C(hostvars) has them.
    type: list
    elements: dict
    required: true
  here:
    description: Name in the inventory of the host that the balancer runs on.
    type: str
    required: true
  given:
    description: Instances that were named by hand. If there are any, the hosts are not looked at.
    type: list
    elements: dict
    default: []
"""

EXAMPLES = r"""
- name: Show what would be balanced
  ansible.builtin.debug:
    msg: "{{ groups['miners'] | map('extract', hostvars) | precog.fleet.load_balancer_servers(inventory_hostname) }}"
"""

RETURN = r"""
_value:
  description: The instances, each with C(name), C(address) and C(port).
  type: list
  elements: dict
"""

import ipaddress
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ansible.errors import AnsibleFilterError
from ansible_collections.precog.fleet.plugins.module_utils._miner import instances as miners
from ansible_collections.precog.fleet.plugins.module_utils._miner import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

DEFAULT_INSTANCES: dict[str, Any] = {"main": {}}  # as the role miner_service has it
LAST_PORT = 65535
# What stands in a configuration of HAProxy as it is: nothing that could end a word or a line there.
NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
ADDRESS = re.compile(r"[A-Za-z0-9_.:-]{1,253}")
AXON = "an axon is one hotkey at one address, so it can't be balanced"
BY_HAND = "Choose other hosts with load_balancer_group, or name the instances in load_balancer_backends"


class Unfit(Exception):
    """An instance can't be balanced or reached; the message says why, and what to do."""


class Server(NamedTuple):
    """An instance as the balancer knows it."""

    name: str
    address: str
    port: int


class Miner(NamedTuple):
    """An instance as the inventory has it."""

    host: str
    name: str
    options: Mapping[str, Any]  # merged with their defaults
    reached_at: str  # miner_service_address of its host, or ""


def servers(hosts: Iterable[Mapping[str, Any]], here: str, given: Iterable[Mapping[str, Any]] = ()) -> list[Server]:
    """Return the instances to balance, in the order of the inventory.

    :param hosts: the variables of each host.
    :param here: the host that the balancer runs on.
    :param given: instances named by hand; if there are any, `hosts` is not looked at.
    :raises Unfit: with a line for each instance that can't be balanced, or because there is none.
    """
    problems: list[str] = []
    named = list(given)
    if named:
        found = _kept(_by_hand, named, problems)
    else:
        found = _kept(lambda miner: _reached(miner, here), _miners(hosts, problems), problems)
    problems += _twice(found)
    if not found and not problems:
        problems.append(f"there is no instance to balance. {BY_HAND}")
    if problems:
        raise Unfit("\n".join(problems))
    return found


def _kept(make: Callable[[Any], Server | None], things: Iterable[Any], problems: list[str]) -> list[Server]:
    """Return what is made of things; what can't be made is noted."""
    found = []
    for thing in things:
        try:
            server = make(thing)
        except Unfit as unfit:
            problems.append(str(unfit))
        else:
            found += [server] if server else []
    return found


def _miners(hosts: Iterable[Mapping[str, Any]], problems: list[str]) -> Iterator[Miner]:
    for about in hosts:
        if about.get("miner_service_state", "present") == "absent":
            continue
        host = str(about["inventory_hostname"])
        instances = about.get("miner_service_instances", DEFAULT_INSTANCES)
        defaults = about.get("miner_service_instance_defaults", {})
        if not isinstance(instances, Mapping) or not isinstance(defaults, Mapping):
            problems.append(f"{host}: miner_service_instances and miner_service_instance_defaults are no dictionaries")
            continue
        for name, options in instances.items():
            if not isinstance(options, Mapping):
                problems.append(f"{host}: the instance {name} is {options!r}. Write {{}} for one with the defaults")
                continue
            reached_at = str(about.get("miner_service_address", "") or "")
            yield Miner(host, str(name), miners.merged(defaults, options), reached_at)


def _reached(miner: Miner, here: str) -> Server | None:
    """Return an instance with the address that the balancer reaches it at; None for a simulator."""
    told = f"{miner.host}: the instance {miner.name}"
    engine = miners.engine_of(miner.options)
    if engine == parse.SIMULATOR:
        return None
    if engine == parse.UPSTREAM or miner.options["wallet"]:
        raise Unfit(f"{told} has the engine {engine} or a wallet: {AXON}. {BY_HAND}")
    if engine != parse.RUNTIME:
        raise Unfit(f"{told} has the engine {engine!r}, which there is not")
    host = str(miner.options["host"] or miners.HOSTS[parse.RUNTIME]).strip("[]")
    kind = _kind(host)
    if miner.host == here:
        address = ("::1" if ":" in host else parse.LOOPBACK) if kind == "everywhere" else host
    elif kind == "loopback":
        raise Unfit(
            f"{told} listens at {host} alone, which {here} can't reach. "
            "Set its host to an address of the host, or run the balancer there"
        )
    elif kind == "everywhere" and not miner.reached_at:
        raise Unfit(
            f"{told} listens at {host}, all addresses of the host. "
            f"Set miner_service_address of {miner.host} to the one at which {here} reaches it"
        )
    else:
        address = miner.reached_at or host
    return _server(f"{miner.host}:{miner.name}", address, miner.options["port"] or miners.PORTS[parse.RUNTIME])


def _kind(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "loopback" if host == "localhost" else "name"
    return "everywhere" if address.is_unspecified else "loopback" if address.is_loopback else "address"


def _by_hand(about: Mapping[str, Any]) -> Server:
    lacking = sorted({"name", "address", "port"} - set(about))
    if lacking:
        raise Unfit(f"load_balancer_backends: {dict(about)!r} has no {' and no '.join(lacking)}")
    return _server(str(about["name"]), str(about["address"]).strip("[]"), about["port"])


def _server(name: str, address: str, port: object) -> Server:
    """Return a server whose parts can stand in a configuration as they are."""
    if not NAME.fullmatch(name):
        raise Unfit(f"{name!r} can't name a server: letters, digits and . _ : - are possible")
    if not ADDRESS.fullmatch(address):
        raise Unfit(f"{name}: {address!r} is no address")
    text = str(port)
    if not (text.isascii() and text.isdigit() and 0 < int(text[:9]) <= LAST_PORT):
        raise Unfit(f"{name}: {port!r} is no port. Give a number from 1 to {LAST_PORT}")
    return Server(name, f"[{address}]" if ":" in address else address, int(text))


def _twice(found: Iterable[Server]) -> list[str]:
    """Return what comes twice."""
    problems: list[str] = []
    names: set[str] = set()
    places: dict[str, str] = {}
    for server in found:
        place = f"{server.address}:{server.port}"
        if server.name in names:
            problems.append(f"{server.name} is named twice")
        elif place in places:
            problems.append(f"{server.name} and {places[place]} are both at {place}")
        names.add(server.name)
        places[place] = server.name
    return problems


def load_balancer_servers(
    hosts: Iterable[Mapping[str, Any]], here: str, given: Iterable[Mapping[str, Any]] = ()
) -> list[dict[str, Any]]:
    """Return the servers as Ansible takes them."""
    try:
        return [server._asdict() for server in servers(hosts, here, given)]
    except Unfit as unfit:
        raise AnsibleFilterError(f"the load balancer can't be set up:\n{unfit}") from unfit


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return them by name."""
        return {"load_balancer_servers": load_balancer_servers}
