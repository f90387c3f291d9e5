"""Helpers; like upstream's module of this name it imports git, numpy, requests and pandas, whether used or not."""

import asyncio
import time

import bittensor as bt
import git
import numpy as np
import requests
from pandas import DataFrame

TRIES = 3
WAIT_S = 1.0


def retried(function):
    """Return what a function returns, tried a few times."""
    for attempt in range(1, TRIES + 1):
        try:
            return function()
        except Exception as error:
            if attempt == TRIES:
                raise
            bt.logging.debug(f"{function} failed, try {attempt} of {TRIES}: {error}")
            time.sleep(WAIT_S)
    return None


async def forever(function, every_s):
    """Call an async function again and again, whatever it raises."""
    while True:
        try:
            await function()
        except Exception as error:
            bt.logging.error(f"{function} failed: {error}")
        await asyncio.sleep(every_s)


def versions():
    """Return the versions of what is imported here."""
    return {each.__name__: each.__version__ for each in (git, np, requests)} | {"columns": list(DataFrame().columns)}
