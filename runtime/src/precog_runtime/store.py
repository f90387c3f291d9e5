"""One SQLite file, written by one thread in batches: the log of predictions.

Write-ahead log with synchronous=NORMAL (https://www.sqlite.org/wal.html): whoever reads never waits for whoever writes,
a committed transaction survives the death of the process, and the file is whole after a loss of power, at the price of
the last transactions before it.
"""

from __future__ import annotations

import fcntl
import logging
import re
import sqlite3
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

from precog_runtime.metrics import Metrics

MEMORY = ":memory:"
LINGER_S = 0.2  # how long rows wait for company
BATCH_ROWS = 2_000  # rows that are committed without waiting for more
QUEUE_ROWS = 20_000  # rows kept while the disk is slow or away; about 10 MB
BUSY_S = 5.0  # how long another process may hold the file
READ_BUSY_S = 0.1  # readers wait only where another process puts a file right after a crash
READ_S = 2.0  # how long a reader waits for other readers, and for the writer of a database in memory
LOCK_S = 2.0  # how long another process may be opening the file, or setting it aside
CLOSE_S = 10.0  # how long the last rows may take; then they are lost
RETRY_S = 1.0  # first pause after a failure; it doubles up to:
LONGEST_RETRY_S = 30.0
VACUUM_PAGES = 512  # pages given back at a time, 2 MB: other processes get their turn in between
WAL_BYTES = 4_000_000  # the write-ahead log is cut back to this
KEPT_ASIDE = 2  # damaged files, the newest; 2 or more. A log has up to 500 MB
SUFFIXES = ("-wal", "-shm", "")  # of the files that make up one database
PAGE_CACHE_KIB = 256  # of each connection; the default of 2 MiB fills up slowly, which looks like a leak

_log = logging.getLogger(__name__)

Row = Sequence[Any]
Statement = tuple[str, Sequence[Row]]
Transaction = Sequence[Statement]

# What is wrong with a row rather than with the disk. (UnicodeEncodeError, of text that is no UTF-8, is a ValueError.)
_ROW_ERRORS = (
    sqlite3.IntegrityError,
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
    sqlite3.DataError,
    OverflowError,
    TypeError,
    ValueError,
)


class Column(NamedTuple):
    """A column that a file of an earlier release lacks.

    :ivar kind: its type in SQL; no NOT NULL, as there are rows.
    :ivar view: made anew where the column is added.
    """

    table: str
    name: str
    kind: str
    view: str


class Schema(NamedTuple):
    """What a file holds.

    :ivar application: PRAGMA application_id, so that a file of another kind is known as such.
    :ivar version: PRAGMA user_version; counted up when the tables change.
    :ivar statements: make tables, indexes and views, each "IF NOT EXISTS".
    :ivar added: columns of theirs that came later.
    """

    application: int
    version: int
    statements: tuple[str, ...]
    added: tuple[Column, ...] = ()


class _NotOurs(Exception):
    """The file is damaged, or of another kind or version."""


