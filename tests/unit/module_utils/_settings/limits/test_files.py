"""Values, files of pam_limits and of systemd: what they say, and who decides. Pure."""

from __future__ import annotations

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._host import rlimits as values
from ansible_collections.precog.fleet.plugins.module_utils._settings.limits import pam, systemd
from hypothesis import given
from hypothesis import strategies as st

INF = values.INFINITY

# item, as an operator writes it, limits.conf's text, systemd's text
GOOD = [
    ("nofile", 65536, "65536:65536", "65536:65536"),
    ("nofile", "1024:4096", "1024:4096", "1024:4096"),
    ("nofile", {"soft": 1, "hard": "2"}, "1:2", "1:2"),
    ("memlock", 64, "64:64", "65536:65536"),
    ("memlock", "unlimited", "unlimited:unlimited", "infinity:infinity"),
    ("memlock", -1, "unlimited:unlimited", "infinity:infinity"),
    ("core", "0:infinity", "0:unlimited", "0:infinity"),
    ("cpu", 10, "10:10", "600:600"),
    ("nice", "5:-10", "5:-10", "15:30"),
    ("nice", -1, "-1:-1", "21:21"),
    ("rtprio", 99, "99:99", "99:99"),
    ("maxlogins", 4, "4:4", None),
    ("priority", -5, "-5:-5", None),
]


@pytest.mark.parametrize(("item", "value", "pam_text", "systemd_text"), GOOD)
def test_trap_a_value_in_the_units_of_each(item, value, pam_text, systemd_text):
    pair = values.understand(item, value)
    assert values.pam_text(item, pair) == pam_text
    if systemd_text is not None:
        assert values.systemd_text(pair) == systemd_text
        assert values.from_systemd(item, systemd_text) == pair
    assert values.Pair(*(values.from_pam(item, word) for word in pam_text.split(":"))) == pair


BAD = [
    ("nofile", True, "no number"),
    ("nofile", 1.5, "no number"),
    ("nofile", "many", "no number"),
    ("nofile", "", "no number"),
    ("nofile", "1:2:3", "no number"),
    ("nofile", [1, 2], "no number"),
    ("nofile", "٣", "no number"),
    ("nofile", {"soft": 1}, "soft and hard"),
    ("nofile", {"soft": 1, "hard": None}, "no number"),
    ("nofile", "2:1", "soft 2 is above hard 1"),
    ("nofile", "unlimited:5", "soft unlimited is above hard 5"),
    ("nofile", -2, "out of range"),
    ("nofile", 2**64, "more than the kernel can hold"),
    ("nofile", "9" * 5000, "more than the kernel can hold"),
    ("nofile", "-" + "9" * 5000, "out of range"),
    ("memlock", 2**60, "more than the kernel can hold"),
    ("nice", 20, "out of range"),
    ("nice", "unlimited", "no number"),
    ("rtprio", 100, "out of range"),
    ("maxlogins", "1:2", "has one value"),
]


@pytest.mark.parametrize(("item", "value", "reason"), BAD)
def test_trap_a_value_that_makes_no_sense(item, value, reason):
    with pytest.raises(ValueError, match=reason):
        values.understand(item, value)


SYSTEMD_VALUES = [
    ("nofile", "65536", (65536, 65536)),
    ("nofile", "1024:65536", (1024, 65536)),
    ("nofile", "2:1", None),
    ("nofile", "1:2:3", None),
    ("nofile", "-5", None),
    ("nofile", str(2**64), None),
    ("nofile", "9" * 5000, None),
    ("memlock", "9" * 5000 + "K", None),
    ("cpu", "9" * 5000 + "s", None),
    ("nofile", "0" * 5000 + "7", (7, 7)),
    ("nofile", "x", None),
    ("nofile", "", None),
    ("memlock", "64M", (64 << 20, 64 << 20)),
    ("memlock", "64K:1G", (64 << 10, 1 << 30)),
    ("memlock", "infinity", (INF, INF)),
    ("cpu", "90", (90, 90)),
    ("cpu", "1h 30min", (5400, 5400)),
    ("cpu", "10parsec", None),
    ("nice", "-5", (25, 25)),
    ("nice", "+5", (15, 15)),
    ("nice", "25", (25, 25)),
]


@pytest.mark.parametrize(("item", "text", "pair"), SYSTEMD_VALUES)
def test_a_value_as_systemd_reads_it(item, text, pair):
    assert values.from_systemd(item, text) == pair


