# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is known of sysctl keys by name: spelling, values, couplings, order, modules. Pure: no input or output.

Sources: Documentation/admin-guide/sysctl and Documentation/networking/ip-sysctl of the kernel, kernel/sysctl.c,
sysctl.d(5); what was tried is said beside it. A *path* here is a key below /proc/sys with slashes.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

# Keys whose value is text: two numbers that mean the same are not the same value there.
# (Names and prefixes here rather than patterns: compiling those costs each run milliseconds.)
TEXT_KEYS = frozenset(
    {
        "kernel/core_pattern",
        "kernel/hostname",
        "kernel/domainname",
        "kernel/modprobe",
        "kernel/hotplug",
        "kernel/poweroff_cmd",
        "kernel/seccomp/actions_logged",
        "kernel/watchdog_cpumask",
        "net/core/default_qdisc",
        "net/core/flow_limit_cpu_bitmap",
        "net/ipv4/tcp_fastopen_key",
    }
)
TEXT_ENDINGS = ("congestion_control", "/stable_secret")
TEXT_FOLDERS = ("fs/binfmt_misc/",)
PORT_LIST_KEYS = frozenset({"net/ipv4/ip_local_reserved_ports"})
# Rounded up to a power of two by the kernel.
POWER_OF_TWO_KEYS = frozenset({"net/core/rps_sock_flow_entries"})
# A write makes the kernel do something once; there is nothing to keep.
ACTION_KEYS = frozenset(
    {
        "vm/drop_caches",
        "vm/compact_memory",
        "vm/stat_refresh",
        "net/ipv4/route/flush",
        "net/ipv6/route/flush",
        "kernel/sysrq_trigger",
        "kernel/cad_pid",
    }
)
# Writing either sets the other to zero; 0 itself is EINVAL for the *_bytes ones (mm/page-writeback.c, mm/util.c).
COUNTERPARTS = {
    "vm/dirty_bytes": "vm/dirty_ratio",
    "vm/dirty_ratio": "vm/dirty_bytes",
    "vm/dirty_background_bytes": "vm/dirty_background_ratio",
    "vm/dirty_background_ratio": "vm/dirty_background_bytes",
    "vm/overcommit_kbytes": "vm/overcommit_ratio",
    "vm/overcommit_ratio": "vm/overcommit_kbytes",
}
ALIASES = {"net/ipv4/conf/all/forwarding": "net/ipv4/ip_forward"}
# A write that changes one of these gives every interface the value, whatever it had (inet_forward_change in
# net/ipv4/devinet.c, addrconf_fixup_forwarding and addrconf_disable_ipv6 in net/ipv6/addrconf.c).
FOR_ALL_INTERFACES = {
    "net/ipv4/ip_forward": "net/ipv4/conf/{}/forwarding",
    "net/ipv4/conf/all/forwarding": "net/ipv4/conf/{}/forwarding",
    "net/ipv6/conf/all/forwarding": "net/ipv6/conf/{}/forwarding",
    "net/ipv6/conf/all/disable_ipv6": "net/ipv6/conf/{}/disable_ipv6",
}
# An IPv4 default also goes to every interface whose own value was never written (devinet_copy_dflt_conf; tried).
_IPV4_DEFAULT = "net/ipv4/conf/default/"
# The two of IPv4 also turn this one off with forwarding on, and on with it off.
REDIRECTS = "net/ipv4/conf/all/accept_redirects"
# Once given, these values last until the next boot.
ONE_WAY_VALUES = {
    "kernel/yama/ptrace_scope": "3",
    "kernel/modules_disabled": "1",
    "kernel/kexec_load_disabled": "1",
    "kernel/unprivileged_bpf_disabled": "1",
}
KEY_MODULES = {
    "net/netfilter/nf_conntrack": "nf_conntrack",
    "net/nf_conntrack": "nf_conntrack",
    "net/bridge/": "br_netfilter",
}
# Below net/, but only in a boot's first network namespace: the difference between its listing and that of a new
# one, interfaces left out (Linux 6.18); for a container they belong to the machine underneath.
_INITIAL_NAMESPACE_KEYS = (
    r"net/core/(bpf_jit_\w+|busy_(poll|read)|default_qdisc|dev_weight\w*|devconf_inherit_init_net|flow_limit_\w+"
    r"|fb_tunnels_only_for_init_net|gro_normal_batch|high_order_alloc_disable|max_skb_frags|mem_pcpu_rsv|message_\w+"
    r"|netdev_\w+|optmem_max|[rw]mem_(default|max)|rps_\w+|skb_defer_max|somaxconn|tstamp_allow_data|warnings|xfrm_\w+)$"
    r"|net/ipv4/(cipso_\w+|fib_sync_mem|inet_peer_\w+|ipfrag_secret_interval|tcp_(mem|max_orphans|low_latency)|udp_mem)$"
    r"|net/ipv4/tcp_(allowed|available)_\w+$|net/ipv4/route/\w+$|net/ipv[46]/neigh/default/\w+$"
    r"|net/ipv6/(calipso_\w+|ip6frag_secret_interval|mld_\w+)$|net/netfilter/nf_log_all_netns$|net/nf_conntrack_max$"
)
# Bounds that the kernel enforces, for keys that can't be tried in a namespace of their own (kernel/sysctl.c, mm/).
BOUNDS = {
    "vm/swappiness": (0, 200),
    "vm/vfs_cache_pressure": (0, 2**31 - 1),
    "vm/dirty_ratio": (0, 100),
    "vm/dirty_background_ratio": (0, 100),
    "vm/overcommit_memory": (0, 2),
    "vm/overcommit_ratio": (0, 2**31 - 1),
    "vm/zone_reclaim_mode": (0, 2**31 - 1),
    "vm/page-cluster": (0, 31),
    "vm/laptop_mode": (0, 2**31 - 1),
    "kernel/randomize_va_space": (0, 2),
    "kernel/panic_on_oops": (0, 2**31 - 1),
    "kernel/yama/ptrace_scope": (0, 3),
    "kernel/kptr_restrict": (0, 2),
    "kernel/dmesg_restrict": (0, 1),
    "net/core/rmem_max": (2304, 2**31 - 1),
    "net/core/wmem_max": (4608, 2**31 - 1),
    "net/core/rmem_default": (2304, 2**31 - 1),
    "net/core/wmem_default": (4608, 2**31 - 1),
    "net/core/netdev_max_backlog": (0, 2**31 - 1),
}

