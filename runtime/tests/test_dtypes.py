from __future__ import annotations

import datetime
import decimal
import subprocess
import sys

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as npst

from precog_runtime.frames import optimize_dtypes, report


def total(frame: pd.DataFrame) -> int:
    return int(frame.memory_usage(deep=True).sum())


def bits(values: pd.Series) -> list[str]:
    """What every value is, told apart where == doesn't: the sign of zero, the payload of NaN, None from NaN."""
    if values.dtype.kind == "f" and isinstance(values.dtype, np.dtype):
        return [value.tobytes().hex() for value in values.to_numpy()]
    return [f"{type(value).__name__} {value!r}" for value in values]


def lossless(frame: pd.DataFrame) -> pd.DataFrame:
    """Optimise a frame, check all that has to hold for any frame, and return the result."""
    untouched = frame.copy(deep=True)
    narrow = optimize_dtypes(frame)
    # The input is measured afterwards: Python's strings grow when something asks for their UTF-8.
    assert total(narrow) <= total(frame)
    assert narrow is not frame
    pd.testing.assert_index_equal(narrow.index, frame.index, exact=True)
    pd.testing.assert_index_equal(narrow.columns, frame.columns, exact=True)
    for place in range(frame.shape[1]):
        old, new = frame.iloc[:, place], narrow.iloc[:, place]
        back = new.astype(old.dtype)
        pd.testing.assert_series_equal(back, old, check_exact=True)
        assert bits(back) == bits(old)
        assert new.isna().tolist() == old.isna().tolist()
        assert new.tolist() == old.tolist() or old.isna().any()
    pd.testing.assert_frame_equal(frame, untouched, check_exact=True)
    return narrow


def of(values: object, dtype: object = None) -> str:
    """The dtype that one column ends up with."""
    return str(lossless(pd.DataFrame({"x": pd.Series(values, dtype=dtype)})).dtypes["x"])


INTEGERS = [
    ([0, 255], "uint8"),
    ([0, 256], "uint16"),
    ([0, 65535], "uint16"),
    ([0, 65536], "uint32"),
    ([0, 2**32 - 1], "uint32"),
    ([0, 2**32], "int64"),
    ([2**63 - 1], "int64"),
    ([-1, 127], "int8"),
    ([-128, 127], "int8"),
    ([-129], "int16"),
    ([-1, 128], "int16"),
    ([-32768, 32767], "int16"),
    ([-32769], "int32"),
    ([-1, 32768], "int32"),
    ([-(2**31), 2**31 - 1], "int32"),
    ([-(2**31) - 1], "int64"),
    ([-1, 2**31], "int64"),
    ([7, 7, 7], "uint8"),
]


@pytest.mark.parametrize(("values", "expected"), INTEGERS)
def test_an_integer_gets_the_narrowest_type_of_its_range(values: list[int], expected: str) -> None:
    assert of(values, "int64") == expected
    masked = expected.replace("uint", "UInt").replace("int", "Int")
    assert of(values, "Int64") == masked
    assert of([*values, None], "Int64") == masked
    assert of(values, pd.ArrowDtype(pa.int64())) == f"{expected}[pyarrow]"
    assert of([*values, None], pd.ArrowDtype(pa.int64())) == f"{expected}[pyarrow]"


def test_unsigned_integers_beyond_int64_stay_exact() -> None:
    assert of([0, 2**64 - 1], "uint64") == "uint64"
    assert of([0, 2**64 - 1, None], "UInt64") == "UInt64"
    assert of([2**64 - 1, None], pd.ArrowDtype(pa.uint64())) == "uint64[pyarrow]"
    assert of([0, 300], "uint64") == "uint16"


def test_integers_that_are_narrow_already_stay() -> None:
    assert of([1, 300], "int16") == "int16"
    assert of([1], "int8") == "int8"
    assert of([1], "Int8") == "Int8"


def test_only_nulls_take_the_least() -> None:
    assert of([None, None], "Int64") == "UInt8"
    assert of([None], pd.ArrowDtype(pa.int32())) == "uint8[pyarrow]"
    assert of([np.nan, np.nan], "float64") == "float32"


