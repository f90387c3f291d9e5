"""The releases of a host, on a real file system below a folder."""

import os
import shutil

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._host.host import Host, HostError
from ansible_collections.precog.fleet.plugins.module_utils._miner import store
from ansible_collections.precog.fleet.plugins.module_utils._miner.model import File, Instance, Plan

MAIN = Instance("main", "runtime", "127.0.0.1", 8092, "127.0.0.1", 8092, ("btc",), "0123456789ab")
UNITS = {
    "precog-miner@.service": b"[Service]\n",
    "precog-miner@main.service.d/10-instance.conf": b"[Service]\nNice=1\n",
}


def plan(name: str) -> Plan:
    record = (
        b'{"instances": [' + str(MAIN._asdict()).replace("'", '"').replace("(", "[").replace(",)", "]").encode() + b"]}"
    )
    files = {"release.json": File(record, 0o644), "instances/main/start": File(f"# {name}\n".encode(), 0o755)}
    return Plan(name, files, UNITS, {}, (MAIN,), ())


@pytest.fixture
def releases(tmp_path):
    return store.Store(Host(str(tmp_path)), "/opt/precog")


def test_a_release_is_read_as_it_was_saved(releases, tmp_path):
    made = releases.save(plan("aaaaaaaaaaaa"), {"environment": "/opt/precog/env/miner-1"})
    assert made == store.Release("aaaaaaaaaaaa", UNITS, (MAIN,)) == releases.load("aaaaaaaaaaaa")
    folder = tmp_path / "opt/precog/releases/aaaaaaaaaaaa"
    assert (folder / "instances/main/start").stat().st_mode & 0o777 == 0o755
    assert (folder / "environment").readlink().name == "miner-1"
    assert [path.name for path in folder.parent.iterdir()] == ["aaaaaaaaaaaa"]


def test_a_release_that_can_t_be_written_leaves_nothing(releases, tmp_path):
    broken = plan("aaaaaaaaaaaa")
    broken.files["instances/main/start/below"] = File(b"a file is in the way", 0o644)
    with pytest.raises(OSError):
        releases.save(broken, {})
    assert releases.names() == []
    assert list((tmp_path / "opt/precog/releases").iterdir()) == []


LINKS = {"environment": "/opt/precog/env/miner-1"}
START = "instances/main/start"


def append(file):
    file.write_bytes(file.read_bytes() + b" ")


def become_a_link(file):
    kept = file.with_name("kept")
    file.rename(kept)
    file.symlink_to(kept)


def become_a_folder(file):
    file.unlink()
    (file / "below").mkdir(parents=True)


def lose_its_folder(file):
    shutil.rmtree(file.parent)
    file.parent.write_bytes(b"a file is in the way")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("release.json", append),
        (START, append),
        ("units/precog-miner@.service", append),
        (START, lambda file: file.chmod(0o644)),
        (START, lambda file: os.chown(file, 1, 0)),
        (START, lambda file: file.unlink()),
        (START, become_a_link),
        (START, become_a_folder),
        (START, lose_its_folder),
        ("environment", lambda link: link.unlink()),
        ("environment", lambda link: (link.unlink(), link.symlink_to("/elsewhere"))),
        ("units/precog-miner@other.socket", lambda file: file.write_bytes(b"too many")),
    ],
)
def test_a_damaged_release_is_not_whole_and_is_mended_where_it_lies(releases, tmp_path, name, damage):
    wanted = plan("aaaaaaaaaaaa")
    releases.save(wanted, LINKS)
    assert releases.is_whole(wanted, LINKS)
    folder = tmp_path / "opt/precog/releases/aaaaaaaaaaaa"
    inode = folder.stat().st_ino
    damage(folder / name)
    assert not releases.is_whole(wanted, LINKS)
    assert releases.save(wanted, LINKS) == store.Release("aaaaaaaaaaaa", UNITS, (MAIN,))
    assert releases.is_whole(wanted, LINKS)
    assert folder.stat().st_ino == inode
    assert (folder / START).read_bytes() == b"# aaaaaaaaaaaa\n"
    assert (folder / START).stat().st_mode & 0o777 == 0o755
    assert not (folder / START).is_symlink()


