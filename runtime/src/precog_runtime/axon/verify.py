"""Strict verification: a request is from the hotkey that it names, new, and meant for this axon, or it is refused.

bittensor's own verification answers a request without a signature, takes the caller's word for the protocol's version
and time-out when it judges how old a request is, and forgets to judge that once it has seen the caller. The signed
message is nonce.hotkey.axon's hotkey.uuid.body hash.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

from bittensor.core.axon import Axon
from bittensor.core.errors import NotVerifiedException
from bittensor_wallet import Keypair
from starlette.requests import Request

from precog_runtime.axon.hotkey import kept_wallet
from precog_runtime.axon.known import replace

DEFAULT_VERIFY = "ce8fbd14f29c9e35d7fc111e4b29b786741e3a55d897bc4c4efeb63b5e1375e2"

SECOND_NS = 1_000_000_000
BEHIND_S = 4.0  # how old a nonce may be besides the caller's time-out: bittensor's ALLOWED_DELTA
LONGEST_TIMEOUT_S = 60.0  # that counts; the time-out is not signed
AHEAD_S = 60.0  # clocks differ; a nonce is the time of sending, whatever mark the request names
FEWEST = 1024  # callers remembered before old ones are looked for

# Who signed the request that is being answered: what its body says of the caller is not signed.
caller: ContextVar[str] = ContextVar("caller", default="")


# Told of each verified request, while the others of its burst are still being verified: what they will want can be
# fetched meanwhile.
announced: list[Callable[[], None]] = []


class Refused(Exception):
    """The request is not verified; the message says why."""


class Verifier:
    """Verifies the requests to one axon.

    :param hotkey: the axon's own address.
    :param now_ns: wall clock, nanoseconds since the epoch.
    """

    def __init__(self, hotkey: str, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._hotkey = hotkey
        self._now_ns = now_ns
        self._newest: dict[tuple[str, str], int] = {}  # nonce by hotkey and uuid
        self._most = FEWEST

    def check(self, synapse: Any) -> str:
        """Return who signed a request, and never accept it again.

        :param synapse: as it was made from the request's headers.
        :raises Refused: it is not verified.
        """
        dendrite = synapse.dendrite
        if dendrite is None:
            raise Refused("the caller's headers are missing")
        for name in ("hotkey", "nonce", "uuid", "signature"):
            if not getattr(dendrite, name):
                raise Refused(f"the {name} is missing")
        if not synapse.computed_body_hash:
            raise Refused("the body's hash is missing")
        now = self._now_ns()
        self._check_nonce(dendrite, _oldest(now, synapse.timeout), now)
        self._check_signature(dendrite, synapse.computed_body_hash)
        self._newest[dendrite.hotkey, dendrite.uuid] = dendrite.nonce
        self._forget(now)
        for tell in announced:
            tell()
        return str(dendrite.hotkey)

    def _check_nonce(self, dendrite: Any, oldest: int, now: int) -> None:
        if dendrite.nonce <= oldest:
            raise Refused(f"the nonce is too old by {(oldest - dendrite.nonce) / SECOND_NS:.1f} s")
        if dendrite.nonce > now + AHEAD_S * SECOND_NS:
            raise Refused(f"the nonce is {(dendrite.nonce - now) / SECOND_NS:.1f} s in the future")
        if dendrite.nonce <= self._newest.get((dendrite.hotkey, dendrite.uuid), 0):
            raise Refused("the nonce is not newer than the last one")

    def _check_signature(self, dendrite: Any, body_hash: str) -> None:
        message = f"{dendrite.nonce}.{dendrite.hotkey}.{self._hotkey}.{dendrite.uuid}.{body_hash}"
        try:
            genuine = Keypair(ss58_address=dendrite.hotkey).verify(message, dendrite.signature)
        except (ValueError, TypeError) as error:
            raise Refused(f"the hotkey or signature can't be used: {error}") from error
        if not genuine:
            raise Refused("the signature is not the hotkey's")

    def _forget(self, now: int) -> None:
        """Drop callers whose last nonce is too old to be accepted in any case; each time there are twice as many."""
        if len(self._newest) > self._most:
            oldest = _oldest(now, LONGEST_TIMEOUT_S)
            self._newest = {key: nonce for key, nonce in self._newest.items() if nonce > oldest}
            self._most = max(FEWEST, 2 * len(self._newest))


def _oldest(now: int, timeout_s: float | None) -> int:
    """Return the nonce that is just too old, as bittensor does, but for absurd time-outs."""
    allowed = timeout_s if timeout_s is not None and timeout_s >= 0 else 0.0
    return now - int((BEHIND_S + min(allowed, LONGEST_TIMEOUT_S)) * SECOND_NS)


_verifiers: WeakKeyDictionary[Axon, Verifier] = WeakKeyDictionary()


def verifier(axon: Axon) -> Verifier:
    """Return the verifier of an axon; one axon has one, so that a nonce is accepted once."""
    if axon not in _verifiers:
        _verifiers[axon] = Verifier(kept_wallet(axon).hotkey.ss58_address)
    return _verifiers[axon]


def verify_strictly() -> bool:
    """Make strict what axons verify with if they are given no function of their own.

    It concerns functions attached later, so call it before the axon is made. Returns whether it is in place.
    """
    return replace(Axon, "default_verify", DEFAULT_VERIFY, lambda _original: _default_verify)


async def _default_verify(self: Axon, synapse: Any) -> None:
    caller.set(verifier(self).check(synapse))


def strict_body(axon: Axon) -> Callable[[Request], Awaitable[Any]]:
    """Return what checks a body against its signed hash, and tells status 401 instead of 500 if it doesn't match."""
    check = axon.verify_body_integrity

    async def verify_body_integrity(request: Request) -> Any:
        try:
            return await check(request)
        except (ValueError, TypeError) as error:
            raise NotVerifiedException("Not Verified with error: the body is not the one signed") from error

    return verify_body_integrity
