"""The texts about swap: tables of cases, properties, and the real systemd-escape."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._settings.swap import tables
from ansible_collections.precog.fleet.plugins.module_utils._settings.swap.tables import MARKER, Active
from hypothesis import example, given, settings
from hypothesis import strategies as st

HEAD = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
SWAPS = [
    ("", []),
    (HEAD, []),
    (HEAD + "/dev/sda2                               partition\t1048572\t\t12\t\t-2\n", [("/dev/sda2", 12, -2)]),
    (HEAD + "/my\\040swap\\011\\134x file 8 0 5\n", [("/my swap\t\\x", 0, 5)]),
    (HEAD + "/a\\040(deleted) file 8 0 -3\n", [("/a (deleted)", 0, -3)]),
    (HEAD + "/z\\303\\244 file 8 0 5\n", [("/zä", 0, 5)]),
    (HEAD + "/a file 8 0\n/b file 8 x 5\n/c\\000 file 8 0 5\n\n/d file 8 0 5 9\n", []),
]


@pytest.mark.parametrize(("text", "expected"), SWAPS)
def test_active_areas(text, expected):
    assert [(area.path, area.used, area.priority) for area in tables.parse_swaps(text)] == expected


@given(st.text() | st.text("/swap \\0134\t\n-(deleted)", max_size=80))
def test_any_text_can_be_read(text):
    for area in tables.parse_swaps(text):
        assert isinstance(area, Active)
    for entry in tables.parse_fstab(text):
        assert text.split("\n")[entry.number - 1]
        tables.device_of(entry.spec)
        assert entry.value.startswith("on")
    tables.available_memory(text)


ENTRIES = [
    ("/dev/vdb1 none swap sw 0 0", ("/dev/vdb1", True, "on")),
    ("/dev/vdb1 none swap", ("/dev/vdb1", True, "on")),
    ("  UUID=x\tswap\tswap\tdefaults,pri=10,nofail\t0", ("UUID=x", True, "on pri=10")),
    ("/swap\\040file none swap pri=99999 0 0\r", ("/swap file", True, "on pri=32767")),
    ("/a none swap sw,noauto,x-systemd.automount 0 0", ("/a", False, "on")),
    ("/a none swap pri=x,pri=,pri=-1", ("/a", True, "on")),
    ("/a none swap pri=²", ("/a", True, "on")),
    ("/a swap ext4 sw 0 0", None),
    ("/a none", None),
    ("#/a none swap sw", None),
    ("# /a none swap sw", None),
    ("/a\\000 none swap sw", None),
    ("/a none swap\r", None),
    ("", None),
]


@pytest.mark.parametrize(("line", "expected"), ENTRIES)
@pytest.mark.parametrize("ours", [False, True])
def test_lines_of_fstab(line, expected, ours):
    text = "# first\n" + (MARKER if ours else "") + line
    found = [(entry.spec, entry.at_boot, entry.value) for entry in tables.parse_fstab(text)]
    assert found == ([] if expected is None else [expected])
    assert all((entry.number, entry.ours) == (2, ours) for entry in tables.parse_fstab(text))


LINES = st.sampled_from(
    [
        "/dev/vdb1 none swap sw 0 0",
        "\tUUID=x  none swap\tpri=5 0",
        "/a none swap\r",
        "/swap\\040file none swap sw,nofail,x-systemd.requires=/x 0 0 ",
        "UUID=y / ext4 errors=remount-ro 0 1\r",
        "# comment \udcff",
        "",
        "#/old none swap sw",
    ]
) | st.text(st.characters(exclude_characters="\n", codec=None), max_size=30)


@given(st.lists(LINES, max_size=8), st.data())
def test_marks_go_on_and_off_with_every_other_byte_as_it_was(lines, data):
    text = "\n".join(line for line in lines if not line.startswith("# precog"))
    numbers = {entry.number for entry in tables.parse_fstab(text)}
    off = data.draw(st.sets(st.sampled_from(sorted(numbers)))) if numbers else set()
    marked = tables.rewrite(text, off)
    assert {entry.number for entry in tables.parse_fstab(marked) if entry.ours} == off
    for number, (before, after) in enumerate(zip(text.split("\n"), marked.split("\n"), strict=True), 1):
        assert after == (MARKER + before if number in off else before)
    assert tables.rewrite(marked, off) == marked
    assert tables.rewrite(marked, set()) == text


SWITCHES = [
    ("quiet systemd.swap=0", True),
    ("systemd.swap=OFF quiet\n", True),
    ('"systemd.swap=no" ro', True),
    ('systemd.swap="false"', True),
    ("systemd.swap=0 systemd.swap", False),
    ("systemd.swap=0 systemd.swap=yes", False),
    ("systemd.swap=yes systemd.swap=n", True),
    ("systemd.swap=0 systemd.swap=maybe", True),
    ("systemd.swap=", False),
    ("systemd.swap", False),
    ("rd.systemd.swap=0 xsystemd.swap=0 systemd.swapx=0", False),
    ("", False),
]


@pytest.mark.parametrize(("text", "expected"), SWITCHES)
def test_switches_of_the_kernel_command_line(text, expected):
    assert tables.is_switched_off(text, "systemd.swap") is expected


def test_a_switch_is_the_same_with_hyphen_and_underscore():
    assert tables.is_switched_off("systemd.gpt-auto=0", "systemd.gpt_auto")


@given(st.text() | st.lists(st.sampled_from(["systemd.swap", "=", "0", "1", " ", '"', "\0", "x", "-"])).map("".join))
def test_any_command_line_can_be_read(text):
    assert tables.is_switched_off(f"{text} systemd.swap=no", "systemd.swap")
    assert not tables.is_switched_off(f"{text} systemd.swap=yes", "systemd.swap")


DEVICES = [
    ("/dev/vdb1", "/dev/vdb1"),
    ("UUID=0f3c", "/dev/disk/by-uuid/0f3c"),
    ('UUID="0f3c"', "/dev/disk/by-uuid/0f3c"),
    ("LABEL=my swap/x", "/dev/disk/by-label/my\\x20swap\\x2fx"),
    ("PARTUUID=1-02", "/dev/disk/by-partuuid/1-02"),
    ("PARTLABEL='a'", "/dev/disk/by-partlabel/a"),
    ("ID=ata-x", "/dev/disk/by-id/ata-x"),
    ("OTHER=x", "OTHER=x"),
    ("", ""),
    ("UUID=", "/dev/disk/by-uuid/"),
]


@pytest.mark.parametrize(("spec", "path"), DEVICES)
def test_what_stands_for_a_device(spec, path):
    assert tables.device_of(spec) == path


UNITS = [
    ("/swapfile", "swapfile.swap"),
    ("/dev/vdb1", "dev-vdb1.swap"),
    ("/dev/disk/by-uuid/0f-3c", "dev-disk-by\\x2duuid-0f\\x2d3c.swap"),
    ("//a//b/", "a-b.swap"),
    ("/a/./b", "a-b.swap"),
    ("/.hidden/.x", "\\x2ehidden-.x.swap"),
    ("/my swap", "my\\x20swap.swap"),
    ("/zä\\", "z\\xc3\\xa4\\x5c.swap"),
    ("/", "-.swap"),
]


@pytest.mark.parametrize(("path", "unit"), UNITS)
def test_the_name_of_a_unit(path, unit):
    assert tables.unit_of(path) == unit
    if path in ("/", "/swapfile", "/dev/vdb1", "/my swap", "/zä\\", "/.hidden/.x"):
        assert tables.path_of(unit) == path


PATHS = st.lists(
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12), max_size=4
)


@given(PATHS)
def test_the_name_leads_back_to_the_path(parts):
    path = "/" + "/".join(part for part in parts if part not in (".", ".."))
    assert tables.path_of(tables.unit_of(path)) == path


@pytest.mark.skipif(shutil.which("systemd-escape") is None, reason="no systemd here")
@settings(max_examples=30, deadline=None)
@given(st.lists(PATHS, max_size=20))
@example([path.split("/") for path, _unit in UNITS])
def test_the_real_systemd_escape_says_the_same(drawn):
    paths = ["/" + "/".join(part for part in parts if part not in (".", "..")) for parts in drawn]
    names = {path: tables.unit_of(path) for path in ["/", *paths]}
    names = {path: name for path, name in names.items() if len(name) < 255}  # as long as a unit's name may be
    argv = ["systemd-escape", "--path", "--suffix=swap", "--", *names]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.split() == list(names.values())
