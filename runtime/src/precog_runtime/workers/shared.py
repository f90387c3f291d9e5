"""Calls that go to another process: large arrays through shared memory, the rest as a pickle through a pipe.

Pickle's protocol 5 hands out the buffers of numpy arrays wherever they lie in the arguments. Those of LARGE bytes and
more are copied once, into one block of shared memory; the worker sees them there, read-only, without a copy. The
block belongs to the caller, who unlinks it when the worker has answered or is dead: so it never outlives the call,
and the resource tracker that both share has nothing left to warn of. Where there is no room, all goes by the pipe.
"""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any, cast

from precog_runtime.errors import ModelError

LARGE = 32768  # bytes; below, a block costs more than the pipe
ALIGNED = 64  # bytes, a cache line: what numpy's vector code likes best

FOLDER = Path("/dev/shm")  # where Linux keeps the blocks; containers often have 64 MB of it

BEGUN = b"begun"  # what a worker sends when it has a call, ahead of the reply

Spans = list[tuple[int, int]]  # offset and length of each buffer in the block


class RemoteError(Exception):
    """The traceback of an error in a worker, as text: the cause of the error that the caller sees."""


@contextmanager
def packed(function: Callable[..., Any], arguments: Sequence[Any]) -> Iterator[bytes]:
    """Yield a call as a message for a worker; its block of shared memory is gone afterwards, whatever happens.

    :raises ModelError: the function or an argument can't be pickled.
    """
    buffers: list[memoryview] = []

    def inline(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes >= LARGE:
            buffers.append(view)
        return view.nbytes < LARGE

    call = _pickled(function, arguments, inline)
    spans, size = _spans(buffers)
    block = _block(size) if size else None
    if block is None:
        yield pickle.dumps((_pickled(function, arguments, None) if size else call, "", []))
        return
    try:
        for (start, length), buffer in zip(spans, buffers, strict=True):
            _bytes_of(block)[start : start + length] = buffer
        yield pickle.dumps((call, block.name, spans))
    finally:
        block.close()
        block.unlink()


def _pickled(
    function: Callable[..., Any], arguments: Sequence[Any], inline: Callable[[pickle.PickleBuffer], bool] | None
) -> bytes:
    try:
        return pickle.dumps((function, tuple(arguments)), protocol=5, buffer_callback=inline)
    except Exception as error:  # pickling runs code of the arguments' classes
        name = getattr(function, "__qualname__", repr(function))
        raise ModelError(
            f"{name} can't be sent to another process: {error}. Define it and the classes of its arguments "
            'at the top of a module, or use kind "numpy"'
        ) from error


def _spans(buffers: Sequence[memoryview]) -> tuple[Spans, int]:
    """Return where each buffer goes, and the size of the block."""
    spans, end = [], 0
    for buffer in buffers:
        spans.append((end, buffer.nbytes))
        end += -(-buffer.nbytes // ALIGNED) * ALIGNED
    return spans, end


def _block(size: int) -> SharedMemory | None:
    """Return a new block, or None if there is no room."""
    try:
        # A block is made without regard to what is free; writing beyond that kills the writer with SIGBUS.
        if FOLDER.exists() and shutil.disk_usage(FOLDER).free < size:
            return None
        return SharedMemory(create=True, size=size)
    except OSError:
        return None


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
    held: list[SharedMemory] = []
    while True:
        try:
            message = pipe.recv_bytes()
        except EOFError:
            break
        pipe.send_bytes(BEGUN)
        pipe.send_bytes(_answer(message, held))
    if held:  # as the interpreter ends, their destructors would complain of the views that are left
        sys.stdout.flush()
        os._exit(0)


def _leave_with_parent() -> None:
    """End this process, though it may be at work, when its parent is gone."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _answer(message: bytes, held: list[SharedMemory]) -> bytes:
    """Return the reply to a call.

    :param held: blocks that are open: this call's, and those that a function has kept a view of.
    """
    try:
        # The result is pickled while the block is open, as it may be a view of it.
        return pickle.dumps((True, _result(message, held), ""), protocol=5)
    except Exception as error:  # whatever the function raises goes to the caller
        return _failure(error)
    finally:
        held[:] = [block for block in held if not _closed(block)]


def _result(message: bytes, held: list[SharedMemory]) -> Any:
    call, name, spans = pickle.loads(message)
    views: list[memoryview] = []
    if name:
        held.append(_attached(name))
        views = [_bytes_of(held[-1])[start : start + length].toreadonly() for start, length in spans]
    function, arguments = pickle.loads(call, buffers=views)
    return function(*arguments)


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


def _attached(name: str) -> SharedMemory:
    if sys.version_info >= (3, 13):
        return SharedMemory(name, track=False)
    return SharedMemory(name)  # tracked under the same name as the parent's, and so once


def _bytes_of(block: SharedMemory) -> memoryview:
    return cast(memoryview, block.buf)  # None after close only


def _closed(block: SharedMemory) -> bool:
    """Close a block; return False if something still refers to it."""
    try:
        block.close()
    except BufferError:
        return False
    return True
