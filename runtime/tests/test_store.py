"""The store on real files: batches, crashes, damage, full and missing disks, several processes."""

from __future__ import annotations

import fcntl
import json
import logging
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from precog_runtime import store as store_module
from precog_runtime.metrics import Metrics
from precog_runtime.store import MEMORY, QUEUE_ROWS, Schema, Store

SCHEMA = Schema(0x54455354, 1, ("CREATE TABLE IF NOT EXISTS numbers (number INTEGER NOT NULL, text TEXT)",))
PUT = "INSERT INTO numbers VALUES (?, ?)"
COUNT = "SELECT count(*) FROM numbers"
KILL = Path(__file__).parent / "kill"


def errors(metrics: Metrics, kind: str) -> float:
    return metrics.registry.get_sample_value("precog_errors_total", {"kind": kind}) or 0.0


def wait_for(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            pytest.fail("it did not happen in time")
        time.sleep(0.005)


def run_script(name: str, *args: object) -> object:
    """Run a helper with our interpreter, -O too if we have it, and return what it tells."""
    flags = ["-O"] * sys.flags.optimize
    command = [sys.executable, *flags, str(KILL / name), *map(str, args)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    if done.returncode:
        pytest.fail(done.stderr)
    return json.loads(done.stdout)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "deep" / "test.sqlite")


def integrity(path: str) -> str:
    connection = sqlite3.connect(path)
    (found,) = connection.execute("PRAGMA integrity_check").fetchone()
    connection.close()
    return str(found)


@pytest.mark.parametrize("where", ["file", "memory"])
def test_rows_are_there_after_flush(path: str, where: str) -> None:
    store = Store(path if where == "file" else MEMORY, SCHEMA, Metrics())
    store.put(PUT, [(number, "x") for number in range(10)])
    assert store.flush()
    assert store.query("SELECT sum(number) FROM numbers WHERE text = ?", ("x",)) == [(45,)]
    store.close()
    store.close()
    assert store.query(COUNT) == []


def test_close_writes_all_and_a_new_store_reads_it(path: str) -> None:
    store = Store(path, SCHEMA, Metrics())
    for number in range(5000):
        store.put(PUT, [(number, "x")])
    store.close()
    metrics = Metrics()
    again = Store(path, SCHEMA, metrics)
    assert again.query(COUNT) == [(5000,)]
    again.close()
    assert errors(metrics, "store_damaged") == 0


def test_what_queues_up_is_one_transaction(path: str) -> None:
    store = Store(path, SCHEMA, Metrics())
    watcher = sqlite3.connect(path)
    seen = {watcher.execute("PRAGMA data_version").fetchone()[0]}
    for number in range(500):
        store.put(PUT, [(number, "")])
        seen.add(watcher.execute("PRAGMA data_version").fetchone()[0])
    store.flush()
    seen.add(watcher.execute("PRAGMA data_version").fetchone()[0])
    assert watcher.execute(COUNT).fetchone() == (500,)
    assert len(seen) < 50
    watcher.close()
    store.close()


def test_a_transaction_is_written_whole_or_not_at_all_and_a_bad_row_harms_no_other(path: str) -> None:
    metrics = Metrics()
    store = Store(path, SCHEMA, metrics)
    store.put(PUT, [(1, "good")])
    store.put_all([(PUT, [(2, "half")]), (PUT, [(None, "NULL is refused")])])
    for bad in (2**70, "\ud800", object()):
        store.put("INSERT INTO numbers VALUES (3, ?)", [(bad,)])
    store.put(PUT, [(4, "too", "many")])
    store.put(PUT, [(5, "good")])
    assert store.flush()
    assert store.query("SELECT number FROM numbers ORDER BY number") == [(1,), (5,)]
    assert errors(metrics, "store_row") == 5
    store.close()


def test_a_full_queue_drops_and_counts_and_never_waits(path: str) -> None:
    metrics = Metrics()
    store = Store(path, SCHEMA, metrics, retry_s=0.01)
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")  # the writer hangs in its busy time-out
    rows = [(number, "") for number in range(1000)]
    for _ in range(QUEUE_ROWS // 1000):
        store.put(PUT, rows)
    store.put(PUT, rows)
    store.put(PUT, rows[:1])
    assert errors(metrics, "store_full") == 2
    blocker.execute("ROLLBACK")
    blocker.close()
    assert store.flush(30)
    assert store.query(COUNT) == [(QUEUE_ROWS,)]
    store.put(PUT, rows[:1])
    assert store.flush()
    assert store.query(COUNT) == [(QUEUE_ROWS + 1,)]
    store.close()
    store.put(PUT, rows)
    assert errors(metrics, "store_full") == 3


def test_readers_and_writers_in_many_threads(path: str) -> None:
    metrics = Metrics()
    store = Store(path, SCHEMA, metrics)

    def work(thread: int) -> None:
        for number in range(100):
            store.put(PUT, [(number, str(thread)), (number, str(thread))])
            ((found,),) = store.query(COUNT)
            odd.append(found % 2)

    odd: list[int] = []
    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.flush()
    assert store.query(COUNT) == [(1200,)]
    assert set(odd) == {0}  # a transaction is never seen half
    store.close()
    assert errors(metrics, "store_read") == errors(metrics, "store_unavailable") == 0


def damage_text(path: Path) -> None:
    path.write_text("this is no database, " * 500)


def damage_head(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[:100] = b"\xff" * 100
    path.write_bytes(content)


def damage_pages(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xa5" * (len(content) - 8192)
    path.write_bytes(content)


def damage_half(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def foreign(path: Path) -> None:
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (something TEXT)")
    connection.close()


def other_version(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


@pytest.mark.parametrize("harm", [damage_text, damage_head, damage_pages, damage_half, foreign, other_version])
def test_a_file_that_is_not_ours_is_set_aside_and_replaced(
    path: str, harm: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(path, SCHEMA, Metrics())
    store.put(PUT, [(number, "x" * 100) for number in range(2000)])
    store.close()
    harm(Path(path))
    before = Path(path).read_bytes()
    metrics = Metrics()
    with caplog.at_level(logging.WARNING):
        store = Store(path, SCHEMA, metrics, retry_s=0.01)
        wait_for(lambda: errors(metrics, "store_damaged") == 1)
        store.put(PUT, [(1, "new")])
        assert store.flush()
    assert store.query("SELECT text FROM numbers") == [("new",)]
    store.close()
    assert Path(f"{path}.damaged-1").read_bytes() == before
    assert "damaged-1" in caplog.text
    assert integrity(path) == "ok"


def test_a_second_damaged_file_does_not_replace_the_first(path: str) -> None:
    Path(path).parent.mkdir()
    for text in ("first", "second"):
        Path(path).write_text(text * 300)
        Store(path, SCHEMA, Metrics()).close()
    assert Path(f"{path}.damaged-1").read_text().startswith("first")
    assert Path(f"{path}.damaged-2").read_text().startswith("second")


def test_of_many_damaged_files_the_newest_two_are_kept(path: str) -> None:
    Path(path).parent.mkdir()
    beside = Path(f"{path}.damaged-by-hand")
    beside.write_text("theirs")
    for number in range(1, 6):
        Path(path).write_text(f"{number}" * 3000)
        Store(path, SCHEMA, Metrics()).close()
        Path(f"{path}.damaged-{number}-wal").write_text(f"{number}")
    kept = {each.name.partition("damaged-")[2]: each.read_text()[0] for each in Path(path).parent.glob("*.damaged-*")}
    assert kept == {"4": "4", "4-wal": "4", "5": "5", "5-wal": "5", "by-hand": "t"}


def test_damage_while_it_runs_loses_no_queued_row(path: str) -> None:
    metrics = Metrics()
    store = Store(path, SCHEMA, metrics, retry_s=0.01)
    store.put(PUT, [(number, "x" * 100) for number in range(2000)])
    assert store.flush()
    with sqlite3.connect(path) as connection:  # so that reads come from the file itself
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    damage_pages(Path(path))
    reader = sqlite3.connect(path)
    with pytest.raises(sqlite3.DatabaseError):
        reader.execute("SELECT sum(length(text)) FROM numbers").fetchone()
    reader.close()
    # A connection of its own has no damaged page in its memory yet; whoever meets one, reader or writer, tells.
    wait_for(lambda: store.query("SELECT sum(length(text)) FROM numbers") in ([], [(None,)]))
    store.put(PUT, [(7, "kept")])
    assert store.flush()
    wait_for(lambda: store.query("SELECT number FROM numbers") == [(7,)])
    assert errors(metrics, "store_damaged") == 1
    store.close()


@pytest.mark.parametrize("harm", ["deleted", "moved"])
def test_a_file_that_goes_away_is_begun_anew(path: str, harm: str) -> None:
    metrics = Metrics()
    store = Store(path, SCHEMA, metrics)
    store.put(PUT, [(1, "")])
    assert store.flush()
    if harm == "deleted":
        Path(path).unlink()
    else:
        Path(path).rename(f"{path}.elsewhere")
    store.put(PUT, [(2, "")])
    assert store.flush()
    assert store.query("SELECT number FROM numbers") == [(2,)]
    store.close()
    assert integrity(path) == "ok"


def test_a_folder_that_cannot_be_made_is_survived_and_taken_up_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    path = str(tmp_path / "file" / "test.sqlite")  # modes don't stop root, this does
    metrics = Metrics()
    with caplog.at_level(logging.WARNING):
        store = Store(path, SCHEMA, metrics, retry_s=0.01)
    assert store.query(COUNT) == []
    store.put(PUT, [(1, "kept")])
    assert not store.flush()
    assert errors(metrics, "store_unavailable") >= 2
    assert caplog.text.count("can't be written") == 1  # told once an outage
    (tmp_path / "file").unlink()
    wait_for(lambda: store.query("SELECT text FROM numbers") == [("kept",)])
    store.close()


@pytest.mark.parametrize("error", [MemoryError(), sqlite3.OperationalError("disk I/O error"), KeyError("a bug")])
@pytest.mark.parametrize("where", [MEMORY, "file"])
def test_whatever_fails_within_a_transaction_the_writer_goes_on(
    path: str, where: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute, failures = store_module._execute, [error, error]

    def sometimes(connection: sqlite3.Connection, batch: object) -> object:
        found = execute(connection, batch)  # type: ignore[arg-type]
        if failures:
            raise failures.pop()
        return found

    metrics = Metrics()
    store = Store(path if where == "file" else MEMORY, SCHEMA, metrics, retry_s=0.01)
    monkeypatch.setattr(store_module, "_execute", sometimes)
    store.put(PUT, [(1, "once")])
    wait_for(store.flush)
    store.put(PUT, [(2, "and again")])
    assert store.flush()
    assert store.query("SELECT number FROM numbers ORDER BY number") == [(1,), (2,)]
    assert errors(metrics, "store_unavailable") == 2
    store.close()


def test_a_lock_that_another_process_keeps_is_told_and_waited_for_no_longer(
    path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store_module, "LOCK_S", 0.2)
    Path(path).parent.mkdir()
    with Path(f"{path}.lock").open("a") as theirs:
        fcntl.flock(theirs, fcntl.LOCK_EX)
        began = time.monotonic()
        store = Store(path, SCHEMA, Metrics(), retry_s=0.01)
        assert time.monotonic() - began < 5
        assert "another process has held" in caplog.text
        store.put(PUT, [(1, "")])
        assert not store.flush(1.0)
    wait_for(store.flush)
    assert store.query(COUNT) == [(1,)]
    store.close()


def test_a_reader_waits_neither_for_a_slow_close_nor_for_long(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics, closing, held = Metrics(), threading.Event(), threading.Event()

    class Slow:
        def close(self) -> None:
            closing.set()
            held.wait(30)

    store = Store(path, SCHEMA, metrics)
    store._reading = Slow()  # type: ignore[assignment]
    Path(path).unlink()
    store.put(PUT, [(1, "")])  # finds that the file is gone, and closes both connections
    assert closing.wait(20)
    began = time.monotonic()
    assert store.query(COUNT) == []
    assert time.monotonic() - began < 1
    held.set()
    assert store.flush()
    monkeypatch.setattr(store_module, "READ_S", 0.01)
    with store._read_lock:
        assert store.query(COUNT) == []
    monkeypatch.undo()
    assert errors(metrics, "store_read") == 1
    assert store.query(COUNT) == [(1,)]
    store.close()


def test_close_waits_no_longer_for_a_disk_that_hangs(
    path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    held = threading.Event()
    monkeypatch.setattr(store_module, "CLOSE_S", 0.2)
    monkeypatch.setattr(store_module, "_execute", lambda *_: held.wait(30) and None)
    store = Store(path, SCHEMA, Metrics())
    store.put(PUT, [(1, "")])
    began = time.monotonic()
    store.close()
    assert time.monotonic() - began < 10
    assert "has not answered" in caplog.text
    held.set()


def test_close_without_a_disk_ends_and_tells_the_loss(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    metrics = Metrics()
    store = Store(str(tmp_path / "file" / "test.sqlite"), SCHEMA, metrics)
    store.put(PUT, [(1, ""), (2, "")])
    with caplog.at_level(logging.WARNING):
        store.close()
    assert "2 rows are lost" in caplog.text
    assert not store.flush()


def test_room_of_deleted_rows_goes_back_to_the_disk(path: str) -> None:
    store = Store(path, SCHEMA, Metrics())
    store.put(PUT, [(number, "x" * 1000) for number in range(4000)])
    store.flush()
    store.put("DELETE FROM numbers WHERE number < ?", [(3900,)])
    store.flush()
    store.shrink()
    store.close()
    assert Path(path).stat().st_size < 400_000
    assert integrity(path) == "ok"


def test_a_full_disk_is_survived_and_taken_up_when_there_is_room(tmp_path: Path) -> None:
    found = run_script("full_disk.py", tmp_path / "test.sqlite")
    assert found == {
        "flushed_when_full": False,
        "counted": True,
        "alive": True,
        "flushed_with_room": True,
        "rows": list(range(2000)),
        "integrity": "ok",
    }


def test_several_processes_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "test.sqlite"
    flags = ["-O"] * sys.flags.optimize
    command = [sys.executable, *flags, str(KILL / "many.py"), str(path)]
    writers = [subprocess.Popen([*command, str(number)], stdout=subprocess.PIPE) for number in range(3)]
    told = [json.loads(writer.communicate(timeout=60)[0]) for writer in writers]
    assert told == [{"flushed": True, "unavailable": 0.0, "damaged": 0.0}] * 3
    with sqlite3.connect(path) as connection:
        found = connection.execute("SELECT text, count(*) FROM numbers GROUP BY text ORDER BY text").fetchall()
    connection.close()
    assert found == [("0", 3000), ("1", 3000), ("2", 3000)]
    assert integrity(str(path)) == "ok"


def test_a_damaged_file_is_set_aside_once_by_all_that_start_at_once(tmp_path: Path) -> None:
    """In threads, which meet more surely than processes: the lock is the file's, so it is the same to it."""
    for number in range(10):
        path = tmp_path / str(number) / "test.sqlite"
        path.parent.mkdir()
        path.write_text("damaged" * 1000)
        metrics, barrier = Metrics(), threading.Barrier(6)

        def start(path: Path = path, metrics: Metrics = metrics, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            store = Store(str(path), SCHEMA, metrics, retry_s=0.01)
            store.put(PUT, [(1, "")])
            store.close()

        threads = [threading.Thread(target=start) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors(metrics, "store_damaged") == 1
        assert [each.name for each in path.parent.glob("*.damaged-*")] == ["test.sqlite.damaged-1"]
        connection = sqlite3.connect(path)
        assert connection.execute(COUNT).fetchone() == (6,)
        connection.close()


def test_schema_and_journal_are_as_said(path: str) -> None:
    store = Store(path, SCHEMA, Metrics())
    pragmas = ("application_id", "user_version", "journal_mode", "auto_vacuum")
    found = [store.query(f"PRAGMA {name}")[0][0] for name in pragmas]
    assert found == [SCHEMA.application, SCHEMA.version, "wal", 2]
    store.close()
    assert store_module.LINGER_S <= 0.2


def test_kill_9_at_any_moment_leaves_the_log_whole(tmp_path: Path) -> None:
    told = run_script("killed.py", tmp_path, 20, 5)
    assert isinstance(told, list)
    assert len(told) == 20
    for each in told:
        assert each["signal"] == 9
        assert each["integrity"] == "ok"
        assert each["rows"] >= each["promised"]
        assert not each.get("torn")
        assert not each.get("orphans")
    assert told[-1]["promised"] > 100
    assert not list(tmp_path.glob("*.damaged-*"))
