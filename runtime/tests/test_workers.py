"""The worker pool: real processes, real kills."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from worker_jobs import (
    LARGE,
    bad_result,
    begun,
    echo,
    exit_politely,
    hang,
    leave,
    limited,
    look,
    meet,
    refuse,
    stop,
    total,
    until,
    wait_for,
    where,
)

from precog_runtime.errors import ModelError
from precog_runtime.metrics import Metrics
from precog_runtime.types import Series
from precog_runtime.workers import WorkerPool, sizing
from precog_runtime.workers import pool as workers_pool
from precog_runtime.workers.pool import WorkerDied
from precog_runtime.workers.sizing import SLACK_S, Sizer

SOURCE = Path(sys.modules["precog_runtime"].__file__ or "").parents[1]


# What the tests share.


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def workers() -> list[psutil.Process]:
    """The worker processes of this process; the resource tracker lives as long as the interpreter."""
    return [each for each in psutil.Process().children() if "--multiprocessing-fork" in command(each)]


def command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has just ended
        return []


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def pooled(
    body: Callable[[WorkerPool, Metrics], Awaitable[Any]],
    least: int = 1,
    most: int = 2,
    executor: Executor | None = None,
) -> Any:
    """Run a test in a pool, and see that nothing is left of it."""

    async def main() -> Any:
        metrics = Metrics()
        pool = WorkerPool(least, most, metrics, executor)
        try:
            return await asyncio.wait_for(body(pool, metrics), 30)
        finally:
            pool.close()

    before = {each.pid for each in workers()}
    try:
        return asyncio.run(main())
    finally:
        assert {each.pid for each in workers()} <= before


# Where the work is done.


def test_numpy_work_is_done_in_a_thread_and_python_work_in_a_process_that_is_used_again() -> None:
    async def body(pool: WorkerPool, metrics: Metrics) -> None:
        pid, thread = await pool.run("numpy", where, LARGE)
        assert pid == os.getpid()
        assert thread.startswith("precog-worker")
        first = await pool.run("python", where, LARGE)
        assert first[0] not in (os.getpid(), 0)
        assert await pool.run("python", where) == first
        assert value(metrics, "precog_worker_task_duration_seconds_count", kind="numpy", outcome="ok") == 1
        assert value(metrics, "precog_worker_task_duration_seconds_count", kind="python", outcome="ok") == 2

    pooled(body)


VALUES = [
    np.zeros((0, 5)),
    np.array(3.5),
    np.asfortranarray(np.arange(40_000.0).reshape(200, 200)),
    np.arange(100_000)[::3],
    np.array(["a", None, {"b": 1}] * 20_000, dtype=object),
    np.array([(1, 2.5)] * 10_000, dtype=[("a", "i4"), ("b", "f8")]),
    np.arange(100_000, dtype=">i4"),
    np.arange(5000).astype("datetime64[s]"),
    {"deep": [(np.arange(9001, dtype=np.uint8), np.ones(33_333, dtype=np.float32))]},
    [np.full(8192, np.nan), np.arange(8191.0), b"x" * 100_000, "é" * 50_000],
    None,
]


def test_whatever_can_be_pickled_arrives_and_comes_back_as_it_was() -> None:
    async def body(pool: WorkerPool, _metrics: Metrics) -> None:
        for case in VALUES:
            back, seen = await pool.run("python", echo, case)
            np.testing.assert_equal(back, case)
            np.testing.assert_equal(pickle.loads(seen), case)

    pooled(body)


# What goes wrong in a task is its own affair.


@pytest.mark.parametrize("kind", ["numpy", "python"])
def test_what_a_function_raises_reaches_the_caller(kind: str) -> None:
    async def body(pool: WorkerPool, metrics: Metrics) -> None:
        with pytest.raises(KeyError, match="no such thing") as caught:
            await pool.run(kind, refuse, LARGE)
        if kind == "python":
            assert "in refuse" in str(caught.value.__cause__)
        with pytest.raises(RuntimeError, match="StopIteration"):
            await pool.run(kind, stop)
        assert await pool.run(kind, where)
        assert value(metrics, "precog_worker_task_duration_seconds_count", kind=kind, outcome="failed") == 2

    pooled(body)


def test_what_cannot_be_sent_is_told_and_harms_no_process() -> None:
    async def body(pool: WorkerPool, _metrics: Metrics) -> None:
        first = await pool.run("python", where)
        with pytest.raises(ModelError, match=r"<lambda> can't be sent .* top of a module"):
            await pool.run("python", lambda: 1)
        with pytest.raises(ModelError, match="can't be sent"):
            await pool.run("python", echo, threading.Lock())
        with pytest.raises(TypeError, match="pickle"):
            await pool.run("python", bad_result)
        with pytest.raises(ModelError, match="RateLimited: slow down"):
            await pool.run("python", limited)
        with pytest.raises(ModelError, match=r"kind is 'gpu'.*numpy, python"):
            await pool.run("gpu", where)
        assert await pool.run("python", where) == first

    pooled(body)


@pytest.mark.parametrize(
    ("function", "arguments", "told"),
    [(leave, (3, LARGE), "leave ended with code 3"), (leave, (0,), "ended with code 0"), (exit_politely, (), "code 7")],
)
def test_a_worker_that_ends_fails_its_own_task_only(
    function: Callable[..., Any], arguments: tuple[Any, ...], told: str
) -> None:
    async def body(pool: WorkerPool, metrics: Metrics) -> None:
        tasks = [pool.run("python", function, *arguments), *(pool.run("python", look, LARGE) for _ in range(4))]
        died, *fine = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(died, WorkerDied)
        assert told in str(died)
        assert died.kind == "worker"
        assert fine == [LARGE.sum()] * 4
        assert value(metrics, "precog_worker_task_duration_seconds_count", kind="python", outcome="died") == 1

    pooled(body)


def test_a_worker_killed_at_work_fails_its_task_and_is_replaced(tmp_path: Path) -> None:
    async def body(pool: WorkerPool, _metrics: Metrics) -> None:
        task = asyncio.ensure_future(pool.run("python", hang, tmp_path / "mark", LARGE))
        pid = await begun(tmp_path / "mark")
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerDied, match="hang was killed by signal 9"):
            await task
        assert (await pool.run("python", where))[0] != pid

    pooled(body)


def test_a_worker_killed_while_idle_harms_no_task() -> None:
    async def body(pool: WorkerPool, _metrics: Metrics) -> None:
        for _ in range(2):  # the kill may take effect before, while and after the pool looks at the process
            pid, _ = await pool.run("python", where)
            os.kill(pid, signal.SIGKILL)
            assert (await pool.run("python", where))[0] != pid

    pooled(body)


# Callers that give up.


def test_cancelling_kills_the_process_at_work_and_frees_its_place(tmp_path: Path) -> None:
    async def body(pool: WorkerPool, metrics: Metrics) -> None:
        task = asyncio.ensure_future(pool.run("python", hang, tmp_path / "mark", LARGE))
        pid = await begun(tmp_path / "mark")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await pool.run("python", where))[0] != pid
        assert gone(pid)
        name = "precog_worker_task_duration_seconds_count"
        assert value(metrics, name, kind="python", outcome="cancelled") == 1
        assert value(metrics, "precog_worker_tasks", state="busy") == 0

    pooled(body, most=1)


def test_one_who_waits_and_gives_up_never_starts_and_the_next_gets_the_place(tmp_path: Path) -> None:
    async def body(pool: WorkerPool, metrics: Metrics) -> None:
        held = threading.Event()
        first = asyncio.ensure_future(pool.run("numpy", wait_for, held))
        second = asyncio.ensure_future(pool.run("python", hang, tmp_path / "never"))
        third = asyncio.ensure_future(pool.run("numpy", where))
        await until(lambda: value(metrics, "precog_worker_tasks", state="waiting") == 2)
        second.cancel()
        await asyncio.sleep(0)
        held.set()
        assert await first == "done"
        assert (await third)[0] == os.getpid()
        assert second.cancelled()
        assert not (tmp_path / "never").exists()

    pooled(body, most=1)


def count(metrics: Metrics, state: str) -> float | None:
    return value(metrics, "precog_worker_tasks", state=state)


async def given_up(pool: WorkerPool, metrics: Metrics, held: threading.Event) -> None:
    """Begin a task that ends with the event, and wait for it no more."""
    before, begun = count(metrics, "abandoned") or 0, threading.Event()
    task = asyncio.ensure_future(pool.run("numpy", wait_for, held, begun))
    await until(begun.is_set)
    task.cancel()
    await until(lambda: count(metrics, "abandoned") == before + 1)
    assert task.cancelled()


def test_a_thread_that_nobody_waits_for_gives_its_place_to_the_next_and_is_counted_until_it_is_done() -> None:
    async def body(pool: WorkerPool, metrics: Metrics) -> None:
        held = threading.Event()
        await given_up(pool, metrics, held)
        assert value(metrics, "precog_worker_task_duration_seconds_count", kind="numpy", outcome="cancelled") == 1
        assert await asyncio.wait_for(pool.run("numpy", where), 5)
        held.set()
        await until(lambda: count(metrics, "abandoned") == 0)
        assert count(metrics, "busy") == 0

    pooled(body, most=1)


def hanging() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name.startswith("precog-worker")}


def test_with_too_many_threads_that_hang_no_task_is_begun_until_one_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_pool, "MOST_ABANDONED", 3)

    async def body(pool: WorkerPool, metrics: Metrics) -> None:
        before = hanging()
        first, others = threading.Event(), threading.Event()
        for held in (first, others, others):
            await given_up(pool, metrics, held)
        for _ in range(4):  # more often than there are places
            with pytest.raises(WorkerDied, match="3 tasks that were given up are still at work"):
                await asyncio.wait_for(pool.run("numpy", where), 5)
        assert len(hanging() - before) == 3
        assert await pool.run("python", where)  # a process could be killed
        first.set()
        await until(lambda: count(metrics, "abandoned") == 2)
        assert await pool.run("numpy", where)
        others.set()

    pooled(body, most=1)


@pytest.mark.parametrize("first", ["the end", "the cancellation"])
def test_a_caller_cancelled_as_its_task_ends_frees_one_place_and_not_two(first: str) -> None:
    async def body(pool: WorkerPool, metrics: Metrics) -> None:
        finished, callers = pool._finished, []

        def with_cancellation(*arguments: Any) -> None:
            """Cancel the caller and have its task's end handled, before it can go on."""
            if first == "the cancellation":
                callers[0].cancel()
            finished(*arguments)
            callers[0].cancel()

        pool._finished = with_cancellation  # type: ignore[method-assign]
        callers.append(asyncio.ensure_future(pool.run("numpy", where)))
        with pytest.raises(asyncio.CancelledError):
            await callers[0]
        assert (count(metrics, "busy"), count(metrics, "abandoned")) == (0, 0)

    pooled(body, most=1)


