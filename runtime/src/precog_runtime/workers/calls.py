"""Calls that go to another process: function, arguments and result are pickled, and sent through a pipe."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from typing import Any

from precog_runtime.errors import ModelError

BEGUN = b"begun"  # what a worker sends when it has a call, ahead of the reply


class RemoteError(Exception):
    """The traceback of an error in a worker, as text: the cause of the error that the caller sees."""


def packed(function: Callable[..., Any], arguments: Sequence[Any]) -> bytes:
    """Return a call as a message for a worker.

    :raises ModelError: the function or an argument can't be pickled.
    """
    try:
        return pickle.dumps((function, tuple(arguments)), protocol=5)
    except Exception as error:  # pickling runs code of the arguments' classes
        name = getattr(function, "__qualname__", repr(function))
        raise ModelError(
            f"{name} can't be sent to another process: {error}. Define it and the classes of its arguments "
            'at the top of a module, or use kind "numpy"'
        ) from error


def unpacked(reply: bytes) -> Any:
    """Return what the worker's function returned.

    :raises Exception: what it raised.
    :raises ModelError: it returned something that can't be read here.
    """
    try:
        good, value, told = pickle.loads(reply)
    except Exception as error:  # unpickling runs code of the value's class
        raise ModelError(f"what came from the worker can't be read: {error}") from error
    if good:
        return value
    raise value from RemoteError(told)


def serve(pipe: Connection) -> None:
    """Answer calls, one after another, until the parent closes the pipe or dies: the main function of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent decides
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    while True:
        try:
            message = pipe.recv_bytes()
        except EOFError:
            break
        pipe.send_bytes(BEGUN)
        pipe.send_bytes(_answer(message))


def _leave_with_parent() -> None:
    """End this process, though it may be at work, when its parent is gone."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _answer(message: bytes) -> bytes:
    """Return the reply to a call."""
    try:
        function, arguments = pickle.loads(message)
        return pickle.dumps((True, function(*arguments), ""), protocol=5)
    except Exception as error:  # whatever the function raises goes to the caller
        return _failure(error)


def _failure(error: Exception) -> bytes:
    """Return the reply that carries an error, or its text where the error itself can't be sent."""
    told = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    try:
        reply = pickle.dumps((False, error, told))
        pickle.loads(reply)  # many errors with a constructor of their own can be pickled but not read back
    except Exception:
        text = traceback.format_exception_only(type(error), error)[-1].strip()
        reply = pickle.dumps((False, ModelError(text), told))
    return reply
