"""The profiles' values: the guide's to the letter, the computed ones within their bounds."""

from __future__ import annotations

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._settings.sysctl import keys, profiles
from ansible_collections.precog.fleet.tests.unit.made_host import apply, files_of, rows, untouched
from hypothesis import given
from hypothesis import strategies as st

# As the guide has them, line by line ("Linux Kernel Optimizations", "CPU and Memory Optimizations").
GUIDE = """
net.core.rmem_max = 134217728
net.core.wmem_max = 134217728
net.core.rmem_default = 65536
net.core.wmem_default = 65536
net.ipv4.tcp_rmem = 4096 65536 134217728
net.ipv4.tcp_wmem = 4096 65536 134217728
vm.swappiness = 10
vm.vfs_cache_pressure = 50
"""
GIB = 2**30
INT_MAX = 2**31 - 1
VECTORS = ("net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem")
DEFAULTS = {"net.ipv4.tcp_rmem": [4096, 131072, 6291456], "net.ipv4.tcp_wmem": [4096, 16384, 4194304]}


def computed(memory=16 * GIB, bandwidth=1000, round_trip=100, originals=None):
    return profiles.values("bandwidth_delay", memory, profiles.Path(bandwidth, round_trip), originals or {})


def test_the_guide_has_exactly_the_guide_s_values():
    expected = dict(line.split(" = ") for line in GUIDE.strip().split("\n"))
    found = profiles.values("guide", None, profiles.DEFAULT_PATH, {})
    assert {name: keys.render(value) for name, value in found.items()} == expected


def test_a_profile_can_be_changed_without_harm():
    profiles.values("guide", None, profiles.DEFAULT_PATH, {}).clear()
    test_the_guide_has_exactly_the_guide_s_values()


def test_none_has_none():
    assert profiles.values("none", None, profiles.DEFAULT_PATH, {}) == {}


def test_without_psutil_the_computed_profile_says_what_is_missing():
    with pytest.raises(ValueError, match="computed from the host's memory, which is not known without psutil"):
        profiles.values("bandwidth_delay", None, profiles.DEFAULT_PATH, {})


# memory, Mbit/s, ms, largest buffer
COMPUTED = [
    (16 * GIB, 1000, 100, 25001984),  # twice 12.5 MB, in whole pages
    (16 * GIB, 100, 10, 6291456),  # a small path: the kernel's default stands
    (GIB, 10000, 200, 33554432),  # 1/32 of the memory
    (64 * GIB, 10000, 300, 750002176),
    (1024 * GIB, 100000, 1000, 2147479552),  # what an int holds
    (64 * 2**20, 10000, 1000, 6291456),
]


@pytest.mark.parametrize(("memory", "bandwidth", "round_trip", "largest"), COMPUTED)
def test_the_largest_buffer_is_twice_the_product_within_bounds(memory, bandwidth, round_trip, largest):
    found = computed(memory, bandwidth, round_trip)
    assert found["net.ipv4.tcp_rmem"] == [4096, 131072, largest]
    assert found["net.core.rmem_max"] == largest


numbers = st.integers(1, INT_MAX)
known = st.fixed_dictionaries(
    {},
    optional={
        **{name: st.lists(numbers, min_size=3, max_size=3).map(keys.render) for name in VECTORS},
        **{name: numbers.map(str) for name in ("net.core.rmem_max", "net.core.wmem_max")},
    },
)


@given(st.integers(2**26, 2**42), st.integers(1, 400_000), st.integers(1, 2000), known)
def test_computed_values_stay_within_their_bounds(memory, bandwidth, round_trip, originals):
    found = computed(memory, bandwidth, round_trip, originals)
    for name in VECTORS:
        floor = [int(field) for field in originals.get(name, "0 0 0").split()]
        for value, default, original in zip(found[name], DEFAULTS[name], floor):
            assert value >= max(default, original)
        largest, lowest = found[name][2], max(DEFAULTS[name][2], floor[2])
        if largest > lowest:
            assert largest % 4096 == 0
            assert largest <= memory // 32
            assert largest < 2 * bandwidth * 1_000_000 // 8 * round_trip // 1000 + 8192
        assert largest <= INT_MAX
    for side, vector in (("net.core.rmem_max", VECTORS[0]), ("net.core.wmem_max", VECTORS[1])):
        assert found[side] >= max(found[vector][2], 212992, int(originals.get(side, "0")))
        assert found[side] <= INT_MAX


def test_odd_originals_do_no_harm():
    assert computed(originals={"net.ipv4.tcp_rmem": "7"})["net.ipv4.tcp_rmem"][0] == 4096


def test_through_the_engine_it_is_stable_and_bounded_by_the_originals(host):
    """What it raised itself is no floor for the next run: a smaller path gives smaller buffers again."""
    host.set_key("net/core/rmem_max", "30000000")
    before = files_of(host)
    options = {"profile": "bandwidth_delay", "memory": 16 * GIB}
    big = {**options, "path": profiles.Path(10000, 300)}

    apply(host, **big)
    assert host.value("net/ipv4/tcp_rmem") == "4096\t131072\t536870912"
    seen = untouched(host)
    assert not apply(host, **big).changed
    assert untouched(host) == seen

    found = rows(apply(host, **options))
    assert host.value("net/ipv4/tcp_rmem") == "4096\t131072\t25001984"
    assert host.value("net/core/rmem_max") == "30000000"
    assert {row["status"] for row in found.values()} == {"changed", "ok"}

    apply(host)
    assert files_of(host) == before