def test_an_executors_task_that_nobody_waits_for_gives_its_place_to_the_next() -> None:
    async def body(pool: WorkerPool, metrics: Metrics) -> None:
        held = threading.Event()
        await given_up(pool, metrics, held)
        assert await asyncio.wait_for(pool.run("numpy", where), 5)
        held.set()

    with ThreadPoolExecutor(2) as executor:
        pooled(body, most=1, executor=executor)


def test_a_storm_of_cancelled_callers_loses_no_place() -> None:
    async def body(pool: WorkerPool, metrics: Metrics) -> None:
        for turn in range(30):
            tasks = [asyncio.ensure_future(pool.run("numpy", where, n)) for n in range(6)]
            for _ in range(turn % 5):
                await asyncio.sleep(0)
            for task in tasks[turn % 3 :: 2]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: value(metrics, "precog_worker_tasks", state="busy") == 0)
        assert value(metrics, "precog_worker_tasks", state="waiting") == 0
        both = threading.Barrier(2)
        assert await asyncio.gather(*(pool.run("numpy", meet, both) for _ in range(2))) == ["met", "met"]

    pooled(body)


# The size.


def test_the_pool_grows_with_its_load_and_shrinks_with_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizing, "SLACK_S", 0.05)

    async def body(pool: WorkerPool, metrics: Metrics) -> None:
        assert (pool.size, value(metrics, "precog_workers")) == (1, 1)
        three = threading.Barrier(3)
        assert await asyncio.gather(*(pool.run("numpy", meet, three) for _ in range(3))) == ["met"] * 3
        tasks = [asyncio.ensure_future(pool.run("python", look, LARGE)) for _ in range(9)]
        await until(lambda: pool.size == 3)
        await asyncio.gather(*tasks)
        assert 1 <= len(workers()) <= 3
        await until(lambda: pool.size == 1)
        await until(lambda: len(workers()) == 1)
        assert value(metrics, "precog_workers") == 1

    pooled(body, 1, 3)


