"""Upstream's miner looks a caller up in the metagraph before it asks what the caller may do.

Its own blacklist takes the caller's number first, by `metagraph.hotkeys.index()`, which raises for a hotkey that isn't
registered: status 500, and a traceback or an error line per request. Here `Callers` answers first; upstream's own
functions are called for registered callers alone, and may still refuse them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from inspect import Parameter, Signature
from typing import Any

# Compared by bittensor with typing's Tuple, which is not the built-in tuple.
from bittensor.core.axon import Axon, Tuple
from bittensor.core.synapse import Synapse

from precog_runtime.axon.callers import Callers
from precog_runtime.axon.known import replace

ATTACH = "24a99aa51c5bacf3cf049b06b410559ac4923ed23457f2cbbff5b8000f807217"


def screen_callers() -> bool:
    """Have every axon that is made from now on screen a miner's callers, once; return whether it is in place.

    It concerns miners whose blacklist is a method of an object with a `metagraph`, as upstream's is.
    """
    return replace(Axon, "attach", ATTACH, _screening)


def callers_of(miner: Any) -> Callers:
    """Return the callers of a miner, by its metagraph and by its flags `--blacklist.*`, which are upstream's."""
    rules = getattr(getattr(miner, "config", None), "blacklist", None)
    return Callers(
        miner.metagraph,
        validators_only=bool(getattr(rules, "force_validator_permit", False)),
        allow_unregistered=bool(getattr(rules, "allow_non_registered", False)),
    )


def hotkey_of(synapse: Any) -> str | None:
    """Return the hotkey that a request names as its caller's, None without one."""
    return None if synapse.dendrite is None else synapse.dendrite.hotkey


def typed(function: Callable[..., Any], synapse: type[Synapse], returned: Any) -> Callable[..., Any]:
    """Give a function the signature that bittensor looks for."""
    parameter = Parameter("synapse", Parameter.POSITIONAL_OR_KEYWORD, annotation=synapse)
    function.__signature__ = Signature([parameter], return_annotation=returned)  # type: ignore[attr-defined]
    return function


def _screening(original: Callable[..., Axon]) -> Callable[..., Axon]:
    def attach(
        self: Axon,
        forward_fn: Callable[..., Any],
        blacklist_fn: Callable[..., Any] | None = None,
        priority_fn: Callable[..., Any] | None = None,
        verify_fn: Callable[..., Any] | None = None,
    ) -> Axon:
        miner = getattr(blacklist_fn, "__self__", None)
        if blacklist_fn is not None and getattr(miner, "metagraph", None) is not None:
            callers = callers_of(miner)
            synapse = next(iter(inspect.signature(forward_fn).parameters.values())).annotation
            blacklist_fn = typed(_blacklist(callers, blacklist_fn), synapse, Tuple[bool, str])
            priority_fn = priority_fn and typed(_priority(callers, priority_fn), synapse, float)
        return original(self, forward_fn, blacklist_fn, priority_fn, verify_fn)

    return attach


def _blacklist(callers: Callers, theirs: Callable[..., Any]) -> Callable[..., Any]:
    async def blacklist(synapse: Any) -> Any:
        hotkey = hotkey_of(synapse)
        refused, reason = callers.blacklist(hotkey)
        if refused or not callers.registered(hotkey):
            return refused, reason
        return await _of(theirs(synapse))

    return blacklist


def _priority(callers: Callers, theirs: Callable[..., Any]) -> Callable[..., Any]:
    async def priority(synapse: Any) -> Any:
        return await _of(theirs(synapse)) if callers.registered(hotkey_of(synapse)) else 0.0

    return priority


async def _of(returned: Any) -> Any:
    return await returned if inspect.isawaitable(returned) else returned
