"""The worker pool: threads for what releases the GIL, processes for what doesn't, as many as the load wants."""

from __future__ import annotations

import asyncio
import concurrent.futures
import multiprocessing
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from precog_runtime.errors import ModelError
from precog_runtime.workers import calls, sizing
from precog_runtime.workers.executors import Renewed
from precog_runtime.workers.threads import Threads

if TYPE_CHECKING:  # a worker process imports this module, and needs no metrics
    from precog_runtime.metrics import Metrics

KINDS = ("numpy", "python")
END_S = 2.0  # how long a process that was told to end may take
MOST_ABANDONED = 16  # tasks that nobody waits for, and that can't be stopped, before no more are begun


class WorkerDied(ModelError):
    """The worker of a task died, or was taken away."""

    kind = "worker"


class _NotBegun(Exception):
    """A process that had waited for a call was dead before it began the next: the call is good for another."""


class _Process:
    """A worker process and the pipe to it. One thread at a time uses it, but any may kill it."""

    def __init__(self) -> None:
        # Not fork: the parent has threads, and what they hold would stay locked in the child.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        # A daemon, so that an interpreter that ends without close() takes it along.
        self._process = context.Process(target=calls.serve, args=(theirs,), name="precog-worker", daemon=True)
        self._killed = self._used = False
        try:
            self._process.start()
        finally:
            theirs.close()  # so that its end of the pipe closes when it dies

    @property
    def usable(self) -> bool:
        """Whether it waits for a call."""
        # One that has nothing to do sends nothing: what can be read is the end of a dead one's pipe.
        return not self._killed and not self._pipe.poll()

    def call(self, message: bytes) -> bytes:
        """Return the reply to a message.

        :raises EOFError: it died; or OSError, by the moment.
        :raises _NotBegun: it has answered earlier calls, and had died before this one.
        """
        try:
            self._pipe.send_bytes(message)
            self._pipe.recv_bytes()  # BEGUN
        except (EOFError, OSError) as error:
            if self._used:
                raise _NotBegun from error
            raise
        self._used = True
        return self._pipe.recv_bytes()

    def kill(self) -> None:
        """End it at once."""
        self._killed = True
        self._process.kill()

    def end(self) -> int | None:
        """Let it end, wait for it, and return its exit code."""
        self._pipe.close()
        self._process.join(END_S)
        if self._process.exitcode is None:
            self.kill()
            self._process.join()
        return self._process.exitcode


