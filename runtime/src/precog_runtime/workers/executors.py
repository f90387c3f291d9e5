"""An executor of the operator's, by the setting `executor`: see docs/runtime/model.md."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path

from precog_runtime.errors import SettingError
from precog_runtime.named import from_file, from_module

logger = logging.getLogger(__name__)


@contextmanager
def made(name: str) -> Iterator[Executor | None]:
    """Make the executor of that name, and shut it down at the end without waiting for what is at work in it.

    :param name: path/to/file.py:NAME or package.module:NAME of something that is called without arguments; "" is none.
    :raises SettingError: there is none, it fails, or gives no executor; says which, why and what to do.
    """
    executor = _called(name) if name else None
    try:
        yield executor
    finally:
        if executor is not None:
            _shut_down(executor)


def _called(name: str) -> Executor:
    title = f"executor is {name!r}"
    where, _, attribute = name.rpartition(":")
    if not where or not attribute:
        raise SettingError(f"{title}: it names no function. Give path/to/file.py:NAME or package.module:NAME")
    in_file = where.endswith(".py")
    found = (
        from_file(title, Path(where), attribute, SettingError)
        if in_file
        else from_module(title, where, attribute, SettingError)
    )
    if not callable(found):
        raise SettingError(f"{title}: it is a {type(found).__name__}. Name a function that returns an executor")
    try:
        executor = found()
    except Exception as error:  # whatever the operator's code raises
        raise SettingError(f"{title}: it failed: {type(error).__name__}: {error}") from error
    if not isinstance(executor, Executor):
        kind = type(executor).__name__
        raise SettingError(
            f"{title}: it returned a {kind}. Return a concurrent.futures.Executor, as Dask's get_executor() does"
        )
    return executor


def _shut_down(executor: Executor) -> None:
    try:
        executor.shutdown(wait=False)
    except Exception:  # the operator's code, or a cluster that is gone
        logger.exception("the executor could not be shut down")
