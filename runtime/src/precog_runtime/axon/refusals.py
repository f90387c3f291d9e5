"""Refused requests are counted by status; bittensor logs each as an error, by which any caller could fill the log.

At `--logging.level trace` bittensor still says of each why it was refused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from bittensor.core import axon
from bittensor.core.errors import (
    BlacklistedException,
    InvalidRequestNameError,
    NotVerifiedException,
    UnknownSynapseError,
)
from bittensor.utils.btlogging.defines import BITTENSOR_LOGGER_NAME

from precog_runtime.axon.known import replace

LOG_AND_HANDLE_ERROR = "8db943d6d43acdb6991f305c4ddeffb9118352aa98abdbb4cf9c8d9e8d0aec4a"
# The caller's fault: forbidden, not verified, no such synapse, unreadable.
REFUSALS = (BlacklistedException, NotVerifiedException, UnknownSynapseError, InvalidRequestNameError)

# Told the status of each refused request, in the axon's thread.
counted: list[Callable[[int], None]] = []

_handling: ContextVar[bool] = ContextVar("handling", default=False)


class _NoErrors(logging.Filter):
    """Drops what is logged as an error while a refusal is handled."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (_handling.get() and record.levelno >= logging.ERROR)


def count_refusals() -> bool:
    """Count refused requests of all axons instead of logging each as an error, once; return whether it is in place."""
    return replace(axon, "log_and_handle_error", LOG_AND_HANDLE_ERROR, _counting)


def _counting(original: Callable[..., Any]) -> Callable[..., Any]:
    logging.getLogger(BITTENSOR_LOGGER_NAME).addFilter(_NoErrors())

    def log_and_handle_error(synapse: Any, exception: Exception, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(exception, REFUSALS):
            return original(synapse, exception, *args, **kwargs)
        handling = _handling.set(True)
        try:
            told = original(synapse, exception, *args, **kwargs)
        finally:
            _handling.reset(handling)
        for count in counted:
            count(told.axon.status_code)
        return told

    return log_and_handle_error
