"""Reading price files, whole or in chunks of bounded memory, by pyarrow into optimised frames."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar, overload

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from pandas.api.types import is_object_dtype
from tqdm import tqdm

from precog_runtime.errors import RuntimeFault, SettingError
from precog_runtime.frames.dtypes import optimize_dtypes

Result = TypeVar("Result")
Types = Mapping[str, "pa.DataType | str"]

# What Coin Metrics writes at 1 s. Given as `types`, a damaged price is an error and not a column of text.
PRICES: Types = {"asset": pa.string(), "time": pa.timestamp("ns", "UTC"), "ReferenceRateUSD": pa.float64()}

_CODECS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".lz4": "lz4"}
_BLOCK = 1 << 20  # bytes of CSV parsed at a time, several of them ahead; in chunks, the first decides on types
_EXACT = 2.0**53  # from here on float64 skips whole numbers
_NULLABLE: dict[pa.DataType, Any] = {
    pa.bool_(): pd.BooleanDtype(),
    pa.int8(): pd.Int8Dtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.uint8(): pd.UInt8Dtype(),
    pa.uint16(): pd.UInt16Dtype(),
    pa.uint32(): pd.UInt32Dtype(),
    pa.uint64(): pd.UInt64Dtype(),
}


class FrameError(RuntimeFault):
    """A file can't be read, or what is done with its rows failed; the message says which file and rows, and why."""

    kind = "frames"


# Batches of rows, their schema, and how many bytes of the file have been read once so many rows are done.
_Source = tuple[pa.Schema, Iterator[pa.RecordBatch], Callable[[int], int]]


def read(
    path: str | os.PathLike[str], *, columns: Sequence[str] | None = None, types: Types | None = None
) -> pd.DataFrame:
    """Return a whole file as an optimised frame.

    :param path: .csv, .parquet, or a compressed CSV (.csv.gz, .csv.zst, .csv.bz2, .csv.lz4).
    :param columns: which columns, in this order; all by default.
    :param types: Arrow types, or their names, of CSV columns that are not to be guessed; for instance `PRICES`.
    :raises FrameError: the file is missing or damaged, lacks a column, or a guessed type would lose digits.
    :raises SettingError: an argument can't be used; says which and what to do.
    """
    file = _File(path, columns, types)
    with file.faults_told():
        return file.frame(file.table())


def chunks(
    path: str | os.PathLike[str],
    *,
    chunk_rows: int = 100_000,
    columns: Sequence[str] | None = None,
    types: Types | None = None,
    progress: bool | None = None,
) -> Generator[pd.DataFrame, None, None]:
    """Give a file's rows as optimised frames of `chunk_rows` rows, the last one maybe shorter, in bounded memory.

    Rows are numbered through unless the file has an index of its own. Each chunk has the dtypes of its own values;
    `concat` puts chunks together again. A file without rows gives one frame without rows. Close the iterator (see
    `contextlib.closing`) where it is left early, and the file is closed at once. The other arguments, and what is
    raised, are those of `read`; types of a CSV file are guessed from its first MiB.

    :param progress: a bar of bytes read on stderr; None means if that is a terminal.
    """
    if isinstance(chunk_rows, bool) or not isinstance(chunk_rows, int) or chunk_rows < 1:
        raise SettingError(f"chunk_rows is {chunk_rows!r}: it is no whole number above 0. Its default is 100000")
    return _chunks(_File(path, columns, types), chunk_rows, progress)


@overload
def process(
    path: str | os.PathLike[str],
    function: Callable[[pd.DataFrame], Result],
    *,
    reducer: Callable[[Result, Result], Result],
    chunk_rows: int = ...,
    columns: Sequence[str] | None = ...,
    types: Types | None = ...,
    progress: bool | None = ...,
) -> Result: ...


@overload
def process(
    path: str | os.PathLike[str],
    function: Callable[[pd.DataFrame], Result],
    *,
    reducer: None = ...,
    chunk_rows: int = ...,
    columns: Sequence[str] | None = ...,
    types: Types | None = ...,
    progress: bool | None = ...,
) -> list[Result]: ...


