"""The header fix: what a synapse's class says of itself is looked up once, not at each response.

`Synapse.to_headers()` asks `get_required_fields()` once per field, and that makes the JSON schema of the class each
time: 46 to 70 ms of CPU for one response. The list only depends on the class, so it is kept; the headers stay the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from bittensor.core.synapse import Synapse

from precog_runtime.axon.known import replace

REQUIRED_FIELDS = "423ea68de600a43ebdc82287e24713fd81da16be710b22b954b5fff8e6cffd0b"


def fix_headers(synapse: type[Synapse] = Synapse) -> bool:
    """Apply the fix to a class of synapses and those derived from it, once; return whether it is in place.

    :param synapse: without it, all of them.
    """
    return replace(synapse, "get_required_fields", REQUIRED_FIELDS, _kept)


def _kept(original: Callable[[Any], list[str]]) -> Callable[[Any], list[str]]:
    required: WeakKeyDictionary[type, tuple[object, list[str]]] = WeakKeyDictionary()

    def get_required_fields(self: Any) -> list[str]:
        # Pydantic puts another core schema in place when a class is rebuilt, for instance with fields added.
        schema = type(self).__pydantic_core_schema__
        kept = required.get(type(self))
        if kept is None or kept[0] is not schema:
            kept = required[type(self)] = (schema, original(self))
        return list(kept[1])

    return get_required_fields
