"""An executor of the operator's, by the setting `executor`: see docs/runtime/model.md."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, InvalidStateError
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

from precog_runtime.errors import SettingError
from precog_runtime.named import from_file, from_module

logger = logging.getLogger(__name__)

RENEW_S, LONGEST_RENEW_S = 1.0, 60.0  # before an attempt to make a lost one again; doubles
PROBE_S = 10.0


class _Task(Future[Any]):
    """A task as the pool sees it: it ends with that of the executor, or when the executor is lost."""

    def __init__(self, inner: Future[Any]) -> None:
        super().__init__()
        self._inner = inner
        inner.add_done_callback(self._ended)

    def cancel(self) -> bool:
        return self._inner.cancel() and (self.cancelled() or super().cancel())

    def lose(self) -> None:
        """End it: its executor will not."""
        with suppress(InvalidStateError):  # it has ended meanwhile
            self.set_exception(BrokenExecutor("the executor was lost"))

    def _ended(self, inner: Future[Any]) -> None:
        with suppress(InvalidStateError):
            if inner.cancelled():
                super().cancel()
            elif (error := inner.exception()) is not None:
                self.set_exception(error)
            else:
                self.set_result(inner.result())


class Renewed(Executor):
    """An executor that is made again when it is lost: it is broken, or takes no task any more.

    :param make: makes one; called in a thread of its own, until it succeeds.
    :raises SettingError: the first can't be made.
    """

    def __init__(self, name: str, make: Callable[[], Executor]) -> None:
        self._name, self._make = name, make
        self._lock = threading.Lock()
        self._current: Executor | None = make()
        self._tasks: set[_Task] = set()
        self._closed = threading.Event()
        self._probed = -math.inf

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have the executor call a function.

        :raises BrokenExecutor: it was lost, and is being made again.
        :raises Exception: whatever it raises instead of taking the task; it is made again then.
        """
        executor = self._current
        if executor is None:
            raise BrokenExecutor(f"{self._name} was lost, and is being made again")
        try:
            # One of Dask whose client gave its scheduler up takes tasks that never end.
            if getattr(getattr(executor, "_client", None), "status", "") == "closed":
                raise BrokenExecutor("its client is closed")
            task = _Task(executor.submit(function, *args, **kwargs))
        except Exception as error:
            self._lose(executor, error)
            raise
        with self._lock:
            self._tasks.add(task)
        task.add_done_callback(partial(self._look_at, executor))
        return task

    def probe(self) -> None:
        """Find out whether it still takes tasks, where those that it has don't end; never waits for it."""
        if time.monotonic() - self._probed > PROBE_S:
            self._probed = time.monotonic()
            with suppress(Exception):  # which is how it is found out
                self.submit(os.getpid)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut the executor down for good."""
        self._closed.set()
        if self._current is not None:
            self._current.shutdown(wait=wait)

    def _look_at(self, executor: Executor, task: Future[Any]) -> None:
        with self._lock:
            self._tasks.discard(cast("_Task", task))
        if not task.cancelled() and isinstance(task.exception(), BrokenExecutor):
            self._lose(executor, task.exception())

    def _lose(self, executor: Executor, error: BaseException | None) -> None:
        with self._lock:
            if self._current is not executor or self._closed.is_set():
                return
            self._current, tasks = None, [*self._tasks]
            self._tasks.clear()
        logger.warning("%s was lost (%s), and is being made again", self._name, error or type(error).__name__)
        threading.Thread(target=self._renew, args=(executor, tasks), name="precog-executor", daemon=True).start()

    def _renew(self, executor: Executor, tasks: list[_Task]) -> None:
        for task in tasks:
            task.lose()
        with suppress(Exception):  # it is lost
            executor.shutdown(wait=False)
        pause_s, told = RENEW_S, ""
        while not self._closed.wait(pause_s):
            try:
                made = self._make()
            except SettingError as error:
                if str(error) != told:
                    logger.warning("%s", error)
                pause_s, told = min(2 * pause_s, LONGEST_RENEW_S), str(error)
                continue
            with self._lock:
                self._current = made
            logger.warning("%s was made again", self._name)
            if self._closed.is_set():
                _shut_down(made)
            return


@contextmanager
def made(name: str) -> Iterator[Renewed | None]:
    """Make the executor of that name, and shut it down at the end without waiting for what is at work in it.

    :param name: path/to/file.py:NAME or package.module:NAME of something that is called without arguments; "" is none.
    :raises SettingError: there is none, it fails, or gives no executor; says which, why and what to do.
    """
    executor = Renewed(f"executor {name}", partial(_called, name)) if name else None
    try:
        yield executor
    finally:
        if executor is not None:
            _shut_down(executor)


def _called(name: str) -> Executor:
    title = f"executor is {name!r}"
    where, _, attribute = name.rpartition(":")
    if not where or not attribute:
        raise SettingError(f"{title}: it names no function. Give path/to/file.py:NAME or package.module:NAME")
    in_file = where.endswith(".py")
    found = (
        from_file(title, Path(where), attribute, SettingError)
        if in_file
        else from_module(title, where, attribute, SettingError)
    )
    if not callable(found):
        raise SettingError(f"{title}: it is a {type(found).__name__}. Name a function that returns an executor")
    try:
        executor = found()
    except Exception as error:  # whatever the operator's code raises
        raise SettingError(f"{title}: it failed: {type(error).__name__}: {error}") from error
    if not isinstance(executor, Executor):
        kind = type(executor).__name__
        raise SettingError(
            f"{title}: it returned a {kind}. Return a concurrent.futures.Executor, as Dask's get_executor() does"
        )
    return executor


def _shut_down(executor: Executor) -> None:
    try:
        executor.shutdown(wait=False)
    except Exception:  # the operator's code, or a cluster that is gone
        logger.exception("the executor could not be shut down")
