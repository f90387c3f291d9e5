"""In a container the frequencies are those of the machine underneath: nothing is touched, and that is told."""

from __future__ import annotations

import pytest


def test_nothing_in_etc_is_different(files_before, files_now):
    assert files_now == files_before


def test_the_one_row_says_whose_kernel_it_is(converge):
    run = converge()
    (row,) = run.settings.values()
    assert (row["name"], row["status"], run.stats["changed"]) == ("cpufreq", "unsupported", 0)
    assert row["reason"].startswith("shared kernel: belongs to the machine under this container")


@pytest.mark.once
@pytest.mark.parametrize("check", [True, False])
def test_required_fails_and_says_what_to_do(converge, check):
    run = converge({"cpu_governor_required": True}, check=check, expect_failure=True)
    assert run.stats["failures"] == 1
    told = " ".join(run.output.split())
    assert "required, but shared kernel" in told
    assert "tune that machine, or set cpu_governor_required: false here" in told


@pytest.mark.once
def test_a_governor_that_is_no_word_is_refused(converge):
    told = converge({"cpu_governor_governor": "$(reboot)"}, expect_failure=True).output
    assert "is no name that the kernel could know" in " ".join(told.split())
