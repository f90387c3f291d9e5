from __future__ import annotations

import gzip
import itertools
import signal
import subprocess
import sys
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import given, settings

from precog_runtime.errors import SettingError
from precog_runtime.frames import PRICES, FrameError, chunks, concat, process, read

ASSETS = ("btc", "eth", "tao_bittensor")
START = 1763931900


def prices(rows: int) -> pd.DataFrame:
    """Prices as Coin Metrics gives them: rows of all assets, second by second."""
    seconds = np.arange(rows) // 3
    times = pd.to_datetime(START + seconds, unit="s", utc=True).as_unit("ns")
    values = 97123.456789 * (1 + 1e-5 * np.sin(np.arange(rows)))
    return pd.DataFrame({"asset": [ASSETS[row % 3] for row in range(rows)], "time": times, "ReferenceRateUSD": values})


def text_of(frame: pd.DataFrame) -> str:
    whole = frame["time"].dt.strftime("%Y-%m-%dT%H:%M:%S.000000000Z")
    lines = zip(frame["asset"], whole, map(repr, frame["ReferenceRateUSD"].tolist()), strict=True)
    return "asset,time,ReferenceRateUSD\n" + "".join(",".join(line) + "\n" for line in lines)


def written(folder: Path, kind: str, frame: pd.DataFrame) -> Path:
    path = folder / f"prices{kind}"
    if kind == ".parquet":
        frame.to_parquet(path, row_group_size=700)
    elif kind == ".csv":
        path.write_text(text_of(frame))
    elif kind == ".csv.gz":
        path.write_bytes(gzip.compress(text_of(frame).encode()))
    else:
        with pa.CompressedOutputStream(str(path), "zstd") as out:
            out.write(text_of(frame).encode())
    return path


KINDS = [".csv", ".csv.gz", ".csv.zst", ".parquet"]


def is_open(path: Path) -> bool:
    """Whether this process has the file open."""
    descriptors = Path("/proc/self/fd")
    targets = []
    for each in descriptors.iterdir():
        try:
            targets.append(str(each.readlink()))
        except FileNotFoundError:
            continue
    return str(path.resolve()) in targets