QUIET = np.array([0x7FF8000000000000], "u8").view("f8")[0]
NEGATIVE = np.array([0xFFF8000000000000], "u8").view("f8")[0]
SIGNALLING = np.array([0x7FF0000000000001], "u8").view("f8")[0]
LOW_PAYLOAD = np.array([0x7FF8000000000001], "u8").view("f8")[0]

FLOATS = [
    ([0.5, -1.25, 3.0], "float32"),
    ([np.inf, -np.inf, 1.0], "float32"),
    ([-0.0, 0.0], "float32"),
    ([QUIET, NEGATIVE], "float32"),
    ([SIGNALLING], "float64"),
    ([LOW_PAYLOAD], "float64"),
    ([0.1], "float64"),
    ([97123.45678], "float64"),
    ([16777216.0], "float32"),
    ([16777217.0], "float64"),
    ([2.0**127], "float32"),
    ([2.0**128], "float64"),
    ([1e300], "float64"),
    ([2.0**-149], "float32"),
    ([2.0**-150], "float64"),
    ([5e-324], "float64"),
    ([0.5] * 5000 + [0.1], "float64"),
]


@pytest.mark.parametrize(("values", "expected"), FLOATS)
def test_a_float_is_downcast_only_if_every_bit_comes_back(values: list[float], expected: str) -> None:
    assert of(np.array(values), "float64") == expected


@pytest.mark.parametrize(("values", "expected"), [([0.5, None], 32), ([0.1, None], 64), ([2.0**128], 64)])
def test_nullable_and_arrow_floats(values: list[float | None], expected: int) -> None:
    assert of(values, "Float64") == f"Float{expected}"
    name = {32: "float", 64: "double"}[expected]
    assert of(values, pd.ArrowDtype(pa.float64())) == f"{name}[pyarrow]"


def test_arrow_tells_nan_from_null_before_and_after() -> None:
    held = pa.chunked_array([pa.array([0.5, np.nan]), pa.array([None, -0.0])])
    frame = pd.DataFrame({"x": pd.Series(pd.arrays.ArrowExtensionArray(held))})
    narrow = optimize_dtypes(frame)["x"].array.__arrow_array__()
    assert narrow.type == pa.float32()
    assert repr(narrow.to_pylist()) == "[0.5, nan, None, -0.0]"


def test_wide_and_half_floats_stay() -> None:
    assert of([0.5], "float16") == "float16"
    assert of([0.5], np.longdouble) == str(np.dtype(np.longdouble))
    assert of([0.5 + 1j], "complex128") == "complex128"


TEXTS = [
    (["btc", "eth"] * 500, "category"),
    (["btc", np.nan] * 500, "category"),
    (["tao", "", "tao"] * 500, "category"),
    (["\ud800", "a"] * 500, "category"),
    ([f"{number:032x}" for number in range(500)], "object"),
    (["btc"], "object"),
    (["btc", None] * 500, "object"),
    (["btc", pd.NA] * 500, "object"),
    (["btc", 1] * 500, "object"),
    (["btc", 1.5] * 500, "object"),
    (["btc", b"btc"] * 500, "object"),
    (["1", 1, True] * 500, "object"),
    ([np.str_("btc")] * 500, "object"),
    ([2**70, 1] * 500, "object"),
    ([np.nan] * 500, "object"),
    ([None] * 500, "object"),
    ([["list"]] * 500, "object"),
    ([decimal.Decimal("1.10")] * 500, "object"),
    ([datetime.date(2026, 11, 23)] * 500, "object"),
    ([True, False] * 500, "object"),
]


@pytest.mark.parametrize(("values", "expected"), TEXTS)
def test_only_text_becomes_a_category_and_only_if_smaller(values: list[object], expected: str) -> None:
    assert of(values, "object") == expected


@pytest.mark.parametrize("dtype", ["string", "str", pd.ArrowDtype(pa.string()), pd.ArrowDtype(pa.large_string())])
def test_text_dtypes_become_categories_if_smaller(dtype: object) -> None:
    assert of(["btc", "eth", "btc"] * 500, dtype) == "category"
    assert of([f"{number:032x}" for number in range(500)], dtype) != "category"
    if dtype != "str":
        assert of(["btc", None, "btc"] * 500, dtype) == "category"


