"""What can go wrong, by kind: the kind is the label of the error counter."""

from __future__ import annotations


class RuntimeFault(Exception):
    """Something failed in a way that the path knows how to go on from.

    :cvar kind: the label of `precog_errors_total`.
    """

    kind = "internal"


class SettingError(RuntimeFault):
    """A setting can't be used; the message names it, its value, the reason and what to do."""

    kind = "setting"


class SourceError(RuntimeFault):
    """The source of prices gave no usable answer in time."""

    kind = "source"


class RateLimited(SourceError):
    """The source, or our own budget for it, allows no request before `retry_after_s` seconds have passed."""

    kind = "rate_limited"

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RequestRefused(RuntimeFault):
    """A request, or one asset of it, that is not answered; the message says why."""

    kind = "refused"


class NoPrices(RequestRefused):
    """An asset that is not answered, as its prices are too old or there are none."""

    kind = "no_data"


class ModelError(RuntimeFault):
    """A model can't be loaded, or gave something that is no forecast."""

    kind = "model"