def check_prices(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    assert isinstance(found.dtypes["asset"], pd.CategoricalDtype)
    assert list(found["asset"].cat.categories) == sorted(ASSETS)
    assert str(found.dtypes["time"]) == "datetime64[ns, UTC]"
    assert found.dtypes["ReferenceRateUSD"] == "float64"
    assert found["asset"].tolist() == expected["asset"].tolist()
    assert found["time"].tolist() == expected["time"].tolist()
    exact = expected["ReferenceRateUSD"].to_numpy()
    assert np.array_equal(found["ReferenceRateUSD"].to_numpy().view("i8"), exact.view("i8"))


@pytest.mark.parametrize("types", [None, PRICES])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_prices_is_read_whole_and_exact(tmp_path: Path, kind: str, types: object) -> None:
    expected = prices(2000)
    path = written(tmp_path, kind, expected)
    found = read(path, types=None if kind == ".parquet" else types)
    check_prices(found, expected)
    assert found.index.equals(pd.RangeIndex(2000))
    assert not is_open(path)
    found.loc[0, "ReferenceRateUSD"] = 1.0
    assert found.loc[0, "ReferenceRateUSD"] == 1.0


@pytest.mark.parametrize("chunk_rows", [1, 7, 699, 700, 1000, 2000, 5000])
@pytest.mark.parametrize("kind", KINDS)
def test_chunks_are_the_file_in_pieces(tmp_path: Path, kind: str, chunk_rows: int) -> None:
    rows = 40 if chunk_rows < 10 else 2000
    expected = prices(rows)
    path = written(tmp_path, kind, expected)
    pieces = list(chunks(path, chunk_rows=chunk_rows))
    assert [len(piece) for piece in pieces[:-1]] == [chunk_rows] * (len(pieces) - 1)
    assert sum(map(len, pieces)) == rows
    assert len(pieces[-1]) > 0
    check_prices(concat(pieces), expected)
    assert concat(pieces).index.equals(pd.RangeIndex(rows))
    assert not is_open(path)


@pytest.mark.parametrize("kind", KINDS)
def test_columns_come_as_asked(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, kind, prices(1000))
    wanted = ["ReferenceRateUSD", "asset"]
    assert list(read(path, columns=wanted).columns) == wanted
    assert [list(each.columns) for each in chunks(path, columns=wanted, chunk_rows=600)] == [wanted, wanted]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_without_rows_gives_one_frame_without_rows(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, kind, prices(0))
    assert list(read(path).columns) == ["asset", "time", "ReferenceRateUSD"]
    assert process(path, lambda frame: (len(frame), list(frame.columns))) == [
        (0, ["asset", "time", "ReferenceRateUSD"])
    ]
    assert process(path, len, reducer=lambda one, other: one + other) == 0


def test_results_are_collected_or_reduced(tmp_path: Path) -> None:
    path = written(tmp_path, ".csv", prices(2500))
    assert process(path, len, chunk_rows=1000) == [1000, 1000, 500]
    assert process(path, len, chunk_rows=1000, reducer=lambda so_far, size: so_far * 10 + size) == 110500
    kept = process(path, lambda frame: frame[frame["asset"] == "eth"], chunk_rows=1000)
    together = concat(kept)
    assert len(together) == 833
    assert together.index[:2].tolist() == [1, 4]


def test_none_is_a_result_like_any_other(tmp_path: Path) -> None:
    path = written(tmp_path, ".csv", prices(30))
    seen: list[tuple[object, object]] = []
    process(path, lambda _: None, chunk_rows=10, reducer=lambda one, other: seen.append((one, other)))
    assert seen == [(None, None), (None, None)]


MOMENT = "2026-11-23T21:05:00.123456789"

# What a CSV says, and what comes of it: dtype and values. Nothing may be rounded, cut off or lost.
CELLS = [
    (["1", "", "300"], "UInt16", [1, pd.NA, 300]),
    (["-1", "", str(2**53 + 1)], "Int64", [-1, pd.NA, 2**53 + 1]),
    (["true", "", "false"], "boolean", [True, pd.NA, False]),
    (["0.5", "", "-0.0"], "float32", [0.5, np.nan, -0.0]),
    (["0.1", "1e-320", "123456789.123456789"], "float64", [0.1, 1e-320, 123456789.123456789]),
    (["97123.456789012345678", "1", "2"], "float64", [97123.456789012345678, 1.0, 2.0]),
    (["", "", ""], "float32", [np.nan] * 3),
    ([f"{MOMENT}Z"] * 3, "datetime64[ns, UTC]", [pd.Timestamp(f"{MOMENT}Z")] * 3),
    (["2026-11-23T21:05:00+01:00"] * 3, None, [pd.Timestamp("2026-11-23T20:05:00Z")] * 3),
    (["2026-11-23"] * 3, "datetime64[ms]", [pd.Timestamp("2026-11-23")] * 3),
    (['"two\nlines"', '"a,b"', '"say ""x"""'], None, ["two\nlines", "a,b", 'say "x"']),
    (["NA", "null", "x"], None, ["NA", "null", "x"]),
]


@pytest.mark.parametrize(("cells", "dtype", "values"), CELLS)
def test_what_a_csv_says_is_what_the_frame_has(
    tmp_path: Path, cells: list[str], dtype: str | None, values: list[object]
) -> None:
    path = tmp_path / "cells.csv"
    path.write_text("n,x\n" + "".join(f"{number},{cell}\n" for number, cell in enumerate(cells)))
    for frame in (read(path), next(chunks(path))):
        assert repr(frame["x"].tolist()) == repr(values)
        assert dtype is None or str(frame.dtypes["x"]) == dtype


@settings(deadline=None, max_examples=50)
@given(values=st.lists(st.floats(min_value=1e-12, max_value=1e12), min_size=1, max_size=50))
def test_any_price_comes_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, values: list[float]) -> None:
    path = tmp_path_factory.mktemp("any") / "any.csv"
    path.write_text("price\n" + "".join(f"{value!r}\n" for value in values))
    found = read(path, types={"price": "float64"})["price"]
    assert found.tolist() == values


def test_quoted_line_ends_are_text_wherever_they_lie(tmp_path: Path) -> None:
    path = tmp_path / "notes.csv"
    note = "one\n" * 1000
    path.write_text("note\n" + f'"{note}"\n' * 1000)
    assert set(read(path)["note"]) == {note}
    assert sum(process(path, lambda frame: (frame["note"] == note).sum(), chunk_rows=100)) == 1000


