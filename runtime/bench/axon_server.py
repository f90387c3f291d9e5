"""One contestant behind a real axon, in a process of its own: `axon_server.py JOB`, where JOB is JSON.

Only what the contestant needs is loaded. Prints {"hotkey": ...} when it serves, and ends with its standard input.
"""

import json
import sys
from collections.abc import Awaitable, Callable
from importlib import import_module
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import bittensor
from axon_challenge import Challenge, wallet
from bittensor.core.axon import Tuple  # what bittensor compares a blacklist's signature with

Forward = Callable[..., Awaitable[Any]]


def ours(job: dict[str, Any]) -> Forward:
    """The drop-in, all fixes applied."""
    made: Forward = import_module("precog_runtime.axon").drop_in(_settings(job))
    return made


def ours_unfixed(job: dict[str, Any]) -> Forward:
    """The drop-in on a bittensor that is as it comes."""
    forward = import_module("precog_runtime.axon.forward")
    made: Forward = forward.forward_by(forward.Background(_settings(job)))
    return made


def ours_headers_only(job: dict[str, Any]) -> Forward:
    """The drop-in with the header fix alone."""
    import_module("precog_runtime.axon").fix_headers()
    return ours_unfixed(job)


def _settings(job: dict[str, Any]) -> Any:
    return import_module("precog_runtime.settings").Settings(api_url=job["market"], window_s=7200, monitor_s=0)


def blocking(job: dict[str, Any]) -> Forward:
    """The baseline."""
    made: Forward = import_module("axon_blocking").Blocking(job["market"]).forward
    return made


def upstream(job: dict[str, Any]) -> Forward:
    """Upstream's own code from a checkout, its client pointed to the simulator."""
    # It asks for the version of its own package.
    about = Path(mkdtemp(dir=job["home"])) / "precog-3.0.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: precog\nVersion: 3.0.0\n", encoding="utf-8")
    sys.path[:0] = [job["upstream"], str(about.parent)]
    client = import_module("precog.utils.cm_data").CMData()
    client._client._api_base_url = job["market"]
    answer = import_module("precog.miners.base_miner").forward
    return lambda synapse, _cm=None: answer(synapse, client)


CONTESTANTS: dict[str, Callable[[dict[str, Any]], Forward]] = {
    "ours": ours,
    "ours, header fix only": ours_headers_only,
    "ours, bittensor as it is": ours_unfixed,
    "blocking baseline": blocking,
    "upstream": upstream,
}


def main(job: dict[str, Any]) -> None:
    """Serve, as upstream's miner does."""
    answer = CONTESTANTS[job["contestant"]](job)

    async def forward(synapse: Challenge) -> Challenge:
        filled: Challenge = await answer(synapse, None)
        bittensor.logging.success(f"Predictions: {filled.predictions}  |  Intervals: {filled.intervals}")
        return filled

    async def blacklist(synapse: Challenge) -> Tuple[bool, str]:
        return synapse.dendrite.hotkey not in job["hotkeys"], "Unrecognized hotkey"

    async def priority(synapse: Challenge) -> float:
        return float(job["hotkeys"].index(synapse.dendrite.hotkey))

    miner = wallet(job["home"])
    axon = bittensor.Axon(miner, ip="127.0.0.1", external_ip="127.0.0.1", port=job["port"])
    axon.attach(forward_fn=forward, blacklist_fn=blacklist, priority_fn=priority)
    axon.start()
    print(json.dumps({"hotkey": miner.hotkey.ss58_address}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
