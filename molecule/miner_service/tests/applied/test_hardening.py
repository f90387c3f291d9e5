"""How little of the host an instance sees: systemd's own score, and what the files of it are for others."""

from __future__ import annotations

import json
import re

import pytest

MOST_EXPOSED = 1.5


def test_the_exposure_is_low(host, instances):
    for one in instances:
        told = host.check_output("systemd-analyze security --no-pager %s", one.service)
        score = re.search(r"Overall exposure level for .*: ([0-9.]+)", told)
        assert float(score[1]) <= MOST_EXPOSED, told


def test_systemd_has_nothing_to_say_of_the_units(host, instances):
    for one in instances:
        assert "precog-miner" not in host.run("systemd-analyze verify --man=no %s", one.service).stderr
    assert "Unknown key" not in host.check_output("journalctl -b --no-pager -o cat -t systemd")


def test_its_state_is_for_it_alone(host, instances):
    for one in instances:
        folder = host.file(f"/var/lib/precog-miner/{one.name}")
        assert (folder.mode, folder.user) == (0o700, f"precog-miner-{one.name}")
        open_to_others = "find /var/lib/precog-miner/%s -perm /077 ! -type l -printf '%%p\\n'"
        assert host.check_output(open_to_others, one.name) == ""


def test_a_hotkey_is_read_by_its_instance_only(host, instances):
    wallets = [one for one in instances if one.hotkey]
    if not wallets:
        pytest.skip("no wallet here")
    for one in wallets:
        folder = f"/etc/precog-miner/{one.name}/wallets/molecule"
        hotkey = host.file(f"{folder}/hotkeys/{one.hotkey}")
        owner = f"precog-miner-{one.name}"
        assert (hotkey.mode, hotkey.user, hotkey.group) == (0o400, owner, owner)
        assert "secretSeed" in json.loads(hotkey.content_string)
        assert not host.file(f"{folder}/coldkey").exists
        assert host.run("runuser -u %s -- cat %s", owner, hotkey.path).rc == 1


def test_no_folder_of_secrets_is_anyones_but_roots(host):
    folders = host.check_output("find /etc/precog-miner -type d -printf '%u %m %p\\n'")
    owners = {tuple(line.split()[:2]) for line in folders.splitlines()}
    assert owners <= {("root", "700"), ("root", "750")}
    assert "root 700 /etc/precog-miner" in folders.splitlines()
    # bittensor makes an empty folder of wallets in every home.
    assert host.check_output("find /var/lib/precog-miner -path '*/wallets/*'") == ""


def test_the_key_of_the_api_is_read_by_root_only(host, miners):
    for one in miners:
        file = host.file(f"/etc/precog-miner/{one.name}.env")
        assert (file.mode, file.user, file.group) == (0o400, "root", "root")
        assert "PRECOG_RUNTIME_API_KEY=" in file.content_string
    assert not host.file("/etc/precog-miner/market.env").exists
    assert host.file("/etc/precog-miner").mode == 0o700


def test_an_instance_sees_no_other_ones_state_nor_secrets(host, instances):
    """Looked at from inside its own namespaces, as root there: what isn't mounted can't be opened."""
    for one in instances:
        inside = f"nsenter --target {one.pid(host)} --mount"
        assert host.check_output(f"{inside} ls /var/lib/precog-miner") == one.name
        assert host.check_output(f"{inside} ls -A /etc/precog-miner") == (one.name if one.hotkey else "")
        assert host.run(f"{inside} touch /etc/precog-miner/x /etc/precog-miner/{one.name}/x").rc == 1


def test_an_instance_can_not_hold_up_the_builds(host, instances):
    """Who can open uv's lock can hold it; in the instance's view of the host the cache can't be entered."""
    cache = host.file("/var/cache/precog-fleet/uv")
    assert (cache.mode, cache.user) == (0o700, "root")
    for one in instances:
        inside = f"nsenter --target {one.pid(host)} --mount"
        as_miner = f"nsenter --target {one.pid(host)} --mount --setuid $(id -u precog-miner-{one.name})"
        assert host.run(f"{as_miner} flock --nonblock /var/cache/precog-fleet/uv/.lock true").rc == 66
        assert host.run(f"{inside} ls /var/cache/precog-fleet/uv").rc != 0


def test_an_instance_can_write_nothing_in_run(host, instances):
    """A full /run refuses systemd's daemon-reload, and a drain file of the miner's own would stop rollouts."""
    for one in instances:
        run = host.file(f"/run/precog-miner/{one.name}")
        assert (run.mode, run.user) == (0o755, "root")
        inside = f"nsenter --target {one.pid(host)} --mount"
        assert host.run(f"{inside} touch {run.path}/x /run/lock/x").rc == 1
        as_miner = f"{inside} --setuid $(id -u precog-miner-{one.name})"
        assert host.run(f"{as_miner} mkdir {run.path}/drain").rc == 1
        # It fails at folders that it may not read, and says what it found elsewhere.
        assert host.run(f"{as_miner} find /run -writable ! -type l ! -type s").stdout == ""


def test_memory_and_tasks_are_bounded_by_default(host, instances):
    (market,) = (one for one in instances if one.name == "market")
    total = int(host.check_output("awk '/MemTotal/ {print $2}' /proc/meminfo")) * 1024
    shown = host.check_output("systemctl show -p MemoryMax -p TasksMax %s", market.service)
    found = dict(line.split("=") for line in shown.splitlines())
    assert found["TasksMax"] == "512"
    assert 0 < int(found["MemoryMax"]) <= total * (80 // len(instances)) / 100


# Sends from inside the service's own group of processes, where systemd's filter is; a filter refuses with EPERM.
SEND = """
import os, socket, sys
group, address = sys.argv[1:]
top = "/sys/fs/cgroup/unified" if os.path.isdir("/sys/fs/cgroup/unified") else "/sys/fs/cgroup"
with open(f"{top}{group}/cgroup.procs", "w") as file:
    file.write(str(os.getpid()))
try:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", (address, 53))
except PermissionError:
    print("refused")
except OSError as error:
    print(error)
else:
    print("sent")
"""


def test_the_metadata_of_clouds_can_not_be_reached(host, instances):
    for one in instances:
        group = host.check_output(f"sed -n 's/^0:://p' /proc/{one.pid(host)}/cgroup")
        assert host.check_output("python3 -c %s %s 169.254.169.254", SEND, group) == "refused"
        assert host.check_output("python3 -c %s %s 127.0.0.1", SEND, group) == "sent"


def test_d_bus_is_out_of_reach(host, instances):
    for one in instances:
        inside = f"nsenter --target {one.pid(host)} --mount --setuid $(id -u precog-miner-{one.name})"
        assert host.run(f"{inside} ls /run/dbus").rc == 2
