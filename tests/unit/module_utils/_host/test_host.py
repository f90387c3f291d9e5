"""The host interface: links below the root, atomic files, the kernel's own errors, the lock."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import subprocess

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._host.host import Host, HostError, Meta

CONF = "/etc/sysctl.d/x.conf"


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "etc/sysctl.d").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def plain(tree):
    return Host(str(tree))


def names_in(folder):
    return sorted(place.name for place in folder.iterdir())


# -- where a path lies ------------------------------------------------------------------------------------------------

LOCATED = [
    ("/etc/sysctl.d/x.conf", "etc/sysctl.d/x.conf"),
    ("/lib/sysctl.d", "usr/lib/sysctl.d"),
    ("/absolute/x", "usr/lib/x"),
    ("/etc/out", "etc/passwd"),
    ("/etc/chain", "etc/passwd"),
    ("/../../etc//./x", "etc/x"),
    ("/nowhere/x", "nowhere/x"),
    ("/", "."),
]


@pytest.mark.parametrize(("path", "place"), LOCATED)
def test_links_are_followed_below_the_root_as_after_a_chroot(tree, plain, path, place):
    (tree / "usr/lib").mkdir(parents=True)
    (tree / "lib").symlink_to("usr/lib")
    (tree / "absolute").symlink_to("/usr/lib")
    (tree / "etc/out").symlink_to("../../../../../etc/passwd")
    (tree / "etc/chain").symlink_to("/etc/out")
    assert os.path.normpath(plain.locate(path)) == os.path.normpath(tree / place)


def test_a_circle_of_links_is_an_error_not_a_hang(tree, plain):
    (tree / "a").symlink_to("b")
    (tree / "b").symlink_to("a")
    with pytest.raises(OSError, match="Too many levels"):
        plain.read_bytes("/a")


def test_the_real_root_is_the_real_root(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert Host().locate(str(tmp_path / "link")) == str(tmp_path / "file")


def test_names_are_sorted_by_bytes_and_no_folder_is_an_empty_one(tree, plain):
    for name in ("é", "z", "Z", "10", "9"):
        (tree / "etc/sysctl.d" / name).touch()
    assert plain.list_dir("/etc/sysctl.d") == ["10", "9", "Z", "z", "é"]
    assert plain.list_dir("/nowhere") == []
    assert plain.list_dir("/etc/sysctl.d/z") == []


def test_bytes_that_are_no_text_are_not_lost(tree, plain):
    (tree / "x").write_bytes(b"\xff\x80ok")
    assert plain.read_text("/x").encode("utf-8", "surrogateescape") == b"\xff\x80ok"


def test_what_a_link_says_is_told_unresolved(tree, plain):
    (tree / "etc/ns").symlink_to("pid:[4026531836]")
    assert plain.readlink("/etc/ns") == "pid:[4026531836]"
    assert plain.readlink("/etc/sysctl.d") is None
    assert plain.readlink("/etc/none") is None
    assert not plain.exists("/etc/ns")


# -- atomic files -----------------------------------------------------------------------------------------------------


def test_a_staged_file_is_on_disk_and_not_in_place(tree, plain):
    (tree / "etc/sysctl.d/x.conf").write_text("old")
    staged = plain.stage(CONF, b"new")

    names = names_in(tree / "etc/sysctl.d")
    assert names == [".x.conf.precog-fleet.tmp", "x.conf"]
    assert not any(name.endswith(".conf") for name in names if name != "x.conf")  # no loader takes it for a fragment
    assert (tree / "etc/sysctl.d/x.conf").read_text() == "old"
    staged.commit()
    assert (tree / "etc/sysctl.d/x.conf").read_text() == "new"
    assert names_in(tree / "etc/sysctl.d") == ["x.conf"]


def test_a_discarded_file_leaves_nothing(tree, plain):
    staged = plain.stage(CONF, b"new")
    staged.discard()
    staged.discard()
    assert names_in(tree / "etc/sysctl.d") == []


def test_what_a_killed_run_left_is_swept(tree, plain):
    plain.stage(CONF, b"new")
    assert plain.has_left(CONF)
    plain.sweep(CONF)
    plain.sweep(CONF)
    plain.sweep("/nowhere/x")
    assert not plain.has_left(CONF)
    assert not plain.has_left("/nowhere/x")
    assert names_in(tree / "etc/sysctl.d") == []


def test_trap_a_rewrite_keeps_mode_and_owner(tree, plain):
    place = tree / "etc/sysctl.d/x.conf"
    place.write_text("old")
    place.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(place, 12, 34)
    before = place.stat()

    plain.stage(CONF, b"new").commit()

    after = place.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert after.st_ino != before.st_ino


def test_a_new_file_is_0644_whatever_the_umask_and_its_folder_is_made(tree, plain):
    umask = os.umask(0o077)
    try:
        plain.stage("/etc/modules-load.d/x.conf", b"x").commit()
    finally:
        os.umask(umask)
    assert (tree / "etc/modules-load.d/x.conf").stat().st_mode & 0o777 == 0o644


def test_mode_and_owner_can_be_given(tree, plain):
    plain.stage(CONF, b"x", Meta(0o600, os.geteuid(), os.getegid())).commit()
    assert (tree / "etc/sysctl.d/x.conf").stat().st_mode & 0o777 == 0o600
    assert plain.meta(CONF) == Meta(0o600, os.geteuid(), os.getegid())
    assert plain.meta("/none") is None


def test_trap_file_then_folder_are_synced_around_the_rename(plain, monkeypatch):
    order = []
    rename = os.rename
    monkeypatch.setattr(
        os, "fsync", lambda fd: order.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
    )
    monkeypatch.setattr(os, "rename", lambda *args: (order.append("rename"), rename(*args)))
    plain.stage(CONF, b"x").commit()
    plain.remove(CONF)
    assert order == ["file", "rename", "folder", "folder"]


def test_an_error_while_staging_leaves_nothing_and_names_the_file(tree, plain, monkeypatch):
    def full(_fd, _data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left") as told:
        plain.stage(CONF, b"x")
    assert (told.value.errno, told.value.filename) == (errno.ENOSPC, str(tree / CONF.lstrip("/")))
    assert names_in(tree / "etc/sysctl.d") == []


def test_short_writes_are_gone_on_with(tree, plain, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
    plain.stage(CONF, b"0123456789").commit()
    assert (tree / "etc/sysctl.d/x.conf").read_bytes() == b"0123456789"


def test_a_folder_in_place_is_no_file(tree, plain):
    (tree / "etc/sysctl.d/x.conf").mkdir()
    with pytest.raises(IsADirectoryError):
        plain.stage(CONF, b"x")


def test_a_planted_link_is_not_followed(tree, plain):
    (tree / "victim").write_text("safe")
    (tree / "etc/sysctl.d/.x.conf.precog-fleet.tmp").symlink_to(tree / "victim")
    with pytest.raises(OSError, match="Too many levels"):
        plain.stage(CONF, b"x")
    assert (tree / "victim").read_text() == "safe"


SOMEBODY = 990
WRITES = {
    "stage": lambda host: host.stage("/state/wallets/x", b"").commit(),
    "make a folder": lambda host: host.make_folder("/state/wallets", Meta(0o700, SOMEBODY, SOMEBODY)),
    "make a folder below": lambda host: host.make_folder("/state/wallets/x", Meta(0o700, SOMEBODY, SOMEBODY)),
    "remove": lambda host: host.remove("/state/wallets/sysctl.d"),
    "remove all": lambda host: host.remove_tree("/state/wallets/sysctl.d"),
    "link": lambda host: host.replace_link("/state/wallets/x", "/"),
    "rename": lambda host: host.rename("/state/wallets/sysctl.d", "/state/x"),
    "lock": lambda host: host.lock("/state/wallets/lock").__enter__(),
}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("whose", ["folder", "link"])
def test_no_write_follows_a_link_that_somebody_else_made(tree, plain, write, whose):
    """A link in a folder of a service's own, or one of its own in a folder that everyone may write to."""
    (tree / "state").mkdir()
    link = tree / "state/wallets"
    link.symlink_to("/etc")
    os.chown(tree / "state" if whose == "folder" else link, SOMEBODY, SOMEBODY, follow_symlinks=False)
    before = (tree / "etc").stat()
    with pytest.raises(PermissionError, match=rf"not root's \(.*/state.* belongs to user ID {SOMEBODY}\): remove"):
        write(plain)
    after = (tree / "etc").stat()
    assert (after.st_uid, after.st_mode) == (before.st_uid, before.st_mode)
    assert names_in(tree / "etc") == ["sysctl.d"]


