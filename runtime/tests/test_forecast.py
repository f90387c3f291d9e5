"""The default model, upstream's rule, and the widening of intervals."""

import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precog_runtime.forecast import default
from precog_runtime.forecast.backtest import interval_score
from precog_runtime.forecast.baseline import UpstreamRule
from precog_runtime.forecast.default import DefaultModel
from precog_runtime.forecast.degrade import widen
from precog_runtime.forecast.model import check
from precog_runtime.types import HORIZON_S, Forecast, Series

NOW = 1_760_000_400
HOUR = 0.006  # deviation of an hour of the walks here
SECOND = HOUR / 60


def series(logs, end=NOW, times=None, level=67_000.0):
    times = np.arange(end - len(logs) + 1, end + 1) if times is None else times
    return Series(np.asarray(times, np.int64), level * np.exp(np.asarray(logs, float)))


def walk(seed, seconds=21_601, second=SECOND):
    return np.cumsum(second * np.random.default_rng(seed).standard_normal(seconds))


def made(prices, model=None):
    return check("btc", (model or DefaultModel()).forecast("btc", NOW, prices), float(prices.prices[-1]))


def half_width(forecast):
    return math.log(forecast.high / forecast.low) / 2


def normal(x):
    return np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def expected_score(k, nodes=24):
    """Return the expected interval score of [-k, k] for a Brownian motion from 0 over unit time.

    By symmetry it is E[inside * min(k, M)] / k with M the maximum, so the integral over a from 0 to k, and over the
    time t, of P(|W(t)| < k, M > a) / k. By the reflection principle W(t) has, on paths that stay below a until t, the
    density n(x) - n(2a - x), and the rest of the path stays below a with probability erf((a - x) / sqrt(2 (1 - t))).
    """
    erf = np.vectorize(math.erf)
    points, weights = np.polynomial.legendre.leggauss(nodes)
    unit, weights = (points + 1) / 2, weights / 2
    # Time is stretched at both ends, where the integrand has square roots.
    times, stretch = np.sin(math.pi * unit / 2) ** 2, math.pi / 2 * np.sin(math.pi * unit)
    a, t, u = np.meshgrid(k * unit, times, unit, indexing="ij")
    x, deviation = (a + k) * u - k, np.sqrt(t)
    density = (normal(x / deviation) - normal((2 * a - x) / deviation)) / deviation
    below = np.sum(density * erf((a - x) / np.sqrt(2 * (1 - t))) * (a + k) * weights, axis=2)
    inside = erf(k / np.sqrt(2 * times))
    return float(np.sum((inside - below) * weights[:, None] * (weights * stretch)))


def test_the_best_half_width_is_the_maximum_of_the_expected_score():
    widths = np.arange(0.70, 1.0001, 0.01)
    scores = [expected_score(width) for width in widths]
    assert widths[int(np.argmax(scores))] == pytest.approx(default.BEST_HALF_WIDTH, abs=0.005)
    assert max(scores) == pytest.approx(0.549, abs=0.001)


def test_the_expected_score_is_that_of_the_validators_rule():
    draw = np.random.default_rng(1)
    scores = []
    for _ in range(1500):
        path = np.cumsum(draw.standard_normal(3600)) / 60
        scores.append(interval_score(-0.83, 0.83, np.concatenate([[0.0], path])))
    # Sampling each second misses 0.0097 of each extreme (Broadie, Glasserman, Kou 1997), 0.006 of the score.
    assert np.mean(scores) == pytest.approx(expected_score(0.83) - 0.006, abs=4 * np.std(scores) / math.sqrt(1500))


@pytest.mark.parametrize("seconds", [3600, 21_601])
def test_the_width_of_a_random_walk_is_the_best(seconds):
    widths = [half_width(made(series(walk(seed, seconds)))) for seed in range(20)]
    assert np.mean(widths) == pytest.approx(default.BEST_HALF_WIDTH * HOUR, rel=0.06)
    assert np.std(widths) < 0.15 * np.mean(widths)


def test_noise_does_not_widen_the_interval():
    draw = np.random.default_rng(5)
    clean, noisy = walk(5), walk(5) + 8 * SECOND * draw.standard_normal(21_601)
    # Per second it is 11 times as volatile; the range is wider by the noise itself.
    assert half_width(made(series(noisy))) == pytest.approx(half_width(made(series(clean))) + 8 * SECOND, rel=0.1)