def test_a_category_sorts_as_its_text_does() -> None:
    frame = pd.DataFrame({"asset": pd.Series(["tao", "btc", "eth"] * 500, dtype=object)})
    narrow = optimize_dtypes(frame)
    assert list(narrow["asset"].cat.categories) == ["btc", "eth", "tao"]
    assert narrow["asset"].sort_values().tolist() == sorted(frame["asset"])


def test_categories_can_be_declined() -> None:
    frame = pd.DataFrame({"asset": ["btc", "eth"] * 500, "n": 1})
    narrow = optimize_dtypes(frame, categories=False)
    assert narrow.dtypes["asset"] == frame.dtypes["asset"]
    assert narrow.dtypes["n"] == "uint8"


UNCHANGED = [
    pd.Series([True, False]),
    pd.Series([True, None], dtype="boolean"),
    pd.Series([True, None], dtype=pd.ArrowDtype(pa.bool_())),
    pd.Series(pd.to_datetime(["2026-11-23T21:05:00.123456789", None])),
    pd.Series(pd.to_datetime(["2026-11-23T21:05:00Z", None])),
    pd.Series(pd.to_datetime(["2026-11-23T21:05:00Z"])).dt.tz_convert("Europe/Zurich"),
    pd.Series(pd.to_timedelta([1, None], unit="s")),
    pd.Series(pd.period_range("2026-11", periods=2, freq="M")),
    pd.Series(pd.interval_range(0, 3)),
    pd.Series(pd.Categorical(["a", "b"], categories=["b", "a", "unused"], ordered=True)),
    pd.Series(pd.Categorical([3, None], categories=[3, 2**40])),
    pd.Series(pd.arrays.SparseArray([0, 0, 1])),
    pd.Series([decimal.Decimal("1.5")], dtype=pd.ArrowDtype(pa.decimal128(5, 2))),
    pd.Series([[1]], dtype=pd.ArrowDtype(pa.list_(pa.int64()))),
    pd.Series([], dtype="int64"),
    pd.Series([], dtype="object"),
    pd.Series([], dtype="float64"),
]


@pytest.mark.parametrize("column", UNCHANGED, ids=lambda column: str(column.dtype))
def test_other_dtypes_stay_as_they_are(column: pd.Series) -> None:
    assert lossless(pd.DataFrame({"x": column})).dtypes["x"] == column.dtype


def test_labels_index_and_order_stay() -> None:
    index = pd.MultiIndex.from_tuples([("a", 1), ("a", 1), ("b", 2)], names=["one", "two"])
    columns = pd.MultiIndex.from_tuples([("x", 1), ("x", 1), ("w", 0)], names=["up", "down"])
    frame = pd.DataFrame([[1, 0.5, -1], [2, 0.1, 3], [300, 1.5, 4]], index=index, columns=columns)
    frame.attrs["source"] = "test"
    narrow = lossless(frame)
    assert [str(dtype) for dtype in narrow.dtypes] == ["uint16", "float64", "int8"]
    assert narrow.attrs == {"source": "test"}


def test_duplicate_names_and_a_duplicate_index() -> None:
    frame = pd.DataFrame([[1, 1000, "x"], [2, 2000, "y"]], columns=["a", "a", "a"], index=[5, 5])
    frame.index.name = "row"
    frame.columns.name = "what"
    assert [str(dtype) for dtype in lossless(frame).dtypes[:2]] == ["uint8", "uint16"]


@pytest.mark.parametrize(
    "frame", [pd.DataFrame(), pd.DataFrame(index=[1, 2]), pd.DataFrame(columns=["a"]), pd.DataFrame({"a": []})]
)
def test_empty_frames(frame: pd.DataFrame) -> None:
    assert lossless(frame).shape == frame.shape


def test_the_result_shares_nothing_with_the_input() -> None:
    frame = pd.DataFrame({"price": [0.1, 0.2], "seen": [True, False], "n": [1, 2]})
    narrow = optimize_dtypes(frame)
    for name in frame:
        assert not np.shares_memory(narrow[name].to_numpy(), frame[name].to_numpy())
    narrow.loc[0, "price"] = 7.0
    assert frame.loc[0, "price"] == 0.1


