"""Models by name: ours, an installed package's, or a file's; and what a forecast must be. See docs/runtime/model.md."""

from __future__ import annotations

import difflib
import inspect
import math
import pickle
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import numpy as np

from precog_runtime.errors import ModelError
from precog_runtime.forecast.baseline import UpstreamRule
from precog_runtime.forecast.default import DefaultModel
from precog_runtime.named import from_file
from precog_runtime.types import Forecast, Model, Series

GROUP = "precog_runtime.models"
KINDS = ("numpy", "python")
LONGEST_LOOKBACK_S = 7 * 86400  # the longest window of prices that a runtime keeps
# A forecast beyond this is a fault of the model, not a view of the market: in an hour no asset that has a reference
# rate has moved by such a factor, and upstream's widest interval spans a factor of 1.9.
ABSURD = 10.0

_OURS: dict[str, type[Model]] = {"default": DefaultModel, "upstream": UpstreamRule}


def load(name: str) -> Model:
    """Return the model of that name.

    :param name: "default", "upstream", an entry point of the group `precog_runtime.models`, or path/to/file.py:Name;
        the latter two name a class that is made without arguments, or a ready instance.
    :raises ModelError: there is none, it can't be loaded, or it is no model; says which, why and what to do.
    """
    if name in _OURS:
        return _OURS[name]()
    path, colon, attribute = name.rpartition(":")
    if colon and path.endswith(".py"):
        return _made(name, from_file(f"model {name}", Path(path), attribute, ModelError))
    if name.endswith(".py"):
        raise ModelError(f"model {name}: it names a file only. Add the class in it, as in {name}:MyModel")
    return _made(name, _from_entry_point(name))


def check(asset: str, forecast: object, last: float | None = None) -> Forecast:
    """Return what a model made, as plain floats (models may give numpy's), if it is a forecast that can be answered.

    :param last: the newest price, USD; with it, the point must lie within a factor of 10 of it.
    :raises ModelError: it is no Forecast, a value is not finite or not above 0, the point is outside [low, high], or
        the values lie more than a factor of 10 apart.
    """
    if not isinstance(forecast, Forecast):
        raise ModelError(f"{asset}: the model gave a {type(forecast).__name__}. Return a precog_runtime.types.Forecast")
    values = {each: getattr(forecast, each) for each in ("point", "low", "high")}
    for each, value in values.items():
        number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value <= 0:
            raise ModelError(f"{asset}: {each} is {value!r}, not a finite number of USD above 0")
    point, low, high = (float(value) for value in values.values())
    if not low <= point <= high:
        raise ModelError(f"{asset}: the point {point!r} is not within the interval {low!r} to {high!r}")
    if high / low > ABSURD:
        raise ModelError(f"{asset}: the interval {low!r} to {high!r} spans more than a factor of {ABSURD:g}")
    if last is not None and not 1 / ABSURD <= point / last <= ABSURD:
        raise ModelError(f"{asset}: the point {point!r} is more than a factor of {ABSURD:g} from the price {last!r}")
    return Forecast(point, low, high)


def _from_entry_point(name: str) -> object:
    installed: dict[str, EntryPoint] = {each.name: each for each in entry_points(group=GROUP)}
    if name not in installed:
        known = [*_OURS, *installed]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(known)}"
        raise ModelError(f"model {name}: there is none of that name. {hint} Or give path/to/file.py:ClassName")
    try:
        found: object = installed[name].load()
    except Exception as error:  # whatever the package's import raises
        raise ModelError(f"model {name}: its entry point {installed[name].value} can't be loaded: {error!r}") from error
    return found


def _made(name: str, found: object) -> Model:
    if isinstance(found, type):
        try:
            found = found()
        except Exception as error:  # whatever its constructor raises
            raise ModelError(f"model {name}: it can't be made without arguments: {error!r}") from error
    return _examined(name, found)


def _examined(name: str, found: object) -> Model:
    """Return what was found, if it is a model.

    :raises ModelError: something of it is missing or of the wrong kind.
    """
    title = getattr(found, "name", None)
    if not isinstance(title, str) or not title:
        raise ModelError(f"model {name}: its `name` is {title!r}. Give it a text; the cache and the log go by it")
    lookback = getattr(found, "lookback_s", None)
    if not isinstance(lookback, int) or isinstance(lookback, bool) or not 1 <= lookback <= LONGEST_LOOKBACK_S:
        raise ModelError(
            f"model {name}: its `lookback_s` is {lookback!r}. Give whole seconds, 1 to {LONGEST_LOOKBACK_S}"
        )
    kind = getattr(found, "kind", None)
    if kind not in KINDS:
        raise ModelError(f"model {name}: its `kind` is {kind!r}. Give one of {', '.join(KINDS)}")
    forecast = getattr(found, "forecast", None)
    if not callable(forecast):
        raise ModelError(f"model {name}: it has no method `forecast(asset, timestamp, series)`")
    if inspect.iscoroutinefunction(forecast):
        raise ModelError(f"model {name}: its `forecast` is async. Write it with plain def; the runtime calls it aside")
    nothing = Series(np.empty(0, np.int64), np.empty(0, np.float64))
    try:
        inspect.signature(forecast).bind("btc", 0, nothing)
    except TypeError as error:
        raise ModelError(
            f"model {name}: its forecast can't be called as forecast(asset, timestamp, series): {error}"
        ) from error
    if kind == "python":
        _pickled(name, found)
    if not isinstance(found, Model):
        raise ModelError(f"model {name}: it is no precog_runtime.types.Model")
    return found


def _pickled(name: str, found: object) -> None:
    try:
        pickle.dumps(found)
    except Exception as error:  # whatever the object's state raises
        raise ModelError(
            f"model {name}: it can't be pickled for another process ({error}). Make it picklable, or its kind numpy"
        ) from error
