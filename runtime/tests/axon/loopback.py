"""A miner's axon and what validators send it, over loopback, with wallets made on the fly."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
import urllib.error
import urllib.request
from datetime import datetime, timezone
from pathlib import Path

import bittensor
from axon.challenge import Challenge
from bittensor.core.settings import version_as_int
from bittensor.core.synapse import TerminalInfo

EVERYTHING = ["btc", "eth", "tao_bittensor"]


def wallet(name):
    made = bittensor.Wallet(name=name, hotkey="default", path=str(Path(os.environ["HOME"]) / "wallets"))
    return made.create_if_non_existent(coldkey_use_password=False, hotkey_use_password=False, suppress=True)


def free_port():
    """Return a port that an axon takes: bittensor wants 1025 to 65534."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if 1024 < port < 65535:
            return port


def new_axon(miner="miner"):
    return bittensor.Axon(wallet(miner), ip="127.0.0.1", external_ip="127.0.0.1", port=free_port())


def start(axon):
    axon.start()
    wait_until(lambda: axon.fast_server.started)
    return axon


def wait_until(condition, within_s=30.0):
    ends = time.monotonic() + within_s
    while not (found := condition()):
        if time.monotonic() > ends:
            raise AssertionError(f"not so within {within_s} s")
        time.sleep(0.01)
    return found


def ago(seconds=0.0):
    return datetime.fromtimestamp(time.time() - seconds, timezone.utc).isoformat()


def question(**fields):
    return Challenge(**{"timestamp": ago(), "assets": EVERYTHING, **fields})


def ask(dendrite, axon, synapse=None, timeout=12.0):
    """Ask with bittensor's own client, and return the synapse that came back."""

    async def run():
        try:
            return await dendrite.forward(axon, synapse or question(), timeout, deserialize=False)
        finally:
            await dendrite.aclose_session()

    return asyncio.run(run())


def ask_all(dendrites, axon, synapse=None):
    """Ask with all at once."""

    async def run():
        try:
            return await asyncio.gather(
                *(one.forward(axon, synapse or question(), 12.0, deserialize=False) for one in dendrites)
            )
        finally:
            for one in dendrites:
                await one.aclose_session()

    return asyncio.run(run())


class Letter:
    """A signed request as it goes over the wire, to be tampered with."""

    def __init__(self, axon, key, synapse=None, uuid="a dendrite", nonce=None, receiver=None, timeout=12.0):
        self.url = f"http://127.0.0.1:{axon.port}"
        self.synapse = synapse or question()
        self.synapse.timeout = timeout
        hotkey = receiver or axon.wallet.hotkey.ss58_address
        dendrite = TerminalInfo(
            ip="127.0.0.1",
            version=version_as_int,
            nonce=nonce or time.time_ns(),
            uuid=uuid,
            hotkey=key.ss58_address,
        )
        message = f"{dendrite.nonce}.{dendrite.hotkey}.{hotkey}.{uuid}.{self.synapse.body_hash}"
        dendrite.signature = f"0x{key.sign(message).hex()}"
        self.synapse.dendrite = dendrite
        self.synapse.axon = TerminalInfo(ip="127.0.0.1", port=axon.port, hotkey=hotkey)
        self.headers = self.synapse.to_headers()
        self.body = self.synapse.model_dump()

    def send(self, name=None, **headers):
        """Send it, with headers of the caller changed, or left out if None; return the status and the answer."""
        changed = {f"bt_header_dendrite_{key}": value for key, value in headers.items()}
        sent = {key: str(value) for key, value in {**self.headers, **changed}.items() if value is not None}
        request = urllib.request.Request(
            f"{self.url}/{name or type(self.synapse).__name__}",
            json.dumps(self.body).encode(),
            {**sent, "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)
