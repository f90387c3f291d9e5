"""Hosts and wishes of many kinds, and what has to come of each: run by test_engine in every way a run can happen."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.precog.fleet.tests.unit.made_host import GUIDE, NAME, OURS, MadeHost, absent, apply


def as_it_is(_host: MadeHost) -> None:
    """Nothing is different."""


@dataclass(frozen=True)
class Scenario:
    """One case.

    :ivar expected: (status, a part of the reason) by row.
    :ivar arrange: what is different on the host.
    :ivar earlier: parameters of a run before this one.
    :ivar after_earlier: what happened to the host since.
    :ivar predictable: whether check mode can know what the kernel will say.
    :ivar settles: whether a second run finds nothing to do.
    """

    name: str
    parameters: Mapping[str, Any]
    expected: Mapping[str, tuple[str, str]]
    arrange: Callable[[MadeHost], None] = as_it_is
    earlier: Mapping[str, Any] | None = None
    after_earlier: Callable[[MadeHost], None] = as_it_is
    container: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    predictable: bool = True
    settles: bool = True

    def prepare(self, host: MadeHost) -> None:
        self.arrange(host)
        if self.earlier is not None:
            apply(host, self.earlier, **self.options)
            self.after_earlier(host)

    def run(self, host: MadeHost, *, check: bool = False):
        if self.parameters == "absent":
            return absent(host, check=check, **self.options)
        return apply(host, self.parameters, check=check, **self.options)


ABSENT: Any = "absent"
SWAP = "vm.swappiness"


def key(path: str, value: str, mode: int = 0o644) -> Callable[[MadeHost], None]:
    return lambda host: host.set_key(path, value, mode)


def file(path: str, content: str | bytes) -> Callable[[MadeHost], None]:
    return lambda host: host.put(path, content)


def refuse(what: str, code: int = errno.EINVAL) -> Callable[[MadeHost], None]:
    return lambda host: host.refuse.update({what: code})


def edit_ours(old: str, new: str) -> Callable[[MadeHost], None]:
    return lambda host: host.put(OURS, host.text(OURS).replace(old, new))


def both(*steps: Callable[[MadeHost], None]) -> Callable[[MadeHost], None]:
    def run(host: MadeHost) -> None:
        for step in steps:
            step(host)

    return run


def ignore(path: str) -> Callable[[MadeHost], None]:
    return lambda host: host.ignore.add(path)


def round_to(path: str, value: str) -> Callable[[MadeHost], None]:
    return lambda host: host.rounded.update({path: value})


def unreadable(path: str) -> Callable[[MadeHost], None]:
    return lambda host: host.unreadable.add(path)


def module(name: str, **brings: str) -> Callable[[MadeHost], None]:
    keys = {path.replace("__", "/"): value for path, value in brings.items()}
    return lambda host: host.module_keys.update({name: keys})


FORWARDING = {"net.ipv4.ip_forward": 1}
EIGHT = {SWAP: 10, "vm.vfs_cache_pressure": 50, "net.ipv4.tcp_rmem": [4096, 65536, 134217728]}

SCENARIOS = [
    # -- values that change, stay, drift ---------------------------------------------------------------------------
    Scenario("nothing wanted", {}, {}),
    Scenario(
        "first apply",
        EIGHT,
        {SWAP: ("changed", ""), "vm.vfs_cache_pressure": ("changed", ""), "net.ipv4.tcp_rmem": ("changed", "")},
    ),
    Scenario("already so, only the file is missing", {SWAP: 60}, {SWAP: ("changed", "")}),
    Scenario("second run", {SWAP: 10}, {SWAP: ("ok", "")}, earlier={SWAP: 10}),
    Scenario(
        "drift at run time only",
        {SWAP: 10},
        {SWAP: ("drifted", "drifted at run time: was 33")},
        earlier={SWAP: 10},
        after_earlier=key("vm/swappiness", "33"),
    ),
    Scenario(
        "drift in the file only",
        {SWAP: 10},
        {SWAP: ("drifted", "drifted on disk: the managed file said 44")},
        earlier={SWAP: 10},
        after_earlier=edit_ours("= 10", "= 44"),
    ),
    Scenario(
        "line lost from the file",
        {SWAP: 10, "vm.vfs_cache_pressure": 50},
        {SWAP: ("drifted", "lost its line"), "vm.vfs_cache_pressure": ("ok", "")},
        earlier={SWAP: 10, "vm.vfs_cache_pressure": 50},
        after_earlier=edit_ours("vm.swappiness = 10\n", ""),
    ),
    Scenario(
        "drift in both",
        {SWAP: 10},
        {SWAP: ("drifted", "drifted at run time: was 33; drifted on disk: the managed file said 44")},
        earlier={SWAP: 10},
        after_earlier=both(key("vm/swappiness", "33"), edit_ours("= 10", "= 44")),
    ),
    Scenario(
        "our file removed",
        {SWAP: 10},
        {SWAP: ("drifted", "lost its line")},
        earlier={SWAP: 10},
        after_earlier=lambda host: host.at(OURS).unlink(),
    ),
    Scenario("a new wish is a change, no drift", {SWAP: 20}, {SWAP: ("changed", "")}, earlier={SWAP: 10}),
    Scenario(
        "hand-edited into nonsense, not UTF-8",
        {SWAP: 10},
        {SWAP: ("drifted", "lost its line")},
        earlier={SWAP: 10},
        after_earlier=file(OURS, b"\xff\xfe = \x80\n=\n= =\nvm..x\n"),
    ),
    Scenario(
        "a file of that name was there before us",
        {SWAP: 10},
        {SWAP: ("changed", "")},
        arrange=lambda host: host.put(OURS, b"\xffodd\r\n\0vm.swappiness=7", 0o600),
    ),
    # -- keys taken out --------------------------------------------------------------------------------------------
    Scenario(
        "dropped from the wishes",
        {"vm.vfs_cache_pressure": 50},
        {SWAP: ("changed", "given back: 60"), "vm.vfs_cache_pressure": ("ok", "")},
        earlier={SWAP: 10, "vm.vfs_cache_pressure": 50},
    ),
    Scenario("taken out by null", {SWAP: None}, {SWAP: ("changed", "given back: 60")}, earlier={SWAP: 10}),
    Scenario("absent", ABSENT, {SWAP: ("changed", "given back: 60")}, earlier={SWAP: 10}),
    Scenario("absent with nothing applied", ABSENT, {}),
    Scenario(
        "null of an unknown key",
        {"vm.swapiness": None},
        {"vm.swapiness": ("unknown", "is vm.swappiness meant?")},
    ),
    Scenario("null of a key that nobody set", {SWAP: None}, {}),
    # -- bad input: each is told, the rest lands --------------------------------------------------------------------
    Scenario(
        "unknown key with a near name",
        {"vm.swapiness": 1, SWAP: 10},
        {"vm.swapiness": ("unknown", "is vm.swappiness meant?"), SWAP: ("changed", "")},
    ),
    Scenario("unknown key, nothing near", {"frob.nicate": 1}, {"frob.nicate": ("unknown", "no such key")}),
    Scenario("boolean", {SWAP: True}, {SWAP: ("refused", "write 0 or 1")}),
    Scenario("dictionary", {SWAP: {"a": 1}}, {SWAP: ("refused", "is a dictionary")}),
    Scenario("nested list", {SWAP: [[1]]}, {SWAP: ("refused", "not a flat list")}),
    Scenario("empty list", {SWAP: []}, {SWAP: ("refused", "not a flat list")}),
    Scenario("fraction", {SWAP: 1.5}, {SWAP: ("refused", "is a fraction")}),
    Scenario("empty text", {SWAP: ""}, {SWAP: ("refused", "is empty")}),
    Scenario("line break", {SWAP: "1\nkernel.panic = 1"}, {SWAP: ("refused", "line break")}),
    Scenario("no text at all", {"kernel.core_pattern": "\udcff"}, {"kernel.core_pattern": ("refused", "plain text")}),
    Scenario("word for a number", {SWAP: "ten"}, {SWAP: ("refused", "the key holds numbers (now 60)")}),
    Scenario("number with a tail", {SWAP: "10abc"}, {SWAP: ("refused", "the key holds numbers")}),
    Scenario("too big", {SWAP: 201}, {SWAP: ("refused", "the kernel takes 0 to 200")}),
    Scenario(
        "beyond the kernel's type", {"kernel.sem": [1, 2, 3, 2**65]}, {"kernel.sem": ("refused", "out of bounds")}
    ),
    Scenario("name with ..", {"vm/../../x": 1}, {"vm/../../x": ("refused", "must stay below /proc/sys")}),
    Scenario(
        "name with a wildcard",
        {"net.ipv4.conf.*.rp_filter": 1},
        {"net.ipv4.conf.*.rp_filter": ("refused", "wildcards")},
    ),
    Scenario("empty name", {"": 1}, {"": ("refused", "not a key")}),
    Scenario(
        "fields too few",
        {"net.ipv4.tcp_rmem": [4096, 87380]},
        {"net.ipv4.tcp_rmem": ("refused", "the key has 3 field(s) (now 4096 131072 6291456), 2 given")},
    ),
    Scenario("fields too many", {SWAP: "1 2"}, {SWAP: ("refused", "the key has 1 field(s)")}),
    Scenario(
        "fields separated by commas",
        {"net.ipv4.tcp_rmem": "4096,87380,16777216"},
        {"net.ipv4.tcp_rmem": ("refused", "separate the fields by spaces")},
    ),
    Scenario(
        "one key under two spellings",
        {SWAP: 10, "vm/swappiness": 20},
        {SWAP: ("refused", "set twice"), "vm/swappiness": ("refused", "keep one of them")},
    ),
    Scenario(
        "one thing by two names",
        {"net.ipv4.ip_forward": 1, "net.ipv4.conf.all.forwarding": 0},
        {"net.ipv4.ip_forward": ("refused", "set twice"), "net.ipv4.conf.all.forwarding": ("refused", "set twice")},
    ),
    Scenario(
        "counterparts",
        {"vm.dirty_ratio": 10, "vm.dirty_bytes": 1048576},
        {"vm.dirty_ratio": ("refused", "set twice"), "vm.dirty_bytes": ("refused", "set twice")},
    ),
    Scenario("dirty_bytes to 0", {"vm.dirty_bytes": 0}, {"vm.dirty_bytes": ("refused", "set vm.dirty_ratio instead")}),
    Scenario(
        "command, not a key", {"vm.drop_caches": 3}, {"vm.drop_caches": ("refused", "makes the kernel do something")}
    ),
    Scenario("command that reads", {"vm.stat_refresh": 1}, {"vm.stat_refresh": ("refused", "makes the kernel do")}),
    Scenario(
        "bad input for what is applied keeps it",
        {SWAP: True},
        {SWAP: ("refused", "boolean")},
        earlier={SWAP: 10},
    ),
    Scenario(
        "two spellings of what is applied keep it",
        {SWAP: 20, "vm/swappiness": 30},
        {SWAP: ("refused", "set twice"), "vm/swappiness": ("refused", "set twice")},
        earlier={SWAP: 10},
    ),
    Scenario(
        "a refused counterpart keeps what is applied",
        {"vm.dirty_ratio": 101},
        {"vm.dirty_ratio": ("refused", "0 to 100")},
        earlier={"vm.dirty_bytes": 1048576},
    ),
    # -- what the kernel says --------------------------------------------------------------------------------------
    Scenario(
        "refused by the kernel",
        {"net.ipv4.tcp_keepalive_time": -1, SWAP: 10},
        {"net.ipv4.tcp_keepalive_time": ("refused", "Invalid argument (EINVAL)"), SWAP: ("changed", "")},
        arrange=refuse("net/ipv4/tcp_keepalive_time=-1"),
        settles=False,
    ),
    Scenario(
        "refused by the kernel, after a good one",
        {"net.ipv4.tcp_keepalive_time": -1},
        {"net.ipv4.tcp_keepalive_time": ("refused", "EINVAL")},
        arrange=refuse("net/ipv4/tcp_keepalive_time=-1"),
        earlier={"net.ipv4.tcp_keepalive_time": 600},
        settles=False,
    ),
    Scenario(
        "refused where it can't be tried",
        {SWAP: 10},
        {SWAP: ("refused", "Operation not permitted (EPERM)")},
        arrange=refuse("vm/swappiness", errno.EPERM),
        predictable=False,
        settles=False,
    ),
    Scenario(
        "silently ignored",
        {SWAP: 10},
        {SWAP: ("refused", "ignored it")},
        arrange=ignore("vm/swappiness"),
        predictable=False,
        settles=False,
    ),
    Scenario(
        "rounded to something else",
        {SWAP: 10},
        {SWAP: ("refused", "made 16 of it")},
        arrange=round_to("vm/swappiness=10", "16"),
        predictable=False,
        settles=False,
    ),
    Scenario(
        "rounded up to a power of two, as is known",
        {"net.core.rps_sock_flow_entries": 30000},
        {"net.core.rps_sock_flow_entries": ("changed", "")},
    ),
    Scenario("octal is a number too", {SWAP: "010"}, {SWAP: ("changed", "")}),
    Scenario("hexadecimal", {SWAP: "0x10"}, {SWAP: ("changed", "")}),
    Scenario(
        "ports in another order",
        {"net.ipv4.ip_local_reserved_ports": "8082,8080,8081"},
        {"net.ipv4.ip_local_reserved_ports": ("changed", "")},
    ),
    Scenario(
        "range of ports upside down",
        {"net.ipv4.ip_local_reserved_ports": "8082-8080"},
        {"net.ipv4.ip_local_reserved_ports": ("refused", "write it as 8080,9000-9010")},
    ),
    Scenario("text with blanks", {"kernel.core_pattern": "|/bin/x %p  %u"}, {"kernel.core_pattern": ("changed", "")}),
    Scenario(
        "empty text where that means something", {"kernel.core_pattern": ""}, {"kernel.core_pattern": ("changed", "")}
    ),
    Scenario(
        "read-only key though we are root",
        {"net.core.rmem_max": 1000000},
        {"net.core.rmem_max": ("unsupported", "read-only here")},
        arrange=key("net/core/rmem_max", "212992", 0o444),
    ),
    Scenario(
        "can't be read, nor written",
        {"net.ipv6.conf.all.stable_secret": "::1"},
        {"net.ipv6.conf.all.stable_secret": ("unsupported", "cannot be read: Input/output error")},
        arrange=both(unreadable("net/ipv6/conf/all/stable_secret"), key("net/ipv6/conf/all/stable_secret", "", 0o444)),
    ),
    # -- couplings -------------------------------------------------------------------------------------------------
    Scenario("dirty_bytes turns dirty_ratio off", {"vm.dirty_bytes": 1048576}, {"vm.dirty_bytes": ("changed", "")}),
    Scenario(
        "dirty_bytes given back through dirty_ratio",
        ABSENT,
        {"vm.dirty_bytes": ("changed", "given back: 0")},
        earlier={"vm.dirty_bytes": 1048576},
    ),
    Scenario(
        "from dirty_bytes to dirty_ratio",
        {"vm.dirty_ratio": 10},
        {"vm.dirty_ratio": ("changed", ""), "vm.dirty_bytes": ("changed", "vm.dirty_ratio takes its place")},
        earlier={"vm.dirty_bytes": 1048576},
    ),
    Scenario(
        "from an alias to the other",
        {"net.ipv4.conf.all.forwarding": 1},
        {
            "net.ipv4.conf.all.forwarding": ("changed", ""),
            "net.ipv4.ip_forward": ("changed", "net.ipv4.conf.all.forwarding takes its place"),
        },
        earlier=FORWARDING,
    ),
    Scenario(
        "ip_forward rewrites interfaces, and gives them back", FORWARDING, {"net.ipv4.ip_forward": ("changed", "")}
    ),
    Scenario(
        "an interface that ip_forward rewrites",
        {"net.ipv4.ip_forward": 1, "net.ipv4.conf.eth0.forwarding": 0},
        {"net.ipv4.ip_forward": ("changed", ""), "net.ipv4.conf.eth0.forwarding": ("changed", "")},
    ),
    Scenario(
        "ip_forward leaves, an interface stays",
        {"net.ipv4.conf.eth0.forwarding": 1},
        {"net.ipv4.ip_forward": ("changed", "given back: 0"), "net.ipv4.conf.eth0.forwarding": ("ok", "")},
        earlier={"net.ipv4.ip_forward": 1, "net.ipv4.conf.eth0.forwarding": 1},
    ),
    Scenario(
        "an interface that follows the default, unless it is told otherwise",
        {"net.ipv4.conf.default.rp_filter": 1, "net.ipv4.conf.eth0.rp_filter": 0},
        {"net.ipv4.conf.default.rp_filter": ("changed", ""), "net.ipv4.conf.eth0.rp_filter": ("changed", "")},
    ),
    Scenario(
        "a key that an earlier run had moved by another",
        {"net.ipv4.conf.all.accept_redirects": 0},
        {
            "net.ipv4.ip_forward": ("changed", "given back: 0"),
            "net.ipv4.conf.all.accept_redirects": ("changed", ""),
        },
        earlier=FORWARDING,
    ),
    Scenario(
        "what forwarding turns off, wished on",
        {"net.ipv4.conf.all.forwarding": 1, "net.ipv4.conf.all.accept_redirects": 1},
        {
            "net.ipv4.conf.all.forwarding": ("changed", ""),
            "net.ipv4.conf.all.accept_redirects": ("changed", ""),
        },
    ),
    Scenario(
        "another key that moves what an earlier run had set",
        FORWARDING,
        {
            "net.ipv4.ip_forward": ("changed", ""),
            "net.ipv4.conf.all.accept_redirects": ("changed", "given back: 1"),
        },
        earlier={"net.ipv4.conf.all.accept_redirects": 0},
    ),
    Scenario("one-way key", {"kernel.yama.ptrace_scope": 2}, {"kernel.yama.ptrace_scope": ("changed", "")}),
    Scenario(
        "one-way key set already: no write",
        {"kernel.yama.ptrace_scope": 3},
        {"kernel.yama.ptrace_scope": ("changed", "")},
        arrange=key("kernel/yama/ptrace_scope", "3"),
    ),
    Scenario(
        "one-way key to something else",
        {"kernel.yama.ptrace_scope": 1},
        {"kernel.yama.ptrace_scope": ("refused", "EPERM")},
        arrange=key("kernel/yama/ptrace_scope", "3"),
        predictable=False,
        settles=False,
    ),
    # -- keys that need a module -----------------------------------------------------------------------------------
    Scenario(
        "module missing",
        {"net.netfilter.nf_conntrack_max": 262144},
        {"net.netfilter.nf_conntrack_max": ("unsupported", "Module nf_conntrack not found")},
    ),
    Scenario(
        "congestion control unknown",
        {"net.ipv4.tcp_congestion_control": "frob"},
        {"net.ipv4.tcp_congestion_control": ("refused", "no such congestion control")},
    ),
    Scenario(
        "congestion control at hand",
        {"net.ipv4.tcp_congestion_control": "reno"},
        {"net.ipv4.tcp_congestion_control": ("changed", "")},
    ),
    Scenario(
        "congestion control by a module",
        {"net.ipv4.tcp_congestion_control": "bbr"},
        {"net.ipv4.tcp_congestion_control": ("changed", "")},
        arrange=module("tcp_bbr", net__ipv4__tcp_available_congestion_control="reno cubic bbr"),
    ),
    # -- rivals ----------------------------------------------------------------------------------------------------
    Scenario(
        "a file with a later name",
        {SWAP: 10},
        {
            SWAP: (
                "overridden",
                "/etc/sysctl.d/99-zzz.conf:2 sets vm.swappiness = 80 (systemd-sysctl and sysctl --system): "
                "remove that line",
            )
        },
        arrange=file("/etc/sysctl.d/99-zzz.conf", "# x\nvm/swappiness=80\n"),
    ),
    Scenario(
        "only sysctl.conf, which only procps reads last",
        {SWAP: 10},
        {SWAP: ("overridden", "/etc/sysctl.conf:1 sets vm.swappiness = 80 (sysctl --system): remove that line")},
        arrange=file("/etc/sysctl.conf", "vm.swappiness = 80\n"),
    ),
    Scenario(
        "only systemd: procps reads a last word that suits us",
        {SWAP: 10},
        {SWAP: ("overridden", "/etc/sysctl.d/99-zzz.conf:1 sets vm.swappiness = 80 (systemd-sysctl): remove")},
        arrange=both(
            file("/etc/sysctl.d/99-zzz.conf", "vm.swappiness = 80\n"), file("/etc/sysctl.conf", "vm.swappiness = 10\n")
        ),
    ),
    Scenario(
        "a rival of the same mind",
        {SWAP: 10},
        {SWAP: ("changed", "")},
        arrange=file("/etc/sysctl.d/99-zzz.conf", "vm.swappiness = 0xa\n"),
    ),
    Scenario(
        "a rival with an earlier name",
        {SWAP: 10},
        {SWAP: ("changed", "")},
        arrange=file("/etc/sysctl.d/100-x.conf", "vm.swappiness = 80\n"),
    ),
    Scenario(
        "a rival by an alias",
        FORWARDING,
        {"net.ipv4.ip_forward": ("overridden", "sets net.ipv4.conf.all.forwarding = 0")},
        arrange=file("/etc/sysctl.d/99-zzz.conf", "net.ipv4.conf.all.forwarding = 0\n"),
    ),
    Scenario(
        "a rival by the counterpart",
        {"vm.dirty_bytes": 1048576},
        {"vm.dirty_bytes": ("overridden", "sets vm.dirty_ratio = 30")},
        arrange=file("/etc/sysctl.d/99-zzz.conf", "vm.dirty_ratio = 30\n"),
    ),
    Scenario(
        "a counterpart of 0 turns nothing off",
        {"vm.dirty_bytes": 1048576},
        {"vm.dirty_bytes": ("changed", "")},
        arrange=file("/etc/sysctl.d/99-zzz.conf", "vm.dirty_ratio = 0\n"),
    ),
    Scenario(
        "wildcards never beat a line of ours",
        {"net.ipv4.conf.eth0/100.rp_filter": 1},
        {"net.ipv4.conf.eth0/100.rp_filter": ("changed", "")},
        arrange=file("/etc/sysctl.d/99-zzz.conf", "net.ipv4.conf.*.rp_filter = 2\n"),
    ),
    Scenario(
        "systemd: an exclusion behind ours revokes it",
        {SWAP: 10},
        {SWAP: ("changed", "")},
        arrange=file("/etc/sysctl.d/98-x.conf", "-vm.swappiness\n"),
    ),
    # -- shared kernel -----------------------------------------------------------------------------------------------
    Scenario(
        "container: shared keys are left alone, others land",
        {SWAP: 10, "net.ipv4.tcp_keepalive_time": 600, "kernel.sem": [250, 32000, 100, 128]},
        {
            SWAP: ("unsupported", "shared kernel"),
            "net.ipv4.tcp_keepalive_time": ("changed", ""),
            "kernel.sem": ("changed", ""),
        },
        container=True,
    ),
    Scenario(
        "container: keys of the first namespace only",
        {"net.core.rmem_max": 1000000, "net.core.netdev_max_backlog": 5000},
        {
            "net.core.rmem_max": ("unsupported", "shared kernel"),
            "net.core.netdev_max_backlog": ("unsupported", "shared kernel"),
        },
        container=True,
    ),
    Scenario(
        "container in the machine's own network",
        {"net.ipv4.tcp_keepalive_time": 600},
        {"net.ipv4.tcp_keepalive_time": ("unsupported", "shared kernel")},
        container=True,
        arrange=key("net/core/netdev_max_backlog", "1000"),
    ),
    Scenario(
        "container told to change the machine underneath",
        {SWAP: 10},
        {SWAP: ("changed", "")},
        container=True,
        options={"apply_shared": True},
    ),
    Scenario(
        "container: no module is ever loaded",
        {"net.netfilter.nf_conntrack_max": 1, "net.ipv4.tcp_congestion_control": "bbr"},
        {
            "net.netfilter.nf_conntrack_max": ("unsupported", "needs its module nf_conntrack"),
            "net.ipv4.tcp_congestion_control": ("unsupported", "bbr needs its module tcp_bbr"),
        },
        container=True,
        arrange=module("tcp_bbr", net__ipv4__tcp_available_congestion_control="reno cubic bbr"),
    ),
    Scenario(
        "container: a typo is a typo",
        {"net.ipv4.tcp_rmen": 1},
        {"net.ipv4.tcp_rmen": ("unknown", "tcp_rmem")},
        container=True,
    ),
    # -- the profiles ------------------------------------------------------------------------------------------------
    Scenario(
        "guide with one value changed and one left out",
        {SWAP: 1, "net.core.rmem_max": None},
        {name: ("changed", "") for name in GUIDE if name != "net.core.rmem_max"},
        options={"profile": "guide"},
    ),
]
assert len({case.name for case in SCENARIOS}) == len(SCENARIOS)
assert OURS.endswith(f"{NAME}.conf")
