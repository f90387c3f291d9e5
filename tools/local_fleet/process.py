"""Runs other programs so that a failure or Ctrl-C leaves none of them behind."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress


class Stopped(Exception):
    """The user interrupted; raised in the threads that were at work."""


class Failed(Exception):
    """A program ended with another status than 0; holds the end of what it printed."""

    def __init__(self, argv: Sequence[str], status: int, output: str, lines: int = 12) -> None:
        self.argv, self.status, self.output = list(argv), status, output
        tail = "\n".join(output.strip().splitlines()[-lines:])
        super().__init__(f"{' '.join(argv[:3])} ended with status {status}:\n{tail}")


class Runner:
    """Starts programs from any thread, each in a process group of its own, and can end all of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live: set[subprocess.Popen[str]] = set()
        self.stopping = threading.Event()

    def run(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, timeout: float = 600) -> str:
        """Returns what *argv* printed to its standard output.

        *env* is added to the environment; *timeout* is in seconds.
        Raises Failed with the program's output, Stopped after `stop`, FileNotFoundError when there is no such program.
        """
        process = self._start(argv, env)
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            _end(process)
            raise Failed(argv, 124, f"no end after {timeout:.0f} s") from None
        except BaseException:  # an interruption of this very thread
            with uninterrupted():
                _end(process)
            raise
        finally:
            with self._lock:
                self._live.discard(process)
        if self.stopping.is_set():
            raise Stopped
        if process.returncode:
            raise Failed(argv, process.returncode, errors.strip() or output)
        return output

    def pause(self, seconds: float) -> None:
        """Sleeps; raises Stopped at once after `stop`."""
        if self.stopping.wait(seconds):
            raise Stopped

    def stop(self) -> None:
        """Ends everything that runs, and lets nothing more be started."""
        with uninterrupted():
            with self._lock:
                self.stopping.set()
                live = list(self._live)
            for process in live:
                _signal(process, signal.SIGTERM)
            for process in live:
                _end(process)

    def _start(self, argv: Sequence[str], env: Mapping[str, str] | None) -> subprocess.Popen[str]:
        with self._lock:
            if self.stopping.is_set():
                raise Stopped
            process = subprocess.Popen(
                argv,
                env={**os.environ, **(env or {})},
                text=True,
                errors="replace",
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            self._live.add(process)
        return process


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Lets a clean-up come to its end though the user grows impatient."""
    in_main = threading.current_thread() is threading.main_thread()  # which alone gets signals
    numbers = (signal.SIGINT, signal.SIGTERM) if in_main else ()
    handlers = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, handlers):
            signal.signal(number, handler)


def _end(process: subprocess.Popen[str]) -> None:
    """Asks the process group to end, and makes it when it doesn't within 10 s."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        _signal(process, number)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            continue
        return


def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
