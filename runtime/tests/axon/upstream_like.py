"""A miner in upstream's manner in a process of its own, which asks itself once and then runs until SIGINT.

Its axon starts when standard input has a line or ends. At SIGUSR1 the axon's event loop stands still.
"""

import asyncio
import importlib
import json
import signal
import socket
import sys
import threading
import time
import types

# Ignored where the tests run in a shell's background, and passed on to us.
signal.signal(signal.SIGINT, signal.default_int_handler)
own_getaddrinfo = socket.getaddrinfo


def here(host, *args, **kwargs):
    if host not in ("127.0.0.1", "localhost", "0.0.0.0", None):
        raise AssertionError(f"something looked for {host}")
    return own_getaddrinfo(host, *args, **kwargs)


socket.getaddrinfo = here

TWO_LINES = """
from precog_runtime.axon import drop_in
forward = drop_in(source=SimulatedMarket(1, "mixed"))
"""


def main(port):
    from simulated import SimulatedMarket

    module = types.ModuleType("ours")
    module.SimulatedMarket = SimulatedMarket
    exec(TWO_LINES, vars(module))
    sys.modules["ours"] = module

    # From here on, as upstream's Miner does it.
    forward_module = importlib.import_module("ours")
    import bittensor as bt
    from axon.challenge import Challenge
    from axon.loopback import Letter, wait_until, wallet
    from bittensor.core.axon import Tuple

    axons_loop = []

    key, stranger = wallet("validator").hotkey, wallet("stranger").hotkey

    class Miner:
        metagraph = types.SimpleNamespace(hotkeys=[key.ss58_address], validator_permit=[True], S=[100.0])

        async def forward(self, synapse: Challenge) -> Challenge:
            axons_loop.append(asyncio.get_running_loop())
            return await forward_module.forward(synapse, None)

        async def blacklist(self, synapse: Challenge) -> Tuple[bool, str]:
            uid = self.metagraph.hotkeys.index(synapse.dendrite.hotkey)
            return not self.metagraph.validator_permit[uid], "Non-validator hotkey"

        async def priority(self, synapse: Challenge) -> float:
            return self.metagraph.S[self.metagraph.hotkeys.index(synapse.dendrite.hotkey)]

    miner = Miner()
    axon = bt.Axon(wallet("miner"), ip="127.0.0.1", external_ip="127.0.0.1", port=port)
    axon.attach(forward_fn=miner.forward, blacklist_fn=miner.blacklist, priority_fn=miner.priority)
    print(json.dumps({"made": True}), flush=True)
    sys.stdin.readline()
    axon.start()
    wait_until(lambda: axon.fast_server.started)

    def look():
        status, answer = wait_until(lambda: full(Letter(axon, key).send()))
        unsigned = Letter(axon, key).send(signature=None)[0]
        unknown = Letter(axon, stranger).send()[0]
        told = {"answered": [status, sorted(answer["predictions"])], "unsigned": unsigned, "unknown": unknown}
        print(json.dumps(told), flush=True)

    signal.signal(signal.SIGUSR1, lambda *_: axons_loop[0].call_soon_threadsafe(time.sleep, 3600))
    threading.Thread(target=look, daemon=True).start()
    asyncio.new_event_loop().run_forever()


def full(answer):
    return answer if answer[0] == 200 and len(answer[1]["predictions"]) == 3 else None


if __name__ == "__main__":
    main(int(sys.argv[1]))