def process(
    path: str | os.PathLike[str],
    function: Callable[[pd.DataFrame], Result],
    *,
    reducer: Callable[[Result, Result], Result] | None = None,
    chunk_rows: int = 100_000,
    columns: Sequence[str] | None = None,
    types: Types | None = None,
    progress: bool | None = None,
) -> Result | list[Result]:
    """Call a function with each chunk of a file and return what came of it. The other arguments are those of `chunks`.

    :param function: is given each chunk in turn.
    :param reducer: combines the result so far with that of the next chunk; without it the results come as a list.
    :raises FrameError: as in `read`; or `function` or `reducer` raised (that is the cause): says at which rows.
    :raises SettingError: an argument can't be used.
    """
    results: list[Result] = []
    start = 0
    with closing(chunks(path, chunk_rows=chunk_rows, columns=columns, types=types, progress=progress)) as frames:
        for frame in frames:
            try:
                result = function(frame)
                if reducer is not None and results:
                    results[0] = reducer(results[0], result)
                else:
                    results.append(result)
            except Exception as error:
                rows = f"rows {start} to {start + len(frame) - 1}" if len(frame) else "no rows"
                raise FrameError(f"{path}: {rows} (counted from 0): {type(error).__name__}: {error}") from error
            start += len(frame)
    return results if reducer is None else results[0]


