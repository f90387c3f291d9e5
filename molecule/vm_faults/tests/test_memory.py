"""Swap that memory can't take back stays on: swapoff would have the kernel kill programs until it fits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SWAP_OFF = Path(__file__).parents[1] / "swap_off.yml"
HOLDER = "precog-holder.service"
REFUSAL = re.compile(
    r"(\S+) holds (\d+) MiB in swap; of (\d+) MiB available, "
    r"turning off the areas up to it would leave (-?\d+) MiB, and (\d+) MiB are the reserve"
)
NEAR = 48  # MiB; the modules and the look at them take turns, and are swapped themselves


@pytest.fixture(scope="module")
def holder(machine):
    """The process id of a program whose memory is partly in swap."""
    command = f"systemd-run --quiet --service-type=notify --unit={HOLDER} python3 {machine.here}/hold_memory.py"
    try:
        machine.host.check_output(command)
        yield machine.host.check_output(f"systemctl show --property MainPID --value {HOLDER}")
    finally:
        machine.host.run(f"systemctl stop {HOLDER}")


def available(host):
    """What the kernel says now, in MiB."""
    (line,) = [line for line in host.file("/proc/meminfo").content_string.splitlines() if "MemAvailable" in line]
    return int(line.split()[1]) // 1024


@pytest.mark.parametrize("variables", [{}, {"swap_memory_reserve_mb": 0}], ids=["default reserve", "no reserve"])
def test_swap_in_use_is_left_on_and_the_figures_are_told(machine, look, holder, variables):
    units = "systemctl list-units --type=swap --all --plain --no-legend"
    before = machine.seen(), machine.swaps(), machine.host.check_output(units)
    swapped = machine.host.file(f"/proc/{holder}/status").content_string
    assert int(re.search(r"VmSwap:\s*(\d+) kB", swapped)[1]) > 16 * 1024
    assert len(before[1]) == 3

    run = machine.play(SWAP_OFF, variables, code=2)

    area, held, free, left, reserve = REFUSAL.search(" ".join(run.output.split())).groups()
    assert area in {line.split()[0] for line in machine.swaps()}
    assert abs(int(free) - available(machine.host)) <= NEAR
    assert int(reserve) == variables.get("swap_memory_reserve_mb", 512)
    assert int(left) < int(reserve)
    assert int(held) <= 64
    assert (machine.seen(), machine.swaps(), machine.host.check_output(units)) == before
    # The machine lives: the same process holds its memory, and a login is answered.
    assert machine.host.check_output(f"systemctl show --property MainPID --value {HOLDER}") == holder
    assert look.ssh("cat", f"/proc/{holder}/comm") == "python3\n"
