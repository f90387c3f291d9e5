"""The front end for bittensor's axon, version 9.9 to 9.12: docs/runtime/axon.md."""

from precog_runtime.axon.attach import attach
from precog_runtime.axon.callers import Callers
from precog_runtime.axon.forward import drop_in
from precog_runtime.axon.headers import fix_headers
from precog_runtime.axon.hotkey import keep_hotkey
from precog_runtime.axon.verify import verify_strictly

__all__ = ["Callers", "attach", "drop_in", "fix_headers", "keep_hotkey", "verify_strictly"]
