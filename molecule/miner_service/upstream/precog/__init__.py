"""A stand-in for upstream's package; like it, it can't be imported unless its metadata are found."""

import importlib.metadata

__version__ = importlib.metadata.version("precog")