def test_a_release_that_can_t_be_read_is_told(releases, tmp_path):
    releases.save(plan("aaaaaaaaaaaa"), {})
    (tmp_path / "opt/precog/releases/aaaaaaaaaaaa/release.json").write_text('{"instances": [{}]}')
    with pytest.raises(HostError, match=r"aaaaaaaaaaaa is damaged .*remove it"):
        releases.load("aaaaaaaaaaaa")


def test_the_current_release_is_switched_and_left(releases):
    assert releases.current == ""
    for name in ("aaaaaaaaaaaa", "bbbbbbbbbbbb"):
        releases.save(plan(name), {})
        releases.switch(name)
        assert releases.current == name
    releases.switch("")
    assert releases.current == ""


def test_a_link_to_a_release_that_is_gone_is_none(releases):
    releases.save(plan("aaaaaaaaaaaa"), {})
    releases.switch("bbbbbbbbbbbb")
    assert releases.current == ""


@pytest.mark.parametrize(
    ("past", "found"),
    [
        (store.Past(("a", "b")), "a"),
        (store.Past(("a", "b", "c")), "b"),
        (store.Past(("gone", "a", "b")), "a"),
        (store.Past(("a", "gone")), "a"),
        (store.Past(("a", "b"), withdrawn="c"), "b"),  # it has gone back from c
        (store.Past(("a", "b"), withdrawn="gone"), "b"),
        (store.Past(("a", "b"), trying="c"), "b"),  # killed while c came
        (store.Past(("a", "b", "c"), trying="b"), "b"),  # killed on its way from c to b
        (store.Past(("a", "b", "c"), trying="a"), "a"),
        (store.Past(("a", "b"), trying="b"), "a"),
    ],
)
def test_the_release_before_the_one_that_was_rolled_out_last(past, found):
    assert store.previous(past, "abc") == found


def test_previous_is_a_release_of_this_host_and_so_is_a_name(releases):
    for name in "abc":
        releases.save(plan(name), {})
    releases.note(store.Past(("a", "b")))
    assert releases.resolve("previous") == "a"
    assert releases.resolve("c") == "c"


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ("previous", "no earlier release that was good is kept on this host. Kept here: a"),
        ("zzz", "'zzz', which is not on this host. Kept here: a"),
    ],
)
def test_a_release_that_is_not_there(releases, wanted, told):
    releases.save(plan("a"), {})
    releases.switch("a")
    releases.note(store.Past(("a",)))
    with pytest.raises(HostError, match=told):
        releases.resolve(wanted)


def test_the_last_good_releases_and_the_current_one_are_kept(releases):
    for name in "abcdef":
        releases.save(plan(name), {})
    releases.switch("a")
    releases.note(store.Past(tuple("bcde")))
    releases.prune(2)
    assert releases.names() == ["a", "d", "e"]


def test_checkouts_are_those_that_releases_are_linked_to(releases):
    for name, links in (("a", {"upstream": "/opt/precog/upstream/11"}), ("b", {}), ("c", {"upstream": "/x/22"})):
        releases.save(plan(name), links)
    assert releases.checkouts() == ["11", "22"]


def test_what_is_being_tried_is_not_pruned(releases):
    for name in "abc":
        releases.save(plan(name), {})
    releases.note(store.Past(("a",), "c"))
    releases.prune(1)
    assert releases.names() == ["a", "c"]


@pytest.mark.parametrize("text", ["", "{", '{"good": 1, "trying": ""}', "[]", '{"good": []}', "1", "null"])
def test_a_past_that_can_t_be_read_keeps_what_is_there(releases, tmp_path, text):
    for name in "abc":
        releases.save(plan(name), {})
    (tmp_path / "opt/precog/releases.json").write_text(text)
    assert releases.past() == store.Past(unsure=("a", "b", "c"))
    releases.switch("c")
    releases.note(store.passed(releases.past(), "c", 3))
    releases.prune(3)
    assert releases.names() == ["a", "b", "c"]