def test_whole_numbers_that_would_be_rounded_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "wei.csv"
    path.write_text(f"wei\n{2**63}\n5\n")
    for use in (read, lambda path: list(chunks(path))):
        with pytest.raises(FrameError, match=r"wei\.csv: column 'wei': whole numbers beyond 2\*\*53.*uint64"):
            use(path)
    assert read(path, types={"wei": "uint64"})["wei"].tolist() == [2**63, 5]
    assert read(path, types={"wei": "float64"})["wei"].tolist() == [2.0**63, 5.0]


def test_dtypes_that_differ_by_chunk_are_put_together_without_loss(tmp_path: Path) -> None:
    path = tmp_path / "mixed.csv"
    rows = [(1, "a" if row % 2 else "b", "0.5") for row in range(100)]
    rows += [(70000, f"only {row:050d}", "0.1") for row in range(100)]
    rows += [(-1, "c", "") for row in range(100)]
    path.write_text("n,text,x\n" + "".join(f"{n},{text},{x}\n" for n, text, x in rows))
    pieces = list(chunks(path, chunk_rows=100))
    assert [str(piece.dtypes["n"]) for piece in pieces] == ["uint8", "uint32", "int8"]
    assert len({isinstance(piece.dtypes["text"], pd.CategoricalDtype) for piece in pieces}) == 2
    together = concat(pieces)
    pd.testing.assert_frame_equal(together, read(path))
    assert together["text"].tolist() == [text for _, text, _ in rows]
    assert together["n"].tolist() == [n for n, _, _ in rows]


def test_categories_are_one_set_after_concat(tmp_path: Path) -> None:
    path = tmp_path / "assets.csv"
    path.write_text("asset\n" + "tao\n" * 100 + "btc\n" * 100 + "eth\n" * 100)
    pieces = list(chunks(path, chunk_rows=100))
    assert [list(piece["asset"].cat.categories) for piece in pieces] == [["tao"], ["btc"], ["eth"]]
    assert list(concat(pieces)["asset"].cat.categories) == ["btc", "eth", "tao"]
    assert [list(piece["asset"].cat.categories) for piece in pieces] == [["tao"], ["btc"], ["eth"]]


def test_categories_that_are_no_text_stay_categories() -> None:
    parts = [pd.DataFrame({"n": pd.Categorical(values)}) for values in ([1, 2], [3, 2])]
    together = concat(parts)["n"]
    assert list(together.cat.categories) == [1, 2, 3]
    assert together.tolist() == [1, 2, 3, 2]


def test_ordered_categories_are_not_reordered() -> None:
    first = pd.DataFrame({"size": pd.Categorical(["s", "l"], categories=["s", "m", "l"], ordered=True)})
    together = concat([first, first])
    assert list(together["size"].cat.categories) == ["s", "m", "l"]
    assert together["size"].cat.ordered


def test_concat_refuses_what_does_not_fit() -> None:
    with pytest.raises(FrameError, match="no frames"):
        concat([])
    with pytest.raises(FrameError, match="frame 1 has columns"):
        concat([pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [1]})])


def test_a_parquet_file_keeps_its_index_and_dtypes(tmp_path: Path) -> None:
    path = tmp_path / "kept.parquet"
    frame = pd.DataFrame(
        {
            "n": pd.array([1, None, 2**60], dtype="Int64"),
            "size": pd.Categorical(["s", "l", "s"], categories=["s", "m", "l"], ordered=True),
        },
        index=pd.Index(["x", "y", "z"], name="key"),
    )
    frame.to_parquet(path, row_group_size=2)
    pd.testing.assert_frame_equal(read(path), frame, check_index_type=False)
    pieces = list(chunks(path, chunk_rows=2))
    assert [list(piece.index) for piece in pieces] == [["x", "y"], ["z"]]
    assert concat(pieces)["n"].tolist() == [1, pd.NA, 2**60]
    assert list(concat(pieces)["size"].cat.categories) == ["s", "m", "l"]


def test_objects_that_pandas_wrote_come_back_exact(tmp_path: Path) -> None:
    path = tmp_path / "objects.parquet"
    pd.DataFrame({"n": pd.Series([1, None, 2**60 + 1], dtype=object)}).to_parquet(path)
    assert read(path)["n"].tolist() == [1, None, 2**60 + 1]


