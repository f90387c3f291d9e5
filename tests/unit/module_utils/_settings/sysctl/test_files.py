"""What the next boot gives a key: against an independent model of each loader, and against the loaders themselves."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._host.host import Host
from ansible_collections.precog.fleet.plugins.module_utils._settings.sysctl import files
from hypothesis import given, settings
from hypothesis import strategies as st

SYSTEMD_SYSCTL = "/usr/lib/systemd/systemd-sysctl"
FIRST = "/etc/sysctl.d/a.conf"


def fragment(path, *lines):
    return files.Fragment(path, "\n".join(lines))


def decided(fragments, key="vm/x", loader=files.SYSTEMD):
    line = files.Boot(fragments, loader).line_for(key)
    return line and (line.value, line.place)


# -- lines -------------------------------------------------------------------------------------------------------------

LINES = [
    ("vm.x = 1", (1, "vm/x", "1")),
    ("vm.x=1", (1, "vm/x", "1")),
    ("  vm.x\t=  1 2\t", (1, "vm/x", "1 2")),
    ("vm/x = 1", (1, "vm/x", "1")),
    ("-vm.x = 1", (1, "vm/x", "1")),
    ("-vm.x", (1, "vm/x", None)),
    ("-net.ipv4.conf.*.rp_filter", (1, "net/ipv4/conf/*/rp_filter", None)),
    ("net.ipv4.conf.eth0/100.x = 1", (1, "net/ipv4/conf/eth0.100/x", "1")),
    ("vm.x =", (1, "vm/x", "")),
    ("vm.x = a = b", (1, "vm/x", "a = b")),
    ('vm.x = "1"', (1, "vm/x", '"1"')),  # trap: no quotes are stripped
    ("vm.x = 1 # why", (1, "vm/x", "1 # why")),  # trap: no comments at the end of a line
    ("# vm.x = 1", None),
    ("; vm.x = 1", None),
    ("vm.x", None),
    ("", None),
    ("=", None),
    ("= 1", None),
    ("-", None),
    ("-=", None),
    ("-= 1", None),
]


@pytest.mark.parametrize(("line", "expected"), LINES)
def test_trap_a_line_as_the_loaders_read_it(line, expected):
    assert files.parse(line) == (() if expected is None else (expected,))


@given(st.text() | st.text("vm.x=-#; /\n\r\t*[]?\\1", max_size=40))
def test_any_text_can_be_read(text):
    for number, pattern, _value in files.parse(text):
        assert 1 <= number <= text.count("\n") + 1
        assert pattern


@given(st.binary())
def test_any_bytes_can_be_read(data):
    files.parse(data.decode("utf-8", "surrogateescape"))


# -- which file decides ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loader", files.LOADERS)
def test_trap_files_are_sorted_by_the_bytes_of_their_names(loader):
    names = ["99-sysctl.conf", "100-x.conf", "99-zz-precog-fleet.conf", "Z.conf", "é.conf", "z.conf"]
    fragments = [fragment(f"/etc/sysctl.d/{name}", "vm.x = 1") for name in names]
    assert [found.name for found in files.load_order(fragments, loader)] == [
        "100-x.conf",
        "99-sysctl.conf",
        "99-zz-precog-fleet.conf",
        "Z.conf",
        "z.conf",
        "é.conf",
    ]


@pytest.mark.parametrize("loader", files.LOADERS)
def test_trap_the_same_name_in_etc_masks_the_others(loader):
    fragments = [fragment(f"{folder}/a.conf", f"vm.x = {place}") for place, folder in enumerate(files.FOLDERS)]
    for place in range(len(fragments)):
        assert decided(fragments[place:], loader=loader) == (str(place), f"{files.FOLDERS[place]}/a.conf:1")
    assert decided([files.Fragment(FIRST, None), *fragments[1:]], loader=loader) is None


def test_trap_only_procps_reads_sysctl_conf_last():
    fragments = [fragment("/etc/sysctl.d/zzz.conf", "vm.x = 1"), fragment("/etc/sysctl.conf", "vm.x = 2")]
    assert decided(fragments) == ("1", "/etc/sysctl.d/zzz.conf:1")
    assert decided(fragments, loader=files.PROCPS) == ("2", "/etc/sysctl.conf:1")


def test_only_systemd_skips_hidden_files():
    fragments = [fragment("/etc/sysctl.d/.z.conf", "vm.x = 1")]
    assert decided(fragments) is None
    assert decided(fragments, loader=files.PROCPS) == ("1", "/etc/sysctl.d/.z.conf:1")


# lines, what systemd gives vm/x and net/ipv4/conf/a/b, what procps gives
WORDS = [
    (["vm.x = 1", "vm.x = 2"], ("2", None), ("2", None)),
    (["vm.x = 1", "-vm.x"], (None, None), ("1", None)),
    (["-vm.x", "vm.x = 1"], ("1", None), ("1", None)),
    (["net.ipv4.conf.*.b = 1"], (None, "1"), (None, "1")),
    (["net.ipv4.conf.*.b = 1", "-net.ipv4.conf.a.b"], (None, None), (None, None)),
    (["-net.ipv4.conf.a.b", "net.ipv4.conf.*.b = 1"], (None, None), (None, None)),
    (["net.ipv4.conf.a.b = 1", "net.ipv4.conf.*.b = 2"], (None, "1"), (None, "1")),
    (["net.ipv4.conf.?.b = 1", "net.ipv4.conf.*.b = 2"], (None, "2"), (None, "2")),
    (["net.ipv4.conf.*.b = 1", "net.ipv4.conf.?.b = 2", "net.ipv4.conf.*.b = 1"], (None, "2"), (None, "1")),
    (["net.ipv4.conf.*.b = 1", "-net.ipv4.conf.*.b"], (None, None), (None, "1")),
    (["net.ipv4.*.b = 1"], (None, None), (None, None)),  # a wildcard matches no slash
    (["net.ipv4.conf.[!b].b = 1"], (None, "1"), (None, "1")),
    (["net.ipv4.conf.[b-z].b = 1"], (None, None), (None, None)),
    (["net.ipv4.conf.[.b = 1"], (None, None), (None, None)),
]


@pytest.mark.parametrize(("lines", "systemd", "procps"), WORDS)
def test_trap_explicit_beats_wildcards_and_exclusions(lines, systemd, procps):
    boots = {loader: files.Boot([fragment(FIRST, *lines)], loader) for loader in files.LOADERS}
    for loader, expected in zip(files.LOADERS, (systemd, procps)):
        found = [boots[loader].line_for(key) for key in ("vm/x", "net/ipv4/conf/a/b")]
        assert tuple(line and line.value for line in found) == expected


# lines, key, the value of the line that has the last word (for both loaders)
LAST_WORDS = [
    (["net.ipv4.ip_forward = 1", "net.ipv4.conf.all.forwarding = 0"], "net/ipv4/ip_forward", "0"),
    (["net.ipv4.conf.all.forwarding = 0", "net.ipv4.ip_forward = 1"], "net/ipv4/conf/all/forwarding", "1"),
    (["net.ipv4.ip_forward = 1"], "net/ipv4/conf/all/forwarding", "1"),
    (["vm.dirty_bytes = 5", "vm.dirty_ratio = 7"], "vm/dirty_bytes", "7"),
    (["vm.dirty_bytes = 5", "vm.dirty_ratio = 0"], "vm/dirty_bytes", "5"),
    (["vm.dirty_ratio = 7", "vm.dirty_bytes = 5"], "vm/dirty_ratio", "5"),
]


@pytest.mark.parametrize("loader", files.LOADERS)
@pytest.mark.parametrize(("lines", "key", "value"), LAST_WORDS)
def test_trap_aliases_and_counterparts_have_a_say(lines, key, value, loader):
    assert files.Boot([fragment(FIRST, *lines)], loader).deciding(key).value == value


def test_a_file_of_ours_is_taken_in_or_out():
    fragments = [fragment("/etc/sysctl.d/a.conf", "vm.x = 1"), fragment("/usr/lib/sysctl.d/a.conf", "vm.x = 2")]
    assert decided(files.with_fragment(fragments, FIRST, "vm.x = 3")) == ("3", f"{FIRST}:1")
    assert decided(files.with_fragment(fragments, FIRST, None)) == ("2", "/usr/lib/sysctl.d/a.conf:1")


# -- reading the folders -----------------------------------------------------------------------------------------------


def test_what_bears_a_name_masks_even_a_folder_a_broken_link_or_dev_null(tmp_path):
    for folder in ("etc/sysctl.d", "run/sysctl.d", "usr/lib/sysctl.d", "dev"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "lib").symlink_to("usr/lib")
    (tmp_path / "dev/null").touch()
    for name in ("broken", "folder", "null", "link", "plain", "other"):
        (tmp_path / f"usr/lib/sysctl.d/{name}.conf").write_text(f"vm.{name} = 1\n")
    (tmp_path / "usr/lib/sysctl.d/README").write_text("vm.plain = 7\n")
    (tmp_path / "etc/sysctl.d/broken.conf").symlink_to("/nowhere")
    (tmp_path / "etc/sysctl.d/folder.conf").mkdir()
    (tmp_path / "etc/sysctl.d/null.conf").symlink_to("/dev/null")
    (tmp_path / "etc/sysctl.d/link.conf").symlink_to("/etc/elsewhere")
    (tmp_path / "etc/elsewhere").write_text("vm.link = 2\n")
    (tmp_path / "run/sysctl.d/plain.conf").write_bytes(b"\xff\xfe\nvm.plain = 3\n")

    fragments = files.read_fragments(Host(str(tmp_path)))

    assert [found.path for found in fragments].count("/lib/sysctl.d/other.conf") == 0  # one file, one fragment
    for loader in files.LOADERS:
        boot = files.Boot(fragments, loader)
        assert {
            name: line and line.value for name in ("broken", "folder", "null") for line in [boot.line_for(f"vm/{name}")]
        } == {
            "broken": None,
            "folder": None,
            "null": None,
        }
        assert boot.line_for("vm/link").place == "/etc/sysctl.d/link.conf:1"
        assert boot.line_for("vm/plain").place == "/run/sysctl.d/plain.conf:2"
        assert boot.line_for("vm/other").value == "1"


# -- an independent model, written from the sources of the loaders -----------------------------------------------------

KEYS = [
    "net/ipv4/conf/lo/rp_filter",
    "net/ipv4/conf/lo/log_martians",
    "net/ipv4/tcp_keepalive_time",
    "net/ipv4/ip_default_ttl",
]


def _words(text):
    """Return (key, value or None) per line, with the separators of sysctl.d(5)."""
    for raw in text.split("\n"):
        line = raw.strip(" \t")
        if not line or line[0] in "#;":
            continue
        name, equals, value = line.partition("=")
        if not equals and not line.startswith("-"):
            continue
        name = name.removeprefix("-").strip(" \t")
        first = next((char for char in name if char in "./"), "/")
        if first == ".":
            name = "".join({".": "/", "/": "."}.get(char, char) for char in name)
        yield name, value.strip(" \t") if equals else None


def _matches(pattern, key):
    return pattern.count("/") == key.count("/") and all(
        fnmatch.fnmatchcase(part, pat) for pat, part in zip(pattern.split("/"), key.split("/"))
    )


def _order(tree, hidden):
    chosen = {}
    for folder in files.FOLDERS:
        for path in tree:
            name = path.rpartition("/")[2]
            if path.rpartition("/")[0] == folder and (hidden or not name.startswith(".")):
                chosen.setdefault(name, path)
    return [chosen[name] for name in sorted(chosen, key=lambda name: name.encode())]


def model_systemd(tree, keys):
    """An ordered table: the same value again changes nothing, another one moves the entry to the end (parse_file)."""
    table = {}
    for path in _order(tree, hidden=False):
        for key, value in _words(tree[path]):
            if key in table and table[key] == value:
                continue
            table.pop(key, None)
            table[key] = value
    given = {}
    for key, value in table.items():
        if value is None:
            continue
        if any(char in key for char in "*?["):
            given.update({one: value for one in keys if _matches(key, one) and one not in table})
        else:
            given[key] = value
    return {key: given.get(key) for key in keys}


def model_procps(tree, keys):
    """A list of all lines, in order; wildcards pass over what any other line names (write_setting_list)."""
    paths = [*_order(tree, hidden=True), *(["/etc/sysctl.conf"] if "/etc/sysctl.conf" in tree else [])]
    lines = [word for path in paths for word in _words(tree[path])]
    named = {key for key, _value in lines}
    given = {}
    for key, value in lines:
        if value is None:
            continue
        if any(char in key for char in "*?["):
            given.update({one: value for one in keys if _matches(key, one) and one not in named})
        else:
            given[key] = value
    return {key: given.get(key) for key in keys}


names = st.sampled_from(["10-a.conf", "99-sysctl.conf", "99-zz.conf", "100-b.conf", ".hidden.conf"])
places = st.builds("{}/{}".format, st.sampled_from(files.FOLDERS), names) | st.just("/etc/sysctl.conf")
keys_or_patterns = st.sampled_from(
    [
        *(key.replace("/", ".") for key in KEYS),
        *KEYS,
        "net.ipv4.conf.*.rp_filter",
        "net.ipv4.conf.*.*",
        "net.ipv4.conf.l?.log_martians",
        "net.ipv4.conf.[kl]o.rp_filter",
        "net.ipv4.*",
    ]
)
lines = st.one_of(
    st.builds("{} = {}".format, keys_or_patterns, st.sampled_from("012")),
    st.builds("-{}={}".format, keys_or_patterns, st.sampled_from("012")),
    st.builds("-{}".format, keys_or_patterns),
    st.sampled_from(["", "# net.ipv4.ip_default_ttl = 5", "net.ipv4.ip_default_ttl", "  ; x"]),
)
trees = st.dictionaries(places, st.lists(lines, max_size=6).map("\n".join), max_size=6)


@settings(max_examples=500)
@given(trees)
def test_both_loaders_are_as_their_models_say(tree):
    ordered = sorted(tree, key=lambda path: (*files.FOLDERS, "/etc").index(path.rpartition("/")[0]))
    fragments = [files.Fragment(path, tree[path]) for path in ordered]
    for loader, model in ((files.SYSTEMD, model_systemd), (files.PROCPS, model_procps)):
        boot = files.Boot(fragments, loader)
        found = {key: boot.line_for(key) for key in KEYS}
        assert {key: line and line.value for key, line in found.items()} == model(tree, KEYS)
        for line in filter(None, found.values()):
            assert (line.pattern, line.value) in _words(tree[line.file].split("\n")[line.line - 1])


# -- and the loaders themselves, in namespaces of their own ------------------------------------------------------------

SCRIPT = """
set -eu
mount --make-rprivate /
for folder in etc run usr/local/lib usr/lib; do
    mkdir -p /$folder/sysctl.d
    mount --bind {tree}/$folder/sysctl.d /$folder/sysctl.d
