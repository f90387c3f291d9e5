"""The callers of bench_axon: validators that sign as a dendrite does, and send all at once."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from axon_challenge import Challenge
from bittensor.core.settings import version_as_int
from bittensor.core.synapse import TerminalInfo
from bittensor_wallet import Keypair

from precog_runtime.axon import fix_headers

ASSETS = ["btc", "eth", "tao_bittensor"]
TIMEOUT_S = 20.0  # the longest that validators wait


@dataclass
class Validator:
    """A caller with a key of its own."""

    key: Keypair = field(default_factory=lambda: Keypair.create_from_mnemonic(Keypair.generate_mnemonic()))
    uuid: str = field(default_factory=lambda: str(uuid.uuid1()))

    def letter(self, timestamp: str, hotkey: str, port: int) -> tuple[dict[str, str], bytes]:
        """Return headers and body of a signed request to the axon of that hotkey."""
        synapse = Challenge(timestamp=timestamp, assets=ASSETS, timeout=TIMEOUT_S)
        dendrite = TerminalInfo(
            ip="127.0.0.1", version=version_as_int, nonce=time.time_ns(), uuid=self.uuid, hotkey=self.key.ss58_address
        )
        said = f"{dendrite.nonce}.{dendrite.hotkey}.{hotkey}.{self.uuid}.{synapse.body_hash}"
        dendrite.signature = f"0x{self.key.sign(said).hex()}"
        synapse.dendrite = dendrite
        synapse.axon = TerminalInfo(ip="127.0.0.1", port=port, hotkey=hotkey)
        headers = {**synapse.to_headers(), "Content-Type": "application/json"}
        return headers, json.dumps(synapse.model_dump()).encode()


class Callers:
    """Validators who ask one axon."""

    def __init__(self, count: int) -> None:
        fix_headers()  # of the callers' process: so that the letters are ready sooner
        self.validators = [Validator() for _ in range(count)]

    def burst(self, timestamp: str, hotkey: str, port: int, count: int | None = None) -> tuple[list[float], list[str]]:
        """Ask with all, or so many, at once; return the seconds that each took, and what went wrong."""
        letters = [one.letter(timestamp, hotkey, port) for one in self.validators[:count]]
        results = asyncio.run(_send(f"http://127.0.0.1:{port}/Challenge", letters))
        return [took for took, _ in results], [wrong for _, wrong in results if wrong]


async def _send(url: str, letters: list[tuple[dict[str, str], bytes]]) -> list[tuple[float, str]]:
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        return await asyncio.gather(*(_one(session, url, *letter) for letter in letters))


async def _one(session: aiohttp.ClientSession, url: str, headers: dict[str, str], body: bytes) -> tuple[float, str]:
    began = time.perf_counter()
    try:
        async with session.post(url, headers=headers, data=body) as response:
            answer = await response.json()
            wrong = _wrong(response.status, answer)
    except (aiohttp.ClientError, asyncio.TimeoutError) as error:
        wrong = type(error).__name__
    return time.perf_counter() - began, wrong


def _wrong(status: int, answer: dict[str, Any]) -> str:
    if status != 200:
        return f"status {status}"
    lacking = set(ASSETS) - set(answer.get("predictions") or {})
    return f"without {', '.join(sorted(lacking))}" if lacking else ""