def test_noise_is_filtered_from_the_point():
    draw = np.random.default_rng(6)
    errors = []
    for seed in range(60):
        clean = walk(seed, 3600)
        noise = 3 * SECOND * draw.standard_normal(3600)
        made_of = made(series(clean + noise))
        errors.append((abs(math.log(made_of.point / 67_000) - clean[-1]), abs(noise[-1])))
    model, last = np.mean(errors, axis=0)
    assert model < 0.7 * last


def test_a_jump_weighs_little():
    logs = walk(7)
    jumped = logs + np.where(np.arange(len(logs)) > len(logs) - 900, 0.05, 0.0)
    assert half_width(made(series(jumped))) < 1.25 * half_width(made(series(logs)))


def test_gaps_change_little():
    logs, times = walk(8), np.arange(NOW - 21_600, NOW + 1)
    kept = np.random.default_rng(8).random(len(logs)) < 0.6
    kept[8000:10_000] = kept[15_000:15_400] = False
    kept[-1] = True
    gappy = series(logs[kept], times=times[kept])
    assert half_width(made(gappy)) == pytest.approx(half_width(made(series(logs))), rel=0.15)


def test_prices_of_each_minute_will_do():
    logs = walk(9)[::-60][::-1]
    sparse = series(logs, times=NOW - 60 * np.arange(len(logs))[::-1])
    assert half_width(made(sparse)) == pytest.approx(default.BEST_HALF_WIDTH * HOUR, rel=0.25)


def test_a_price_that_moves_seldom_has_the_width_of_its_moves():
    logs = walk(10)
    ticks = 0.002 * np.round(logs / 0.002)
    assert half_width(made(series(ticks))) == pytest.approx(default.BEST_HALF_WIDTH * HOUR, rel=0.4)


def test_recent_volatility_counts_more():
    calm = walk(11)
    lively = np.concatenate([calm[:-1800], calm[-1801] + walk(12, 1800, 3 * SECOND)])
    assert half_width(made(series(lively))) > 1.5 * half_width(made(series(calm)))


PRIOR = default.BEST_HALF_WIDTH * default.PRIOR_SIGMA


@pytest.mark.parametrize("count", [1, 2, 30])
def test_few_prices_give_a_wide_interval(count):
    assert half_width(made(series(walk(13, count)))) > 0.6 * PRIOR


def test_a_minute_of_prices_counts_for_a_minute():
    trust = 1 / (1 + default.PRIOR_MINUTES)
    wanted = default.BEST_HALF_WIDTH * HOUR**trust * default.PRIOR_SIGMA ** (1 - trust)
    assert half_width(made(series(walk(14, 61)))) == pytest.approx(wanted, rel=0.1)


def test_a_feed_that_stands_still_gives_a_wide_interval():
    # Six hours of it: the variance is that of seven, of an asset of which nothing is known.
    assert half_width(made(series(np.zeros(21_601)))) == pytest.approx(PRIOR * math.sqrt(7), rel=0.001)


def test_a_feed_that_stopped_widens_the_interval():
    logs = walk(15)
    stopped = np.where(np.arange(len(logs)) < len(logs) - 1800, logs, logs[-1800])
    plain = series(logs[:-1799], end=NOW - 1799)
    assert half_width(made(series(stopped))) == pytest.approx(half_width(made(plain)) * math.sqrt(1.5), rel=0.001)


def test_a_width_has_a_floor():
    least = default.BEST_HALF_WIDTH * default.LEAST_SIGMA
    crawling = 1e-12 * np.arange(21_601)
    assert half_width(made(series(crawling))) == pytest.approx(least, rel=0.05)


def test_a_random_walks_point_is_the_last_price():
    changed, errors = 0, []
    for seed in range(300):
        logs = walk(1000 + seed, 21_601 + HORIZON_S)
        past = series(logs[:-HORIZON_S], end=NOW)
        found, last, came = made(past).point, float(past.prices[-1]), 67_000 * math.exp(logs[-1])
        changed += found != last
        errors.append((abs(found - came), abs(last - came)))
    model, last_price = np.mean(errors, axis=0)
    assert changed <= 6
    assert model <= last_price * 1.0005