def test_never_more_are_at_work_than_the_upper_bound() -> None:
    async def body(pool: WorkerPool, _metrics: Metrics) -> None:
        now, most, lock = 0, 0, threading.Lock()

        def work() -> None:
            nonlocal now, most
            with lock:
                now += 1
                most = max(most, now)
            time.sleep(0.001)
            with lock:
                now -= 1

        await asyncio.gather(*(pool.run("numpy", work) for _ in range(60)))
        assert most == 2

    with ThreadPoolExecutor(8) as executor:  # one that would take more at once
        pooled(body, executor=executor)


TABLE = [
    # (seconds, tasks) -> size, with bounds 1 to 8
    ([(0, 0)], 1),
    ([(0, 1)], 1),
    ([(0, 5)], 5),
    ([(0, 50)], 8),
    ([(0, 4), (1, 3), (100, 3)], 4),  # the dead band
    ([(0, 4), (1, 2), (100, 2)], 4),
    ([(0, 4), (1, 1), (1 + SLACK_S - 0.1, 1)], 4),  # not for long enough
    ([(0, 4), (1, 1), (1 + SLACK_S, 1)], 3),
    ([(0, 4), (1, 1), (20, 3), (40, 1), (40 + SLACK_S - 1, 1)], 4),  # a break begins it anew
    ([(0, 4), (1, 0), (1 + 2 * SLACK_S, 0)], 3),  # one step at a time
    ([(0, 4), (1, 0), (1 + SLACK_S, 0), (1 + 2 * SLACK_S, 0), (1 + 3 * SLACK_S, 0), (900, 0)], 1),
]


