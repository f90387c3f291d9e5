# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Compares the figures of an instance with the limits, and says what is wrong. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from .judge import MOST_TEXTS, Demand, Figures
from .limits import Limits
from .values import as_number, as_price, as_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..model import Instance
    from ..systemd import Live

PEERS_S = 900  # older answers of other hosts are not compared with


def verdict(instance: Instance, before: Figures | None, after: Figures, limits: Limits, demand: Demand) -> list[str]:
    """Return what speaks against a release, each with check, figure and limit; nothing if it is good.

    :param before: the same of the release that ran before; None, or figures without an answer, compare with nothing.
    """
    baseline = baseline_of(before)
    problems = [f"the answers are wrong: {wrong}" for wrong in after.wrong]
    problems += _wrong_rate(baseline, after, limits, demand)
    if demand.fresh:
        problems += _old_prices(after, limits)
    if demand.whole:
        problems += wrong_p99(baseline, after, limits)
        problems += far_prices(after, limits, demand.prices)
        problems += far_prices(after, limits, demand.peers, "other hosts that just passed their gate answer")
        problems += _wrong_widths(after, limits)
        problems += _wrong_models(after)
        problems += _leak(after, limits)
    if demand.whole and baseline is not None and after.requests > after.errors:
        for asset in baseline.prices:
            problems += _lost_price(instance, asset, after)
    return problems


def baseline_of(before: Figures | None) -> Figures | None:
    """Return the figures if there is anything in them to compare with."""
    return before if before is not None and before.requests > before.errors else None


def _wrong_rate(before: Figures | None, after: Figures, limits: Limits, demand: Demand) -> list[str]:
    # While the source is down, "there are no prices" is the right answer.
    errors = after.errors if demand.fresh else after.errors - after.priceless
    rate = errors / after.requests if after.requests else 1.0
    of_kinds = _wrong_kinds(before, after, limits)
    allowed = max(limits.error_rate, before.errors / before.requests if before else 0.0)
    # A release that answers nothing is never good, however bad the one before was.
    if rate <= allowed and rate < 1:
        return of_kinds
    of_before = f", before the release it was {allowed:.1%}" if allowed > limits.error_rate else ""
    told = f"the error rate is {rate:.1%} ({errors} of {after.requests} requests)"
    why = f": {'; '.join(after.faults)}" if after.faults else ""
    return [f"{told}; the limit is {limits.error_rate:.1%} (gate error_rate){of_before}{why}"]


def wrong_p99(before: Figures | None, after: Figures, limits: Limits) -> list[str]:
    told = f"p99 is {after.p99_ms:.0f} ms"
    if after.p99_ms > limits.p99_ms:
        return [f"{told}; the limit is {limits.p99_ms:g} ms (gate p99_ms)"]
    if before is None:
        return []
    allowed = before.p99_ms * limits.p99_factor + limits.p99_slack_ms
    if after.p99_ms <= allowed:
        return []
    how = f"{limits.p99_factor:g} times the {before.p99_ms:.0f} ms of before and {limits.p99_slack_ms:g} ms"
    return [f"{told}; the limit is {allowed:.0f} ms: {how} (gate p99_factor, p99_slack_ms)"]


def _lost_price(instance: Instance, asset: str, after: Figures) -> list[str]:
    """Return what tells that an asset was answered before, and is no more; nothing if it was taken out on purpose."""
    if asset in after.prices or (instance.assets and asset not in instance.assets):
        return []
    wanted = "if that is wanted, name the assets in the instance's variable PRECOG_RUNTIME_ASSETS"
    return [f"{asset} has no price any more, before the release it had; the limit is none lost: {wanted}"]


def _old_prices(after: Figures, limits: Limits) -> list[str]:
    if after.age_s <= limits.max_age_s:
        return []
    limit = f"the limit is {limits.max_age_s:g} s (gate max_age_s)"
    return [f"the newest price of an answer is {after.age_s:.0f} s old; {limit}"]


def peers_prices(peers: Iterable[object], now: float) -> dict[str, tuple[float, float]]:
    """Return the lowest and the highest of other hosts' predictions, USD, by asset. Pure.

    :param peers: their `answers`, as the module returns them.
    :param now: seconds since the epoch; what was answered more than PEERS_S ago is passed over.
    """
    found: dict[str, list[float]] = {}
    for peer in peers:
        told = peer if isinstance(peer, dict) else {}
        at = as_number(told.get("at"))
        if at is None or abs(now - at) > PEERS_S:
            continue
        for asset, value in as_table(told, "predictions").items():
            price = as_price(value)
            if price is not None:
                found.setdefault(asset, []).append(price)
    return {asset: (min(all_), max(all_)) for asset, all_ in found.items()}


