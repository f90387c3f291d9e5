"""What is known of sysctl keys by name, as tables and as properties."""

from __future__ import annotations

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._settings.sysctl import keys
from hypothesis import example, given
from hypothesis import strategies as st

RESERVED = "net/ipv4/ip_local_reserved_ports"
FLOWS = "net/core/rps_sock_flow_entries"

# Trap: the first separator decides.
NAMES = [
    ("vm.swappiness", "vm/swappiness"),
    ("vm/swappiness", "vm/swappiness"),
    (" vm.swappiness ", "vm/swappiness"),
    ("/vm/swappiness", "vm/swappiness"),
    ("net.ipv4.conf.eth0/100.rp_filter", "net/ipv4/conf/eth0.100/rp_filter"),
    ("net/ipv4/conf/eth0.100/rp_filter", "net/ipv4/conf/eth0.100/rp_filter"),
    ("kernel.yama.ptrace_scope", "kernel/yama/ptrace_scope"),
]


@pytest.mark.parametrize(("name", "path"), NAMES)
def test_trap_the_first_separator_decides(name, path):
    assert keys.path_of(name) == path


BAD_NAMES = [
    "", " ", ".", "/", "..", "vm", "vm..swappiness", "vm/../kernel/panic", "../vm/swappiness", "vm/./swappiness",
    "vm.swappiness = 1", "vm.swap piness", "-vm.swappiness", "net.ipv4.conf.*.rp_filter", "net.ipv4.conf.[ae].x",
    "vm.swappi?ess", "vm.swap\npiness", "vm.swap\0piness", "#vm.swappiness", ";vm.x", "vm//swappiness",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
def test_trap_a_name_that_is_no_key_is_refused(name):
    with pytest.raises(ValueError, match="not a key"):
        keys.path_of(name)


part = st.text(st.characters(codec="ascii", categories=["L", "N"], include_characters="_-:@"), min_size=1, max_size=8)
first_part = part.filter(lambda text: not text.startswith("-"))
dotted_part = st.builds("{}.{}".format, part, part)
paths = st.builds(
    lambda head, tail: "/".join([head, *tail]), first_part, st.lists(part | dotted_part, min_size=1, max_size=4)
)


@given(paths)
def test_name_and_path_are_one_another_s_inverse(path):
    assert keys.path_of(keys.name_of(path)) == path
    assert keys.path_of(path) == path


@given(st.text())
def test_any_name_is_a_path_below_proc_sys_or_refused(name):
    try:
        path = keys.path_of(name)
    except ValueError:
        return
    assert not path.startswith("/")
    assert not {"", ".", ".."} & set(path.split("/"))
    assert "\0" not in path
    assert "\n" not in path


SLOTS = [
    ("vm/dirty_bytes", "vm/dirty_ratio", True),
    ("vm/dirty_background_ratio", "vm/dirty_background_bytes", True),
    ("vm/overcommit_ratio", "vm/overcommit_kbytes", True),
    ("net/ipv4/ip_forward", "net/ipv4/conf/all/forwarding", True),
    ("vm/dirty_bytes", "vm/dirty_background_bytes", False),
    ("net/ipv4/conf/all/forwarding", "net/ipv6/conf/all/forwarding", False),
]


@pytest.mark.parametrize(("one", "other", "same"), SLOTS)
def test_trap_what_sets_one_thing_in_the_kernel_has_one_slot(one, other, same):
    assert (keys.slot_of(one) == keys.slot_of(other)) is same


RENDERED = [
    (10, "10"),
    (-1, "-1"),
    ("10", "10"),
    (" 4096  87380\t16777216 ", "4096 87380 16777216"),
    ([4096, "87380", 16777216], "4096 87380 16777216"),
    ((1, 2), "1 2"),
    ("010", "010"),
    ("yes", "yes"),
    ("", ""),
    (2**64, "18446744073709551616"),
]


@pytest.mark.parametrize(("value", "text"), RENDERED)
def test_a_value_as_the_kernel_is_given_it(value, text):
    assert keys.render(value) == text


UNRENDERABLE = [
    (True, "write 0 or 1"),
    (False, "write 0 or 1"),
    ({"a": 1}, "dictionary"),
    ({}, "dictionary"),
    ([], "not a flat list"),
    ([1, [2]], "not a flat list"),
    ([1, {}], "not a flat list"),
    ([1, None], "not a flat list"),
    ([True, 1], "write 0 or 1"),
    ([1, ""], "empty field"),
    ([1.5], "fraction"),
    (1.0, "fraction"),
    (float("nan"), "fraction"),
    (None, "NoneType"),
    (b"1", "bytes"),
    ("1\n2", "line break"),
    ("1\0", "line break"),
    (["1\nvm.x = 2"], "line break"),
    ("\ud800", "plain text"),
]


@pytest.mark.parametrize(("value", "reason"), UNRENDERABLE, ids=repr)
def test_trap_no_booleans_are_made_numbers_and_nothing_odd_gets_through(value, reason):
    with pytest.raises(ValueError, match=reason):
        keys.render(value)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(values)
def test_any_value_is_one_line_or_refused(value):
    try:
        text = keys.render(value)
    except ValueError:
        return
    assert "\n" not in text
    assert text == " ".join(text.split())
    assert keys.render(text) == text
    text.encode()


# key, two spellings, whether they are one value
SAME = [
    ("vm/x", "10", "10", True),
    ("vm/x", "010", "8", True),
    ("vm/x", "0x10", "16", True),
    ("vm/x", "0X1f", "31", True),
    ("vm/x", "-0", "0", True),
    ("vm/x", "00", "0", True),
    ("vm/x", "10", "010", False),
    ("vm/x", "08", "8", False),
    ("vm/x", "+8", "8", False),
    ("vm/x", "10abc", "10", False),
    ("net/ipv4/tcp_rmem", "4096\t131072\t6291456", "4096 131072 6291456", True),
    ("net/ipv4/tcp_rmem", "4096 131072", "4096 131072 6291456", False),
    ("kernel/core_pattern", "010", "8", False),
    ("kernel/core_pattern", "a  b", "a b", True),
    ("kernel/hostname", "0x10", "16", False),
    ("net/ipv4/tcp_congestion_control", "bbr", "bbr", True),
    (RESERVED, "8082,8080,8081", "8080-8082", True),
    (RESERVED, "8080-8081,8082", "8080-8082", True),
    (RESERVED, "1,3", "1-3", False),
    (RESERVED, "", "", True),
    (RESERVED, "8082-8080", "", False),
    (RESERVED, "70000", "", False),
    (RESERVED, "8080,", "8080", False),
    (RESERVED, "8080-", "8080", False),
    (RESERVED, "80 81", "8081", False),
    (RESERVED, "²", "2", False),
    (RESERVED, "٣", "3", False),
    (FLOWS, "30000", "32768", True),
    (FLOWS, "32768", "32768", True),
    (FLOWS, "32769", "65536", True),
    (FLOWS, "0", "0", True),
    (FLOWS, "1", "1", True),
    ("vm/x", "30000", "32768", False),
]


@pytest.mark.parametrize(("path", "left", "right", "same"), SAME)
def test_trap_two_spellings_of_one_value(path, left, right, same):
    assert (keys.canonical(path, left) == keys.canonical(path, right)) is same


@given(st.sampled_from(["vm/x", RESERVED, FLOWS, "kernel/core_pattern"]), st.text())
@example("vm/x", "9" * 5000)
@example("vm/x", "0" * 5000)
@example(FLOWS, "0x" + "f" * 5000)
@example(RESERVED, "1-" + "9" * 5000)
def test_canonical_of_anything_is_a_fixed_point(path, text):
    once = keys.canonical(path, text)
    assert keys.canonical(path, once) == once


@given(st.sets(st.integers(0, 65535), max_size=20), st.randoms())
def test_port_lists_say_the_same_ports_in_the_fewest_ranges(ports, random):
    listed = [str(port) for port in ports]
    random.shuffle(listed)

    shown = keys.canonical(RESERVED, ",".join(listed))

    ranges = [[int(end) for end in item.split("-")] for item in shown.split(",") if item]
    assert {port for ends in ranges for port in range(ends[0], ends[-1] + 1)} == ports
    assert all(left[-1] + 1 < right[0] for left, right in zip(ranges, ranges[1:]))


@given(st.lists(st.integers(-(2**63), 2**64), min_size=1, max_size=4))
def test_numbers_in_any_base_are_one_value(fields):
    def signed(number, form):
        return ("-" if number < 0 else "") + form.format(abs(number))

    decimal = keys.render(fields)
    assert keys.canonical("vm/x", " ".join(signed(field, "0x{:x}") for field in fields)) == decimal
    assert keys.canonical("vm/x", "\t".join(signed(field, "0{:o}") for field in fields)) == decimal
    assert keys.numbers(decimal) == fields


# key, wanted, value now, a part of the objection ("" for none)
OBJECTIONS = [
    ("vm/swappiness", "10", "60", ""),
    ("vm/swappiness", "200", "60", ""),
    ("vm/swappiness", "201", "60", "takes 0 to 200"),
    ("vm/swappiness", "-1", "60", "takes 0 to 200"),
    ("vm/swappiness", "0xff", "60", "takes 0 to 200"),
    ("vm/swappiness", "", "60", "is empty"),
    ("vm/swappiness", "", None, "is empty"),
    ("vm/swappiness", "ten", "60", "write whole numbers"),
    ("vm/swappiness", "1,2", "60", "separate the fields by spaces"),
    ("vm/swappiness", "ten", None, ""),
    ("net/ipv4/tcp_rmem", "1 2 3", "4\t5\t6", ""),
    ("net/ipv4/tcp_rmem", "1 2", "4\t5\t6", "has 3 field(s) (now 4 5 6), 2 given"),
    ("net/ipv4/tcp_rmem", "1 2 3 4", "4\t5\t6", "4 given"),
    ("vm/dirty_bytes", "0", "0", "set vm.dirty_ratio instead"),
    ("vm/dirty_bytes", "0x0", "0", "set vm.dirty_ratio instead"),
    ("vm/dirty_ratio", "0", "20", ""),
    ("vm/dirty_ratio", "101", "20", "takes 0 to 100"),
    ("kernel/core_pattern", "", "core", ""),
    ("kernel/some_text", "word", "other", ""),
    ("kernel/some_text", "word", "", ""),
    (RESERVED, "8080,8081", "", ""),
    (RESERVED, "", "8080", ""),
    (RESERVED, "8080 8081", "", "write it as 8080,9000-9010"),
    (RESERVED, "8081-8080", "", "no list of ports"),
    (RESERVED, "65536", "", "no list of ports"),
    (RESERVED, "all", "", "no list of ports"),
    ("net/core/rmem_max", "2303", "212992", "takes 2304"),
    ("net/core/rmem_max", str(2**31), "212992", "to 2147483647"),
    ("fs/file-max", str(2**64), "1", "out of bounds"),
    ("fs/file-max", str(2**64 - 1), "1", ""),
]


@pytest.mark.parametrize(("path", "wanted", "current", "words"), OBJECTIONS)
def test_trap_what_the_kernel_would_misread_is_objected_to(path, wanted, current, words):
    found = keys.objection(path, wanted, current)
    assert (found is None) if not words else (words in (found or ""))


@given(
    st.sampled_from(["vm/swappiness", "net/ipv4/tcp_rmem", RESERVED, "vm/dirty_bytes"]),
    st.text(),
    st.none() | st.text(),
)
def test_any_wish_gets_an_answer(path, wanted, current):
    assert keys.objection(path, wanted, current) is None or keys.objection(path, wanted, current)


def test_trap_what_bounds_or_resets_others_comes_first():
    unordered = [
        "vm/swappiness",
        "net/ipv4/tcp_rmem",
        "net/ipv4/conf/eth0/forwarding",
        "net/core/rmem_max",
        "net/ipv4/conf/default/forwarding",
        "net/ipv4/conf/all/rp_filter",
        "net/ipv6/conf/all/forwarding",
        "net/ipv4/ip_forward",
    ]
    assert sorted(unordered, key=keys.order_of) == [
        "net/ipv4/ip_forward",
        "net/ipv6/conf/all/forwarding",
        "net/ipv4/conf/all/rp_filter",
        "net/core/rmem_max",
        "net/ipv4/conf/default/forwarding",
        "net/ipv4/conf/eth0/forwarding",
        "net/ipv4/tcp_rmem",
        "vm/swappiness",
    ]


MODULES = [
    ("net/netfilter/nf_conntrack_max", "nf_conntrack"),
    ("net/nf_conntrack_max", "nf_conntrack"),
    ("net/bridge/bridge-nf-call-iptables", "br_netfilter"),
    ("net/ipv4/tcp_rmem", None),
]


@pytest.mark.parametrize(("path", "module"), MODULES)
def test_trap_some_keys_need_a_module(path, module):
    assert keys.module_of(path) == module


FOLLOWS = [
    ("net/ipv4/conf/eth0/forwarding", "net/ipv4/ip_forward", True),
    ("net/ipv4/conf/default/forwarding", "net/ipv4/conf/all/forwarding", True),
    ("net/ipv4/conf/all/accept_redirects", "net/ipv4/ip_forward", True),
    ("net/ipv4/conf/all/forwarding", "net/ipv4/ip_forward", False),
    ("net/ipv4/ip_forward", "net/ipv4/conf/all/forwarding", False),
    ("net/ipv4/conf/eth0/rp_filter", "net/ipv4/ip_forward", False),
    ("net/ipv6/conf/eth0/forwarding", "net/ipv4/ip_forward", False),
    ("net/ipv6/conf/eth0/forwarding", "net/ipv6/conf/all/forwarding", True),
    ("net/ipv6/conf/all/forwarding", "net/ipv6/conf/all/forwarding", False),
    ("net/ipv4/conf/all/accept_redirects", "net/ipv6/conf/all/forwarding", False),
    ("net/ipv6/conf/eth0/disable_ipv6", "net/ipv6/conf/all/disable_ipv6", True),
    ("net/ipv4/conf/eth0/forwarding", "vm/swappiness", False),
    ("net/ipv4/conf/eth0/rp_filter", "net/ipv4/conf/default/rp_filter", True),
    ("net/ipv4/conf/all/rp_filter", "net/ipv4/conf/default/rp_filter", False),
    ("net/ipv4/conf/all/accept_redirects", "net/ipv4/conf/default/rp_filter", False),
    ("net/ipv6/conf/eth0/accept_ra", "net/ipv6/conf/default/accept_ra", False),
]


@pytest.mark.parametrize(("path", "leader", "answer"), FOLLOWS)
def test_trap_ip_forward_rewrites_interfaces(path, leader, answer):
    assert keys.follows(path, leader) is answer
