"""Swap areas on a made-up host: off and back, the guard, drift, kills, sources of every kind."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._engine import run as engine
from ansible_collections.precog.fleet.plugins.module_utils._engine.ledger import Original
from ansible_collections.precog.fleet.plugins.module_utils._engine.managed import HEADER
from ansible_collections.precog.fleet.plugins.module_utils._host.host import HostError
from ansible_collections.precog.fleet.plugins.module_utils._settings.swap import calls, plan, swap
from ansible_collections.precog.fleet.plugins.module_utils._settings.swap import state as read_state
from ansible_collections.precog.fleet.plugins.module_utils._settings.swap.guard import Group, shortage
from ansible_collections.precog.fleet.plugins.module_utils._settings.swap.sources import Source
from ansible_collections.precog.fleet.plugins.module_utils._settings.swap.state import Request, State, is_same
from ansible_collections.precog.fleet.plugins.module_utils._settings.swap.tables import MARKER, Active
from ansible_collections.precog.fleet.tests.unit.made_host import (
    LEDGER,
    bend,
    files_of,
    rows,
    snapshot,
    statuses,
    untouched,
)
from ansible_collections.precog.fleet.tests.unit.made_swap import (
    FSTAB,
    SWAPS,
    TABLE,
    UNITS,
    UUID,
    areas,
    killed_at,
    make_swap,
    turn,
)
from hypothesis import given, settings
from hypothesis import strategies as st

PARTITION, FILE, ZRAM = "swap:/dev/vdb1", "swap:/swap file", "swap:/dev/zram0"
MASK = f"{UNITS}/dev-zram0.swap"
RELOAD = ["systemctl", "daemon-reload"]
VOLATILE = (SWAPS, "/proc/meminfo")


@pytest.fixture(autouse=True)
def _no_waiting_for_systemd(monkeypatch):
    monkeypatch.setattr(swap.time, "sleep", lambda _seconds: None)


@pytest.fixture
def host(memory):
    return make_swap(memory / "host")


def lasting(host):
    """The files, what the kernel shows apart."""
    return {path: seen for path, seen in files_of(host).items() if path not in VOLATILE and "boot_id" not in path}


def ledger(host):
    return json.loads(host.text(LEDGER))


# -- off, again, and back ---------------------------------------------------------------------------------------------


def test_off_again_and_back(host):
    before, on = lasting(host), dict(host.on)

    told = rows(turn(host))
    assert {name: row["status"] for name, row in told.items()} == dict.fromkeys([PARTITION, FILE, ZRAM], "changed")
    assert {row["after"] for row in told.values()} == {"off"}
    assert {name: row["before"] for name, row in told.items()} == {
        PARTITION: "on pri=7",
        FILE: "on pri=-2",
        ZRAM: "on pri=100",
    }
    assert {name: (row["persisted_before"], row["persisted"], row["persisted_by"]) for name, row in told.items()} == {
        PARTITION: ("on pri=7", "off", f"{FSTAB}:4"),
        FILE: ("on", "off", f"{FSTAB}:5"),
        ZRAM: ("on pri=100", "off", MASK),
    }
    assert host.on == {}
    assert host.commands[-1] == RELOAD
    assert host.at(MASK).read_bytes() == b""
    lines = TABLE.split("\n")
    lines[3], lines[4] = MARKER + lines[3], MARKER + lines[4]
    assert host.at(FSTAB).read_bytes().decode() == "\n".join(lines)
    assert host.at(FSTAB).stat().st_mode & 0o777 == 0o640

    seen = untouched(host)
    again = turn(host)
    assert (set(statuses(again).values()), again.changed, untouched(host)) == ({"ok"}, False, seen)

    back = turn(host, None)
    assert {name: row["reason"] for name, row in rows(back).items()} == {
        PARTITION: "given back: on pri=7",
        FILE: "given back: on pri=-2",
        ZRAM: "given back: on pri=100",
    }
    assert (lasting(host), host.on) == (before, on)
    assert ledger(host) == {"version": 1, "settings": {}, "files": {}}
    assert turn(host, None).changes == []


def test_the_smallest_is_turned_off_first_and_the_highest_turned_on_first(host):
    host.area("/other", priority=-3)
    turn(host)
    assert [what for _swap, what in host.commands[:4]] == ["/other", "/swap file", "/dev/zram0", "/dev/vdb1"]
    host.commands.clear()
    turn(host, None)
    turned_on = [command[1] for command in host.commands if command[0] == "swap"]
    assert turned_on == ["on /dev/zram0", "on /dev/zram0", "on /dev/vdb1", "on /swap file", "on /other"]
    assert (host.on["/swap file"], host.on["/other"]) == (-2, -3)


def test_what_fstab_says_of_discarding_counts_when_given_back(host):
    turn(host)
    turn(host, None)
    assert host.flags["/dev/vdb1"] == 0x8000 | 7 | 0x10000


def test_it_stays_off_over_a_reboot(host):
    turn(host)
    host.restart()
    assert host.on == {}
    again = turn(host)
    assert (set(statuses(again).values()), again.changed) == ({"ok"}, False)


def test_given_back_after_a_reboot_as_fstab_says(host):
    before = lasting(host)
    turn(host)
    host.restart()
    turn(host, None)
    assert (lasting(host), host.on) == (before, {"/dev/vdb1": 7, "/swap file": -2, "/dev/zram0": 100})


def test_on_turns_on_what_is_configured(host):
    host.on.clear()
    host.show()
    before = lasting(host)
    told = turn(host, "on")
    assert set(statuses(told).values()) == {"changed"}
    assert host.on == {"/dev/zram0": 100, "/dev/vdb1": 7, "/swap file": -2}
    assert lasting(host) == before
    again = turn(host, "on")
    assert (set(statuses(again).values()), again.changed) == ({"ok"}, False)
    turn(host, None)
    assert host.on == {}
    assert ledger(host)["settings"] == {}


def test_on_after_off_is_as_before(host):
    before, on = lasting(host), dict(host.on)
    turn(host)
    turn(host, "on")
    assert (lasting(host), host.on) == (before, on)
    turn(host, "off")
    turn(host, None)
    assert (lasting(host), host.on) == (before, on)


def test_trap_zram_is_gone_once_it_is_off_and_is_made_again(host):
    turn(host)
    host.blind_starts = 2
    host.commands.clear()
    told = rows(turn(host, None))[ZRAM]
    assert (told["status"], told["after"]) == ("changed", "on pri=100")
    assert host.commands[:2] == [["swap", "on /dev/zram0"], RELOAD]
    assert host.commands[2:5] == [["systemctl", "start", "dev-zram0.swap"]] * 3


def test_zram_that_cant_be_made_again_is_refused_and_the_rest_lands(host):
    turn(host)
    host.fails["zram"] = 1
    told = rows(turn(host, None))
    assert {name: row["status"] for name, row in told.items()} == {
        ZRAM: "refused",
        PARTITION: "changed",
        FILE: "changed",
    }
    host.fails.clear()
    turn(host, None)
    assert (len(host.on), ledger(host)["settings"]) == (3, {})


def test_on_where_an_area_is_not_there(host):
    host.on.clear()
    host.show()
    host.at(f"/dev/disk/by-uuid/{UUID}").unlink()
    told = rows(turn(host, "on"))
    assert told[f"swap:UUID={UUID}"]["status"] == "unsupported"
    assert told[FILE]["status"] == "changed"


def test_an_area_turned_on_by_hand_is_turned_off_and_given_back(host):
    host.area("/dev/vdc", priority=3)
    told = rows(turn(host))["swap:/dev/vdc"]
    assert (told["status"], told["persisted_before"], told["persisted"], told["persisted_by"]) == (
        "changed",
        "off",
        "off",
        None,
    )
    assert not host.at(f"{UNITS}/dev-vdc.swap").exists()
    turn(host, None)
    assert host.on["/dev/vdc"] == 3


def test_without_swap_there_is_one_row(memory):
    host = make_swap(memory / "bare", table="")
    host.on.clear()
    host.show()
    host.at("/run/systemd/generator/dev-zram0.swap").unlink()
    host.at("/run/systemd/generator/swap.target.wants/dev-zram0.swap").unlink()
    seen = lasting(host)
    told = rows(turn(host))["swap"]
    assert (told["status"], told["before"], told["reason"]) == ("ok", "off", "no swap area is active or configured")
    assert rows(turn(host, "on"))["swap"]["status"] == "unsupported"
    assert turn(host, None).changes == []
    assert lasting(host) == seen


def test_trap_a_container_leaves_it_to_the_machine_underneath(memory):
    host = make_swap(memory / "container", container=True)
    before, on = lasting(host), dict(host.on)
    for mode in ("off", "on"):
        told = rows(turn(host, mode))
        assert list(told) == ["swap"]
        assert (told["swap"]["status"], told["swap"]["before"]) == ("unsupported", None)
        assert told["swap"]["reason"].startswith("shared kernel")
    assert turn(host, None).changes == []
    assert (lasting(host), host.on, host.commands) == (before, on, [])
    assert statuses(turn(host, apply_shared=True))[PARTITION] == "changed"


ARRANGED = [
    ("off", lambda _host: None),
    ("off", turn),
    (None, turn),
    ("on", turn),
    ("off", lambda host: (turn(host), host.swapon("/dev/vdb1", 0))),
    ("off", lambda host: (turn(host), host.put(FSTAB, TABLE))),
    ("off", lambda host: host.at(FSTAB).unlink()),
    ("off", lambda host: (setattr(host, "available", 1000), host.show())),
]


@pytest.mark.parametrize(("mode", "arrange"), ARRANGED)
def test_check_mode_says_the_same_and_touches_nothing(host, mode, arrange):
    arrange(host)
    before, seen = snapshot(host), untouched(host)
    predicted = turn(host, mode, check=True)
    assert snapshot(host) == before
    assert untouched(host) == seen
    real = turn(host, mode)
    for one, other in zip(predicted.changes, real.changes):
        assert is_same(one.after, other.after)
        assert {**one.row(), "after": None} == {**other.row(), "after": None}
    assert predicted.changed == real.changed
    assert predicted.diff[:-1] == real.diff[:-1]


# -- the guard --------------------------------------------------------------------------------------------------------

SMALL, LARGE = Active("/a", 9999, 100, -2), Active("/b", 9999, 900, -3)
BIG = Active("/c", 2**22, 2**21, 1)
IN_SWAP = Group("/sys/fs/cgroup/miner.slice", 2**30, 2**29, 2**29 + 1)
GUARDED = [
    (1000, [], 5000, [], None),
    (1100, [SMALL, LARGE], 100, [], None),
    (1099, [SMALL, LARGE], 100, [], "/b holds 1 MiB in swap; of 1 MiB available"),
    (199, [SMALL], 100, [], "/a holds"),
    (None, [SMALL], 0, [], "does not say"),
    (2**23, [BIG], 2**19, [], None),
    (2**21, [BIG], 2**19, [], "/c holds 2048 MiB in swap; of 2048 MiB available"),
    (
        2**23,
        [BIG],
        2**19,
        [IN_SWAP],
        "miner.slice holds 512 MiB in swap and 512 MiB in memory, above its limit of 1024",
    ),
    (2**23, [BIG], 2**19, [IN_SWAP._replace(limit=2**31)], None),
    (2**23, [BIG._replace(used=0)], 2**19, [IN_SWAP], None),
]


@pytest.mark.parametrize(("available", "falling", "reserve", "groups", "reason"), GUARDED)
def test_the_guard(available, falling, reserve, groups, reason):
    told = shortage(available, falling, reserve, groups)
    assert told is None if reason is None else reason in told


def test_trap_too_little_memory_refuses_with_figures_and_leaves_all_as_it_was(host):
    host.available = 512 * 1024 + 4096
    host.show()
    before, on = files_of(host), dict(host.on)
    told = rows(turn(host))
    assert {row["status"] for row in told.values()} == {"refused"}
    assert "/dev/vdb1 holds 4 MiB in swap; of 516 MiB available" in told[FILE]["reason"]
    assert "509 MiB, and 512 MiB are the reserve" in told[FILE]["reason"]
    assert (files_of(host), host.on, host.commands) == (before, on, [])
    assert {row["persisted"] for row in told.values()} == {"on", "on pri=7", "on pri=100"}
    assert set(statuses(turn(host, reserve=0)).values()) == {"changed"}


def test_trap_memory_taken_meanwhile_puts_areas_back(host):
    host.grabs["/swap file"] = 8 * 2**20 - 512 * 1024
    before, on = lasting(host), dict(host.on)
    told = rows(turn(host))
    assert {row["status"] for row in told.values()} == {"refused"}
    assert all("are the reserve" in row["reason"] for row in told.values()), told
    assert (lasting(host), host.on) == (before, on)
    assert ledger(host) == {"version": 1, "settings": {}, "files": {}}


def test_what_the_kernel_has_no_memory_for_puts_areas_back(host):
    host.fails["/dev/vdb1"] = errno.ENOMEM
    before, on = lasting(host), dict(host.on)
    told = rows(turn(host))
    assert {row["status"] for row in told.values()} == {"refused"}
    assert "ENOMEM" in told[PARTITION]["reason"]
    assert "all areas stay as they were" in told[FILE]["reason"]
    assert (lasting(host), host.on) == (before, on)


def test_what_the_kernel_refuses_otherwise_stays_and_the_rest_lands(host):
    host.fails["/dev/vdb1"] = errno.EPERM
    told = rows(turn(host))
    assert {name: row["status"] for name, row in told.items()} == {
        PARTITION: "refused",
        FILE: "changed",
        ZRAM: "changed",
    }
    assert host.on == {"/dev/vdb1": 7}
    assert [line.startswith(MARKER) for line in host.text(FSTAB).split("\n")[3:5]] == [False, True]
    assert (told[PARTITION]["persisted"], told[PARTITION]["persisted_by"]) == ("on pri=7", f"{FSTAB}:4")


def test_giving_back_off_is_guarded_too(host):
    host.on.clear()
    host.show()
    turn(host, "on")
    host.available = 1000
    host.show()
    assert set(statuses(turn(host, None)).values()) == {"refused"}
    assert len(host.on) == 3


def test_a_limited_group_is_read_in_both_versions(host):
    group = "/sys/fs/cgroup/miner.slice/miner.service"
    host.put("/sys/fs/cgroup/miner.slice/memory.stat", "")
    host.put(f"{group}/memory.max", "1000000\n")
    host.put(f"{group}/memory.current", "900000\n")
    host.put(f"{group}/memory.stat", "file 500000\nshmem 0\nbroken\n")
    host.put(f"{group}/memory.swap.current", "600001\n")
    told = rows(turn(host))
    assert "miner.service holds" in told[FILE]["reason"]
    host.put(f"{group}/memory.max", "max\n")
    host.put("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "1000\n")
    host.put("/sys/fs/cgroup/memory/a/memory.usage_in_bytes", "900\n")
    host.put("/sys/fs/cgroup/memory/a/memory.stat", "total_swap 200\n")
    assert "/sys/fs/cgroup/memory/a holds" in rows(turn(host))[FILE]["reason"]
    for odd in ("9223372036854771712\n", "9" * 5000, "²", "", "x"):
        host.put("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", odd)
        host.put("/sys/fs/cgroup/memory/b/memory.stat", f"total_swap {odd}\n")
        assert "refused" not in statuses(turn(host, check=True)).values()
    assert set(statuses(turn(host)).values()) == {"changed"}


# -- drift, and others' edits -----------------------------------------------------------------------------------------


def test_turned_on_again_by_hand_is_drift(host):
    turn(host)
    host.swapon("/dev/vdb1", 0)
    told = rows(turn(host))
    assert (told[PARTITION]["status"], told[FILE]["status"]) == ("drifted", "ok")
    assert "drifted at run time: was on pri=-2" in told[PARTITION]["reason"]
    assert host.on == {}


def test_uncommented_by_hand_is_drift(host):
    turn(host)
    host.put(FSTAB, host.text(FSTAB).replace(MARKER + "UUID", "UUID"))
    told = rows(turn(host))
    assert (told[PARTITION]["status"], told[FILE]["status"]) == ("drifted", "ok")
    assert f"{FSTAB}:4 activates it again at boot" in told[PARTITION]["reason"]
    assert host.text(FSTAB).count(MARKER) == 2


def test_a_mask_that_is_gone_is_drift(host):
    before = lasting(host)
    turn(host)
    host.at(MASK).unlink()
    assert statuses(turn(host))[ZRAM] == "drifted"
    assert host.at(MASK).read_bytes() == b""
    turn(host, None)
    assert lasting(host) == before


def test_edits_of_others_stay_and_only_our_marks_go(host):
    turn(host)
    text = host.at(FSTAB).read_bytes().decode()
    edited = text.replace("errors=remount-ro", "noatime") + "\n/dev/vdz /data xfs defaults 0 2\n"
    host.put(FSTAB, edited)
    assert set(statuses(turn(host)).values()) == {"ok"}
    turn(host, None)
    assert host.at(FSTAB).read_bytes().decode() == edited.replace(MARKER, "")
    assert ledger(host) == {"version": 1, "settings": {}, "files": {}}
    assert turn(host, None).changes == []


def test_a_line_of_fstab_taken_out_meanwhile_is_no_longer_there(host):
    turn(host)
    lines = host.at(FSTAB).read_bytes().decode().split("\n")
    host.put(FSTAB, "\n".join(lines[:3] + lines[4:]))
    turn(host, None)
    assert UUID not in host.text(FSTAB)
    assert host.on["/dev/vdb1"] == 7  # as the ledger recorded it in this boot


def test_a_lost_ledger_still_lets_our_marks_go(host):
    turn(host)
    host.at(LEDGER).unlink()
    turn(host, None)
    assert host.at(FSTAB).read_bytes().decode() == TABLE
    assert ledger(host)["files"] == {}
    assert turn(host, None).changes == []


def test_a_fstab_that_is_gone_is_not_made_again(host):
    turn(host)
    host.at(FSTAB).unlink()
    turn(host, None)
    assert not host.at(FSTAB).exists()
    assert ledger(host)["files"] == {}


def test_an_area_that_is_gone_does_not_block_the_rollback(host):
    turn(host)
    host.at("/swap file").unlink()
    told = rows(turn(host, None))
    assert "not there now" in told[FILE]["reason"]
    assert host.on == {"/dev/vdb1": 7, "/dev/zram0": 100}
    assert ledger(host)["settings"] == {}


# -- sources ----------------------------------------------------------------------------------------------------------


def unit(host, name, text, *, folder="/usr/lib/systemd/system"):
    host.put(f"{folder}/{name}", text)
    wants = host.at(f"{UNITS}/swap.target.wants")
    wants.mkdir(parents=True, exist_ok=True)
    (wants / name).symlink_to(f"{folder}/{name}")


@pytest.mark.parametrize("folder", ["/usr/lib/systemd/system", UNITS])
def test_a_swap_unit_is_masked_and_comes_back_byte_for_byte(host, folder):
    host.area("/srv/a-b", priority=5)
    name = "srv-a\\x2db.swap"
    unit(host, name, "[Swap]\n What = /srv/a-b \nOptions=nofail,pri=5\n", folder=folder)
    before = lasting(host)
    told = rows(turn(host))["swap:/srv/a-b"]
    assert (told["persisted_before"], told["persisted"], told["persisted_by"]) == ("on pri=5", "off", f"{UNITS}/{name}")
    assert host.at(f"{UNITS}/{name}").read_bytes() == b""
    assert set(statuses(turn(host)).values()) == {"ok"}
    turn(host, None)
    assert lasting(host) == before


def test_a_unit_that_someone_wrote_over_our_mask_stays(host):
    host.area("/srv/a", priority=5)
    unit(host, "srv-a.swap", "[Swap]\nWhat=/srv/a\n", folder=UNITS)
    turn(host)
    host.put(f"{UNITS}/srv-a.swap", "[Swap]\nWhat=/srv/a\nPriority=9\n")
    assert statuses(turn(host))["swap:/srv/a"] == "drifted"
    turn(host, None)
    assert host.text(f"{UNITS}/srv-a.swap").endswith("Priority=9\n")


def test_a_unit_that_nothing_wants_or_that_is_masked_is_no_source(host):
    host.put("/usr/lib/systemd/system/srv-a.swap", "[Swap]\nWhat=/srv/a\n")
    unit(host, "srv-b.swap", "[Swap]\nWhat=/srv/b\n")
    host.at(f"{UNITS}/srv-b.swap").symlink_to("/dev/null")
    unit(host, "srv-c.swap", "[Swap]\nWhat=/srv/c\n")
    host.put(f"{UNITS}/srv-c.swap", "")
    assert set(rows(turn(host))) == {PARTITION, FILE, ZRAM}


def test_a_unit_by_link_is_told_as_overriding(host):
    host.area("/srv/a", priority=5)
    unit(host, "srv-a.swap", "[Swap]\nWhat=/srv/a\n", folder="/opt")
    host.at(f"{UNITS}/srv-a.swap").symlink_to("/opt/srv-a.swap")
    told = rows(turn(host))["swap:/srv/a"]
    assert (told["status"], told["after"], told["persisted"]) == ("overridden", "off", "on")
    assert "systemctl disable srv-a.swap" in told["reason"]


def test_a_service_that_turns_zram_on_is_told_as_overriding(host):
    wants = host.at(f"{UNITS}/multi-user.target.wants")
    wants.mkdir()
    (wants / "zramswap.service").symlink_to("/usr/lib/systemd/system/zramswap.service")
    told = rows(turn(host))
    assert (told[ZRAM]["status"], told[PARTITION]["status"]) == ("overridden", "changed")
    assert "systemctl disable zramswap.service" in told[ZRAM]["reason"]
    host.at(f"{UNITS}/zramswap.service").symlink_to("/dev/null")
    assert statuses(turn(host))[ZRAM] == "ok"


CONFIGURED = f"{UNITS.removesuffix('/system')}/zram-generator.conf"


def configure_zram(host, text="[zram1]\nzram-size = ram / 2\nswap-priority=50\n"):
    host.put("/usr/lib/systemd/system-generators/zram-generator", "")
    host.put(CONFIGURED, text)


def test_trap_zram_that_is_configured_and_not_made_yet_is_what_the_next_boot_brings(host):
    configure_zram(host)
    before = lasting(host)
    told = rows(turn(host))["swap:/dev/zram1"]
    assert (told["status"], told["before"], told["persisted_before"]) == ("changed", "off", "on pri=50")
    assert (told["persisted"], told["persisted_by"]) == ("off", f"{UNITS}/dev-zram1.swap")
    assert host.at(f"{UNITS}/dev-zram1.swap").read_bytes() == b""
    assert set(statuses(turn(host)).values()) == {"ok"}
    # At the next boot the generator makes the unit, which stays masked.
    host.put("/run/systemd/generator/dev-zram1.swap", "[Swap]\nWhat=/dev/zram1\nPriority=50\n")
    host.at("/run/systemd/generator/swap.target.wants/dev-zram1.swap").symlink_to("../dev-zram1.swap")
    assert set(statuses(turn(host)).values()) == {"ok"}
    for made in ("dev-zram1.swap", "swap.target.wants/dev-zram1.swap"):
        host.at(f"/run/systemd/generator/{made}").unlink()
    turn(host, None)
    assert lasting(host) == before
    assert "/dev/zram1" not in host.on


def test_configured_zram_of_which_there_is_a_unit_is_one_area(host):
    configure_zram(host, "[zram0]\nswap-priority=5\n")
    assert rows(turn(host, check=True))[ZRAM]["persisted_before"] == "on pri=100"


def test_on_has_systemd_read_what_is_configured_before_it_makes_zram(host):
    configure_zram(host)
    told = rows(turn(host, "on"))["swap:/dev/zram1"]
    assert told["status"] == "refused"  # this made-up systemd knows of no such unit
    assert RELOAD in host.commands


@pytest.mark.parametrize(
    ("arrange", "there"),
    [
        (lambda _host: None, True),
        (lambda host: host.put("/proc/cmdline", "systemd.zram=0\n"), False),
        (lambda host: host.put("/proc/cmdline", "systemd.zram=1\n"), True),
        (lambda host: host.at("/usr/lib/systemd/system-generators/zram-generator").unlink(), False),
        (lambda host: host.put("/run/systemd/zram-generator.conf", ""), False),
        (lambda host: host.put("/usr/lib/systemd/zram-generator.conf", ""), True),
        (lambda host: host.put(f"{CONFIGURED}.d/a.conf", "[zram1]\nzram-size=0\n"), False),
        (lambda host: host.put(f"{CONFIGURED}.d/a.conf.off", "[zram1]\nzram-size=0\n"), True),
        (lambda host: host.put(f"{UNITS}/dev-zram1.swap", ""), False),
    ],
)
def test_where_zram_is_configured_and_where_not(host, arrange, there):
    configure_zram(host)
    arrange(host)
    assert ("swap:/dev/zram1" in rows(turn(host, check=True))) is there


def test_a_generator_masked_by_a_link_makes_nothing(host):
    configure_zram(host)
    host.at("/etc/systemd/system-generators").mkdir()
    host.at("/etc/systemd/system-generators/zram-generator").symlink_to("/dev/null")
    assert "swap:/dev/zram1" not in rows(turn(host, check=True))


def partition(host, name="vda3", *, flags="0x0"):
    host.area(f"/dev/{name}")
    host.put(
        "/run/udev/data/b254:3",
        f"E:ID_PART_ENTRY_TYPE=0657fd6d-a4ab-43c4-84e5-0933c84b4f4f\nE:ID_PART_ENTRY_FLAGS={flags}\n",
    )
    host.at("/sys/dev/block").mkdir(parents=True)
    host.at("/sys/dev/block/254:3").symlink_to(f"../../devices/x/block/vda/{name}")


def test_trap_partitions_that_fstab_kept_asleep_are_masked(host):
    partition(host)
    before = lasting(host)
    told = rows(turn(host))["swap:/dev/vda3"]
    assert (told["persisted_before"], told["persisted"], told["persisted_by"]) == (
        "off",
        "off",
        f"{UNITS}/dev-vda3.swap",
    )
    assert host.at(f"{UNITS}/dev-vda3.swap").read_bytes() == b""
    assert set(statuses(turn(host)).values()) == {"ok"}
    turn(host, None)
    assert lasting(host) == before
    assert "/dev/vda3" not in host.on


def test_without_fstab_the_partition_is_what_the_next_boot_turns_on(host):
    partition(host)
    host.put(FSTAB, "")
    assert rows(turn(host, check=True))["swap:/dev/vda3"]["persisted_before"] == "on"
    host.put("/proc/cmdline", "quiet systemd.gpt_auto=0\n")
    assert "swap:/dev/vda3" not in rows(turn(host, check=True))


@pytest.mark.parametrize("word", ["systemd.swap=0", "systemd.swap=no", "fstab=0"])
def test_trap_a_command_line_that_switches_fstab_s_swap_off_counts_for_the_next_boot(host, word):
    host.put("/proc/cmdline", f"quiet {word}\n")
    before, on = lasting(host), dict(host.on)
    told = rows(turn(host))
    # Its unit is none of fstab's, which zram-generator makes whatever this word says.
    assert {name: row["persisted_before"] for name, row in told.items()} == {
        PARTITION: "off",
        FILE: "off",
        ZRAM: "on pri=100",
    }
    # The lines are turned off all the same: the other entries of a boot loader's menu need not have that word.
    assert (told[PARTITION]["persisted_by"], host.text(FSTAB).count(MARKER)) == (f"{FSTAB}:4", 2)
    assert set(statuses(turn(host)).values()) == {"ok"}
    turn(host, None)
    assert (lasting(host), host.on) == (before, on)


def test_trap_on_is_overridden_by_a_command_line_that_switches_it_off_again_at_boot(host):
    host.on.clear()
    host.show()
    host.put("/proc/cmdline", "systemd.swap=0\n")
    told = rows(turn(host, "on"))
    assert (told[PARTITION]["status"], told[PARTITION]["after"]) == ("overridden", "on pri=7")
    assert (told[PARTITION]["persisted"], told[PARTITION]["persisted_by"]) == ("off", "/proc/cmdline")
    assert "systemd.swap=0 on the kernel command line keeps it off at boot" in told[PARTITION]["reason"]
    assert told[ZRAM]["status"] == "changed"
    assert not turn(host, "on").changed


def test_after_a_reboot_that_left_it_off_by_the_command_line_it_is_not_turned_on(host):
    host.put("/proc/cmdline", "systemd.swap=0\n")
    for path in ("/dev/vdb1", "/swap file"):
        del host.on[path]
    host.show()
    turn(host)
    host.restart()
    turn(host, None)
    assert set(host.on) == {"/dev/zram0"}


@pytest.mark.parametrize(
    ("version", "there"), [("systemd 252 (252.39)\n", True), ("systemd 257 (257.9)\n", False), ("what?", True)]
)
def test_trap_the_generator_for_partitions_minds_systemd_swap_since_version_254(host, version, there):
    partition(host)
    host.put(FSTAB, "")
    host.put("/proc/cmdline", "systemd.swap=0\n")
    host.version = version
    assert ("swap:/dev/vda3" in rows(turn(host, check=True))) is there


def test_a_partition_marked_no_auto_is_left(host):
    partition(host, flags="0x8000000000000000")
    assert "swap:/dev/vda3" not in rows(turn(host))


def test_a_deleted_file_is_told(host):
    host.area("/gone (deleted)", priority=-5)
    host.at("/gone").unlink()
    told = rows(turn(host))["swap:/gone (deleted)"]
    assert (told["status"], "nothing but a reboot" in told["reason"]) == ("unsupported", True)


def test_hibernation_and_cloud_init_are_warned_about(host):
    host.put("/proc/cmdline", f"quiet resume=UUID={UUID}\n")
    host.put("/etc/cloud/cloud.cfg", "users: []\nswap:\n  filename: /swap.img\n")
    hibernation, cloud = engine.run(host, [areas(host)], check_mode=True).warnings
    assert hibernation.startswith("/dev/vdb1 is where the host resumes from hibernation (resume= on the kernel")
    assert cloud.startswith("/etc/cloud/cloud.cfg has cloud-init make a swap area")


@pytest.mark.parametrize(
    ("files", "who"),
    [
        ({"/proc/cmdline": "noresume resume=/dev/vdb1"}, None),
        ({"/etc/initramfs-tools/conf.d/resume": f"# x\nRESUME=UUID={UUID}\n"}, "RESUME= in /etc/initramfs-tools"),
        ({"/etc/initramfs-tools/conf.d/resume": "RESUME=none\n"}, None),
        ({"/etc/initramfs-tools/conf.d/resume": "RESUME=auto\n"}, None),
        ({"/proc/cmdline": "resume=/dev/other"}, None),
    ],
)
def test_where_the_host_resumes_from(host, files, who):
    for path, text in files.items():
        host.put(path, text)
    warnings = engine.run(host, [areas(host)], check_mode=True).warnings
    assert [who in warning for warning in warnings] == ([True] if who else [])


# -- systemd is told --------------------------------------------------------------------------------------------------


def test_systemd_is_told_again_after_a_run_that_could_not(host):
    name = "swap\\x20file.swap"
    host.put(f"/run/systemd/generator/{name}", "# Automatically generated by systemd-fstab-generator\n")
    host.fails["daemon-reload"] = 1
    with pytest.raises(HostError, match="daemon-reload"):
        turn(host)
    host.fails.clear()
    host.commands.clear()
    assert set(statuses(turn(host)).values()) == {"ok"}
    assert host.commands == [RELOAD]
    host.at(f"/run/systemd/generator/{name}").unlink()
    host.commands.clear()
    turn(host)
    assert host.commands == []


def test_trap_a_rollback_of_which_systemd_could_not_be_told_tells_it_the_next_time(host):
    host.fails["/dev/zram0"] = errno.EBUSY  # it stays on, so that only the end of a run tells systemd something
    turn(host)
    host.fails["daemon-reload"] = 1
    with pytest.raises(HostError, match="daemon-reload"):
        turn(host, None)
    del host.fails["daemon-reload"]
    host.commands.clear()
    turn(host, None)
    assert host.commands[-1] == RELOAD
    host.commands.clear()
    turn(host, None)
    assert host.commands == []


def test_without_systemd_nothing_is_told(host):
    host.at("/run/systemd/system/.keep").unlink()
    host.at("/run/systemd/system").rmdir()
    turn(host)
    assert RELOAD not in host.commands


# -- kills, and a full disk -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("back", [True, False])
def test_killed_anywhere_the_next_run_mends_it(memory, back):
    for step in range(100):
        host = make_swap(memory / f"{step}")
        before, on = lasting(host), dict(host.on)
        killed = killed_at(host, step, "off")
        assert host.at(FSTAB).read_bytes().decode().replace(MARKER, "") == TABLE
        if not back:
            assert set(statuses(turn(host)).values()) <= {"ok", "changed", "drifted"}
            assert host.on == {}
            assert not turn(host).changed
        killed_at(host, step, None)
        turn(host, None)
        assert (lasting(host), host.on) == (before, on)
        if not killed:
            assert step > 10
            return
    raise AssertionError("the run never ends")


@pytest.mark.parametrize("what", [f"commit {MASK}", f"commit {FSTAB}", f"stage {FSTAB}"])
def test_a_full_disk_leaves_all_as_it_was(host, what):
    before, on = lasting(host), dict(host.on)
    host.disk_errors[what] = errno.ENOSPC
    with pytest.raises(HostError, match="Free space"):
        turn(host)
    assert (lasting(host), host.on) == (before, on)
    host.disk_errors.clear()
    turn(host)
    turn(host, None)
    assert (lasting(host), host.on) == (before, on)


# -- whatever files and kernel say -------------------------------------------------------------------------------------

WORDS = [
    *("/dev/vdb1", f"UUID={UUID}", "/swap\\040file", "/new", "/dev/zram0", "none", "swap", "sw,pri=5,nofail", "noauto"),
    *(
        "[Swap]",
        "What=",
        "/srv/x",
        "Priority=",
        "Options=pri=",
        "9" * 5000,
        "²",
        "nan",
        "7",
        "-1",
        "\\000",
        "\\777",
        "\\",
    ),
    *("resume=", "RESUME=", "noresume", "systemd.swap=", "fstab=0", "swap:", "0", "/..", "//", "kB", "MemAvailable:"),
    *("E:ID_PART_ENTRY_TYPE=0657fd6d-a4ab-43c4-84e5-0933c84b4f4f", "E:ID_PART_ENTRY_FLAGS=0x", "f" * 17, "(deleted)"),
    *("total_swap", "max", "#", "'", '"', "\n", "\n", "\r\n", " ", " ", "\t", "\0", "\x85", "é", "\udcff"),
]
ODD_TEXT = st.lists(st.sampled_from(WORDS), max_size=14).map("".join) | st.text(
    st.characters(codec="utf-8"), max_size=20
)
ODD = ODD_TEXT.map(lambda text: text.encode("utf-8", "surrogateescape")) | st.binary(max_size=30)
BENT = st.tuples(st.integers(0, 60), st.sampled_from([word.encode("utf-8", "surrogateescape") for word in WORDS]))
GROUP = "/sys/fs/cgroup/miner.slice"
ODD_PLACES = [
    CONFIGURED,
    *(FSTAB, SWAPS, "/proc/meminfo", "/proc/cmdline", "/run/systemd/generator/dev-zram0.swap", "/run/udev/data/b254:3"),
    *("/etc/initramfs-tools/initramfs.conf", "/etc/cloud/cloud.cfg", f"{UNITS}/srv-x.swap", f"{GROUP}/memory.max"),
    *(f"{GROUP}/memory.current", f"{GROUP}/memory.swap.current", f"{GROUP}/memory.stat"),
]


@settings(deadline=None, max_examples=150)
@given(st.dictionaries(st.sampled_from(ODD_PLACES), ODD | BENT, min_size=1, max_size=5), st.sampled_from(["off", "on"]))
def test_whatever_files_and_kernel_say_there_is_an_answer_and_every_byte_comes_back(odd, mode):
    with TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        host = make_swap(Path(folder) / "host")
        partition(host)
        configure_zram(host)
        for name, value in (("max", "9999"), ("current", "99"), ("swap.current", "9"), ("stat", "file 5\nshmem 1\n")):
            host.put(f"{GROUP}/memory.{name}", value)
        unit(host, "srv-x.swap", "[Swap]\nWhat=/srv/x\n", folder=UNITS)
        for path, odd_one in odd.items():
            old = host.at(path).read_bytes() if host.at(path).exists() else b""
            host.put(path, odd_one if isinstance(odd_one, bytes) else bend(old, *odd_one))
        before, table = lasting(host), host.at(FSTAB).read_bytes()
        predicted = statuses(turn(host, mode, check=True))
        assert lasting(host) == before
        assert statuses(turn(host, mode)).keys() == predicted.keys()
        for old, new in zip(table.split(b"\n"), host.at(FSTAB).read_bytes().split(b"\n"), strict=True):
            assert new in (old, MARKER.encode() + old)
        turn(host, None)
        assert lasting(host) == before


# -- the plan as a table ----------------------------------------------------------------------------------------------

LINE = Source("/a", "fstab", FSTAB, "on pri=5", 3)
OURS = LINE._replace(ours=True)
ACTIVE = {"/a": Active("/a", 100, 50, 5)}
KNOWN = Original("on pri=5", "on pri=5", "boot", "off")


def state(**changes):
    return State(
        **{
            "active": {},
            "sources": (),
            "fstab_says": True,
            "missing": frozenset(),
            "deleted": frozenset(),
            "available": 2**20,
            "groups": (),
            "originals": {},
            "boot": "boot",
            "fstab": "",
            "stale": False,
            **changes,
        }
    )


GIVEN = {"swap:/a": KNOWN}
# state, mode, status, writes, a part of the reason
PLANS = [
    (state(active=ACTIVE, sources=(LINE,)), "off", "changed", [("/a", "off")], ""),
    (state(sources=(LINE,)), "off", "changed", [], ""),
    (state(sources=(OURS,), originals=GIVEN), "off", "ok", [], ""),
    (state(originals=GIVEN), "off", "ok", [], ""),
    (state(active=ACTIVE, sources=(OURS,), originals=GIVEN), "off", "drifted", [("/a", "off")], "was on pri=5"),
    (state(sources=(LINE,), originals=GIVEN), "off", "drifted", [], "/etc/fstab:3 activates it again"),
    (state(active=ACTIVE, available=10), "off", "refused", [], "not enough memory"),
    (state(active=ACTIVE, available=None), "off", "refused", [], "does not say"),
    (state(active=ACTIVE, deleted=frozenset({"/a"})), "off", "unsupported", [], "deleted"),
    (state(sources=(LINE,)), "on", "changed", [("/a", "on pri=5")], ""),
    (state(active=ACTIVE, sources=(LINE,)), "on", "ok", [], ""),
    (state(sources=(LINE,), missing=frozenset({"/a"})), "on", "unsupported", [], "not there"),
    (state(sources=(OURS,), originals=GIVEN), "on", "changed", [("/a", "on pri=5")], ""),
    (state(originals=GIVEN), "on", "changed", [("/a", "on pri=5")], "given back"),
    (state(sources=(OURS,), originals=GIVEN), None, "changed", [("/a", "on pri=5")], "given back: on pri=5"),
    (state(originals=GIVEN, missing=frozenset({"/a"})), None, "changed", [], "not there now"),
    (state(sources=(OURS._replace(value="on"),), originals=GIVEN), None, "changed", [("/a", "on")], "given back: on"),
    (state(active=ACTIVE, sources=(OURS,), originals=GIVEN), None, "changed", [], "given back"),
    (state(), "off", "ok", [], "no swap area is active"),
    (state(), "on", "unsupported", [], "no swap area is configured"),
]


@pytest.mark.parametrize(("found", "mode", "status", "writes", "reason"), PLANS)
def test_the_plan(found, mode, status, writes, reason):
    (change,) = plan.make_plan(found, Request(mode, 1024))
    assert (change.status, list(change.writes)) == (status, writes)
    assert reason in change.reason


def test_nothing_to_give_back_is_no_row():
    assert plan.make_plan(state(sources=(LINE,), active=ACTIVE), Request(None, 0)) == []


def test_a_note_of_a_run_that_was_cut_off_in_an_earlier_boot_is_dropped():
    void = {"swap:/a": Original("on pri=5", None, "earlier")}
    (change,) = plan.make_plan(state(originals=void), Request(None, 0))
    assert (change.writes, change.forget, change.reason) == ((), True, "was never applied: nothing to give back")


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("on pri=-2", "on pri=-3", True),
        ("on pri=5", "on pri=-3", False),
        ("on", "on pri=5", True),
        ("on pri=5", "on pri=6", False),
        ("off", "on", False),
        ("off", "off", True),
        (None, "on", False),
        (None, None, True),
    ],
)
def test_what_is_the_same_value(left, right, same):
    assert is_same(left, right) is same
    assert is_same(right, left) is same


def test_flags_of_swapon():
    assert calls.flags(None) == calls.flags(-2) == 0
    assert calls.flags(0) == 0x8000
    assert calls.flags(5, ["sw", "discard=pages", "nofail"]) == 0x8005 | 0x50000


def test_the_real_calls_tell_the_kernels_errno(tmp_path):
    """On a path that is no swap area: nothing is changed, whoever runs this."""
    for call in (lambda: calls.Calls().on(str(tmp_path / "none"), 0), lambda: calls.Calls().off("/none")):
        with pytest.raises(OSError, match=r".") as told:
            call()
        assert told.value.errno in (errno.ENOENT, errno.EPERM, errno.EINVAL)


@pytest.mark.parametrize("mode", ["off", "on", None])
def test_fstab_that_begins_as_our_files_do_is_not_removed(memory, mode):
    host = make_swap(memory / "odd", table="")
    host.put(FSTAB, f"{HEADER}, says somebody's template\n/dev/vda1 / ext4 defaults 0 1\n")
    before = host.text(FSTAB)
    turn(host, mode)
    assert host.text(FSTAB) == before


def test_a_mask_is_nothing_but_empty():
    """A file with our header would be a unit of its own."""
    assert HEADER.encode() not in read_state.MASK