@pytest.mark.parametrize(("steps", "size"), TABLE)
def test_the_size_that_a_load_leads_to(steps: list[tuple[float, int]], size: int) -> None:
    sizer = Sizer(1, 8)
    assert [sizer.step(tasks, now) for now, tasks in steps][-1] == size


BOUNDS = st.tuples(st.integers(1, 20), st.integers(0, 40)).map(lambda pair: (pair[0], pair[0] + pair[1]))
STEPS = st.lists(st.tuples(st.floats(0, 100), st.integers(0, 200)), max_size=60)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(BOUNDS, STEPS)
def test_the_size_stays_in_its_bounds_and_falls_by_one_at_most(
    bounds: tuple[int, int], steps: list[tuple[float, int]]
) -> None:
    sizer, now, fell = Sizer(*bounds), 0.0, 0.0
    for pause, tasks in steps:
        now += pause
        before, size = sizer.size, sizer.step(tasks, now)
        assert bounds[0] <= size <= bounds[1]
        assert size >= before - 1
        if tasks > before:
            assert size == max(before, min(bounds[1], tasks))
        if size < before:
            assert now - fell >= SLACK_S
            fell = now
        assert sizer.due is None or sizer.due <= now + SLACK_S
        assert (sizer.due is None) == (size == bounds[0] or tasks / size >= 0.5) or size < before


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(BOUNDS, STEPS, st.integers(0, 60))
def test_a_constant_load_never_makes_the_size_swing(
    bounds: tuple[int, int], steps: list[tuple[float, int]], load: int
) -> None:
    sizer, now = Sizer(*bounds), 0.0
    for pause, tasks in steps:
        now += pause
        sizer.step(tasks, now)
    sizes = [sizer.step(load, now + turn) for turn in range(0, 3000, 7)]
    assert sizes == sorted(sizes, reverse=True)


def test_the_bounds_of_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizing, "_processors", lambda: 16)
    assert sizing.bounds(1, 0) == (1, 4)
    assert sizing.bounds(6, 0) == (6, 6)
    assert sizing.bounds(2, 3) == (2, 3)
    monkeypatch.setattr(sizing, "_processors", lambda: 2)
    assert sizing.bounds(1, 0) == (1, 2)
    for least, most in [(0, 1), (-1, 4), (1, -1)]:
        with pytest.raises(ValueError, match=f"a pool of {least} to {most} workers"):
            sizing.bounds(least, most)


# The end.


def test_close_ends_tasks_at_work_and_tasks_that_wait(tmp_path: Path) -> None:
    async def body(pool: WorkerPool, metrics: Metrics) -> None:
        marks = [tmp_path / "a", tmp_path / "b"]
        tasks = [asyncio.ensure_future(pool.run("python", hang, mark, LARGE)) for mark in [*marks, tmp_path / "never"]]
        found = [await begun(mark) for mark in marks]
        pool.close()
        assert all(gone(pid) for pid in found)
        assert workers() == []
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(each) for each in outcomes] == [WorkerDied] * 3
        for kind in ("numpy", "python"):
            with pytest.raises(WorkerDied, match="closed"):
                await pool.run(kind, where)
        pool.close()
        assert value(metrics, "precog_workers") == 0

    pooled(body)


