"""Talks to a running QEMU through its monitor (QMP), to save a machine's state."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from local_fleet.model import FleetError, Problem

# Writing a GiB of memory takes seconds; a busy disk takes longer.
PATIENCE_SECONDS = 120


def save_state(path: Path, state: str) -> None:
    """Saves memory, devices and disk as *state* in the machine's disk layer. The guest pauses meanwhile.

    A state of the same name is replaced.

    :param path: the monitor's socket.
    :raises FleetError: when QEMU cannot be reached or cannot save.
    """
    try:
        answer = _human(path, f"savevm {state}")
    except (OSError, ValueError) as error:
        raise FleetError(
            Problem(f"QEMU's monitor {path} does not answer: {error}", "Is the machine running?")
        ) from None
    if answer.strip():
        raise FleetError(Problem(f"QEMU did not save the state {state}: {answer.strip()}"))


def _human(path: Path, line: str) -> str:
    """What the monitor prints for a command of its human interface; '' means that it worked."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PATIENCE_SECONDS)
        connection.connect(str(path))
        with connection.makefile("r", encoding="utf-8") as answers:
            replies = _replies(answers)
            _send(connection, "qmp_capabilities")
            next(replies)
            _send(connection, "human-monitor-command", {"command-line": line})
            return str(next(replies))


def _send(connection: socket.socket, command: str, arguments: dict[str, str] | None = None) -> None:
    message = {"execute": command, **({"arguments": arguments} if arguments else {})}
    connection.sendall(json.dumps(message).encode() + b"\n")


def _replies(answers: Any) -> Iterator[Any]:
    """The replies to commands, without the greeting and the events between them; raises ValueError for an error."""
    for line in answers:
        message = json.loads(line)
        if "error" in message:
            raise ValueError(message["error"].get("desc", line))
        if "return" in message:
            yield message["return"]
    raise ValueError("QEMU closed the connection")
