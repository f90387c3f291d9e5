"""Under systemd: whether the axon answers, as a caller sees it.

The axon has a thread and an event loop that are not ours, and the process of one that hangs goes on running. So systemd
hears from us only while HTTP at the axon's port is answered, and restarts what hangs.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import psutil

from precog_runtime import service

logger = logging.getLogger(__name__)

ANSWER_S = 5.0  # an axon that has not answered by then hangs
# No request at all: the axon's loop answers 400. A well-formed one that names no synapse would be logged as an error.
QUESTION = b"?\r\n\r\n"
LOOK_S = 0.2  # between looks for an axon that is not started yet
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # where to ask one that listens at all addresses

Address = tuple[str, int]


async def report(metrics_port: int) -> None:
    """Tell systemd that the service is ready once the axon answers, and that it is alive as long as it does.

    Runs until cancelled; ends at once where there is no systemd, and when all is told if it sets no watchdog.

    :param metrics_port: where this process listens as well, which is not the axon.
    """
    if not service.managed():
        return
    try:
        axon = await _started(metrics_port)
        service.notify("READY=1", f"STATUS=The axon answers at port {axon[1]}")
        await _report_alive(axon)
    except Exception:
        logger.exception("systemd hears no more of this miner")


async def answers(address: Address, within_s: float = ANSWER_S) -> bool:
    """Return whether HTTP is answered there, with whatever status."""
    try:
        return await asyncio.wait_for(_status_line(address), within_s)
    except (OSError, asyncio.TimeoutError):
        return False


def listeners(metrics_port: int) -> list[Address]:
    """Return where this process listens, other than for the metrics, as one asks there."""
    process = psutil.Process()
    # psutil 6 renamed it.
    connections = getattr(process, "net_connections", None) or process.connections
    return [
        (EVERYWHERE.get(each.laddr.ip, each.laddr.ip), each.laddr.port)
        for each in connections("tcp")
        if each.status == psutil.CONN_LISTEN and each.laddr.port != metrics_port
    ]


async def _report_alive(axon: Address) -> None:
    every_s = service.watchdog_s()
    while every_s:
        if await answers(axon):
            service.notify("WATCHDOG=1")
        else:
            logger.warning("the axon at port %d has not answered within %g s", axon[1], ANSWER_S)
        await asyncio.sleep(every_s)


async def _started(metrics_port: int) -> Address:
    """Wait until the axon answers, and return where."""
    loop = asyncio.get_running_loop()
    while True:
        for address in await loop.run_in_executor(None, listeners, metrics_port):
            if await answers(address):
                return address
        await asyncio.sleep(LOOK_S)


async def _status_line(address: Address) -> bool:
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(QUESTION)
        return (await reader.readline()).startswith(b"HTTP/")
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