_NUMBER = re.compile(r"-?(0[xX][0-9a-fA-F]{1,64}|0[0-7]{0,64}|[1-9][0-9]{0,63})\Z")  # of thousands Python makes none
_PORTS = re.compile(r"(?P<first>0|[1-9][0-9]{0,4})(-(?P<last>0|[1-9][0-9]{0,4}))?\Z")
_NOT_IN_NAMES = frozenset("=*?[]#;\0")
_SWAP = str.maketrans("./", "/.")


def path_of(name: str) -> str:
    """Return a key's path below /proc/sys. The first separator decides: `.` swaps both, `/` leaves all as it is.

    :raises ValueError: the name can't be a key; the message is the reason.
    """
    text = name.strip()
    if text.split() != [text] or not _NOT_IN_NAMES.isdisjoint(text) or text.startswith("-"):
        raise ValueError("not a key: one name without spaces, `=`, wildcards or a leading `-` is wanted")
    first = next((char for char in text if char in "./"), "")
    path = text.translate(_SWAP) if first == "." else text
    path = path.strip("/") if path.startswith("/") else path
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise ValueError("not a key: it has an empty, `.` or `..` part, and must stay below /proc/sys")
    if len(parts) < 2:
        raise ValueError("not a key: at least two parts are wanted, as in vm.swappiness")
    return path


def name_of(path: str) -> str:
    """Return a key's usual spelling: dots between the parts, slashes for dots inside them."""
    return path.translate(_SWAP)


def slot_of(path: str) -> str:
    """Return what stands for the one thing in the kernel that a key sets: aliases and counterparts share it."""
    path = ALIASES.get(path, path)
    return min(path, COUNTERPARTS.get(path, path))


def is_default(path: str) -> bool:
    """Tell whether a key is an IPv4 default, which goes only to interfaces whose own value was never written."""
    return path.startswith(_IPV4_DEFAULT) and len(path) > len(_IPV4_DEFAULT)


def family_of(path: str) -> str | None:
    """Return the keys of single interfaces that the kernel writes together with a key, {} for the name; or None."""
    if is_default(path):
        return f"net/ipv4/conf/{{}}/{path[len(_IPV4_DEFAULT) :]}"
    return FOR_ALL_INTERFACES.get(path)


def follows(path: str, leader: str) -> bool:
    """Tell whether the kernel may rewrite a key when another one is written."""
    family = family_of(leader)
    if family is None or slot_of(path) == slot_of(leader):
        return False
    before, after = family.split("{}")
    single = path.startswith(before) and path.endswith(after) and path not in (leader, before + "all" + after)
    return single or (path == REDIRECTS and leader in FOR_ALL_INTERFACES and family.startswith("net/ipv4/"))


def followed_value(path: str, value: str) -> str:
    """Return what the kernel makes of a key that follows one which is given a value."""
    return {"0": "1"}.get(value, "0") if path == REDIRECTS else value


def is_text(path: str) -> bool:
    """Tell whether a key's value is text, not numbers."""
    return path in TEXT_KEYS or path.endswith(TEXT_ENDINGS) or path.startswith(TEXT_FOLDERS)


def is_action(path: str) -> bool:
    """Tell whether a key is a command to the kernel and holds no value."""
    return path in ACTION_KEYS


def module_of(path: str) -> str | None:
    """Return the kernel module that brings a key, or None."""
    return next((module for prefix, module in KEY_MODULES.items() if path.startswith(prefix)), None)


@lru_cache(maxsize=1)
def _initial_namespace_pattern() -> re.Pattern[str]:
    return re.compile(_INITIAL_NAMESPACE_KEYS)