def test_a_parquet_file_of_another_writer_keeps_its_nulls(tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    columns = {"n": pa.array([1, None, 2**60 + 1]), "u": pa.array([2**64 - 1, 0, 0], pa.uint64()), "t": ["a", None, ""]}
    pyarrow.parquet.write_table(pa.table(columns), path)
    for frame in (read(path), next(chunks(path))):
        assert frame["n"].tolist() == [1, pd.NA, 2**60 + 1]
        assert frame["u"].tolist() == [2**64 - 1, 0, 0]
        assert frame["t"].isna().tolist() == [False, True, False]


def damaged(folder: Path, what: str) -> Path:
    if what == "missing":
        return folder / "missing.csv"
    if what == "folder":
        (folder / "folder.csv").mkdir()
        return folder / "folder.csv"
    if what in ("empty.csv", "empty.parquet", "empty.csv.gz"):
        (folder / what).write_bytes(b"")
        return folder / what
    kind = {"gz": ".csv.gz", "zst": ".csv.zst", "parquet": ".parquet", "parquet bytes": ".parquet"}.get(what, ".csv")
    path = written(folder, kind, prices(3000))
    whole = path.read_bytes()
    lines = whole.split(b"\n")
    middle = len(whole) // 2
    damage = {
        "gz": lambda: whole[:middle],
        "zst": lambda: whole[:middle],
        "parquet": lambda: whole[:-30],
        "parquet bytes": lambda: whole[:middle] + bytes(255 - each for each in whole[middle:-5000]) + whole[-5000:],
        "short row": lambda: b"\n".join([*lines[:1500], b"btc,x", *lines[1501:]]),
        "long row": lambda: b"\n".join([*lines[:1500], b"btc,a,b,c", *lines[1501:]]),
        "bad price": lambda: b"\n".join([*lines[:1500], lines[1500] + b"x", *lines[1501:]]),
        "bad time": lambda: b"\n".join([*lines[:1500], lines[1500].replace(b"T", b"?"), *lines[1501:]]),
        "not UTF-8": lambda: whole.replace(b"eth", b"\xff\xfe\xfd"),
    }
    path.write_bytes(damage[what]())
    return path


DAMAGE = [
    ("missing", "No such file"),
    ("folder", "directory"),
    ("empty.csv", "Empty CSV file"),
    ("empty.csv.gz", "Empty CSV file"),
    ("empty.parquet", "whole"),
    ("gz", "Truncated compressed stream"),
    ("zst", "Truncated compressed stream"),
    ("parquet", "whole"),
    ("parquet bytes", "whole"),
    ("short row", "Row #1501: Expected 3 columns, got 2"),
    ("long row", "Row #1501: Expected 3 columns, got 4"),
    ("bad price", "column 'ReferenceRateUSD': Row #1501: .*double"),
    ("bad time", "column 'time': Row #1501: .*timestamp"),
    ("not UTF-8", "column 'asset': .*UTF"),
]


@pytest.mark.parametrize(("what", "message"), DAMAGE)
def test_damage_is_told_with_file_and_row_and_nothing_stays_open(tmp_path: Path, what: str, message: str) -> None:
    path = damaged(tmp_path, what)
    types = None if path.suffix == ".parquet" else PRICES
    for use in (lambda: read(path, types=types), lambda: process(path, len, chunk_rows=100, types=types)):
        with pytest.raises(FrameError, match=message) as caught:
            use()
        assert str(path) in str(caught.value)
        assert not is_open(path)


def test_a_guess_that_fails_later_says_how_to_give_the_type(tmp_path: Path) -> None:
    path = tmp_path / "late.csv"
    path.write_text("n,x\n" + "1,2\n" * 700_000 + "1,2.5\n")
    with pytest.raises(FrameError, match=r"column 'x': Row #700002: .*'2\.5'.*types=\{'x': 'float64'"):
        process(path, len)
    total = process(path, lambda frame: frame["x"].sum(), types={"x": "float64"}, reducer=lambda one, two: one + two)
    assert total == 1_400_002.5


def test_text_that_is_not_utf8_is_not_given_as_bytes(tmp_path: Path) -> None:
    path = tmp_path / "latin.csv"
    path.write_bytes("name\nZürich\n".encode("latin-1"))
    with pytest.raises(FrameError, match="column 'name': it is not UTF-8"):
        read(path)


REFUSED = [
    ({"columns": ["price"]}, FrameError, "no column 'price'. It has asset, time, ReferenceRateUSD"),
    ({"types": {"price": "float64"}}, FrameError, "no column 'price'"),
    ({"types": {"asset": "words"}}, SettingError, "'asset' is 'words', which is no type"),
    ({"types": {"asset": 3}}, SettingError, "'asset' is 3, which is no type"),
    ({"columns": "asset"}, SettingError, "columns is 'asset'"),
    ({"columns": []}, SettingError, "columns is"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), REFUSED)
def test_arguments_that_cannot_be_used(tmp_path: Path, arguments: dict, error: type, message: str) -> None:
    path = written(tmp_path, ".csv", prices(10))
    for use in (read, chunks, lambda path, **rest: process(path, len, **rest)):
        with pytest.raises(error, match=message):
            use(path, **arguments)
    assert not is_open(path)


def test_paths_and_chunk_rows_that_cannot_be_used(tmp_path: Path) -> None:
    parquet = written(tmp_path, ".parquet", prices(10))
    with pytest.raises(SettingError, match="Parquet file has types of its own"):
        read(parquet, types=PRICES)
    with pytest.raises(FrameError, match="no column 'price'"):
        read(parquet, columns=["price"])
    for name in ("prices.txt", "prices", "prices.gz", "prices.parquet.gz"):
        with pytest.raises(SettingError, match=r"doesn't end in \.csv"):
            read(tmp_path / name)
    for size in (0, -1, 1.5, True, "10"):
        with pytest.raises(SettingError, match="chunk_rows is"):
            chunks(parquet, chunk_rows=size)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["function", "reducer"])
