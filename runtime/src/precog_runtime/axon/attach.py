"""For a miner of one's own: forward, blacklist, priority and strict verification attached to an axon together."""

from __future__ import annotations

from typing import Any

# Compared by bittensor with typing's Tuple, which is not the built-in tuple.
from bittensor.core.axon import Axon, Tuple
from bittensor.core.synapse import Synapse

from precog_runtime.axon.callers import Callers
from precog_runtime.axon.forward import Forward
from precog_runtime.axon.screen import hotkey_of, typed
from precog_runtime.axon.verify import caller, strict_body, verifier
from precog_runtime.errors import SettingError

FIELDS = ("timestamp", "assets", "predictions", "intervals")


def attach(axon: Axon, synapse: type[Synapse], forward: Forward, callers: Callers) -> Axon:
    """Attach the runtime to an axon that is not started yet, and return the axon.

    :param synapse: the class of requests, named as validators call it; upstream's is `Challenge`.
    :param forward: made by `drop_in()`.
    :param callers: who may ask.
    :raises SettingError: the class lacks a field.
    """
    lacking = [name for name in FIELDS if name not in synapse.model_fields]
    if lacking:
        raise SettingError(
            f"{synapse.__name__} lacks {', '.join(lacking)}. Give the subnet's Challenge, or a class with its fields"
        )
    axon.verify_body_integrity = strict_body(axon)
    check = verifier(axon)

    async def fill_in(synapse: Any) -> Any:
        return await forward(synapse)

    async def verify(synapse: Any) -> None:
        caller.set(check.check(synapse))

    async def blacklist(synapse: Any) -> tuple[bool, str]:
        return callers.blacklist(hotkey_of(synapse))

    async def priority(synapse: Any) -> float:
        return callers.priority(hotkey_of(synapse))

    return axon.attach(
        forward_fn=typed(fill_in, synapse, synapse),
        verify_fn=typed(verify, synapse, None),
        blacklist_fn=typed(blacklist, synapse, Tuple[bool, str]),
        priority_fn=typed(priority, synapse, float),
    )