def test_roots_own_links_are_written_through(tree, plain):
    (tree / "lib").symlink_to("/etc/sysctl.d")
    plain.stage("/lib/x.conf", b"x").commit()
    assert (tree / "etc/sysctl.d/x.conf").read_bytes() == b"x"


def test_removing_takes_the_link_not_its_target(tree, plain):
    (tree / "target").write_text("safe")
    (tree / "etc/sysctl.d/x.conf").symlink_to("/target")
    plain.remove(CONF)
    plain.remove(CONF)
    assert names_in(tree / "etc/sysctl.d") == []
    assert (tree / "target").read_text() == "safe"


def test_room_is_looked_for_where_the_file_will_be(tree, plain):
    plain.expect_room(CONF, 100)
    plain.expect_room("/not/yet/there/x.conf", 100)
    with pytest.raises(OSError, match="No space left"):
        plain.expect_room(CONF, 2**62)
    assert names_in(tree) == ["etc"]


# -- the kernel -------------------------------------------------------------------------------------------------------


def test_trap_a_value_is_one_unbuffered_write(tree, plain, monkeypatch):
    (tree / "key").write_text("a longer value from before\n")
    writes = []
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: (writes.append(bytes(data)), write(fd, data))[1])
    plain.write_kernel("/key", "1 2 3")
    assert writes == [b"1 2 3\n"]
    assert (tree / "key").read_text() == "1 2 3\n"