def reverting(seed, half_life=120, deviation=3.0):
    """Return a walk with a deviation on top that dies away; `deviation` is in its deviations of the walk's hour."""
    draw = np.random.default_rng(seed)
    stay = 0.5 ** (1 / half_life)
    steps = deviation * HOUR * math.sqrt(1 - stay**2) * draw.standard_normal(21_601 + HORIZON_S)
    passing = np.empty(len(steps))
    passing[0] = steps[0]
    for at in range(1, len(steps)):
        passing[at] = stay * passing[at - 1] + steps[at]
    return walk(seed + 5000, len(steps)) + passing


def test_what_passes_is_seen():
    errors, scores = [], []
    for seed in range(30):
        logs = reverting(seed)
        past = series(logs[:-HORIZON_S], end=NOW)
        after = 67_000 * np.exp(logs[-HORIZON_S - 1 :])
        found, last = made(past), float(past.prices[-1])
        errors.append((abs(found.point - after[-1]), abs(last - after[-1])))
        walked = default.BEST_HALF_WIDTH * float(np.std(logs[60:] - logs[:-60])) * math.sqrt(60)
        walks = interval_score(last * math.exp(-walked), last * math.exp(walked), after)
        scores.append((interval_score(found.low, found.high, after), walks))
    assert np.mean(errors, axis=0)[0] < 0.85 * np.mean(errors, axis=0)[1]
    assert np.mean(scores, axis=0)[0] > 1.15 * np.mean(scores, axis=0)[1]


def test_the_forecast_goes_towards_the_fair_price():
    # A walk that left a level which it has kept to for hours.
    logs = reverting(3)
    far = np.argmax(np.abs(logs[18_000:21_600] - np.median(logs[14_400:21_600]))) + 18_000
    past = series(logs[: far + 1], end=NOW)
    away = logs[far] - np.median(logs[far - 3600 : far])
    moved = math.log(made(past).point / past.prices[-1])
    assert moved * away < 0
    assert 0.4 < abs(moved / away) < 1.3


def test_only_the_lookback_counts():
    logs = reverting(3)
    model = DefaultModel()
    assert made(series(logs)) == made(series(logs[-model.lookback_s - 1 :]))


def test_older_prices_than_the_lookback_give_a_forecast():
    old = series(walk(17), end=NOW - 30_000)
    assert made(old).point == pytest.approx(float(old.prices[-1]))


def test_the_prices_are_left_alone():
    prices = series(walk(18))
    kept = prices.prices.copy()
    prices.prices.flags.writeable = prices.times.flags.writeable = False
    first = made(prices)
    assert made(prices) == first
    assert np.array_equal(prices.prices, kept)


@st.composite
def any_series(draw):
    """Prices of any kind: few or many, gaps, standing still, jumping, alternating, tiny or huge."""
    count = draw(st.integers(1, 3000))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    step = draw(st.sampled_from([0.0, 1e-9, 1e-4, 1e-2, 1.0]))
    logs = np.cumsum(step * random.standard_normal(count))
    logs += draw(st.sampled_from([0.0, 1e-4, 0.1, 50.0])) * random.standard_normal(count)
    if draw(st.booleans()):
        logs = logs[np.maximum.accumulate(np.where(random.random(count) < 0.01, np.arange(count), 0))]
    gaps = 1 + (random.random(count) < draw(st.sampled_from([0.0, 0.1, 1.0]))) * random.integers(
        1, draw(st.sampled_from([2, 60, 2000])) + 1, count
    )
    times = NOW - draw(st.integers(0, 7200)) - np.cumsum(gaps)[::-1]
    level = 10.0 ** draw(st.integers(-60, 60))
    return Series(times.astype(np.int64), level * np.exp(np.clip(logs, -200, 200)))


@settings(max_examples=150, deadline=None)
@given(any_series(), st.sampled_from([DefaultModel(), UpstreamRule()]))
def test_any_prices_give_a_forecast(prices, model):
    found = made(prices, model)
    assert found.low < found.point < found.high
    assert found.high / found.low < 4


