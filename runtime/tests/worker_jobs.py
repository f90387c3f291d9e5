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


def blocks() -> list[str]:
    """The blocks of shared memory that this process has mapped."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    return sorted({line.split()[-1] for line in maps if "/dev/shm/psm_" in line})


def look(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    return {"sum": float(array.sum()), "owns": array.flags.owndata, "writes": array.flags.writeable, "blocks": blocks()}


def total(series: Series) -> float:
    return float(series.prices.sum()) + int(series.times.sum())


def echo(value: object) -> tuple[object, bytes]:
    return value, pickle.dumps(value)


KEPT: list[Any] = []


def keep(array: np.ndarray[Any, Any]) -> list[str]:
    KEPT.append(array)
    return blocks()


def let_go() -> None:
    KEPT.clear()


def mapped() -> list[str]:
    return blocks()


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
    """Say who and with which blocks, then never end."""
    part = mark.with_suffix(".part")
    part.write_text("\n".join([str(os.getpid()), *blocks()]), encoding="utf-8")
    part.rename(mark)
    while True:
        time.sleep(60)


def meet(barrier: threading.Barrier) -> str:
    barrier.wait(20)
    return "met"


def wait_for(event: threading.Event) -> str:
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


async def begun(mark: Path) -> tuple[int, list[str]]:
    await until(mark.exists, f"{mark} written")
    pid, *names = mark.read_text(encoding="utf-8").split()
    return int(pid), names