def test_an_exception_of_the_caller_is_told_with_its_rows(tmp_path: Path, kind: str, where: str) -> None:
    path = written(tmp_path, kind, prices(2500))

    def fail(*_: object) -> object:
        raise ZeroDivisionError("on purpose")

    def function(frame: pd.DataFrame) -> object:
        return fail() if where == "function" and frame.index[0] == 1000 else len(frame)

    with pytest.raises(FrameError, match=r"rows 1000 to 1999 .*ZeroDivisionError: on purpose") as caught:
        process(path, function, chunk_rows=1000, reducer=fail)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert str(path) in str(caught.value)
    assert not is_open(path)


@pytest.mark.parametrize("kind", KINDS)
def test_control_c_comes_through_and_closes_the_file(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, kind, prices(2500))
    was_open = []

    def interrupted(_: pd.DataFrame) -> None:
        was_open.append(is_open(path))
        signal.raise_signal(signal.SIGINT)

    # Where the tests run in the background of a shell, Ctrl-C is ignored.
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            process(path, interrupted, chunk_rows=1000)
    finally:
        signal.signal(signal.SIGINT, usual)
    assert was_open == [True]
    assert not is_open(path)


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_left_early_close_the_file(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, kind, prices(100_000))
    for _ in range(5):
        pieces = chunks(path, chunk_rows=10)
        assert [len(each) for each in itertools.islice(pieces, 2)] == [10, 10]
        pieces.close()
        assert not is_open(path)


@pytest.mark.parametrize("kind", KINDS)
def test_progress_is_told_in_bytes_if_asked(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, kind, prices(2500))
    process(path, len, chunk_rows=1000)
    assert capsys.readouterr() == ("", "")
    process(path, len, chunk_rows=1000, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{path.name}: 100%" in err.split("\r")[-1]
    assert "B/s" in err


PEAK = r"""
import re, sys
sys.path[:] = {path!r}
from precog_runtime.frames import process, read

def peak():
    # Not getrusage: its ru_maxrss begins with what the parent had when it started this process.
    return int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]) // 1024

process({small!r}, len)  # all that is loaded once is loaded
start = peak()
assert process({large!r}, len, chunk_rows=20_000, reducer=lambda one, other: one + other) == {rows}
print(peak() - start)
frame = read({large!r})
print(peak() - start)
"""


@pytest.mark.parametrize(("kind", "share"), [("csv", 2), ("parquet", 4)])
def test_memory_is_bounded_by_the_chunk_not_by_the_file(tmp_path: Path, kind: str, share: int) -> None:
    rows = 1_200_000
    table = pa.table({f"x{number}": np.random.default_rng(number).random(rows) for number in range(4)})
    paths = {size: str(tmp_path / f"{size}.{kind}") for size in ("small", "large")}
    for size, some in (("small", table.slice(0, 3000)), ("large", table)):
        if kind == "csv":
            pyarrow.csv.write_csv(some, paths[size])
        else:
            pyarrow.parquet.write_table(some, paths[size], row_group_size=rows)
    code = PEAK.format(path=sys.path, rows=rows, **paths)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    pieces, whole = map(int, run.stdout.split())
    assert whole > table.nbytes >> 20
    assert pieces < whole / share
