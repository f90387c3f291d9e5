"""The snapshot of prices: whole or not at all, and nothing in it is believed unseen."""

from __future__ import annotations

import os
from types import SimpleNamespace

import numpy as np
import pytest

from precog_runtime.market.snapshot import NAME, Snapshots, load, save
from precog_runtime.metrics import Metrics
from precog_runtime.types import Series

NOW = 2_000.0


def series(*pairs):
    return Series(np.array([t for t, _ in pairs], np.int64), np.array([p for _, p in pairs], np.float64))


def test_what_is_saved_is_loaded(tmp_path):
    prices = {"btc": series((1, 2.5), (3, 2.6)), "tao_bittensor": series((5, 1e-9))}
    save(tmp_path / NAME, prices)
    found = load(tmp_path / NAME, NOW)
    assert found.keys() == prices.keys()
    for asset, one in prices.items():
        assert found[asset].times.tolist() == one.times.tolist()
        assert found[asset].prices.tolist() == one.prices.tolist()
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_no_file_is_no_trouble(tmp_path):
    assert load(tmp_path / NAME, NOW) == {}


def test_a_price_that_can_not_be_is_left_out(tmp_path):
    pairs = [(1, 1.0), (2, np.nan), (3, -1.0), (4, 0.0), (5, np.inf), (6, 2.0), (6, 3.0), (2001, 4.0)]
    save(tmp_path / NAME, {"btc": series(*pairs)})
    assert load(tmp_path / NAME, NOW)["btc"].times.tolist() == [1, 6]


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
def test_a_file_that_is_cut_off_is_passed_over_and_told(tmp_path, part, caplog):
    save(tmp_path / NAME, {"btc": series((1, 2.5))})
    whole = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(whole[: int(len(whole) * part)])
    assert load(tmp_path / NAME, NOW) == {}
    assert "passed over" in caplog.text


def flipped(whole):
    for place in range(len(whole)):
        for bits in (0x01, 0x20, 0x80, 0xFF):
            yield whole[:place] + bytes([whole[place] ^ bits]) + whole[place + 1 :]


def test_no_wrong_byte_stops_the_start_or_makes_a_price_that_was_not_saved(tmp_path):
    prices = {"btc": series((1, 2.5), (3, 2.6)), "eth": series((5, 7.5))}
    save(tmp_path / NAME, prices)
    saved = {(int(t), float(p)) for each in prices.values() for t, p in zip(each.times, each.prices, strict=True)}
    passed_over = 0
    for damaged in flipped((tmp_path / NAME).read_bytes()):
        (tmp_path / NAME).write_bytes(damaged)
        found = load(tmp_path / NAME, NOW)
        passed_over += not found
        for each in found.values():
            assert {(int(t), float(p)) for t, p in zip(each.times, each.prices, strict=True)} <= saved
    assert passed_over > 1000


def test_prices_out_of_order_are_left_out(tmp_path):
    save(tmp_path / NAME, {"btc": series((5, 1.0), (3, 2.0), (4, 3.0), (6, 4.0), (-7, 5.0))})
    assert load(tmp_path / NAME, NOW)["btc"].times.tolist() == [5, 6]


def test_what_a_killed_save_left_is_swept_away_and_nothing_else(tmp_path):
    save(tmp_path / NAME, {"btc": series((1, 2.5))})
    old, young, theirs = (tmp_path / name for name in (f".{NAME}.abc", f".{NAME}.def", "window.npz.bak"))
    for each in (old, young, theirs):
        each.write_bytes(b"x")
    for each in (old, theirs):
        os.utime(each, (NOW, NOW))
    Snapshots(SimpleNamespace(windows={}), str(tmp_path), Metrics()).restore(NOW)
    assert {path.name for path in tmp_path.iterdir()} == {NAME, young.name, theirs.name}


def test_pickled_objects_are_not_loaded(tmp_path):
    np.savez(tmp_path / NAME, **{"btc:times": np.array([object()]), "btc:prices": np.array([1.0])})
    assert load(tmp_path / NAME, NOW) == {}


def test_a_failed_save_leaves_the_earlier_file(tmp_path, monkeypatch):
    save(tmp_path / NAME, {"btc": series((1, 2.5))})
    before = (tmp_path / NAME).read_bytes()

    def full(*_arguments, **_named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path / NAME, {"btc": series((1, 9.9))})
    assert (tmp_path / NAME).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
