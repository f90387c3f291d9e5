"""Which instances are balanced, at which addresses, and which are refused; and what HAProxy is told."""

from __future__ import annotations

import jinja2
import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.precog.fleet.plugins.filter import load_balancer_servers as balance
from ansible_collections.precog.fleet.plugins.filter import load_balancer_timing
from ansible_collections.precog.fleet.tests.places import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

ROLE = ROOT / "roles/load_balancer"
AXON = "an axon is one hotkey at one address, so it can't be balanced"


def host(name="far", **about):
    return {"inventory_hostname": name, **{f"miner_service_{key}": value for key, value in about.items()}}


def found(*hosts, here="near", given=()):
    return [f"{one.name} {one.address}:{one.port}" for one in balance.servers(hosts, here, given)]


def refusal(*hosts, given=()):
    with pytest.raises(balance.Unfit) as told:
        balance.servers(hosts, "near", given)
    return str(told.value)


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ({"instances": {"one": {"host": "192.0.2.7", "port": 8101}}}, ["far:one 192.0.2.7:8101"]),
        ({"instances": {"one": {"host": "192.0.2.7"}}}, ["far:one 192.0.2.7:8092"]),
        ({"instances": {"one": {"host": "miner-1.example"}}}, ["far:one miner-1.example:8092"]),
        ({"instances": {"one": {"host": "2001:db8::7"}}}, ["far:one [2001:db8::7]:8092"]),
        ({"instances": {"one": {"host": "[2001:db8::7]"}}}, ["far:one [2001:db8::7]:8092"]),
        ({"instances": {"one": {"host": "0.0.0.0"}}, "address": "192.0.2.9"}, ["far:one 192.0.2.9:8092"]),
        ({"instances": {"one": {"host": "::"}}, "address": "2001:db8::9"}, ["far:one [2001:db8::9]:8092"]),
        ({"instances": {"one": {"host": "10.0.0.7"}}, "address": "192.0.2.9"}, ["far:one 192.0.2.9:8092"]),
        (
            {"instance_defaults": {"host": "192.0.2.7"}, "instances": {"one": {"port": 1025}, "two": {"port": "1026"}}},
            ["far:one 192.0.2.7:1025", "far:two 192.0.2.7:1026"],
        ),
        (
            {"instances": {"market": {"engine": "simulator"}, "one": {"host": "192.0.2.7"}}},
            ["far:one 192.0.2.7:8092"],
        ),
    ],
)
def test_an_instance_of_another_host_is_reached_at_its_address(about, expected):
    assert found(host(**about)) == expected


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ({}, ["near:main 127.0.0.1:8092"]),
        ({"instances": {"one": {"port": 8101}}}, ["near:one 127.0.0.1:8101"]),
        ({"instances": {"one": {"host": "0.0.0.0"}}, "address": "192.0.2.9"}, ["near:one 127.0.0.1:8092"]),
        ({"instances": {"one": {"host": "::"}}}, ["near:one [::1]:8092"]),
        ({"instances": {"one": {"host": "192.0.2.7"}}}, ["near:one 192.0.2.7:8092"]),
    ],
)
def test_an_instance_of_the_balancers_own_host(about, expected):
    assert found(host("near", **about)) == expected


@pytest.mark.parametrize(
    ("about", "told"),
    [
        ({}, "far: the instance main listens at 127.0.0.1 alone, which near can't reach. Set its host to an address"),
        ({"instances": {"one": {"host": "::1"}}}, "far: the instance one listens at ::1 alone, which near can't reach"),
        ({"instances": {"one": {"host": "localhost"}}}, "far: the instance one listens at localhost alone"),
        (
            {"instances": {"one": {}}, "address": "192.0.2.9"},
            "far: the instance one listens at 127.0.0.1 alone, which near can't reach",
        ),
        (
            {"instances": {"one": {"host": "0.0.0.0"}}},
            "far: the instance one listens at 0.0.0.0, all addresses of the host. "
            "Set miner_service_address of far to the one at which near reaches it",
        ),
        ({"instances": {"one": {"engine": "upstream"}}}, AXON),
        ({"instances": {"one": {"wallet": "cold"}}}, AXON),
        ({"instances": {"one": {"engine": "runtime", "wallet": "cold"}}}, AXON),
        ({"instance_defaults": {"wallet": "cold"}, "instances": {"one": {}}}, AXON),
        (
            {"instances": {"one": {"engine": "turbo"}}},
            "far: the instance one has the engine 'turbo', which there is not",
        ),
        ({"instances": {"one": None}}, "far: the instance one is None. Write {} for one with the defaults"),
        ({"instances": ["one"]}, "far: miner_service_instances and miner_service_instance_defaults are no dict"),
        ({"instances": {"one": {"host": "192.0.2.7", "port": 0.5}}}, "far:one: 0.5 is no port. Give a number from 1"),
        ({"instances": {"one": {"host": "192.0.2.7", "port": 70000}}}, "far:one: 70000 is no port"),
        ({"instances": {"one": {"host": "a b"}}}, "far:one: 'a b' is no address"),
        ({"instances": {"one\n": {"host": "192.0.2.7"}}}, "'far:one\\n' can't name a server"),
        (
            {"instances": {"one": {"host": "192.0.2.7"}, "two": {"host": "192.0.2.7"}}},
            "far:two and far:one are both at 192.0.2.7:8092",
        ),
    ],
)
def test_what_cannot_be_balanced_is_refused(about, told):
    assert told in refusal(host(**about))


