"""After the role has run: what the kernel, the files and the loaders themselves say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[4]
FILE = "/etc/sysctl.d/99-zz-precog-fleet.conf"

VALUES = {
    "net.ipv4.tcp_rmem": "4096 65536 134217728",
    "net.ipv4.tcp_wmem": "4096 65536 134217728",
    "net.ipv4.tcp_keepalive_time": "600",
    "net.ipv4.tcp_keepalive_intvl": "30",
    "net.ipv4.ip_local_reserved_ports": "8080-8082",
    "net.ipv4.ip_local_port_range": "10240 65000",
    "net.ipv4.conf.lo.rp_filter": "2",
    "net.ipv4.tcp_slow_start_after_idle": "0",
}
SHARED = (
    "net.core.rmem_max",
    "net.core.wmem_max",
    "net.core.rmem_default",
    "net.core.wmem_default",
    "vm.swappiness",
    "vm.vfs_cache_pressure",
)


@pytest.mark.parametrize("key", VALUES)
def test_value_is_in_force(kernel, key):
    assert kernel[key] == VALUES[key]


@pytest.mark.parametrize("key", SHARED)
def test_the_machine_underneath_is_left_alone(kernel, machine_before, key):
    assert kernel[key] == machine_before[key]


def test_no_key_of_the_machine_underneath_moved(machine_before, machine_now):
    assert {key: value for key, value in machine_now.items() if machine_before.get(key, value) != value} == {}


def test_the_file_holds_what_the_kernel_took_and_nothing_else(host):
    file = host.file(FILE)
    assert (file.user, file.group, file.mode) == ("root", "root", 0o644)
    lines = [line for line in file.content_string.splitlines() if not line.startswith("#")]
    assert {line.split(" = ")[0] for line in lines} == set(VALUES)


def test_a_key_taken_out_with_null_is_in_no_file_of_ours(host):
    assert not host.file(FILE).contains("tcp_tw_reuse")


def test_originals_are_for_root_only(host):
    assert host.file("/var/lib/precog-fleet/ledger.json").mode == 0o600
    assert host.file("/var/lib/precog-fleet").mode == 0o700


@pytest.mark.parametrize("loader", ["/lib/systemd/systemd-sysctl --prefix=/net/ipv4", f"sysctl -p {FILE}"])
def test_a_loader_brings_the_values_back(host, kernel, loader):
    host.check_output("sysctl -w net.ipv4.tcp_rmem='4096 5000 6000' net.ipv4.tcp_keepalive_time=77")
    host.check_output(loader)
    assert {key: kernel[key] for key in VALUES} == VALUES


def test_our_computation_of_the_next_boot_is_that_of_the_real_loaders(host):
    """The cases of tests/loader_cases.yml, of which the unit tests ask our computation, put to both loaders."""
    cases = yaml.safe_load((ROOT / "tests" / "loader_cases.yml").read_text())
    asked = [{"files": case["files"], "keys": list(case["expect"])} for case in cases]
    answer = host.check_output("printf %%s %s | python3 /var/lib/molecule/loader_probe.py", json.dumps(asked))
    answers = json.loads(answer)
    assert len(answers) == len(cases)
    for case, answer in zip(cases, answers, strict=True):
        for key, expected in case["expect"].items():
            assert {loader: answer[loader][key] for loader in expected} == expected, (case["name"], key)
