"""Commands of ours as real processes: started on a port of the kernel's choice, always ended."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

SOURCE = Path(__file__).resolve().parent.parent / "src"
PATIENCE_S = 30.0


class Command:
    """A running command that tells its URL on its first line."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


class Manager:
    """Hears what services tell, in systemd's place.

    :ivar address: for NOTIFY_SOCKET.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *_error: object) -> None:
        self._socket.close()

    def hear(self, within_s: float = PATIENCE_S) -> dict[str, str]:
        """Return the next message's assignments; none if there is no message in time."""
        self._socket.settimeout(within_s)
        try:
            lines = self._socket.recv(4096).decode().split("\n")
        except TimeoutError:
            return {}
        return dict(line.split("=", 1) for line in lines)

    def wait_for(self, name: str) -> dict[str, str]:
        """Return the next message with this assignment."""
        while name not in (message := self.hear()):
            if not message:
                raise AssertionError(f"nobody told {name}")
        return message


def environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PRECOG_RUNTIME_")}
    return {**kept, "PYTHONPATH": str(SOURCE), **more}


def words(*arguments: object) -> list[str]:
    """Return the command line, under -O where the tests run so."""
    optimised = ["-O"] * sys.flags.optimize
    return [sys.executable, *optimised, "-m", "precog_runtime", *(str(argument) for argument in arguments)]


def done(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        words(*arguments), capture_output=True, text=True, timeout=120, check=False, env=environment(**more)
    )


# systemd hands a socket over as descriptor 3 to the process that LISTEN_PID names.
HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""


@contextmanager
def running(
    *arguments: object,
    listener: socket.socket | None = None,
    descriptors: int = 0,
    stderr: IO[str] | None = None,
    **more: str,
) -> Iterator[Command]:
    """Run a server command until the block is left.

    :param listener: handed over to it as systemd does.
    :param descriptors: its `ulimit -n`; 0 leaves it as it is.
    :param stderr: where its log goes, if not to ours.
    """
    command, handed = words(*arguments), [listener.fileno()] if listener else []
    if handed:
        command = [sys.executable, "-SE", "-c", HAND_OVER, str(handed[0]), *command]
    if descriptors:
        command = ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh", *command]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": stderr, "pass_fds": handed}
    process = subprocess.Popen(command, text=True, env=environment(**more), **pipes)
    try:
        yield Command(process, json.loads(_first_line(process))["listening"])
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(PATIENCE_S)
        if process.stdout:
            process.stdout.close()


def _first_line(process: subprocess.Popen[str]) -> str:
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=lambda: lines.put(process.stdout.readline()), daemon=True).start()
    line = lines.get(timeout=PATIENCE_S)
    if not line:
        raise AssertionError(f"it ended with {process.wait(PATIENCE_S)} before it listened")
    return line


def call(url: str, body: object = None, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
    """Return status and content (JSON read, other text as it is) of a request; a body makes it a POST."""
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers or {}), timeout=20) as response:
            return response.status, _content(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, _content(error)


def _content(response: Any) -> Any:
    text = response.read().decode()
    return json.loads(text) if response.headers.get_content_type() == "application/json" else text


def wait_until(condition: Any, within_s: float = PATIENCE_S) -> Any:
    """Wait for a true value, and return it."""
    ends = time.monotonic() + within_s
    while not (found := condition()):
        if time.monotonic() > ends:
            raise AssertionError(f"not so within {within_s} s")
        time.sleep(0.02)
    return found
