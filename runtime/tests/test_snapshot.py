"""The snapshot of prices: whole or not at all, and nothing in it is believed unseen."""

from __future__ import annotations

import numpy as np
import pytest

from precog_runtime.market.snapshot import NAME, load, save
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