@settings(max_examples=60, deadline=None)
@given(any_series(), st.sampled_from([DefaultModel(), UpstreamRule()]), st.integers(-30, 30))
def test_forecasts_scale_with_prices(prices, model, power):
    scaled = Series(prices.times, prices.prices * 2.0**power)
    one, other = made(prices, model), made(scaled, model)
    for each in ("point", "low", "high"):
        assert getattr(other, each) == pytest.approx(getattr(one, each) * 2.0**power, rel=1e-12)


def upstream_by_hand(prices):
    if len(prices) < 100:
        return 0.10
    returns = [later / former - 1 for former, later in itertools.pairwise(prices)]
    middle, deviation = statistics.fmean(returns), statistics.stdev(returns)
    kept = [each for each in returns if abs(each - middle) <= 3 * deviation]
    return min(max(2.58 * statistics.stdev(kept), 0.02), 0.30)


@pytest.mark.parametrize(
    ("logs", "margin"),
    [
        (walk(20, 99), 0.10),
        (np.zeros(100), 0.02),
        (walk(20, 3601), 0.02),
        (walk(20, 3601, 0.02), None),
        (np.append(walk(20, 3600, 0.02), 2.0), None),
        (walk(20, 3601, 0.5), 0.30),
    ],
    ids=["few", "constant", "real", "lively", "outlier", "wild"],
)
def test_upstreams_rule(logs, margin):
    prices = series(logs)
    last = float(prices.prices[-1])
    wanted = upstream_by_hand(prices.prices.tolist())
    assert margin is None or wanted == margin
    found = made(prices, UpstreamRule())
    assert found.point == last
    assert found.low == pytest.approx(last * (1 - wanted), rel=1e-9)
    assert found.high == pytest.approx(last * (1 + wanted), rel=1e-9)


WHOLE = Forecast(100.0, 99.0, 102.0)


@pytest.mark.parametrize("age", [0, -5])
def test_fresh_forecasts_stay_as_they_are(age):
    same = widen(WHOLE, age)
    assert [same.point, same.low, same.high] == pytest.approx([100.0, 99.0, 102.0])


@pytest.mark.parametrize(("age", "factor"), [(300, 1.0408), (1800, 1.2247), (3600, 1.4142), (10_800, 2.0)])
def test_age_widens_by_the_variance_of_a_random_walk(age, factor):
    wider = widen(WHOLE, age)
    assert wider.point == WHOLE.point
    assert math.log(100 / wider.low) == pytest.approx(math.log(100 / 99) * factor, rel=1e-3)
    assert math.log(wider.high / 100) == pytest.approx(math.log(1.02) * factor, rel=1e-3)


@given(st.floats(1e-9, 1e9), st.floats(0.1, 1), st.floats(1, 10), st.floats(0, 86_400), st.floats(0, 86_400))
def test_widening_never_narrows(point, low, high, one, other):
    made_of = Forecast(point, point * low, point * high)
    younger, older = widen(made_of, min(one, other)), widen(made_of, max(one, other))
    assert 0 < older.low <= younger.low * (1 + 1e-12)
    assert older.high >= younger.high * (1 - 1e-12)
    assert older.low <= older.point <= older.high


@pytest.mark.parametrize("age", [math.inf, math.nan])
def test_no_age_is_refused(age):
    with pytest.raises(ValueError, match="age_s"):
        widen(WHOLE, age)


def test_the_best_width_for_old_prices_grows_about_so():
    """The widening is near the width that scores best when the walk began `age` before the hour."""
    draw = np.random.default_rng(21)
    steps = np.cumsum(draw.standard_normal((2500, 900)), axis=1) / 30
    paths = steps + draw.standard_normal((2500, 1))  # an hour old
    top, bottom = paths.max(axis=1), paths.min(axis=1)

    def score(k):
        needed = np.maximum(0, np.minimum(k, top) - np.maximum(-k, bottom))
        return float(np.mean(np.mean(np.abs(paths) <= k, axis=1) * needed)) / (2 * k)

    best = max(score(k) for k in np.arange(0.5, 2.5, 0.05))
    assert score(default.BEST_HALF_WIDTH * math.sqrt(2)) > 0.99 * best
    assert score(default.BEST_HALF_WIDTH) < 0.97 * best