done
touch /etc/sysctl.conf
mount --bind {tree}/etc/sysctl.conf /etc/sysctl.conf
{loader} >/dev/null 2>&1 || true
cd /proc/sys
for key in {keys}; do cat $key; done
"""
LOADERS = {files.SYSTEMD: SYSTEMD_SYSCTL, files.PROCPS: "sysctl --system"}
DEFAULTS = ["0", "0", "7200", "64"]
REAL_TREES = [
    {"/etc/sysctl.d/50.conf": "net.ipv4.tcp_keepalive_time = 100\n-net.ipv4.tcp_keepalive_time\n"},
    {"/etc/sysctl.d/50.conf": "net.ipv4.conf.*.rp_filter = 1\n-net.ipv4.conf.*.rp_filter\n"},
    {"/etc/sysctl.d/50.conf": "net.ipv4.conf.l?.rp_filter = 1\n-net.ipv4.conf.lo.rp_filter\n"},
    {
        "/etc/sysctl.d/99-x.conf": "net.ipv4.ip_default_ttl = 10\n",
        "/etc/sysctl.d/100-x.conf": "net.ipv4.ip_default_ttl = 20\n",
        "/etc/sysctl.conf": "net.ipv4.ip_default_ttl = 30\n",
    },
    {
        "/etc/sysctl.d/50.conf": "net.ipv4.ip_default_ttl = 10\nnet.ipv4.tcp_keepalive_time = 100x\n",
        "/usr/lib/sysctl.d/50.conf": "net.ipv4.ip_default_ttl = 20\nnet.ipv4.conf.lo.log_martians = 1\n",
    },
    {
        "/etc/sysctl.d/10.conf": "net.ipv4.conf.*.rp_filter = 1\n",
        "/etc/sysctl.d/20.conf": "net.ipv4.conf.l?.rp_filter = 2\n",
        "/etc/sysctl.d/30.conf": "net.ipv4.conf.*.rp_filter = 1\n",
    },
    {"/etc/sysctl.d/.hidden.conf": "net.ipv4.ip_default_ttl = 10\n"},
]


def _can_unshare():
    return os.geteuid() == 0 and subprocess.run(["unshare", "-m", "-n", "true"], check=False).returncode == 0


@pytest.mark.skipif(not shutil.which("unshare") or not _can_unshare(), reason="needs root and namespaces")
@pytest.mark.parametrize("tree", REAL_TREES)
@pytest.mark.parametrize("loader", files.LOADERS)
def test_the_real_loaders_do_what_is_foretold(loader, tree, tmp_path):
    if not shutil.which(LOADERS[loader].split()[0]):
        pytest.skip(f"{loader} is not installed")
    for folder in ("etc", "run", "usr/local/lib", "usr/lib"):
        (tmp_path / folder / "sysctl.d").mkdir(parents=True)
    (tmp_path / "etc/sysctl.conf").touch()
    for path, text in tree.items():
        (tmp_path / path.lstrip("/")).write_text(text)
    boot = files.Boot(files.read_fragments(Host(str(tmp_path))), loader)
    foretold = [boot.line_for(key) for key in KEYS]

    script = SCRIPT.format(tree=tmp_path, loader=LOADERS[loader], keys=" ".join(KEYS))
    done = subprocess.run(["unshare", "-m", "-n", "sh", "-c", script], capture_output=True, text=True, check=True)

    taken = [line and re.fullmatch(r"\d+", line.value) and line.value for line in foretold]
    assert done.stdout.split() == [value or default for value, default in zip(taken, DEFAULTS)]
