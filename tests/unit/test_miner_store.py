"""The releases of a host, on a real file system below a folder."""

import pytest
from ansible_collections.precog.fleet.plugins.module_utils import _miner_store as store
from ansible_collections.precog.fleet.plugins.module_utils._host import Host, HostError
from ansible_collections.precog.fleet.plugins.module_utils._miner_plan import File, Instance, Plan

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


@pytest.mark.parametrize("name", ["release.json", "instances/main/start", "units/precog-miner@.service"])
def test_a_damaged_release_is_not_whole(releases, tmp_path, name):
    wanted = plan("aaaaaaaaaaaa")
    releases.save(wanted, {})
    assert releases.is_whole(wanted)
    file = tmp_path / "opt/precog/releases/aaaaaaaaaaaa" / name
    file.write_bytes(file.read_bytes() + b" ")
    assert not releases.is_whole(wanted)
    releases.save(wanted, {})
    assert releases.is_whole(wanted)


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
    ("good", "current", "wanted", "found"),
    [
        (["a", "b"], "b", "previous", "a"),
        (["a", "b", "c"], "c", "previous", "b"),
        (["a", "b"], "a", "previous", "b"),
        (["gone", "a", "b"], "b", "previous", "a"),
        (["a", "b"], "b", "c", "c"),
    ],
)
def test_which_release_an_operator_means(releases, good, current, wanted, found):
    for name in "abc":
        releases.save(plan(name), {})
    releases.switch(current)
    releases.note(store.Past(tuple(good)))
    assert releases.resolve(wanted) == found


@pytest.mark.parametrize(
    ("wanted", "told"),
    [("previous", "no earlier release is kept"), ("zzz", "'zzz', which is not on this host. Kept here: a")],
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


@pytest.mark.parametrize("text", ["", "{", '{"good": 1}', "[]", '{"good": []}'])
def test_a_past_that_can_t_be_read_is_none(releases, tmp_path, text):
    (tmp_path / "opt/precog").mkdir(parents=True)
    (tmp_path / "opt/precog/releases.json").write_text(text)
    assert releases.past() == store.Past()


def test_the_past():
    past = store.Past(("a", "b", "c"), "d")
    assert store.passed(past, "d", 3) == store.Past(("b", "c", "d"), "")
    assert store.passed(past, "a", 5) == store.Past(("b", "c", "a"), "")


def test_all_is_removed(releases, tmp_path):
    releases.save(plan("a"), {})
    releases.switch("a")
    releases.note(store.Past(("a",)))
    releases.remove()
    assert list((tmp_path / "opt/precog").iterdir()) == []
