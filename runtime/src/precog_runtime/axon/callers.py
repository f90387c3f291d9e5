"""Who may ask, and who goes first, by the metagraph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol


class Metagraph(Protocol):
    """What is wanted of bittensor's metagraph. Its attributes are replaced when it is synchronised, never changed.

    :ivar hotkeys: by uid.
    :ivar validator_permit: whether a neuron may validate, by uid.
    :ivar S: stake, TAO, by uid.
    """

    hotkeys: Sequence[str]
    validator_permit: Any
    S: Any


class Neuron(NamedTuple):
    """A registered key."""

    permit: bool
    stake: float


class Callers:
    """Answers from a table of the metagraph's neurons that is made anew when the metagraph was synchronised.

    :param validators_only: refuse who has no validator permit.
    :param allow_unregistered: let in who is not in the metagraph. Not on a public network.
    :param vpermit_tao_limit: refuse validators with less stake, TAO.
    """

    def __init__(
        self,
        metagraph: Metagraph,
        validators_only: bool = True,
        allow_unregistered: bool = False,
        vpermit_tao_limit: float = 0.0,
    ) -> None:
        self._metagraph = metagraph
        self._validators_only = validators_only
        self._allow_unregistered = allow_unregistered
        self._limit = vpermit_tao_limit
        self._made_from: tuple[Any, ...] = ()
        self._neurons: dict[str, Neuron] = {}

    def blacklist(self, hotkey: str | None) -> tuple[bool, str]:
        """Return whether a caller is refused, and why."""
        if not hotkey:
            return True, "Missing dendrite or hotkey"
        neuron = self._known().get(hotkey)
        if neuron is None:
            return not self._allow_unregistered, "Unrecognized hotkey"
        if self._validators_only and not neuron.permit:
            return True, "Non-validator hotkey"
        if self._validators_only and not neuron.stake >= self._limit:
            return True, f"Stake below {self._limit:g} TAO"
        return False, "Hotkey recognized"

    def priority(self, hotkey: str | None) -> float:
        """Return a caller's stake, TAO; 0 for who is not registered."""
        neuron = self._known().get(hotkey or "")
        return neuron.stake if neuron else 0.0

    def registered(self, hotkey: str | None) -> bool:
        """Return whether a hotkey is in the metagraph."""
        return (hotkey or "") in self._known()

    def _known(self) -> dict[str, Neuron]:
        graph = self._metagraph
        # bittensor's metagraph makes the list of hotkeys from its axons at each access.
        now = (getattr(graph, "axons", None) or graph.hotkeys, graph.validator_permit, graph.S)
        if len(now) != len(self._made_from) or any(a is not b for a, b in zip(now, self._made_from, strict=True)):
            # While it is being synchronised the parts may differ in length: who is not in all of them has to wait.
            rows = zip(graph.hotkeys, now[1], now[2], strict=False)
            self._neurons = {hotkey: Neuron(bool(permit), float(stake)) for hotkey, permit, stake in rows}
            self._made_from = now
        return self._neurons
