"""Narrower dtypes that lose nothing: `narrow.astype(frame.dtypes)` is the frame again, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

_UNSIGNED = tuple(np.dtype(name) for name in ("uint8", "uint16", "uint32"))
_SIGNED = tuple(np.dtype(name) for name in ("int8", "int16", "int32"))
_MASKED_INTEGERS = (
    pd.Int16Dtype,
    pd.Int32Dtype,
    pd.Int64Dtype,
    pd.UInt16Dtype,
    pd.UInt32Dtype,
    pd.UInt64Dtype,
)
_GLANCE = 1024  # values that are looked at before all of them are: prices mostly fail on the first


@dataclass(frozen=True)
class ColumnBytes:
    """What one column took before and takes after.

    :ivar name: the column's label.
    :ivar before: bytes, the objects it refers to included.
    :ivar after: bytes.
    :ivar dtype_before: name of its dtype.
    :ivar dtype_after: name of its dtype.
    """

    name: Hashable
    before: int
    after: int
    dtype_before: str
    dtype_after: str


def optimize_dtypes(frame: pd.DataFrame, *, categories: bool = True) -> pd.DataFrame:
    """Return the same rows, columns, labels and values in the smallest dtypes that hold every value exactly.

    Integers (numpy, nullable and Arrow-backed) get the narrowest type of their range, unsigned if none is negative;
    64-bit floats become 32-bit ones if every value comes back with the same bits; text becomes a category, its
    categories sorted, if that takes fewer bytes. All else stays as it is: mixed objects (None among text is one: a
    category knows NaN only), booleans, times, periods, categories with those they don't use, and the index.

    :param frame: any frame; it is neither changed nor shares memory with the result.
    :param categories: whether text may become a category.
    """
    columns = {place: _narrow(frame.iloc[:, place], categories) for place in range(frame.shape[1])}
    # A dict of copies: columns taken out of a block would keep the whole block of the input alive.
    narrow = pd.DataFrame(columns, index=frame.index, copy=True)
    narrow.columns = frame.columns
    narrow.attrs = dict(frame.attrs)
    return narrow


def report(before: pd.DataFrame, after: pd.DataFrame) -> list[ColumnBytes]:
    """Return what each column took and takes, in the frame's order.

    :param after: what `optimize_dtypes` made of `before`.
    :raises ValueError: their columns differ.
    """
    if not before.columns.equals(after.columns):
        raise ValueError(f"the frames' columns differ: {list(before.columns)} and {list(after.columns)}")
    return [
        ColumnBytes(name, _bytes(old), _bytes(new), str(old.dtype), str(new.dtype))
        for (name, old), (_, new) in zip(before.items(), after.items(), strict=True)
    ]


def _bytes(column: pd.Series[Any]) -> int:
    return int(column.memory_usage(index=False, deep=True))


def _narrow(column: pd.Series[Any], categories: bool) -> pd.Series[Any]:
    dtype = column.dtype
    if not len(column):
        return column
    if isinstance(dtype, pd.ArrowDtype):
        return _narrow_arrow(column, dtype.pyarrow_dtype, categories)
    if isinstance(dtype, _MASKED_INTEGERS):
        return _narrow_masked(column)
    if isinstance(dtype, pd.Float64Dtype):
        return column.astype("Float32") if _fits_float32(column.to_numpy("float64", na_value=np.nan)) else column
    if isinstance(dtype, pd.StringDtype):
        return _categorised(column) if categories else column
    if not isinstance(dtype, np.dtype):
        return column
    if dtype.kind in "iu":
        values = column.to_numpy()
        return column.astype(_narrowest(int(values.min()), int(values.max()), dtype))
    if dtype.kind == "f" and dtype.itemsize == 8:
        return column.astype("float32") if _fits_float32(column.to_numpy()) else column
    if dtype.kind == "O" and categories and _is_text(column.to_numpy()):
        return _categorised(column)
    return column


def _narrowest(low: int, high: int, dtype: np.dtype[Any]) -> np.dtype[Any]:
    for narrow in _UNSIGNED if low >= 0 else _SIGNED:
        bounds = np.iinfo(narrow)
        if narrow.itemsize < dtype.itemsize and bounds.min <= low and high <= bounds.max:
            return narrow
    return dtype


def _range(column: pd.Series[Any]) -> tuple[int, int]:
    present = column.dropna()
    return (int(present.min()), int(present.max())) if len(present) else (0, 0)


def _narrow_masked(column: pd.Series[Any]) -> pd.Series[Any]:
    old = np.dtype(str(column.dtype).lower())
    new = _narrowest(*_range(column), old)
    name: Any = new.name.replace("uint", "UInt").replace("int", "Int")
    return column if new == old else column.astype(name)


def _narrow_arrow(column: pd.Series[Any], kind: pa.DataType, categories: bool) -> pd.Series[Any]:
    if pa.types.is_integer(kind):
        old = np.dtype(kind.to_pandas_dtype())
        new = _narrowest(*_range(column), old)
        return column if new == old else column.astype(pd.ArrowDtype(pa.from_numpy_dtype(new)))
    if pa.types.is_float64(kind):
        # Arrow tells NaN from null, and pandas doesn't in every version: so this stays within Arrow.
        values = pa.table({"x": column.array}).column("x")
        if _fits_float32(values.to_numpy()):
            narrow = pd.arrays.ArrowExtensionArray(values.cast(pa.float32()))
            return pd.Series(narrow, index=column.index, name=column.name)
    if categories and (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return _categorised(column)
    return column


def _fits_float32(values: npt.NDArray[np.float64]) -> bool:
    return _same_as_float32(values[:_GLANCE]) and _same_as_float32(values[_GLANCE:])


def _same_as_float32(values: npt.NDArray[np.float64]) -> bool:
    # Bits, not values: -0.0 equals 0.0, and no NaN equals itself. A signalling NaN comes back quiet: not the same.
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        back = values.astype(np.float32).astype(values.dtype)
    return np.array_equal(np.ascontiguousarray(values).view(np.int64), back.view(np.int64))


def _is_text(values: npt.NDArray[Any]) -> bool:
    kinds = set(map(type, values))
    if kinds == {str, float}:
        return all(math.isnan(value) for value in values if type(value) is float)
    return kinds == {str}


def _categorised(column: pd.Series[Any]) -> pd.Series[Any]:
    codes, found = column.factorize()
    names = pd.Index(found)
    category = pd.Series(pd.Categorical.from_codes(codes, names), index=column.index, name=column.name)
    if _bytes(category) >= _bytes(column):
        return column
    order = names.argsort()
    rank = np.full(len(names) + 1, -1)  # the last is that of a missing value, whose code is -1
    rank[order] = np.arange(len(names))
    # Not by reorder_categories: that leaves a hash table in the categories, which can take more than the text did.
    sorted_names = pd.Categorical.from_codes(rank[codes], names.take(order))
    return pd.Series(sorted_names, index=column.index, name=column.name)
