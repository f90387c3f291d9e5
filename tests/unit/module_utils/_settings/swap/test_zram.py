"""The configuration of zram-generator: which areas it asks for."""

from __future__ import annotations

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._settings.swap import zram
from ansible_collections.precog.fleet.plugins.module_utils._settings.swap.zram import Device
from hypothesis import given
from hypothesis import strategies as st

CASES = [
    ("", []),
    ("zram-size=5\n", []),
    ("[zram0]", [("/dev/zram0", 100)]),
    ("[zram0]\r\n swap-priority = 7 \r\n", [("/dev/zram0", 7)]),
    ("# [zram0]\n[zram12]\n#swap-priority=7\n;mount-point=/x\n", [("/dev/zram12", 100)]),
    ("[zram0]\nswap-priority=-1\n[zram1]\nswap-priority=99999\n", [("/dev/zram0", 100), ("/dev/zram1", 32767)]),
    ("[zram0]\nswap-priority=1\n[other]\nswap-priority=2\n[zram0]\nswap-priority=3", [("/dev/zram0", 3)]),
    ("[zram0]\nmount-point=/tmp\n", []),
    ("[zram0]\nfs-type=ext4\n", []),
    ("[zram0]\nfs-type=swap\nhost-memory-limit=none\n", [("/dev/zram0", 100)]),
    ("[zram0]\nhost-memory-limit=9048\n", []),
    ("[zram0]\nzram-size=0\n", []),
    ("[zram]\n[zramx]\n[zram0] x\n[Zram1]\n[zram00000]\n", []),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_what_a_file_asks_for(text, expected):
    assert zram.parse([("/f", text)]) == [Device(area, "/f", priority) for area, priority in expected]


def test_a_later_file_adds_to_an_earlier_one_which_stays_the_one_to_look_at():
    texts = [("/f", "[zram0]\nswap-priority=1\n"), ("/g", "[zram0]\nswap-priority=2\n[zram1]\n")]
    assert zram.parse(texts) == [Device("/dev/zram0", "/f", 2), Device("/dev/zram1", "/g", 100)]


WORDS = [
    "[zram0]",
    "[zram1",
    "]",
    "swap-priority",
    "=",
    "9" * 5000,
    "7",
    "²",
    "#",
    "\n",
    "\r",
    " ",
    "\x85",
    "\udcff",
    "\0",
]


@given(st.lists(st.text() | st.lists(st.sampled_from(WORDS)).map("".join), max_size=3))
def test_any_text_can_be_read(texts):
    for device in zram.parse([(f"/{number}", text) for number, text in enumerate(texts)]):
        assert device.area.startswith("/dev/zram")
        assert 0 <= device.priority <= 32767