def test_a_key_that_is_not_there_is_not_made(tree, plain):
    with pytest.raises(FileNotFoundError):
        plain.write_kernel("/key", "1")
    assert not (tree / "key").exists()


def test_a_short_write_to_the_kernel_is_an_error(tree, plain, monkeypatch):
    (tree / "key").touch()
    monkeypatch.setattr(os, "write", lambda _fd, _data: 1)
    with pytest.raises(OSError, match="the kernel took 1 of 6 bytes"):
        plain.write_kernel("/key", "12345")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_the_kernel_s_own_error_is_told():
    with pytest.raises(OSError, match="Invalid argument") as told:
        Host().write_kernel("/proc/self/oom_score_adj", "frob")
    assert told.value.errno == errno.EINVAL


def test_trap_root_or_not_a_read_only_key_is_known_without_writing():
    assert not Host().may_write("/proc/sys/kernel/random/boot_id")
    assert not Host().may_write("/proc/sys/none")


def test_the_boot_is_known():
    assert re.fullmatch(r"[0-9a-f-]{36}", Host().boot_id())


# -- the lock, and commands -------------------------------------------------------------------------------------------


def test_the_lock_waits_says_who_waits_and_is_let_go(tree, plain):
    with plain.lock("/var/lib/x/lock"):
        assert (tree / "var/lib/x/lock").stat().st_mode & 0o777 == 0o600
        held = pytest.raises(HostError, match=r"another run has held /var/lib/x/lock for 0 s")
        with held, plain.lock("/var/lib/x/lock", 0):
            pass
    with plain.lock("/var/lib/x/lock", 0):
        pass


def test_the_lock_is_let_go_by_an_error_and_by_a_killed_process(tree, plain):
    with pytest.raises(ZeroDivisionError), plain.lock("/lock", 0):
        _ = 1 / 0
    script = f"exec 9>{tree}/lock; flock 9; echo held; kill -9 $$"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "held\n"
    with plain.lock("/lock", 0):
        pass


def test_the_lock_is_taken_once_the_other_is_done(tree, plain):
    (tree / "lock").touch()
    other = (tree / "lock").open()
    fcntl.flock(other, fcntl.LOCK_EX)
    child = subprocess.Popen(["sleep", "0"])  # something that ends
    child.wait()
    other.close()
    with plain.lock("/lock", 0):
        pass


def test_commands_run_with_a_known_environment_and_tell_what_failed(plain):
    assert plain.run(["sh", "-c", "echo $LC_ALL $HOME"]) == "C\n"
    with pytest.raises(HostError, match=r"sh -c echo no >&2; exit 3 failed with code 3: no"):
        plain.run(["sh", "-c", "echo no >&2; exit 3"])
    with pytest.raises(HostError, match="cannot run frobnicate-x: No such file"):
        plain.run(["frobnicate-x"])


def test_what_a_command_says_is_read_whatever_its_bytes(plain):
    """A journal hands on what a process wrote."""
    assert plain.run(["printf", r"pr\303\244zise \377"]) == r"präzise \xff"
    with pytest.raises(HostError, match=r"failed with code 1: \\xff"):
        plain.run(["sh", "-c", r"printf '\377' >&2; exit 1"])


def test_only_the_real_kernel_is_asked_to_try(plain):
    assert plain.refusals([("/proc/sys/net/ipv4/tcp_keepalive_time", "-1")]) == {}