def far_prices(
    after: Figures, limits: Limits, prices: Mapping[str, tuple[float, float]], who: str = "its source says"
) -> list[str]:
    """Return that predictions are too far from what they should be: the farthest one, and for which assets. Pure.

    :param prices: lowest and highest price that they are compared with, USD, by asset.
    :param who: whose prices these are.
    """
    far: dict[str, tuple[float, str]] = {}
    for asset, (low, high) in prices.items():
        given = [one.prices[asset] for one in after.judgements if asset in one.prices]
        offs = [(max(price / high - 1, 1 - price / low, 0.0), price) for price in given]
        beyond = [(off, price) for off, price in offs if off > limits.price_tolerance]
        if beyond:
            off, price = max(beyond)
            told = f"is {price:g} where {who} {low:g} to {high:g}, {off:.1%} away"
            far[asset] = off, f"{told}, in {len(beyond)} of {len(given)} answers"
    if not far:
        return []
    farthest = max(far, key=lambda asset: far[asset][0])
    others = ", ".join(asset for asset in far if asset != farthest)
    too = f"; so is that of {others}" if others else ""
    limit = f"the limit is {limits.price_tolerance:.1%} (gate price_tolerance)"
    return [f"the prediction of {farthest} {far[farthest][1]}{too}; {limit}"]


def _wrong_kinds(before: Figures | None, after: Figures, limits: Limits) -> list[str]:
    """Return what tells that requests of one kind fail, which those of the others would hide."""
    found = []
    for kind, (requests, errors) in after.kinds.items():
        of_before, bad = before.kinds.get(kind, (0, 0)) if before else (0, 0)
        allowed = max(limits.error_rate, bad / of_before if of_before else 0.0)
        if requests and errors / requests > allowed:
            found.append(
                f"the error rate of requests {kind} is {errors / requests:.1%} ({errors} of {requests} requests); the "
                f"limit is {limits.error_rate:.1%} (gate error_rate): {'; '.join(after.faults)}"
            )
    return found


def _wrong_widths(after: Figures, limits: Limits) -> list[str]:
    """Return which assets have an interval that says nothing, each once, with one that is too wide or too narrow."""
    found = []
    for asset in sorted({asset for one in after.judgements for asset in one.widths}):
        widths = [one.widths[asset] for one in after.judgements if asset in one.widths]
        bad = [width for width in widths if not limits.interval_min <= width <= limits.interval_max]
        if bad:
            found.append(
                f"the interval of {asset} is {max(bad):.4%} of its prediction wide in {len(bad)} of {len(widths)} "
                f"answers; the limits are {limits.interval_min:.4%} and {limits.interval_max:.4%} "
                "(gate interval_min, interval_max)"
            )
    return found


def _wrong_models(after: Figures) -> list[str]:
    """Return which assets are answered by another model than the one that the instance says it has."""
    if not after.model:
        return []
    others = Counter(
        (asset, model) for one in after.judgements for asset, model in one.models.items() if model != after.model
    )
    return [
        f"{asset} is answered by the model {model} in {times} of {len(after.judgements)} answers; the instance's model "
        f"is {after.model}"
        for (asset, model), times in others.most_common(MOST_TEXTS)
    ]


def _leak(after: Figures, limits: Limits) -> list[str]:
    kb = after.growth / 1024
    if kb <= limits.growth_kb:
        return []
    return [f"each request leaves {kb:.0f} KB of memory behind; the limit is {limits.growth_kb:g} KB (gate growth_kb)"]


def unsteady(then: Live, now: Live) -> list[str]:
    """Return what tells that an instance did not run through its soak; nothing if it did. Pure.

    :param then: what it was when the soak began.
    :param now: what it is after it.
    """
    if now.active == "active" and (now.pid, now.restarts) == (then.pid, then.restarts):
        return []
    restarts = now.restarts - then.restarts
    told = f"its process {then.pid} did not last through the soak: its unit is {now.state}"
    return [f"{told}, its process {now.pid or 'none'}, and systemd started it again {restarts} times"]
