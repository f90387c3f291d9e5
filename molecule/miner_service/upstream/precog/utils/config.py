"""The miner's command line."""

import subprocess

import bittensor as bt


def device():
    """Return what to compute on; as upstream's, it asks a program that few hosts have."""
    try:
        return "cuda" if b"NVIDIA" in subprocess.check_output(["nvidia-smi", "-L"]) else "cpu"
    except OSError:
        return "cpu"


def configuration(parser):
    """Return what the command line says; as upstream's, it passes over flags that it doesn't know."""
    for part in (bt.wallet, bt.subtensor, bt.logging, bt.axon):
        part.add_args(parser)
    parser.add_argument("--netuid", type=int, default=1)
    parser.add_argument("--neuron.name", default="miner")
    parser.add_argument("--neuron.device", default=device())
    parser.add_argument("--logging.level", choices=["info", "debug", "trace"], default="info")
    parser.add_argument("--blacklist.force_validator_permit", action="store_true", default=True)
    parser.add_argument("--blacklist.allow_non_registered", action="store_true", default=False)
    parser.add_argument("--forward_function", default="base_miner")
    return bt.config(parser)