TEXT = b"""# comment
* soft nofile 1000 # the rest is comment
@miners\thard   nofile 3000\r
alice - NOFILE 12abc
root - chroot /jail
bob -
carol hard nofile
dave both nofile 5
erin hard nofile x
frank - memlock -1
gina - nice -1
* hard nofile 5 6 7\xff
"""


def test_trap_odd_lines_of_limits_conf():
    lines = pam.parse("/f", TEXT.decode("utf-8", "surrogateescape"))
    assert [line[1:] for line in lines] == [
        (2, "*", "soft", "nofile", 1000),
        (3, "@miners", "hard", "nofile", 3000),
        (4, "alice", "-", "nofile", 12),
        (6, "bob", "-", "", 0),
        (10, "frank", "-", "memlock", INF),
        (11, "gina", "-", "nice", 21),
        (12, "*", "hard", "nofile", 5),
    ]


WORDS = [
    "*",
    "root",
    "@miners",
    "1000:",
    ":",
    "-",
    "soft",
    "hard",
    "nofile",
    "nice",
    "chroot",
    "-1",
    "0",
    "99999999999",
]
WORDS += [
    "9" * 5000,
    "²",
    "1000:" + "9" * 5000,
    "unlimited",
    "infinity",
    "1k",
    "#",
    "\r",
    "\n",
    "\n",
    "\n",
    " ",
    "\t",
    "\x85",
    "\udcff",
]


@given(st.text() | st.lists(st.sampled_from(WORDS)).map(" ".join))
def test_any_text_can_be_read_as_limits(text):
    lines = pam.parse("/f", text)
    assert all(1 <= line.number <= text.count("\n") + 1 for line in lines)
    for domain in ("*", "root", "alice", "@miners", "1000:"):
        pam.decide(lines, pam.subject(domain, "alice:x:1000:5:\n", text), "nofile")


@given(st.text() | st.lists(st.sampled_from([*WORDS, "[Manager]", "DefaultLimitNOFILE=1:2", "\\"])).map("".join))
def test_any_text_can_be_read_as_units(text):
    for number, _key, _value in systemd.parse(text, "Manager"):
        assert 1 <= number <= text.count("\n") + 1
    systemd.decide({"/f": text}, "Manager", "DefaultLimitNOFILE", "nofile")
    for item in values.ITEMS:
        values.from_pam(item, text)
        values.from_systemd(item, text)


@given(st.sampled_from(sorted(values.ITEMS)), st.integers() | st.text() | st.none() | st.booleans())
def test_any_value_is_understood_or_told(item, value):
    try:
        pair = values.understand(item, value)
    except ValueError:
        return
    text = values.pam_text(item, pair)
    assert values.understand(item, text) == pair
    lines = pam.parse("/f", pam.render("alice", item, text))
    assert pam.decide(lines, pam.Subject("alice"), item).pair == pair


@pytest.mark.parametrize("number", ["²", "٣", "", "x", "-1", "9" * 5000])
def test_a_user_whose_number_is_none_is_known_by_name_alone(number):
    assert pam.subject("alice", f"alice:x:{number}:5:\n", "") == pam.Subject("alice")


def test_trap_numbers_out_of_range_are_no_limit_or_cut_down():
    text = f"* - nofile {'9' * 5000}\n{'9' * 5000}: - nofile 5\n* - rtprio {'9' * 5000}\n"
    lines = pam.parse("/f", text)
    assert [line.value for line in lines] == [INF, 5, INF]
    assert pam.decide(lines, pam.subject("alice", PASSWD, GROUP), "nofile").pair == (INF, INF)


PASSWD, GROUP = "root:x:0:0:\nalice:x:1000:1000:\n", "alice:x:1000:\nminers:x:5:alice\nroot:x:0:\n"
# lines, domain, what it gets
DECIDED = [
    ("* - nofile 1", "alice", "1:1"),
    ("* - nofile 1", "root", None),
    ("@root - nofile 1", "root", None),
    ("root - nofile 1\n* - nofile 2", "root", "1:1"),
    ("0:99 - nofile 3", "root", "3:3"),
    ("alice - nofile 1\n@miners - nofile 2\n* - nofile 3", "alice", "1:1"),
    ("@miners - nofile 2\n* - nofile 3", "alice", "2:2"),
    ("@others - nofile 2\n* - nofile 3", "alice", "3:3"),
    ("@alice - nofile 2", "alice", "2:2"),
    ("alice - nofile 1\nalice soft nofile 5\nalice hard nofile 6", "alice", "5:6"),
    ("alice soft nofile 5\n* hard nofile 6", "alice", "5:6"),
    ("* soft nofile 5", "*", "5:-"),
    ("alice - nofile 1\n1000: - nofile 2", "alice", "2:2"),
    ("1001: - nofile 2", "alice", None),
    (":1000 - nofile 2", "alice", "2:2"),
    ("900:1000 - nofile 2", "alice", "2:2"),
    ("alice - core 1", "alice", None),
    ("@miners - nofile 2\n* - nofile 3", "@miners", "2:2"),
    ("alice - nofile 1\nalice -", "alice", None),
    ("* -", "alice", None),
    ("", "alice", None),
]