def is_of_initial_namespace(path: str) -> bool:
    """Tell whether a key, though below net/, is one that only a boot's first network namespace can set."""
    return bool(_initial_namespace_pattern().match(path))


def order_of(path: str) -> tuple[int, str]:
    """Return a sort key: what resets or bounds other keys goes first.

    `ip_forward` rewrites per-interface values (see `follows`), `all` and `default` come before single interfaces, and
    the socket maxima before the TCP vectors that they bound.
    """
    if path in FOR_ALL_INTERFACES:
        return 0, path
    if path.startswith(("net/ipv4/conf/all/", "net/ipv6/conf/all/")):
        return 1, path
    if path.startswith((_IPV4_DEFAULT, "net/ipv6/conf/default/")) or path in ("net/core/rmem_max", "net/core/wmem_max"):
        return 2, path
    return 3, path


def render(value: Any) -> str:
    """Return an inventory's value as the kernel is given it: fields separated by one space.

    :raises ValueError: it is of a kind no key takes; the message is the reason and the remedy.
    """
    if isinstance(value, bool):
        raise ValueError("is a boolean: write 0 or 1")
    if isinstance(value, dict):
        raise ValueError("is a dictionary: write one number, one text, or a list of fields")
    if isinstance(value, (list, tuple)):
        if not value or any(isinstance(field, (list, tuple, dict)) or field is None for field in value):
            raise ValueError("is not a flat list of fields")
        fields = [render(field) for field in value]
        if not all(fields):
            raise ValueError("has an empty field")
        return " ".join(fields)
    if isinstance(value, float):
        raise ValueError("is a fraction: sysctl values are whole numbers or text")
    if not isinstance(value, (int, str)):
        raise ValueError(f"is of the kind {type(value).__name__}: write a number or a text")
    text = str(value)
    if "\n" in text or "\0" in text:
        raise ValueError("has a line break: one line is wanted")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("has characters that no file can hold: write plain text") from None
    return " ".join(text.split())


def numbers(text: str) -> list[int] | None:
    """Return the fields as the kernel reads them (`0x` is base 16, a leading 0 is base 8), None if any is no number."""
    fields = text.split()
    if not all(_NUMBER.match(field) for field in fields):
        return None
    return [_c_number(field) for field in fields]


def _c_number(field: str) -> int:
    digits = field.lstrip("-")
    value = int(digits, 16 if digits[:2].lower() == "0x" else 8 if digits[0] == "0" else 10)
    return -value if field[0] == "-" else value


def canonical(path: str, text: str) -> str:
    """Return the form in which two spellings of one value are equal, and in which the kernel would read it back."""
    text = " ".join(text.split())
    if is_text(path):
        return text
    if path in PORT_LIST_KEYS:
        ports = _ports(text)
        return text if ports is None else ports
    fields = numbers(text)
    if fields is None:
        return text
    if path in POWER_OF_TWO_KEYS:
        fields = [1 << (field - 1).bit_length() if field > 1 else field for field in fields]
    return " ".join(str(field) for field in fields)


def _ports(text: str) -> str | None:
    """Return ports and ranges as sorted ranges, as the kernel shows them: `8082,8080,8081` is `8080-8082`.

    None if it is no such list.
    """
    ports: set[int] = set()
    for item in text.split(",") if text else ():
        found = _PORTS.match(item)
        if not found:
            return None
        first, last = int(found["first"]), int(found["last"] or found["first"])
        if not first <= last <= 65535:
            return None
        ports.update(range(first, last + 1))
    ranges: list[list[int]] = []
    for port in sorted(ports):
        if ranges and port == ranges[-1][1] + 1:
            ranges[-1][1] = port
        else:
            ranges.append([port, port])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)


def objection(path: str, wanted: str, current: str | None) -> str | None:
    """Tell why the kernel would refuse a value or misread it, as far as that is known without asking it.

    :param current: the value now, whose fields tell how many there must be; None if it can't be read.
    """
    if is_text(path):
        return None
    if path in PORT_LIST_KEYS:
        return "is no list of ports and ranges: write it as 8080,9000-9010" if _ports(wanted) is None else None
    if path in COUNTERPARTS and path.endswith("bytes") and canonical(path, wanted) == "0":
        return f"0 is no value of its own here: set {name_of(COUNTERPARTS[path])} instead, which turns this one off"
    if not wanted:
        return "is empty: write the value, or null to leave the key alone"
    shown = numbers(current) if current is not None else None
    if shown is None or not shown:
        return None
    given = numbers(wanted)
    if given is None:
        remedy = "separate the fields by spaces" if "," in wanted else "write whole numbers"
        return f"the key holds numbers (now {' '.join(str(one) for one in shown)}): {remedy}"
    if len(given) != len(shown):
        # The kernel would set the first fields only, or drop the rest, and say nothing.
        return f"the key has {len(shown)} field(s) (now {' '.join(str(one) for one in shown)}), {len(given)} given"
    low, high = BOUNDS.get(path, (-(2**63), 2**64 - 1))
    if any(not low <= one <= high for one in given):
        return f"out of bounds: the kernel takes {low} to {high}"
    return None