class Store:
    """A file of rows. All methods can be called from any thread, and several processes may use one file.

    Without a usable disk the rows wait in memory, up to `QUEUE_ROWS`, and are written when it is usable again; what
    goes beyond is dropped. All of it is counted (precog_errors_total): store_full (transactions dropped),
    store_unavailable (attempts to write that failed), store_damaged (files set aside), store_row (transactions refused
    for what they hold), store_read (queries that failed).
    """

    def __init__(self, path: str, schema: Schema, metrics: Metrics, retry_s: float = RETRY_S) -> None:
        """Open the file, or make it; never fails for the disk's sake.

        :param path: the file; missing folders are made. ":memory:" keeps the rows in memory.
        :param retry_s: seconds before the first new attempt after a failure.
        """
        self._path = path
        self._schema = schema
        self._metrics = metrics
        self._retry_s = retry_s
        self._changed = threading.Condition()
        self._queue: deque[Transaction] = deque()
        self._rows = 0  # queued, or being written
        self._accepted = 0  # transactions, ever
        self._settled = 0  # of these, on disk or refused
        self._failures = 0  # in a row
        self._attempts = 0
        self._attempting = False
        self._flushing = 0  # callers of flush() that wait
        self._hurry = False  # one of them wants an attempt now, whatever the pause
        self._shrinking = False
        self._closing = False
        self._suspicion = ""  # why the file must be set aside
        self._writing: sqlite3.Connection | None = None
        self._write_lock = threading.Lock()
        self._inode = 0
        self._reading: sqlite3.Connection | None = None
        # A database in memory has one connection, for both.
        self._read_lock = self._write_lock if path == MEMORY else threading.Lock()
        self._attempt(lambda _: None)
        self._thread = threading.Thread(target=self._run, name=f"store {Path(path).name}", daemon=True)
        self._thread.start()

    def put(self, sql: str, rows: Sequence[Row]) -> None:
        """Queue one statement, run once for each row; never waits.

        :param sql: one that compiles: with one that doesn't the file is taken for unusable, as without its tables.
        """
        self.put_all([(sql, rows)])

    def put_all(self, transaction: Transaction, share: float = 1.0) -> None:
        """Queue statements that are written together or not at all, in this order; never waits.

        :param share: of the queue, 0 to 1, beyond which they are dropped: less for what must not drive out other rows.
        """
        size = sum(len(rows) for _, rows in transaction)
        with self._changed:
            if not self._closing and self._rows + size <= QUEUE_ROWS * share:
                before, self._rows = self._rows, self._rows + size
                self._queue.append(transaction)
                self._accepted += 1
                if len(self._queue) == 1 or before < BATCH_ROWS <= self._rows:
                    self._changed.notify_all()
                return
        self._metrics.error("store_full")

    def query(self, sql: str, args: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return what is on disk (see `flush`); nothing, and counted, if it can't be read."""
        if not self._read_lock.acquire(timeout=READ_S):
            self._metrics.error("store_read")
            return []
        try:
            connection = self._reader()
            return connection.execute(sql, args).fetchall() if connection else []
        except (sqlite3.Error, OverflowError, ValueError) as error:
            self._metrics.error("store_read")
            _log.warning("%s can't be read: %s", self._path, error)
            self._drop_reader()
            if _damaged(error):
                self._suspect(error)
            return []
        finally:
            self._read_lock.release()

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until all that was queued before is on disk.

        :return: whether it is: False if the disk can't be written now, or not in time.
        """
        with self._changed:
            # An attempt that has begun says nothing of what was queued since.
            target, attempts = self._accepted, self._attempts + self._attempting
            self._flushing += 1
            self._hurry = True
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: (
                    self._settled >= target
                    or (self._failures and self._attempts > attempts)
                    or (self._closing and not self._rows)
                ),
                timeout_s,
            )
            self._flushing -= 1
            return self._settled >= target

    def shrink(self) -> None:
        """Give the room of deleted rows back to the disk, after what is queued; never waits."""
        with self._changed:
            self._shrinking = True
            self._changed.notify_all()

    def close(self) -> None:
        """Write all that is queued and close the file; what can't be written is lost, and told. Safe to call twice."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            _log.warning("%s: its last rows are lost, the disk has not answered for %g s", self._path, CLOSE_S)
            return
        self._close_reader()

    def _run(self) -> None:
        self._verify()
        while self._wait():
            batch = self._take()
            done = self._attempt(partial(self._write, batch))
            if self._suspicion:  # damage is found by using the file; at once again, with a new one
                done = self._attempt(partial(self._write, [] if done else batch))
            with self._changed:
                self._attempts += 1
                self._attempting = False
                if done:
                    self._rows -= sum(len(rows) for transaction in batch for _, rows in transaction)
                    self._settled += len(batch)
                else:
                    self._queue.extendleft(reversed(batch))
                self._changed.notify_all()
                if self._closing and not done:
                    break
                vacuum, self._shrinking = self._shrinking and done, self._shrinking and not done
            if vacuum:
                self._attempt(_vacuum)
        self._finish()

    def _wait(self) -> bool:
        """Wait for something to do, and for its company; False when all is done and the store is to be closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._shrinking or self._suspicion or self._closing)
            if self._failures:
                pause = min(self._retry_s * 2.0 ** min(self._failures - 1, 10), LONGEST_RETRY_S)
                self._changed.wait_for(lambda: self._closing or self._hurry, pause)
            else:
                self._changed.wait_for(lambda: self._closing or self._flushing or self._rows >= BATCH_ROWS, LINGER_S)
            self._hurry = False
            return bool(self._queue or self._shrinking or not self._closing)

    def _take(self) -> list[Transaction]:
        batch: list[Transaction] = []
        rows = 0
        with self._changed:
            self._attempting = True
            while self._queue and rows < BATCH_ROWS:
                batch.append(self._queue.popleft())
                rows += sum(len(each) for _, each in batch[-1])
        return batch

    def _attempt(self, work: Callable[[sqlite3.Connection], None]) -> bool:
        """Do something with the file; return whether it was possible."""
        try:
            with self._write_lock, _taken_back(self._connected()) as connection:
                work(connection)
        except Exception as error:  # MemoryError among them: without this thread nothing would be written any more
            self._failed(error)
            return False
        if self._failures:
            _log.warning("%s: written again", self._path)
        self._failures = 0
        return True

    def _failed(self, error: Exception) -> None:
        if _damaged(error):
            self._suspect(error)
        elif not self._failures:
            told = str(error) or type(error).__name__
            _log.warning("%s can't be written: %s. Rows are kept in memory meanwhile", self._path, told)
        self._metrics.error("store_unavailable")
        self._failures += 1
        # A new connection next time: the file may be another one by then. Closing takes back what was half written.
        self._disconnect()

    def _write(self, batch: list[Transaction], connection: sqlite3.Connection) -> None:
        good = list(batch)
        while good:
            connection.execute("BEGIN IMMEDIATE")
            refused = _execute(connection, good)
            if refused is None:
                connection.execute("COMMIT")
                return
            index, error = refused
            connection.execute("ROLLBACK")
            self._metrics.error("store_row")
            _log.warning("%s: a row is refused: %s", self._path, error)
            del good[index]

    def _connected(self) -> sqlite3.Connection:
        if self._writing and not self._suspicion and not self._moved():
            return self._writing
        self._disconnect()
        self._writing = self._open()
        self._inode = 0 if self._path == MEMORY else Path(self._path).stat().st_ino
        return self._writing

    def _moved(self) -> bool:
        """Tell whether the name leads to another file by now, or to none: somebody set ours aside, or deleted it."""
        try:
            return self._path != MEMORY and Path(self._path).stat().st_ino != self._inode
        except FileNotFoundError:
            return True

    def _open(self) -> sqlite3.Connection:
        """Open the file, setting aside what is not ours.

        :raises OSError: or sqlite3.Error: there is no using it now.
        """
        if self._path == MEMORY:
            self._suspicion = ""
            return self._connect()
        Path(self._path).parent.mkdir(parents=True, exist_ok=True)
        # Processes that start at once must not set aside one another's new files.
        with _locked(Path(f"{self._path}.lock")):
            suspicion, self._suspicion = self._suspicion, ""
            try:
                if suspicion and not self._moved():
                    raise _NotOurs(suspicion)
                return self._connect()
            except (_NotOurs, sqlite3.DatabaseError) as error:
                if not isinstance(error, _NotOurs) and not _damaged(error):
                    raise
                self._set_aside(error)
                return self._connect()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        wanted = (self._schema.application, self._schema.version)
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        found = tuple(connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
        if tables and found != wanted:
            raise _NotOurs(f"application_id and user_version are {found}, not {wanted}")
        if not tables:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA cache_size = {-PAGE_CACHE_KIB}")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
        connection.execute("BEGIN IMMEDIATE")
        for column in self._schema.added:
            there = [row[1] for row in connection.execute(f"PRAGMA table_info({column.table})")]
            if there and column.name not in there:
                connection.execute(f"DROP VIEW IF EXISTS {column.view}")
                connection.execute(f"ALTER TABLE {column.table} ADD COLUMN {column.name} {column.kind}")
        for statement in self._schema.statements:
            connection.execute(statement)
        if found != wanted:
            connection.execute(f"PRAGMA application_id = {self._schema.application}")
            connection.execute(f"PRAGMA user_version = {self._schema.version}")
        connection.execute("COMMIT")

    def _set_aside(self, reason: Exception) -> None:
        earlier = sorted(_numbers_aside(self._path))
        aside = f"{self._path}.damaged-{max(earlier, default=0) + 1}"
        for number in earlier[: 1 - KEPT_ASIDE]:
            for suffix in SUFFIXES:
                Path(f"{self._path}.damaged-{number}{suffix}").unlink(missing_ok=True)
        # The write-ahead log first: SQLite deletes one that it finds beside a new file.
        for suffix in SUFFIXES:
            with suppress(FileNotFoundError):
                Path(f"{self._path}{suffix}").rename(f"{aside}{suffix}")
        self._metrics.error("store_damaged")
        _log.warning("%s can't be used (%s). It is now %s; a new file is begun", self._path, reason, aside)

    def _verify(self) -> None:
        """Look through a file that was there before, off the caller's thread: it may be large."""
        try:
            with self._write_lock:
                if self._writing is None:
                    return
                (found,) = self._writing.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                self._suspect(sqlite3.DatabaseError(found))
        except Exception as error:  # as in _attempt
            self._failed(error)

    def _suspect(self, error: Exception) -> None:
        with self._changed:
            self._suspicion = str(error)
            self._changed.notify_all()

    def _reader(self) -> sqlite3.Connection | None:
        """Return the connection that reads, or None while there is no file."""
        if self._path == MEMORY or self._writing is None:
            return self._writing
        if self._reading is None:
            # mode=rw: plain connect() would make a new, empty file where somebody deleted ours.
            where = f"{Path(self._path).absolute().as_uri()}?mode=rw"
            self._reading = sqlite3.connect(
                where, uri=True, timeout=READ_BUSY_S, isolation_level=None, check_same_thread=False
            )
            self._reading.execute("PRAGMA query_only = ON")
            self._reading.execute(f"PRAGMA cache_size = {-PAGE_CACHE_KIB}")
        return self._reading

    def _drop_reader(self) -> None:
        if self._reading:
            self._reading.close()
            self._reading = None

    def _close_reader(self) -> None:
        with self._read_lock:
            reading, self._reading = self._reading, None
        if reading:  # closed without the lock: the event loop would wait for a slow disk
            reading.close()

    def _disconnect(self) -> None:
        if self._path == MEMORY:
            return
        writing, self._writing = self._writing, None
        self._close_reader()
        if writing:
            with suppress(sqlite3.Error):  # what made it fail was counted already
                writing.close()

    def _finish(self) -> None:
        """Close the file, and tell what is lost."""
        with self._changed:
            lost, self._rows = self._rows, 0
            self._queue.clear()
            self._changed.notify_all()
        if lost:
            self._metrics.error("store_full")
            _log.warning("%s: %d rows are lost, it can't be written", self._path, lost)
        with self._write_lock:
            writing, self._writing = self._writing, None
            if writing:
                writing.close()


def folder_trouble(folder: str) -> str:
    """Return why no files can be kept in a folder, "" if they can; makes the folder."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"x" * 4096)
            file.flush()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _execute(connection: sqlite3.Connection, batch: list[Transaction]) -> tuple[int, Exception] | None:
    """Run a batch; return which transaction of it can't be written for what it holds, and why, or None."""
    for index, transaction in enumerate(batch):
        try:
            for sql, rows in transaction:
                connection.executemany(sql, rows)
        except _ROW_ERRORS as error:
            return index, error
    return None


@contextmanager
def _taken_back(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Take back what was half written when the block fails: a database in memory has no other connection to go on."""
    try:
        yield connection
    except BaseException:
        with suppress(sqlite3.Error):
            connection.rollback()
        raise


def _numbers_aside(path: str) -> set[int]:
    """Return the numbers of the damaged files that were set aside beside a file."""
    names = (each.name for each in Path(path).parent.iterdir())
    found = (re.fullmatch(rf"{re.escape(Path(path).name)}\.damaged-(\d+)(-wal|-shm)?", name) for name in names)
    return {int(each[1]) for each in found if each}


def _vacuum(connection: sqlite3.Connection) -> None:
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    for _ in range(0, free, VACUUM_PAGES):
        # One page is given back with each step of the statement; only executescript() takes all its steps.
        connection.executescript(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def _damaged(error: Exception) -> bool:
    """Tell damage (SQLITE_CORRUPT, SQLITE_NOTADB) from a disk that says no: Python has no subclass for the former."""
    return type(error) is sqlite3.DatabaseError


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that processes share.

    :raises OSError: it can't be had within LOCK_S.
    """
    with path.open("a") as file:
        until = time.monotonic() + LOCK_S
        while not _flocked(file):
            if time.monotonic() > until:
                raise TimeoutError(f"another process has held {path} for {LOCK_S:g} s (`fuser {path}` tells which)")
            time.sleep(0.01)
        yield


def _flocked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