def test_strided_and_swapped_columns() -> None:
    rows = np.arange(12, dtype="f8").reshape(6, 2)
    assert [str(dtype) for dtype in lossless(pd.DataFrame(rows[::2])).dtypes] == ["float32", "float32"]
    swapped = pd.DataFrame({"x": np.array([0.5, 1.5], dtype=">f8"), "n": np.array([1, 256], dtype=">i8")})
    narrow = optimize_dtypes(swapped)
    assert narrow["x"].tolist() == [0.5, 1.5]
    assert narrow["n"].tolist() == [1, 256]
    assert total(narrow) < total(swapped)


def test_report_tells_bytes_by_column() -> None:
    frame = pd.DataFrame({"n": np.arange(1000), "price": np.full(1000, 0.1)})
    told = report(frame, optimize_dtypes(frame))
    assert [(each.name, each.before, each.after) for each in told] == [("n", 8000, 2000), ("price", 8000, 8000)]
    assert (told[0].dtype_before, told[0].dtype_after) == ("int64", "uint16")
    with pytest.raises(ValueError, match="differ"):
        report(frame, frame[["n"]])


def text_columns(size: int) -> st.SearchStrategy[pd.Series]:
    words = st.lists(st.text(max_size=12), min_size=1, max_size=4)
    values = words.flatmap(lambda some: st.lists(st.sampled_from([*some, np.nan]), min_size=size, max_size=size))
    return values.map(lambda some: pd.Series(some, dtype=object))


def number_columns(size: int) -> st.SearchStrategy[pd.Series]:
    edges = [0, 1, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1]
    integers = st.sampled_from([*edges, *[-edge for edge in edges], -(2**63)]) | st.integers(-(2**63), 2**63 - 1)
    floats = st.floats(width=32) | st.floats(width=16) | st.floats()
    some = st.one_of(
        npst.arrays("int64", size, elements=integers),
        npst.arrays("int64", size, elements=st.integers(-300, 300)),
        npst.arrays("uint64", size),
        npst.arrays("float64", size, elements=floats),
        npst.arrays("float64", size, elements=st.floats(width=32)),
        npst.arrays(npst.integer_dtypes(endianness="="), size),
        npst.arrays(npst.boolean_dtypes(), size),
    )
    plain = some.map(pd.Series)
    nullable = st.lists(st.none() | integers, min_size=size, max_size=size)
    return st.one_of(
        plain,
        nullable.map(lambda values: pd.Series(values, dtype="Int64")),
        nullable.map(lambda values: pd.Series(values, dtype=pd.ArrowDtype(pa.int64()))),
    )


@st.composite
def frames(draw: st.DrawFn) -> pd.DataFrame:
    size = draw(st.integers(0, 20))
    columns = draw(st.lists(st.one_of(number_columns(size), text_columns(size)), max_size=4))
    frame = pd.concat(columns, axis=1) if columns else pd.DataFrame(index=range(size))
    frame.columns = draw(st.lists(st.sampled_from("abc"), min_size=len(columns), max_size=len(columns)))
    frame.index = draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    return frame


@pytest.mark.parametrize("values", [["0", "0", ""], ["0", ""], ["b", "a", np.nan, "b"]], ids=str)
def test_categories_that_were_not_in_order_take_no_more_than_the_text(values: list[object]) -> None:
    lossless(pd.DataFrame({"x": pd.Series(values, dtype=object)}))


@settings(deadline=None, max_examples=200)
@given(frame=frames())
def test_any_frame_comes_back_whole_and_never_larger(frame: pd.DataFrame) -> None:
    narrow = lossless(frame)
    assert [str(dtype) for dtype in optimize_dtypes(narrow).dtypes] == [str(dtype) for dtype in narrow.dtypes]


BLOCKED = """
import sys
import precog_runtime
loaded = [name for name in ("pandas", "pyarrow", "tqdm") if name in sys.modules]
sys.modules[{name!r}] = None
try:
    import precog_runtime.frames
except ModuleNotFoundError as error:
    print(loaded, error)
"""


@pytest.mark.parametrize("name", ["pandas", "pyarrow", "tqdm"])
def test_the_package_loads_without_the_extra_and_says_what_is_missing(name: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}\n{BLOCKED.format(name=name)}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.startswith("[] ")
    assert "pip install precog-runtime[frames]" in run.stdout
    assert name in run.stdout