def test_a_past_that_is_lost_is_told_from_one_that_never_was(releases):
    releases.save(plan("a"), {})
    assert releases.past() == store.Past()
    releases.switch("a")
    assert releases.past() == store.Past(unsure=("a",))


def test_what_nobody_knows_of_is_pruned_before_what_was_good(releases):
    for name in "abcd":
        releases.save(plan(name), {})
    releases.switch("d")
    releases.note(store.Past(("c", "d"), unsure=("a", "b")))
    releases.prune(3)
    assert releases.names() == ["b", "c", "d"]


def test_a_past_is_read_as_it_was_noted(releases):
    past = store.Past(("a", "b"), "c", "d", ("e",), ("f",))
    releases.note(past)
    assert releases.past() == past


def test_a_past_of_before_there_were_withdrawn_releases_is_read(releases, tmp_path):
    (tmp_path / "opt/precog").mkdir(parents=True)
    (tmp_path / "opt/precog/releases.json").write_text('{"good": ["a", "b"], "trying": ""}')
    assert releases.past() == store.Past(("a", "b"))


@pytest.mark.parametrize(
    ("past", "name", "after"),
    [
        (store.Past(("a", "b", "c"), "d"), "d", store.Past(("b", "c", "d"))),
        (store.Past(("a", "b", "c"), "b"), "b", store.Past(("a", "b"), withdrawn="c")),
        (store.Past(("a", "b", "c"), "a"), "a", store.Past(("a",), withdrawn="c")),
        (store.Past(("a", "b"), withdrawn="c"), "b", store.Past(("a", "b"), withdrawn="c")),
        (store.Past(("a", "b"), withdrawn="c"), "c", store.Past(("a", "b", "c"))),
        (store.Past(unsure=("a", "b")), "b", store.Past(("b",), unsure=("a",))),
    ],
)
def test_the_past_after_a_release_has_passed(past, name, after):
    assert store.passed(past, name, 3) == after


@pytest.mark.parametrize(
    ("past", "name", "barred"),
    [
        (store.Past(("a", "b", "c")), "b", ("c",)),
        (store.Past(("a", "b", "c")), "a", ("c",)),
        (store.Past(("a", "b", "c")), "c", ()),
        (store.Past(("a", "b"), withdrawn="c"), "b", ("c",)),  # its gate rejected c, and now the operator does
        (store.Past(("a", "b"), withdrawn="c", barred=("c",)), "c", ()),
        (store.Past(("a", "b"), trying="c"), "b", ("c",)),  # killed while c came
        (store.Past(("a", "b"), trying="b"), "b", ()),
        (store.Past(("a", "b"), withdrawn="c", barred=("c",)), "a", ("c", "b")),
    ],
)
def test_release_that_the_operator_goes_back_from_is_barred(past, name, barred):
    assert store.passed(past, name, 3, named=True).barred == barred
    assert store.passed(past, name, 3).barred == ()


def test_release_that_fails_bars_nothing_and_lifts_nothing():
    assert store.refused(store.Past(("a",), "b", barred=("c",)), "b").barred == ("c",)


@pytest.mark.parametrize(
    ("past", "name", "after"),
    [
        (store.Past(("a", "b"), "c"), "c", store.Past(("a", "b"), withdrawn="c")),
        (store.Past(("a", "b"), "a"), "a", store.Past(("a", "b"))),
        (store.Past((), "a"), "a", store.Past(withdrawn="a")),
    ],
)
def test_the_past_after_a_release_has_failed(past, name, after):
    assert store.refused(past, name) == after


def test_all_is_removed(releases, tmp_path):
    releases.save(plan("a"), {})
    releases.switch("a")
    releases.note(store.Past(("a",)))
    releases.remove()
    assert list((tmp_path / "opt/precog").iterdir()) == []