@pytest.mark.parametrize(("text", "domain", "expected"), DECIDED)
def test_trap_who_wins_whatever_the_order(text, domain, expected):
    decision = pam.decide(pam.parse("/f", text), pam.subject(domain, PASSWD, GROUP), "nofile")
    assert values.pam_text("nofile", decision.pair) == expected


@pytest.mark.parametrize(("text", "domain"), [("alice -", "alice"), ("@miners -", "alice"), ("1000: -", "alice")])
def test_trap_a_line_that_exempts(text, domain):
    lines = pam.parse("/f", f"{text}\nalice - nofile 5")
    assert pam.decide(lines, pam.subject(domain, PASSWD, GROUP), "nofile").exempt.place == "/f:1"


def test_limits_conf_is_read_first_then_the_folder_in_byte_order():
    texts = dict.fromkeys(
        ["/etc/security/limits.d/b.conf", "/etc/security/limits.d/100.conf", pam.MAIN_FILE], "a - core 1"
    )
    assert [line.file.rpartition("/")[2] for line in pam.lines_of(texts)] == ["limits.conf", "100.conf", "b.conf"]


INI = """# [Manager]
DefaultLimitNOFILE=1
[Manager]
 DefaultLimitNOFILE = 2 : 3
;DefaultLimitNOFILE=4
DefaultLimitNOFILE=\\
  5
DefaultLimitNOFILE=nonsense
[Other]
DefaultLimitNOFILE=6
"""


def test_the_last_line_of_the_section_that_makes_sense_decides():
    line = systemd.decide({"/f": INI}, "Manager", "DefaultLimitNOFILE", "nofile")
    assert (line.place, line.pair) == ("/f:6", (5, 5))
    assert (
        systemd.decide({"/f": INI, "/g": "[Manager]\nDefaultLimitNOFILE=\n"}, "Manager", "DefaultLimitNOFILE", "nofile")
        is None
    )


FOLDERS = [
    ("/etc/systemd/system/a-b@.service.d", "a-b@1.service"),
    ("/etc/systemd/system/a-b@1.service.d", "a-b@1.service"),
    ("/usr/lib/systemd/system/a-.service.d", "a-b@1.service"),
    ("/usr/lib/systemd/system/a-b-.service.d", "a-b-c.service"),
    ("/usr/lib/systemd/system/a-.service.d", "a-b-c.service"),
    ("/run/systemd/system/service.d", "a.service"),
    ("/etc/systemd/system.control/a.service.d", "a.service"),
]


@pytest.mark.parametrize(("folder", "name"), FOLDERS)
def test_where_drop_ins_of_a_unit_may_lie(folder, name):
    assert folder in systemd.unit_folders([name])


def test_a_units_own_folder_comes_before_its_types():
    folders = systemd.unit_folders(["a-b.service"])
    assert folders[0] == "/etc/systemd/system.control/a-b.service.d"
    assert folders.index("/usr/lib/systemd/system/a-.service.d") < folders.index("/etc/systemd/system/service.d")


def test_one_of_a_name_is_read_and_all_in_order_of_names(host):
    for path in ("/etc/systemd/system/a.service.d/20.conf", "/usr/lib/systemd/system/a.service.d/20.conf"):
        host.put(path, "")
    host.put("/usr/lib/systemd/system/service.d/10.conf", "")
    host.put("/run/systemd/system/a.service.d/30.conf", "")
    assert list(systemd.read_unit(host, "", ["a.service"])) == [
        "/usr/lib/systemd/system/service.d/10.conf",
        "/etc/systemd/system/a.service.d/20.conf",
        "/run/systemd/system/a.service.d/30.conf",
    ]