def test_all_reasons_are_told_at_once():
    text = refusal(host("a"), host("b", instances={"x": {"engine": "upstream"}, "y": {"host": "0.0.0.0"}}))
    assert [line.partition(" has ")[0].partition(" listens ")[0] for line in text.split("\n")] == [
        "a: the instance main",
        "b: the instance x",
        "b: the instance y",
    ]


def test_a_host_without_miners_is_left_out():
    assert found(host(state="absent"), host("near")) == ["near:main 127.0.0.1:8092"]
    assert "there is no instance to balance" in refusal(host(state="absent"))
    assert "there is no instance to balance" in refusal()


def test_instances_named_by_hand_are_taken_instead():
    named = [{"name": "a", "address": "192.0.2.7", "port": 1}, {"name": "b", "address": "::1", "port": "2"}]
    assert found(host(instances={"x": {"engine": "upstream"}}), given=named) == ["a 192.0.2.7:1", "b [::1]:2"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": "b"}, "b is named twice"),
        ({"address": "192.0.2.7", "port": 1}, "a and b are both at 192.0.2.7:1"),
        ({"address": "192.0.2.8\n    stats admin"}, "is no address"),
        ({"name": "a b"}, "'a b' can't name a server"),
        ({"port": True}, "True is no port"),
        ({"port": "1" * 5000}, "is no port"),
        ({"port": None}, "None is no port"),
    ],
)
def test_what_is_wrong_with_one_named_by_hand_is_told(changes, told):
    named = [
        {"name": "b", "address": "192.0.2.7", "port": 1},
        {"name": "a", "address": "192.0.2.8", "port": 1, **changes},
    ]
    assert told in refusal(given=named)


def test_one_named_by_hand_has_to_be_whole():
    assert "has no address and no name" in refusal(given=[{"port": 1}])


def test_ansible_is_told_as_ansible_wants_it():
    made = balance.FilterModule().filters()["load_balancer_servers"]
    assert made([host("near")], "near") == [{"name": "near:main", "address": "127.0.0.1", "port": 8092}]
    with pytest.raises(AnsibleFilterError, match="the load balancer can't be set up:\nfar: the instance main"):
        made([host()], "near")


ANYTHING = st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.lists(st.integers(), max_size=2)
OPTIONS = st.fixed_dictionaries({}, optional=dict.fromkeys(("engine", "host", "port", "wallet"), ANYTHING)) | ANYTHING


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=4), OPTIONS, max_size=3), OPTIONS, ANYTHING)
def test_any_inventory_is_refused_or_understood(instances, defaults, address):
    try:
        servers = balance.servers([host(instances=instances, instance_defaults=defaults, address=address)], "near")
    except balance.Unfit as unfit:
        assert str(unfit)
    else:
        assert all(len(f"{one.name} {one.address}".split()) == 2 for one in servers)


# -- what HAProxy is told; molecule/load_balancer looks at what it does ------------------------------------------------


@pytest.fixture
def config():
    """The configuration as lines, by section."""
    known = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    servers = [
        {"name": "a:one", "address": "192.0.2.7", "port": 8092},
        {"name": "b:two", "address": "[::1]", "port": 1},
    ]
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined, autoescape=False)
    known["__load_balancer_doubt_ms"] = 100
    template = environment.from_string((ROLE / "templates/haproxy.cfg.j2").read_text())
    sections, section = {}, []
    for line in template.render(**known, __load_balancer_servers=servers).splitlines():
        if line.startswith(" "):
            section.append(line.strip())
        else:
            section = sections.setdefault(line, [])
    return sections


@pytest.mark.parametrize("backend", ["miners", "alive"])
def test_each_instance_is_a_server_of_its_own(config, backend):
    assert [line for line in config[f"backend {backend}"] if line.startswith("server ")] == [
        "server a:one 192.0.2.7:8092",
        "server b:two [::1]:1",
    ]


def test_where_none_is_ready_those_that_answer_are_asked(config):
    assert "use_backend alive if alone" in config["frontend precog"]
    assert "http-check send meth GET uri /readyz" in config["backend miners"]
    assert "http-check send meth GET uri /healthz" in config["backend alive"]
    assert ["http-check disable-on-404" in config[f"backend {name}"] for name in ("miners", "alive")] == [True, False]


# -- how long it takes ------------------------------------------------------------------------------------------------


def timing(*hosts):
    return load_balancer_timing.FilterModule().filters()["load_balancer_timing"](hosts)


def test_without_a_balancer_nothing_is_waited_for():
    assert timing() == timing({"load_balancer_state": "absent"}) == {}


def test_a_rollout_waits_as_long_as_a_balancer_takes():
    assert timing({}) == {"drain_s": 2.0, "rejoin_s": 2.0}
    assert timing({"load_balancer_check_interval_ms": "5000"}) == {"drain_s": 11.0, "rejoin_s": 11.0}
    assert timing({"load_balancer_connect_timeout_ms": 100}) == {"drain_s": 1.1, "rejoin_s": 1.1}


def test_the_slowest_of_several_is_waited_for():
    slow, gone = {"load_balancer_check_interval_ms": 2000}, {"load_balancer_check_interval_ms": 9000}
    assert timing({}, slow, {**gone, "load_balancer_state": "absent"})["drain_s"] == 5.0


def test_what_is_no_time_is_told():
    with pytest.raises(AnsibleFilterError, match="load_balancer_check_interval_ms of lb-1 is 'often': give a number"):
        timing({"inventory_hostname": "lb-1", "load_balancer_check_interval_ms": "often"})


def test_its_defaults_are_those_of_the_role():
    known = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    assert known.items() >= {load_balancer_timing.INTERVAL, load_balancer_timing.CONNECT}
