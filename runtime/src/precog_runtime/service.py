"""What systemd gives a service and wants to hear of it: sd_notify(3), sd_listen_fds(3), RuntimeDirectory=.

Outside of systemd, where its variables aren't set, all of this does nothing. Written out, as the protocols are one
datagram and one descriptor, while libsystemd's Python bindings would have to be compiled on every host.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from pathlib import Path

from precog_runtime.errors import SettingError

logger = logging.getLogger(__name__)

DRAIN = "drain"  # the file in the service's runtime directory that takes it out of a load balancer
SEND_S = 1.0  # a manager whose queue is full for longer is not waited for
FIRST_DESCRIPTOR = 3  # sd_listen_fds(3): SD_LISTEN_FDS_START


def managed() -> bool:
    """Return whether systemd wants to hear of this service."""
    return bool(os.environ.get("NOTIFY_SOCKET"))


def notify(*assignments: str) -> None:
    """Tell systemd, for instance `READY=1`; where that fails, log it and go on."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]  # how the kernel writes the name of an abstract socket
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.settimeout(SEND_S)
        try:
            sender.sendto("\n".join(assignments).encode(), address)
        except OSError as error:
            logger.warning("systemd could not be told %s: %s", " ".join(assignments), error)


def watchdog_s() -> float:
    """Return how often to tell systemd that we are alive, seconds: a third of its limit; 0 if it needn't be told."""
    asked_of, limit_us = os.environ.get("WATCHDOG_PID"), os.environ.get("WATCHDOG_USEC", "")
    if asked_of not in (None, str(os.getpid())) or not limit_us.isdigit():
        return 0.0
    return int(limit_us) / 3e6


async def report_alive() -> None:
    """Tell systemd's watchdog that this event loop turns, until cancelled; ends at once where it asks for nothing."""
    every_s = watchdog_s()
    while every_s:
        notify("WATCHDOG=1")
        await asyncio.sleep(every_s)


def inherited() -> socket.socket | None:
    """Return the listening socket that a .socket unit hands to this process, None if there is none.

    It is handed over once: the variables are cleared, so that no child takes the socket for its own.

    :raises SettingError: what is handed over is not one listening TCP socket.
    """
    asked_of, count = (os.environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS"))
    os.environ.pop("LISTEN_FDNAMES", None)
    if asked_of != str(os.getpid()) or count in ("", "0"):
        return None
    if count != "1":
        raise SettingError(f"LISTEN_FDS is {count}: one socket is served. Give the .socket unit one ListenStream=")
    try:
        handed = socket.socket(fileno=FIRST_DESCRIPTOR)
        accepts = handed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise SettingError(
            f"LISTEN_FDS is 1, and descriptor {FIRST_DESCRIPTOR} can't be used: {error.strerror}. "
            "Start this by its .socket unit, or unset LISTEN_FDS"
        ) from error
    if handed.family not in (socket.AF_INET, socket.AF_INET6) or not accepts:
        handed.detach()
        raise SettingError(
            f"LISTEN_FDS is 1, and descriptor {FIRST_DESCRIPTOR} is no listening TCP socket. "
            "Give the .socket unit ListenStream=ADDRESS:PORT and Accept=no"
        )
    handed.set_inheritable(False)
    return handed


def draining() -> bool:
    """Return whether the file `drain` in the service's runtime directory asks to be sent no more requests."""
    folder = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return bool(folder) and (Path(folder) / DRAIN).exists()