class _Processes:
    """The processes of a pool, for its threads.

    :ivar limit: how many there may be; beyond it, those that have nothing to do go away.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._idle: list[_Process] = []
        self._all: set[_Process] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._all)

    def take(self) -> _Process:
        """Return one that waits for a call, or else a new one.

        :raises WorkerDied: the pool is closed, or a process can't be started.
        """
        with self._lock:
            while self._idle:
                process = self._idle.pop()
                if process.usable:
                    return process
                self._drop(process)
            if self._closed:
                raise WorkerDied("the worker pool is closed")
            try:
                process = _Process()
            except OSError as error:
                raise WorkerDied(f"no worker process can be started: {error}") from error
            self._all.add(process)
            return process

    def give_back(self, process: _Process) -> None:
        """Keep one that has done its work for the next."""
        with self._lock:
            if process.usable and not self._closed:
                self._idle.append(process)
            else:
                self._drop(process)
        self.trim()

    def lost(self, process: _Process) -> int | None:
        """Forget one that died; return its exit code."""
        with self._lock:
            return self._drop(process)

    def trim(self) -> None:
        """End those that are beyond the limit and have nothing to do, the one idle for longest first."""
        with self._lock:
            while self._idle and len(self._all) > self.limit:
                self._drop(self._idle.pop(0))

    def close(self) -> None:
        """Kill those that are at work, and end the others."""
        for process in tuple(self._all):
            if process not in self._idle:
                process.kill()
        with self._lock:
            self._closed = True
            while self._idle:
                self._drop(self._idle.pop())
            for process in self._all:  # begun meanwhile
                process.kill()

    def _drop(self, process: _Process) -> int | None:
        self._all.discard(process)
        return process.end()


class _Task:
    """A function and its arguments, and the process that is at work on it, so that it can be given up.

    :ivar abandoned: it was given up, its place went to others, and it is at work all the same.
    :ivar ended: its end was handled, and its place is free.
    """

    def __init__(self, function: Callable[..., Any], arguments: Sequence[Any]) -> None:
        self.function, self.arguments = function, arguments
        self.given_up = self.abandoned = self.ended = False
        self._lock = threading.Lock()
        self._process: _Process | None = None

    def here(self) -> Any:
        """Do it in this thread."""
        return self.function(*self.arguments)

    def elsewhere(self, processes: _Processes) -> Any:
        """Have it done by a process; this thread waits.

        :raises WorkerDied: the process died.
        """
        message = calls.packed(self.function, self.arguments)
        reply = None
        while reply is None:
            with suppress(_NotBegun):
                reply = self._called(processes, message)
        return calls.unpacked(reply)

    def _called(self, processes: _Processes, message: bytes) -> bytes:
        process = processes.take()
        try:
            with self._lock:
                if self.given_up:
                    raise WorkerDied("the task was given up")
                self._process = process
            try:
                reply = process.call(message)
            finally:
                with self._lock:
                    self._process = None
        except (EOFError, OSError) as error:
            raise self._died(processes.lost(process)) from error
        except _NotBegun:
            processes.lost(process)
            raise
        except BaseException:
            processes.give_back(process)
            raise
        processes.give_back(process)
        return reply

    def give_up(self) -> None:
        """Kill the process that is at work on it: nobody waits for it any more, but others may wait for its place."""
        with self._lock:
            self.given_up = True
            if self._process is not None:
                self._process.kill()

    def _died(self, code: int | None) -> WorkerDied:
        name = getattr(self.function, "__qualname__", repr(self.function))
        how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with code {code}"
        return WorkerDied(f"the worker process of {name} {how}")


class WorkerPool:
    """Runs functions away from the event loop, at most so many at once, first come first served.

    Its size is steered by the load between two bounds (see sizing.Sizer). Use it from one event loop.

    :param min_workers: lower bound of the size, 1 or more.
    :param max_workers: upper bound; 0 means the number of CPUs, 4 at the most.
    :param executor: runs all functions instead of threads and processes of our own (a Dask cluster's, for
        instance); it stays the caller's to shut down, and arguments go the way that it sends them.
    :raises ValueError: the bounds can't be used.
    """

    def __init__(
        self,
        min_workers: int,
        max_workers: int,
        metrics: Metrics,
        executor: concurrent.futures.Executor | None = None,
    ) -> None:
        least, most = sizing.bounds(min_workers, max_workers)
        self._sizer = sizing.Sizer(least, most)
        self._metrics, self._executor = metrics, executor
        # Each task at work has a thread: a "numpy" one works in it, a "python" one waits there for its process.
        self._threads = Threads("precog-worker")
        self._processes = _Processes(least)
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._busy = self._abandoned = 0
        self._remote: set[concurrent.futures.Future[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        metrics.workers(least)

    @property
    def size(self) -> int:
        """How many tasks may be at work at once, now."""
        return self._sizer.size

    async def run(self, kind: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a function returns.

        If the caller is cancelled, a task that waits never starts, and the process of one at work is killed. A thread,
        or an executor that was given, can't be stopped: its task is abandoned, and its place goes to others. With
        MOST_ABANDONED of those still at work no more are begun, as each may hang for good.

        :param kind: "numpy" (in a thread) or "python" (in a process: function, arguments and result are pickled).
        :raises ModelError: the function or an argument can't be sent to a process, or the kind isn't known.
        :raises WorkerDied: the process died, the pool is closed, or too many tasks hang. Other tasks aren't harmed.
        :raises Exception: what the function raises.
        """
        return await self.run_with(kind, function, lambda: arguments)

    async def run_with(self, kind: str, function: Callable[..., Any], take: Callable[[], Sequence[Any]]) -> Any:
        """Do as `run` does, but take the arguments only when the task's turn has come: those of a queue would add up.

        :param take: returns the arguments; called in the event loop, at most once.
        """
        if kind not in KINDS:
            raise ModelError(f"kind is {kind!r}, which is not one of {', '.join(KINDS)}")
        await self._turn()
        loop = asyncio.get_running_loop()
        try:
            task, began, done = _Task(function, take()), loop.time(), loop.create_future()
        except BaseException:
            self._free()
            raise
        try:
            future = self._submitted(kind, task)
        except WorkerDied:
            self._free()
            raise
        except Exception as error:  # whatever an executor that was given raises
            self._free()
            raise WorkerDied(f"the executor takes no task: {error}") from error
        finished = partial(self._finished, kind, task, began, done)
        future.add_done_callback(partial(self._tell, loop, finished))
        try:
            await done
        except asyncio.CancelledError:
            # Not one whose end was handled while the cancellation was under way: its place is free already.
            if not future.cancel() and not task.ended:
                self._give_up(kind, task, began)
            raise
        try:
            return future.result()
        except (concurrent.futures.CancelledError, concurrent.futures.BrokenExecutor) as error:
            raise WorkerDied(f"the executor lost the task: {error or type(error).__name__}") from error

    def close(self) -> None:
        """End all; tasks that wait or are at work in a process fail with WorkerDied. Safe to call twice."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(WorkerDied("the worker pool is closed"))
        self._processes.close()
        concurrent.futures.wait(self._remote, END_S)  # they wait for the processes that were killed
        self._threads.close()
        self._metrics.workers(0)

    async def _turn(self) -> None:
        """Wait for a place."""
        if self._closed:
            raise WorkerDied("the worker pool is closed")
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._balance()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with suppress(ValueError):  # _balance has taken it out
                    self._waiting.remove(turn)
            else:
                self._free()
            raise

    def _submitted(self, kind: str, task: _Task) -> concurrent.futures.Future[Any]:
        if not self._can_stop(kind) and self._abandoned >= MOST_ABANDONED:
            if isinstance(self._executor, Renewed):
                self._executor.probe()
            raise WorkerDied(
                f"{self._abandoned} tasks that were given up are still at work, so no more are begun. Mend what hangs "
                'and start again; of the kind "python", without an executor, such tasks would be killed'
            )
        if self._executor is not None:
            return self._executor.submit(task.function, *task.arguments)
        if kind == "numpy":
            return self._threads.submit(task.here)
        future = self._threads.submit(task.elsewhere, self._processes)
        self._remote.add(future)
        future.add_done_callback(self._remote.discard)
        return future

    def _can_stop(self, kind: str) -> bool:
        """Whether a task at work can be stopped: in a process of ours."""
        return self._executor is None and kind == "python"

    def _give_up(self, kind: str, task: _Task, began: float) -> None:
        """Kill the process of a task at work, which frees its place; or free the place of one that can't be stopped."""
        task.give_up()
        if self._can_stop(kind):
            return
        task.abandoned = True
        self._abandoned += 1
        self._metrics.task(kind, "cancelled", asyncio.get_running_loop().time() - began)
        self._free()

    def _tell(
        self,
        loop: asyncio.AbstractEventLoop,
        finished: Callable[[concurrent.futures.Future[Any]], None],
        future: concurrent.futures.Future[Any],
    ) -> None:
        """Have a task's end handled in the event loop; called in any thread."""
        try:
            loop.call_soon_threadsafe(finished, future)
        except RuntimeError:  # the loop is closed, so nobody waits
            self._busy -= 1

    def _finished(
        self,
        kind: str,
        task: _Task,
        began: float,
        done: asyncio.Future[None],
        future: concurrent.futures.Future[Any],
    ) -> None:
        task.ended = True
        if task.abandoned:
            self._abandoned -= 1
            self._balance()
            return
        self._metrics.task(kind, _outcome(task, future), asyncio.get_running_loop().time() - began)
        if not done.done():
            done.set_result(None)
        self._free()

    def _free(self) -> None:
        self._busy -= 1
        self._balance()

    def _balance(self) -> None:
        """Fit the size to the load, and let those begin that have a place now."""
        if self._closed:
            return
        loop = asyncio.get_running_loop()
        before = self._sizer.size
        size = self._sizer.step(self._busy + len(self._waiting), loop.time())
        self._processes.limit = size
        while self._waiting and self._busy < size:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._busy += 1
        if size < before:
            self._threads.submit(self._processes.trim)  # it waits for processes to end
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(self._sizer.due, self._balance) if self._sizer.due is not None else None
        self._metrics.workers(size)
        self._metrics.tasks(self._busy, len(self._waiting), self._abandoned, len(self._processes))


def _outcome(task: _Task, future: concurrent.futures.Future[Any]) -> str:
    if task.given_up or future.cancelled():
        return "cancelled"
    error = future.exception()
    if error is None:
        return "ok"
    return "died" if isinstance(error, (WorkerDied, concurrent.futures.BrokenExecutor)) else "failed"
