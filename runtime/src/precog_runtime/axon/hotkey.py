"""The hotkey fix: the miner's own key is read from disk once, not twice at each request.

`wallet.hotkey` opens, parses and derives the key file at each access: 0.65 ms of CPU. The axon signs with it as a
request comes in, and looks up its address to verify the caller. For these two it is kept in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from bittensor.core.axon import Axon, AxonMiddleware
from bittensor.core.errors import InvalidRequestNameError, SynapseParsingError

from precog_runtime.axon.known import replace

PREPROCESS = "e4b9af22638368ab5b02f71e3d5b25ae6b02b1ce1cee88d6bcceec6bd3a2f599"

_wallets: WeakKeyDictionary[Axon, tuple[Any, Any]] = WeakKeyDictionary()


class View:
    """An object that is another one but for some attributes."""

    def __init__(self, of: Any, **own: Any) -> None:
        vars(self).update(own, _of=of)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_of"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(vars(self)["_of"], name, value)


def keep_hotkey() -> bool:
    """Apply the fix to all axons, once; return whether it is in place.

    Headers that don't parse are told by status 400 then; bittensor says 500.
    """
    return replace(AxonMiddleware, "preprocess", PREPROCESS, _kept)


def kept_wallet(axon: Axon) -> Any:
    """Return the axon's wallet with its hotkey in memory."""
    wallet = axon.wallet
    kept = _wallets.get(axon)
    if kept is None or kept[0] is not wallet:
        kept = _wallets[axon] = (wallet, View(wallet, hotkey=wallet.hotkey))
    return kept[1]


def _kept(original: Callable[..., Any]) -> Callable[..., Any]:
    async def preprocess(self: Any, request: Any) -> Any:
        axon = View(self.axon, wallet=kept_wallet(self.axon))
        try:
            return await original(View(self, axon=axon), request)
        except SynapseParsingError as error:
            raise InvalidRequestNameError("the headers are not those of this synapse") from error

    return preprocess
