"""What of a request can be answered, and why the rest can't. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from precog_runtime import timestamps
from precog_runtime.errors import RequestRefused
from precog_runtime.types import NEWEST

if TYPE_CHECKING:
    from precog_runtime.settings import Settings
    from precog_runtime.types import Request

LONGEST_NAME = 48  # of an asset, as shown in a refusal
PRESENT_S = 10  # who asks for now, by a clock that may be this much off, is answered for that second


@dataclass(frozen=True)
class Checked:
    """A request that was looked at.

    :ivar timestamp: the second that was asked for; None if there is none.
    :ivar second: the second that the forecasts are made for; see `forecast_second`.
    :ivar assets: what is to be answered, each once, in the order asked.
    :ivar refused: why an asset is not answered, by name; "" stands for the whole request.
    """

    timestamp: int | None
    second: int = 0
    assets: tuple[str, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)


def check(request: Request, settings: Settings, now: float) -> Checked:
    """Tell what of a request is to be answered.

    :param now: seconds since the epoch.
    """
    try:
        timestamp = _timestamp(request.timestamp, settings, now)
    except RequestRefused as refusal:
        return Checked(None, refused={"": str(refusal)})
    if isinstance(request.assets, str) or not isinstance(request.assets, Sequence):
        return Checked(timestamp, refused={"": "assets is no list of names"})
    if not request.assets:
        return Checked(timestamp, refused={"": f"no asset is named. This miner answers {', '.join(settings.assets)}"})
    return _assets(timestamp, forecast_second(timestamp, settings, now), request.assets, settings)


def forecast_second(timestamp: int, settings: Settings, now: float) -> int:
    """Return the second whose forecasts answer a timestamp: NEWEST where all are made from the newest prices.

    With prices of marks it is the timestamp itself if it is the present, else the nearest mark: whoever asks for each
    second of an hour has 12 marks forecast, not 3600 seconds. Validators name marks. Without marks (`mark_s` 0) each
    second has forecasts of its own.

    :param now: seconds since the epoch.
    """
    if settings.price_basis == "newest":
        return NEWEST
    mark_s = settings.mark_s
    if not mark_s or abs(timestamp - int(now)) <= PRESENT_S:
        return timestamp
    return (timestamp + mark_s // 2) // mark_s * mark_s


def _timestamp(value: object, settings: Settings, now: float) -> int:
    second = int(now) if value is None else timestamps.parse(value)
    ahead = second - int(now)
    if ahead > settings.max_future_s:
        raise RequestRefused(f"the timestamp is {ahead} s in the future, {settings.max_future_s:g} s at most")
    if -ahead > settings.max_past_s:
        raise RequestRefused(f"the timestamp is {-ahead} s in the past, {settings.max_past_s:g} s at most")
    return second


def _assets(timestamp: int, second: int, names: Sequence[object], settings: Settings) -> Checked:
    wanted: dict[str, None] = {}
    refused: dict[str, str] = {}
    for name in names[: settings.max_assets]:
        asset = name.strip().lower() if isinstance(name, str) else ""
        if asset in settings.assets:
            wanted[asset] = None
        else:
            shown = (name if isinstance(name, str) else timestamps.show(name))[:LONGEST_NAME]
            refused[shown] = f"unknown asset. This miner answers {', '.join(settings.assets)}"
    beyond = len(names) - settings.max_assets
    if beyond > 0:
        refused["..."] = f"{beyond} more assets: at most {settings.max_assets} are looked at"
    return Checked(timestamp, second, tuple(wanted), refused)
