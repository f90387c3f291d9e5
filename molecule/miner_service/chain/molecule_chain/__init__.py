"""Replaces the chain in bittensor, for a host that has none.

`molecule_chain.pth` loads this module at the start of every Python of the environment. Once bittensor is imported,
`replaced` is, which replaces what reaches the network. A process that doesn't import bittensor is as without it.
"""

import importlib.util
import sys


class Finder:
    """Finds bittensor where it is installed, and has the chain replaced once it is loaded."""

    def find_spec(self, name, path=None, target=None):
        """Return bittensor's spec, None for every other module."""
        if name != "bittensor":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            importlib.import_module("molecule_chain.replaced")

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder())