def concat(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Return frames one below the other, optimised, with one set of categories where theirs differ.

    :param frames: at least one; all with the same columns. Their index is kept.
    :raises FrameError: there is none, or their columns differ.
    """
    given = list(frames)
    if not given:
        raise FrameError("there are no frames to put together")
    for number, frame in enumerate(given):
        if not frame.columns.equals(given[0].columns):
            raise FrameError(f"frame {number} has columns {list(frame.columns)}, frame 0 {list(given[0].columns)}")
    # A frame without rows has no say in dtypes.
    parts = [frame.copy(deep=False) for frame in given if len(frame)] or given[:1]
    for place in range(parts[0].shape[1]):
        _unify(parts, place)
    return optimize_dtypes(pd.concat(parts))


def _unify(parts: list[pd.DataFrame], place: int) -> None:
    dtypes = [part.dtypes.iloc[place] for part in parts]
    known = [dtype for dtype in dtypes if isinstance(dtype, pd.CategoricalDtype)]
    if not known or all(dtype == dtypes[0] for dtype in dtypes):
        return
    if len({dtype.categories.dtype for dtype in known}) > 1:
        return
    target: Any = known[0].categories.dtype
    if len(known) == len(dtypes):
        categories = known[0].categories
        for dtype in known[1:]:
            categories = categories.union(dtype.categories)
        target = pd.CategoricalDtype(categories)
    for part in parts:
        part.isetitem(place, part.iloc[:, place].astype(target).array)


def _chunks(file: _File, chunk_rows: int, progress: bool | None) -> Generator[pd.DataFrame, None, None]:
    with file.faults_told(), file.source(chunk_rows) as (schema, batches, position):
        # tqdm: None turns the bar off unless stderr is a terminal.
        off = None if progress is None else not progress
        with tqdm(total=file.size, unit="B", unit_scale=True, desc=file.path.name, disable=off) as bar:
            start = 0
            for table in _tables(schema, batches, chunk_rows):
                frame = file.frame(table)
                if isinstance(frame.index, pd.RangeIndex):
                    frame.index = pd.RangeIndex(start, start + len(frame))
                start += len(frame)
                yield frame
                bar.update(position(start) - bar.n)


def _tables(schema: pa.Schema, batches: Iterator[pa.RecordBatch], chunk_rows: int) -> Iterator[pa.Table]:
    held = schema.empty_table()
    whole = False
    for batch in batches:
        held = pa.concat_tables([held, pa.Table.from_batches([batch], schema)])
        while held.num_rows >= chunk_rows:
            yield held.slice(0, chunk_rows)
            held = held.slice(chunk_rows)
            whole = True
    if held.num_rows or not whole:
        yield held


class _File:
    """A file, and what is wanted of it."""

    def __init__(self, path: str | os.PathLike[str], columns: Sequence[str] | None, types: Types | None) -> None:
        self.path = Path(path)
        ending = [suffix.lower() for suffix in self.path.suffixes]
        self._codec = _CODECS.get(ending[-1]) if ending else None
        kind = ending[-1 - bool(self._codec) :][:1]
        self._parquet = kind == [".parquet"] and not self._codec
        if not self._parquet and kind != [".csv"]:
            raise SettingError(f"path is {str(path)!r}: its name doesn't end in .csv, .csv.gz, .csv.zst or .parquet")
        if self._parquet and types:
            raise SettingError(f"types is {dict(types)!r}: a Parquet file has types of its own. Leave it out")
        if isinstance(columns, str) or (columns is not None and not columns):
            raise SettingError(f"columns is {columns!r}: it is no list of names. Leave it out for all columns")
        self._columns = None if columns is None else list(columns)
        self._types = {name: _arrow_type(name, kind) for name, kind in (types or {}).items()}
        with self.faults_told():
            self.size = self.path.stat().st_size
            self._require()

    @contextmanager
    def faults_told(self) -> Iterator[None]:
        """Raise FrameError with the file's name for what Arrow and the system raise."""
        try:
            yield
        except pa.ArrowInvalid as error:
            raise FrameError(f"{self.path}: {self._located(error)}") from error
        except (pa.ArrowException, OSError) as error:
            raise FrameError(f"{self.path}: {error}. Is it whole, and of the type that its name says?") from error

    def table(self) -> pa.Table:
        """Return all rows."""
        if self._parquet:
            with self._parquet_file() as file:
                return file.read(columns=self._columns, use_pandas_metadata=True)
        with self._csv_stream() as (_, stream):
            return pyarrow.csv.read_csv(stream, **self._options())

    def source(self, rows: int) -> AbstractContextManager[_Source]:
        """Open the file for reading piece by piece, of about so many rows at the most."""
        return self._parquet_source(rows) if self._parquet else self._csv_source()

    @contextmanager
    def _parquet_file(self, **settings: Any) -> Iterator[pyarrow.parquet.ParquetFile]:
        # Opened here, since pyarrow leaves a file open that turns out to be none.
        with (
            pa.OSFile(str(self.path)) as file,
            pyarrow.parquet.ParquetFile(file, page_checksum_verification=True, **settings) as parquet,
        ):
            yield parquet

    @contextmanager
    def _parquet_source(self, rows: int) -> Iterator[_Source]:
        # Without these two settings a whole row group would be in memory.
        with self._parquet_file(pre_buffer=False, buffer_size=1 << 20) as file:
            total = max(file.metadata.num_rows, 1)
            batches = file.iter_batches(batch_size=rows, columns=self._columns, use_pandas_metadata=True)
            first = next(batches, None)
            schema = file.schema_arrow if first is None else first.schema
            yield schema, _chained(first, batches), lambda done: self.size * done // total

    @contextmanager
    def _csv_stream(self) -> Iterator[tuple[pa.NativeFile, pa.NativeFile]]:
        # Opened here, since pyarrow's own threads keep a file open for a while after they have been told to stop.
        with pa.OSFile(str(self.path)) as file:
            yield file, pa.CompressedInputStream(file, self._codec) if self._codec else file

    @contextmanager
    def _csv_source(self) -> Iterator[_Source]:
        with self._csv_stream() as (file, stream), pyarrow.csv.open_csv(stream, **self._options()) as reader:
            yield reader.schema, iter(reader), lambda _: file.tell()

    def frame(self, table: pa.Table) -> pd.DataFrame:
        """Return rows as an optimised frame.

        :raises FrameError: the guessed type of a CSV column loses something.
        """
        if not self._parquet:
            for name, column in zip(table.column_names, table.columns, strict=True):
                if name not in self._types:
                    self._check_guess(name, column)
        frame: pd.DataFrame = table.to_pandas(date_as_object=False, integer_object_nulls=True)
        # Where pandas wrote the file it says itself what its columns were, and some may be the index.
        if not table.schema.pandas_metadata:
            for place, column in enumerate(table.columns):
                _keep_nulls(frame, place, column)
        return optimize_dtypes(frame)

    def _check_guess(self, name: str, column: pa.ChunkedArray) -> None:
        if pa.types.is_binary(column.type):
            self._refuse(name, "it is not UTF-8. Convert the file", "binary")
        if not pa.types.is_float64(column.type):
            return
        values = column.to_numpy()
        values = values[np.isfinite(values)]
        if (np.abs(values) >= _EXACT).any() and (values == np.trunc(values)).all():
            self._refuse(name, "whole numbers beyond 2**53, which float64 rounds", "uint64")

    def _refuse(self, name: str, why: str, kind: str) -> NoReturn:
        raise FrameError(f"{self.path}: column {name!r}: {why}, or give its type: types={{{name!r}: {kind!r}}}")

    def _options(self, threads: bool = True) -> dict[str, Any]:
        return {
            "read_options": pyarrow.csv.ReadOptions(block_size=_BLOCK, use_threads=threads),
            "parse_options": pyarrow.csv.ParseOptions(newlines_in_values=True),
            "convert_options": pyarrow.csv.ConvertOptions(include_columns=self._columns, column_types=self._types),
        }

    def _names(self) -> list[str]:
        if self._parquet:
            with self._parquet_file() as file:
                return list(file.schema_arrow.names)
        options = self._options() | {"convert_options": None}
        with self._csv_stream() as (_, stream), pyarrow.csv.open_csv(stream, **options) as reader:
            return list(reader.schema.names)

    def _require(self) -> None:
        names = self._names()
        wanted = dict.fromkeys([*(self._columns or []), *self._types])
        missing = [name for name in wanted if name not in names]
        if missing:
            raise FrameError(f"{self.path}: there is no column {missing[0]!r}. It has {', '.join(names)}")

    def _located(self, error: pa.ArrowInvalid) -> str:
        text = str(error)
        if self._parquet or "Empty CSV file" in text:
            return f"{text.rstrip('.')}. Is it whole, and of the type that its name says?"
        # Arrow knows the row only if it reads without threads.
        try:
            options = self._options(threads=False)
            with self._csv_stream() as (_, stream), pyarrow.csv.open_csv(stream, **options) as reader:
                deque(reader, maxlen=0)
        except pa.ArrowInvalid as again:
            text = str(again)
        found = re.match(r"In CSV column #(\d+): (.*)", text, re.DOTALL)
        if not found:
            return text
        name = self._names()[int(found[1])]
        if name in self._types:
            return f"column {name!r}: {found[2]}"
        kind = "float64" if "to int64" in found[2] else "string"
        return f"column {name!r}: {found[2]}. If its type was guessed wrong, give it: types={{{name!r}: {kind!r}}}"


def _arrow_type(name: str, kind: pa.DataType | str) -> pa.DataType:
    try:
        return pa.type_for_alias(kind) if isinstance(kind, str) else pa.field(name, kind).type
    except (TypeError, ValueError) as error:
        raise SettingError(
            f"types: {name!r} is {kind!r}, which is no type of Arrow. Give one like 'float64' or pyarrow.string()"
        ) from error


def _keep_nulls(frame: pd.DataFrame, place: int, column: pa.ChunkedArray) -> None:
    """Give a column the dtype that holds Arrow's nulls: integers would be objects, a column of nothing too."""
    if pa.types.is_null(column.type):
        frame.isetitem(place, np.full(len(frame), np.nan))
    elif column.null_count and column.type in _NULLABLE:
        frame.isetitem(place, column.to_pandas(types_mapper=_NULLABLE.get).array)
    elif column.null_count and pa.types.is_string(column.type) and is_object_dtype(frame.dtypes.iloc[place]):
        text = frame.iloc[:, place]
        frame.isetitem(place, text.where(text.notna(), np.nan).array)


def _chained(first: pa.RecordBatch | None, rest: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    if first is not None:
        yield first
        yield from rest
