"""What the workers do in test_workers.py. A module of its own, as a worker process has to import it by its name."""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from precog_runtime.errors import RateLimited
from precog_runtime.types import Series

LARGE = np.arange(100_000, dtype=np.float64)


def where(*_arguments: object) -> tuple[int, str]:
    return os.getpid(), threading.current_thread().name


def look(array: np.ndarray[Any, Any]) -> float:
    return float(array.sum())


def total(series: Series) -> float:
    return float(series.prices.sum()) + int(series.times.sum())


def echo(value: object) -> tuple[object, bytes]:
    return value, pickle.dumps(value)


def refuse(_array: object) -> None:
    raise KeyError("no such thing")


def limited() -> None:
    raise RateLimited("slow down", 3.0)


def stop() -> None:
    raise StopIteration


def bad_result() -> object:
    return threading.Lock()


def leave(code: int, _array: object = None) -> None:
    os._exit(code)


def exit_politely() -> None:
    sys.exit(7)


def hang(mark: Path, _array: object = None) -> None:
    """Write down the process's id, then never end."""
    part = mark.with_suffix(".part")
    part.write_text(str(os.getpid()), encoding="utf-8")
    part.rename(mark)
    while True:
        time.sleep(60)


def meet(barrier: threading.Barrier) -> str:
    barrier.wait(20)
    return "met"


def wait_for(event: threading.Event, begun: threading.Event | None = None) -> str:
    if begun:
        begun.set()
    event.wait(20)
    return "done"


async def until(condition: Callable[[], Any], what: str = "") -> Any:
    """Wait for something to come true."""
    for _ in range(2000):
        found = condition()
        if found:
            return found
        await asyncio.sleep(0.01)
    raise AssertionError(f"never came true: {what or condition}")


async def begun(mark: Path) -> int:
    await until(mark.exists, f"{mark} written")
    return int(mark.read_text(encoding="utf-8"))
