"""Replaces a method or function of bittensor's, but only the one that the replacement was made for.

They are the same in bittensor 9.9 to 9.12. In another version that changed one, it is left as it is.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any

logger = logging.getLogger(__name__)

MARK = "replaced_by_precog_runtime"


def replace(owner: type | ModuleType, name: str, digest: str, make: Callable[[Any], Any]) -> bool:
    """Replace the method by `make(method)`, once; return whether the replacement is in place.

    :param owner: the class, or for a function the module.
    :param digest: SHA-256 of the source of the method that `make` is for, in hexadecimal.
    """
    method: Any = getattr(owner, name, None)
    if hasattr(method, MARK):
        return True
    if _digest(method) != digest:
        logger.warning(
            "%s.%s of this bittensor is not the one known from 9.9 to 9.12: it is left as it is (docs/runtime/axon.md)",
            owner.__name__,
            name,
        )
        return False
    replacement = functools.wraps(method)(make(method))
    setattr(replacement, MARK, True)
    setattr(owner, name, replacement)
    return True


def _digest(method: Any) -> str:
    try:
        return hashlib.sha256(inspect.getsource(method).encode()).hexdigest()
    except (TypeError, OSError):  # no function; or its source is not installed
        return ""
