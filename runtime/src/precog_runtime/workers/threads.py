"""Threads that nobody has to wait for: an interpreter that ends joins those of ThreadPoolExecutor, hung ones too."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from itertools import count
from queue import SimpleQueue
from typing import Any

_Job = tuple["Future[Any]", Callable[..., Any], tuple[Any, ...]]


class Threads:
    """Daemon threads, as many as there are tasks at once; one that is done with its task waits for the next.

    :param name: what the threads' names begin with.
    """

    def __init__(self, name: str) -> None:
        self._name, self._numbers = name, count(1)
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)  # threads that have nothing to do

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Have a thread call a function, at once.

        :raises RuntimeError: no thread can be started.
        """
        future: Future[Any] = Future()
        if not self._idle.acquire(blocking=False):
            name = f"{self._name}-{next(self._numbers)}"
            threading.Thread(target=self._work, name=name, daemon=True).start()
        self._jobs.put((future, function, arguments))
        return future

    def close(self) -> None:
        """Let those threads end that have nothing to do; the others are left to their tasks."""
        while self._idle.acquire(blocking=False):
            self._jobs.put(None)

    def _work(self) -> None:
        while job := self._jobs.get():
            _do(*job)
            del job  # what it holds is not kept until the next
            self._idle.release()


def _do(future: Future[Any], function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = function(*arguments)
    except BaseException as error:  # what waits for the future gets it
        future.set_exception(error)
    else:
        future.set_result(result)
