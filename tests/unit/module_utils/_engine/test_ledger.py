"""The ledger: what is written is what is read, what is damaged is told, and when a note is void."""

from __future__ import annotations

import json

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._engine.ledger import PATH, Ledger, Original, OriginalFile
from ansible_collections.precog.fleet.plugins.module_utils._host.host import HostError, Meta
from ansible_collections.precog.fleet.tests.unit.made_host import make_host, untouched
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

text = st.text()  # lone surrogates included: bytes that are no text come as such
maybe = st.none() | text
originals = st.builds(
    Original,
    value=text,
    configured=maybe,
    boot=text,
    desired=maybe,
    companions=st.dictionaries(text, text, max_size=2),
    moved=st.booleans(),
)
metas = st.builds(Meta, st.integers(0, 0o7777), st.integers(0, 2**32), st.integers(0, 2**32))
stored_files = st.builds(OriginalFile, content=st.none() | st.binary(), meta=st.none() | metas)
SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


@pytest.fixture
def host(memory):
    return make_host(memory / "host")


@SHARED
@given(
    st.dictionaries(text, st.dictionaries(text, originals, min_size=1, max_size=3), max_size=3),
    st.dictionaries(text, stored_files, max_size=3),
)
def test_what_is_saved_is_what_is_loaded(host, all_settings, all_files):
    host.at(PATH).unlink(missing_ok=True)
    ledger = Ledger(host)
    ledger.settings, ledger.files = all_settings, all_files
    ledger.save()

    again = Ledger.load(host)

    assert (again.settings, again.files) == (all_settings, all_files)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
GOOD = {
    "version": 1,
    "settings": {"/etc/x": {"vm.x": {"value": "1", "configured": None, "boot": "b", "desired": "2", "companions": {}}}},
    "files": {"/etc/x": {"content": "eA==", "meta": [420, 0, 0]}},
}


def _places(document, prefix=()):
    yield prefix
    if isinstance(document, dict):
        for name in document:
            yield from _places(document[name], (*prefix, name))


@SHARED
@given(st.sampled_from(list(_places(GOOD))), json_values)
def test_anything_anywhere_is_understood_or_told_as_damage(host, place, value):
    document = json.loads(json.dumps(GOOD))
    spot = document
    for name in place[:-1]:
        spot = spot[name]
    if place:
        spot[place[-1]] = value
    host.put(PATH, json.dumps(document if place else value))

    try:
        ledger = Ledger.load(host)
    except HostError as error:
        assert "ledger.json is damaged" in str(error)
        assert "Nothing was changed. Restore it from a backup; or move it aside" in str(error)
        return
    for owned in ledger.settings.values():
        for original in owned.values():
            assert isinstance(original.give_back(None, "b"), str)
    for file in ledger.files.values():
        assert file.content is None or isinstance(file.content, bytes)
        assert file.meta is None or all(isinstance(number, int) for number in file.meta)


@SHARED
@given(st.binary())
def test_any_bytes_are_damage(host, data):
    host.put(PATH, data)
    with pytest.raises(HostError, match="damaged"):
        Ledger.load(host)


def test_no_ledger_is_an_empty_one(host):
    ledger = Ledger.load(host)
    assert (ledger.settings, ledger.files) == ({}, {})


def test_an_unchanged_ledger_is_not_written(host):
    ledger = Ledger.load(host)
    ledger.of("/etc/x")
    ledger.save()
    assert not host.at(PATH).exists()
    ledger.of("/etc/x")["vm.x"] = Original("1", None, "b")
    ledger.save()
    seen = untouched(host)
    ledger.save()
    Ledger.load(host).save()
    assert untouched(host) == seen


def test_only_root_reads_it(host):
    ledger = Ledger(host)
    ledger.of("/etc/x")["vm.x"] = Original("1", None, "b")
    ledger.save()
    assert host.at(PATH).stat().st_mode & 0o777 == 0o600


# configured then, configured now, same boot, what is given back
GIVEN_BACK = [
    (None, None, True, "1"),
    ("5", "5", True, "1"),
    ("5", "6", True, "6"),
    ("5", None, True, "1"),
    (None, "6", True, "6"),
    (None, None, False, "1"),
    ("5", "5", False, "5"),
    ("5", "6", False, "6"),
    ("5", None, False, "1"),
]


@pytest.mark.parametrize(("then", "now", "same_boot", "expected"), GIVEN_BACK)
def test_trap_rollback_goes_to_the_configuration_else_to_the_recorded(then, now, same_boot, expected):
    assert Original("1", then, "boot").give_back(now, "boot" if same_boot else "another") == expected


# desired, same boot, lasted, void
VOID = [
    ("10", True, True, False),
    ("10", False, False, False),
    (None, True, False, False),
    (None, False, True, False),
    (None, False, False, True),
]


@pytest.mark.parametrize(("desired", "same_boot", "lasted", "void"), VOID)
def test_a_note_is_void_when_nothing_of_it_can_have_lasted(desired, same_boot, lasted, void):
    original = Original("1", None, "boot", desired)
    assert original.is_void("boot" if same_boot else "another", lasted=lasted) is void
