"""Releases are known by their name, the time at which they came, and a label."""

from __future__ import annotations

import re

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._host.host import HostError
from ansible_collections.precog.fleet.tests.unit.made_systemd import (
    gate_of,
    instance,
    inventory_of,
    know,
    made_plan,
    make_systemd,
    roll,
    store_of,
)

FIRST, SECOND = "aaaaaaaaaaaa", "bbbbbbbbbbbb"
MADE = r"20\d\d-\d\d-\d\d \d\d:\d\d UTC"


@pytest.fixture
def host(memory, monkeypatch):
    made = make_systemd(memory / "host")
    know(made, *(made_plan(name, instance("one", name, 8092)) for name in (FIRST, SECOND)))
    gate_of(made, monkeypatch)
    return made


@pytest.fixture
def inventory(host, monkeypatch):
    return inventory_of(host, monkeypatch)


def test_release_has_a_date_and_a_label(host, inventory):
    inventory(FIRST)
    releases = inventory(SECOND, label="wider intervals").result()["releases"]
    assert [(one["name"], one["label"], one["current"]) for one in releases] == [
        (FIRST, "", False),
        (SECOND, "wider intervals", True),
    ]
    assert all(re.fullmatch(MADE, one["made"]) for one in releases)
    assert re.fullmatch(rf"{SECOND} \({MADE}, wider intervals\)", store_of(host).told(SECOND))


def test_another_label_alone_starts_nothing_again(host, inventory):
    inventory(FIRST, label="one")
    before, made = host.known(), store_of(host).about(FIRST).made
    for label, kept in (("other", "other"), ("", "other")):
        assert not inventory(FIRST, label=label).changed
        assert store_of(host).about(FIRST) == (made, kept)
    assert host.known() == before


def test_check_mode_gives_no_label(host, inventory):
    inventory(FIRST, label="one")
    inventory(FIRST, label="other", check=True)
    assert store_of(host).about(FIRST).label == "one"


def test_label_names_a_release_to_go_back_to(host, inventory):
    inventory(FIRST, label="the good one")
    inventory(SECOND)
    assert (roll(host, "the good one").failure, host.current()) == ("", FIRST)


def test_label_of_several_releases_names_the_newest(host, inventory):
    inventory(SECOND, label="same")
    inventory(FIRST, label="same")
    about = store_of(host).folder(SECOND) + "/about.json"
    host.put(about, host.at(about).read_text().replace("20", "19", 1))
    assert store_of(host).resolve("same") == FIRST


def test_what_is_kept_is_told_with_dates_and_labels(host, inventory):
    inventory(FIRST, label="the good one")
    with pytest.raises(
        HostError, match=rf"Kept here: {FIRST} \({MADE}, the good one\)\. Name one of them, by its name"
    ):
        roll(host, "nothing like it")


@pytest.mark.parametrize("label", ["previous", "0123456789ab", "two\nlines", "x" * 61, "-e", "{}"])
def test_label_that_is_none_is_refused_before_anything_is_touched(host, inventory, label):
    with pytest.raises(HostError, match="miner_service_label is "):
        inventory(FIRST, label=label)
    assert store_of(host).names() == []


def test_release_of_before_there_were_dates_gets_no_wrong_one(host, inventory):
    inventory(FIRST)
    host.at(store_of(host).folder(FIRST) + "/about.json").unlink()
    assert not inventory(FIRST).changed
    assert store_of(host).about(FIRST) == ("", "")
    inventory(FIRST, label="old")
    assert store_of(host).about(FIRST) == ("", "old")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null"])
def test_release_of_which_nobody_noted_anything_is_told_by_its_name(host, inventory, text):
    inventory(FIRST)
    host.put(f"{store_of(host).folder(FIRST)}/about.json", text)
    assert store_of(host).told(FIRST) == FIRST
