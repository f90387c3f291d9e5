"""One path from a validator's request to its answer: market window, forecast, cache, answer."""

__version__ = "0.1.0"