SCRIPT = """
    import asyncio, os, sys, time
    import numpy as np
    sys.path[:0] = [{source!r}, {tests!r}]
    import worker_jobs as work
    from pathlib import Path
    from precog_runtime.metrics import Metrics
    from precog_runtime.workers import WorkerPool

    async def main():
        pool = WorkerPool(1, 2, Metrics())
        await pool.run("python", work.look, work.LARGE)
        {body}

    if __name__ == "__main__":
        asyncio.run(main())
"""
ALL_ENDS = """
        await asyncio.gather(pool.run("python", work.leave, 1, work.LARGE), return_exceptions=True)
        task = asyncio.ensure_future(pool.run("python", work.hang, Path({mark!r}), work.LARGE))
        await work.begun(Path({mark!r}))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        pool.close()
"""


def script(tmp_path: Path, body: str) -> list[str]:
    path = tmp_path / "script.py"
    text = SCRIPT.format(
        source=str(SOURCE), tests=str(Path(__file__).parent), body=textwrap.dedent(body).replace("\n", "\n        ")
    )
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return [sys.executable, "-W", "error", str(path)]


def test_the_resource_tracker_has_nothing_to_warn_of(tmp_path: Path) -> None:
    command = script(tmp_path, textwrap.dedent(ALL_ENDS).format(mark=str(tmp_path / "mark")))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("close", ["", "pool.run('python', work.look, work.LARGE).close()"])
def test_an_interpreter_that_ends_without_close_takes_its_processes_along(tmp_path: Path, close: str) -> None:
    command = script(tmp_path, f"print((await pool.run('python', work.where))[0]); {close}")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert gone(int(done.stdout))


@pytest.mark.parametrize("close", ["", "pool.close()"])
def test_an_interpreter_that_ends_waits_for_no_thread_that_hangs(tmp_path: Path, close: str) -> None:
    mark = str(tmp_path / "mark")
    body = f"""
        task = asyncio.ensure_future(pool.run("numpy", work.hang, Path({mark!r})))
        await work.begun(Path({mark!r}))
        {close}
    """
    done = subprocess.run(script(tmp_path, body), capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_processes_go_when_the_parent_is_killed(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    command = script(tmp_path, f"await pool.run('python', work.hang, Path({str(mark)!r}), work.LARGE)")

    async def main() -> None:
        parent = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            pid = await begun(mark)
        finally:
            parent.kill()
            parent.wait()
        await until(lambda: gone(pid), "the worker gone")

    asyncio.run(main())


# Executors of others.


def executors() -> list[Callable[[], Executor]]:
    return [lambda: ThreadPoolExecutor(2), lambda: ProcessPoolExecutor(2, mp_context=get_context("spawn"))]


@pytest.mark.parametrize("make", executors(), ids=["threads", "processes"])
def test_an_executor_that_is_given_runs_all_and_stays_the_callers(make: Callable[[], Executor]) -> None:
    async def body(pool: WorkerPool, _metrics: Metrics) -> None:
        for kind in ("numpy", "python"):
            assert await pool.run(kind, look, LARGE) == LARGE.sum()
            with pytest.raises(KeyError, match="no such thing"):
                await pool.run(kind, refuse, LARGE)
        results = await asyncio.gather(*(pool.run("python", total, Series(np.arange(n), LARGE[:n])) for n in range(8)))
        assert results == [total(Series(np.arange(n), LARGE[:n])) for n in range(8)]

    with make() as executor:
        # A ProcessPoolExecutor's processes are not ours to end.
        executor.submit(where).result()
        before = {each.pid for each in workers()}
        executor.submit(where).result()
        asyncio.run(_with(executor, body))
        assert executor.submit(where).result()
        assert before <= {each.pid for each in workers()}


async def _with(executor: Executor, body: Callable[[WorkerPool, Metrics], Awaitable[Any]]) -> None:
    metrics = Metrics()
    pool = WorkerPool(1, 2, metrics, executor)
    await body(pool, metrics)
    pool.close()


def test_an_executor_that_breaks_or_is_shut_down_is_told_clearly() -> None:
    async def body(pool: WorkerPool, metrics: Metrics) -> None:
        with pytest.raises(WorkerDied, match="the executor lost the task"):
            await pool.run("python", leave, 1)
        for _ in range(5):  # more often than there are places
            with pytest.raises(WorkerDied, match="the executor takes no task"):
                await pool.run("python", where)
        assert value(metrics, "precog_worker_tasks", state="busy") == 0

    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        asyncio.run(_with(executor, body))
