"""The gate: what counts as right, in time, and no worse than before."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from datetime import datetime

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._host.host import HostError
from ansible_collections.precog.fleet.plugins.module_utils._miner.gate import ask, judge, limits, verdict
from ansible_collections.precog.fleet.plugins.module_utils._miner.gate.judge import Figures, Judgement, Sample
from ansible_collections.precog.fleet.plugins.module_utils._miner.model import Instance
from ansible_collections.precog.fleet.plugins.module_utils._miner.options import GATE
from ansible_collections.precog.fleet.plugins.module_utils._miner.systemd import Live
from ansible_collections.precog.fleet.tests.unit.made_miner import ASSETS, PRICES, answer, made_miner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

NOW = 1_790_000_000.0
RANGES = {asset: (price, price) for asset, price in PRICES.items()}
WHOLE = judge.Demand(fresh=True, whole=True, prices=RANGES)
FRESH = judge.Demand(fresh=True, whole=False, prices=RANGES)  # of a release that was good before
READY = {"ready": True, "age_s": dict.fromkeys(ASSETS, -1)}


@pytest.fixture
def miner():
    with made_miner() as running:
        yield running


def instance(port=1, engine="runtime", assets=ASSETS, **changes):
    about = {"name": "one", "host": "127.0.0.1", "port": port, "http_host": "127.0.0.1", "http_port": port}
    return Instance(**{**about, "engine": engine, "assets": assets, "digest": "0" * 12, **changes})


def quick(**changes):
    return limits.limits({"deadline_ms": 5000, "rate_hz": 40, "ready_s": 2, **changes})


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as here:
        return here.getsockname()[1]


# -- limits -----------------------------------------------------------------------------------------------------------


def test_without_a_word_the_limits_are_the_defaults():
    assert (
        limits.limits(None)
        == limits.limits({})
        == limits.Limits(**{name: each["default"] for name, each in GATE.items()})
    )
    assert set(limits.BOUNDS) == set(GATE)


@pytest.mark.parametrize(
    ("given", "engine", "ready_s"),
    [
        ({}, "runtime", 60),
        ({}, "simulator", 60),
        ({}, "upstream", 300),
        ({"ready_s": None}, "upstream", 300),
        ({"ready_s": 20}, "upstream", 20),
        ({"ready_s": 60}, "upstream", 60),
        ({"ready_s": "600"}, "runtime", 600),
    ],
)
def test_each_engine_has_its_own_time_to_be_ready_unless_one_is_given(given, engine, ready_s):
    assert limits.limits(given).ready_for(engine) == ready_s


def test_numbers_may_be_text_and_null_leaves_the_default():
    made = limits.limits({"p99_ms": "80", "soak_s": 0, "rate_hz": None})
    assert (made.p99_ms, made.soak_s, made.rate_hz) == (80.0, 0.0, 20.0)


@pytest.mark.parametrize(
    "value", ["quick", "", -1, 0, True, [1], {}, 1e9, float("nan"), float("inf"), "nan", 10**400], ids=str
)
def test_a_value_that_is_no_limit_is_told(value):
    with pytest.raises(HostError) as told:
        limits.limits({"p99_ms": value})
    assert str(told.value) == f"miner_service_gate: p99_ms is {value!r}: give milliseconds from 1 to 60000"


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(HostError, match=r"p99_factor is 0.5.*\n.*there is no p98_ms. Choose from ready_s, .*") as told:
        limits.limits({"p99_factor": 0.5, "p98_ms": 1})
    assert str(told.value).count("miner_service_gate: ") == 2


# -- judging one answer -----------------------------------------------------------------------------------------------


def judged(assets=ASSETS, **changes):
    return judge.judge(json.dumps(answer(NOW, **changes)).encode(), assets, NOW - 2, NOW + 2.1)


def test_a_right_answer_has_its_prices_and_its_age():
    right = judged()
    assert right == judged(()) == Judgement({}, PRICES, 1.0, right.widths, dict.fromkeys(ASSETS, "drift"))
    assert {asset: round(width, 9) for asset, width in right.widths.items()} == dict.fromkeys(ASSETS, 0.02)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"timestamp": None}, "the timestamp of an answer is not that of its request: None"),
        ({"timestamp": "soon"}, "the timestamp of an answer is not that of its request: soon"),
        ({"timestamp": "2026-99-21T14:13:20Z"}, "the timestamp of an answer is not that of its request"),
        ({"timestamp": "2026-09-21T14:13:23Z"}, "the timestamp of an answer is not that of its request"),
        ({"timestamp": "2026-09-21T14:13:17Z"}, "the timestamp of an answer is not that of its request"),
        ({"refused": {"btc": "no"}}, "an answer refuses something: {'btc': 'no'}"),
        ({"predictions": {"btc": 1}, "intervals": {"btc": [1, 1]}}, "eth has no prediction that is a price: None"),
        ({"predictions": {"btc": -1, "eth": 3000}}, "btc has no prediction that is a price: -1"),
        ({"predictions": {"btc": "90000", "eth": 3000}}, "btc has no prediction that is a price: 90000"),
        ({"predictions": {"btc": float("nan"), "eth": 3000}}, "btc has no prediction that is a price: nan"),
        ({"predictions": {"btc": float("inf"), "eth": 3000}}, "btc has no prediction that is a price: inf"),
        ({"predictions": {"btc": 10**400, "eth": 3000}}, "btc has no prediction that is a price: 1000"),
        ({"predictions": {"btc": True, "eth": 3000}}, "btc has no prediction that is a price: True"),
        ({"predictions": []}, "btc has no prediction that is a price: None"),
        ({"intervals": None}, "btc has no interval around its prediction: None around 90000"),
        ({"intervals": {"btc": [91000, 92000]}}, "btc has no interval around its prediction: [91000, 92000]"),
        ({"intervals": {"btc": [92000, 80000]}}, "btc has no interval around its prediction: [92000, 80000]"),
        ({"intervals": {"btc": [0, 92000]}}, "btc has no interval around its prediction: [0, 92000]"),
        ({"intervals": {"btc": [1, 2, 3]}}, "btc has no interval around its prediction: [1, 2, 3]"),
        (
            {"degraded": {"btc": "model failed: TypeError"}},
            "btc is not answered by the model that is wanted: model failed: TypeError",
        ),
        (
            {"degraded": {"eth": "prices are 12 s old; model too slow"}},
            "eth is not answered by the model that is wanted: model too slow",
        ),
    ],
)
def test_what_is_wrong_is_told(changes, told):
    wrong = judged(**changes).wrong
    assert told in [f"{what}: {how}"[: len(told)] for what, how in wrong.items()]


def test_what_nobody_asked_for_is_wrong():
    wrong = judged(("btc",)).wrong
    assert wrong == {"an answer has assets that nobody asked for": "eth"}


def test_a_timestamp_may_be_two_seconds_off():
    for text in ("2026-09-21T14:13:18Z", "2026-09-21T14:13:22.000000Z", "2026-09-21T14:13:20+00:00"):
        assert judged(timestamp=text).wrong == {}


def test_old_prices_are_told_and_not_wrong():
    one = judged(degraded={"btc": "prices are 120 s old"}, age_s={"btc": 120.5, "eth": None})
    assert (one.wrong, one.age_s) == ({}, 120.5)


def test_without_named_assets_one_has_to_be_answered():
    assert judged((), predictions={"sol": 5}, intervals={"sol": [4, 6]}).wrong == {}
    assert "no asset is answered" in judged((), predictions={}).wrong


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"null", b"{", b"\xff\xfe", b"[" * 100_000, b"1" * 5000])
def test_what_is_no_answer_is_told(body):
    assert list(judge.judge(body, ASSETS, NOW, NOW).wrong) == ["an answer is no JSON object with anything in it"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["btc", "eth", "", "x"]), inner),
    max_leaves=6,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(answer(NOW), JSON)), st.sampled_from([(), ASSETS]))
@example({"predictions": {"btc": 10**400}, "intervals": {"btc": [10**400, 1]}, "age_s": {"btc": 10**400}}, ASSETS)
@example({"timestamp": "9999-12-31T23:59:59Z"}, ())
@example({"timestamp": "0000-00-00T00:00:00Z"}, ())
def test_any_answer_is_judged(changes, assets):
    about = judge.judge(json.dumps({**answer(NOW), **changes}).encode(), assets, NOW, NOW)
    assert all(price > 0 for price in about.prices.values())
    assert all(len(how) <= 300 for how in about.wrong.values())
    # Each figure of it can be told as JSON.
    assert json.loads(json.dumps(about, allow_nan=False))


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_judged(body):
    assert judge.judge(body, ASSETS, NOW, NOW).wrong


@pytest.mark.parametrize("depth", range(10, 3000, 47))
def test_any_depth_is_judged(depth):
    body = b'{"predictions": {"btc": ' + b"[" * depth + b"]" * depth + b"}}"
    assert judge.judge(body, ASSETS, NOW, NOW).wrong


# -- what samples amount to -------------------------------------------------------------------------------------------


def made(times):
    return [Sample(seconds, judgement=Judgement({}, PRICES, 0.0)) for seconds in times]


def test_the_first_of_each_kind_pays_for_the_start_and_is_not_timed():
    assert judge.figures(made([0.9, 0.8, 0.01])).p99_ms == 10
    assert judge.figures(made([0.001, 0.001, 0.01])).p50_ms == 10
    assert judge.figures(made([0.8, 0.9])).p99_ms == 800


def test_one_slow_answer_among_few_is_not_the_p99_and_two_are():
    assert judge.figures(made([0.01] * 60 + [0.8])).p99_ms == 10
    assert judge.figures(made([0.01] * 60 + [0.8, 0.8])).p99_ms == 800


def test_errors_wrong_answers_and_medians_are_counted():
    wrong = Sample(0.01, judgement=Judgement({"bad": "first"}, {"btc": 10.0}, 7.0))
    other = Sample(0.01, judgement=Judgement({"bad": "second", "rare": "x"}, {"btc": 30.0}, 3.0))
    samples = [wrong, other, Sample(None, "gone"), Sample(2.0, "late"), Sample(None, "gone")]
    told = judge.figures(samples)
    assert (told.requests, told.errors, told.faults) == (5, 3, ("gone", "late"))
    assert told.wrong == ("bad: second", "rare: x")
    assert (told.prices, told.age_s) == ({"btc": 30.0}, 7.0)
    assert told.p99_ms == 2000


def test_the_most_frequent_kinds_are_told():
    samples = [Sample(0.01, str(kind), Judgement({str(kind): "x"}, {}, 0.0)) for kind in range(9) for _ in range(kind)]
    told = judge.figures(samples)
    assert told.faults == ("8", "7", "6", "5", "4")
    assert told.wrong == ("8: x", "7: x", "6: x", "5: x", "4: x")


def test_without_an_answer_there_are_no_times():
    told = judge.figures([Sample(None, "gone")])
    assert (told.p50_ms, told.p99_ms, told.prices) == (0.0, 0.0, {})


# -- the verdict ------------------------------------------------------------------------------------------------------


def told_of(**changes):
    values = {"requests": 100, "errors": 0, "wrong": (), "p50_ms": 5.0, "p99_ms": 20.0, "prices": PRICES, "age_s": 1.0}
    return Figures(**{**values, **changes})


def widths(*shares):
    """Answers whose intervals of btc are so wide."""
    return tuple(Judgement({}, PRICES, 1.0, {"btc": share}) for share in shares)


def models(*names):
    """Answers for btc by these models."""
    return tuple(Judgement({}, PRICES, 1.0, {}, {"btc": name}) for name in names)


def answers(*prices):
    """Answers with these prices of btc."""
    return tuple(Judgement({}, {**PRICES, "btc": price}, 1.0) for price in prices)


VERDICTS = {
    "as before": ({}, {}, {}, ""),
    "wrong": ({}, {"wrong": ("btc: -1",)}, {}, "the answers are wrong: btc: -1"),
    "an error": (
        {},
        {"errors": 2, "faults": ("refused",)},
        {},
        "the error rate is 2.0% (2 of 100 requests); the limit is 0.0% (gate error_rate): refused",
    ),
    "errors that are allowed": ({}, {"errors": 2}, {"error_rate": 0.02}, ""),
    "errors as before": ({"errors": 2}, {"errors": 2}, {}, ""),
    "more errors than before": (
        {"errors": 2},
        {"errors": 3},
        {"error_rate": 0.01},
        "the error rate is 3.0% (3 of 100 requests); the limit is 1.0% (gate error_rate), "
        "before the release it was 2.0%",
    ),
    "no answer, as before": (
        {"errors": 100, "prices": {}},
        {"errors": 100, "prices": {}},
        {},
        "the error rate is 100.0% (100 of 100 requests); the limit is 0.0% (gate error_rate)",
    ),
    "no answer, whatever is allowed": (
        None,
        {"errors": 100, "prices": {}},
        {"error_rate": 1},
        "the error rate is 100.0% (100 of 100 requests); the limit is 100.0% (gate error_rate)",
    ),
    "no request": (
        None,
        {"requests": 0},
        {},
        "the error rate is 100.0% (0 of 0 requests); the limit is 0.0% (gate error_rate)",
    ),
    "slow": ({}, {"p99_ms": 812.4}, {}, "p99 is 812 ms; the limit is 500 ms (gate p99_ms)"),
    "slow at first": (None, {"p99_ms": 501}, {}, "p99 is 501 ms; the limit is 500 ms (gate p99_ms)"),
    "slower than before": (
        {},
        {"p99_ms": 91},
        {},
        "p99 is 91 ms; the limit is 90 ms: 2 times the 20 ms of before and 50 ms (gate p99_factor, p99_slack_ms)",
    ),
    "hardly slower than before": ({}, {"p99_ms": 90}, {}, ""),
    "slower, and nothing before to compare with": ({"errors": 100, "p99_ms": 0.0}, {"p99_ms": 91}, {}, ""),
    "slower, and nothing before": (None, {"p99_ms": 91}, {}, ""),
    "another price": (
        {},
        {"judgements": answers(99000.0)},
        {},
        "the prediction of btc is 99000 where its source says 90000 to 90000, 10.0% away, in 1 of 1 answers; "
        "the limit is 5.0% (gate price_tolerance)",
    ),
    "a lower price": (
        {},
        {"judgements": answers(81000.0)},
        {},
        "the prediction of btc is 81000 where its source says 90000 to 90000, 10.0% away, in 1 of 1 answers; "
        "the limit is 5.0% (gate price_tolerance)",
    ),
    "every third answer another price": (
        {},
        {"judgements": answers(90000.0, 90000.0, 630000.0) * 20},
        {},
        "the prediction of btc is 630000 where its source says 90000 to 90000, 600.0% away, in 20 of 60 answers; "
        "the limit is 5.0% (gate price_tolerance)",
    ),
    "another price, the first of all": (
        None,
        {"judgements": answers(900000.0)},
        {},
        "the prediction of btc is 900000 where its source says 90000 to 90000, 900.0% away, in 1 of 1 answers; "
        "the limit is 5.0% (gate price_tolerance)",
    ),
    "the right price after a wrong one": ({"prices": {"btc": 900000.0}}, {"judgements": answers(90000.0)}, {}, ""),
    "another price, within the limit": ({}, {"judgements": answers(94000.0, 86000.0)}, {}, ""),
    "another price, within the limit of a release that was": (
        {"prices": {"btc": 94000.0}},
        {"judgements": answers(98500.0)},
        {},
        "the prediction of btc is 98500 where its source says 90000 to 90000, 9.4% away, in 1 of 1 answers; "
        "the limit is 5.0% (gate price_tolerance)",
    ),
    "another price, allowed": ({}, {"judgements": answers(99000.0)}, {"price_tolerance": 0.2}, ""),
    "a price less": (
        {},
        {"prices": {"btc": 90000.0}},
        {},
        "eth has no price any more, before the release it had; the limit is none lost: "
        "if that is wanted, name the assets in the instance's variable PRECOG_RUNTIME_ASSETS",
    ),
    "a price more": ({"prices": {"btc": 90000.0}}, {}, {}, ""),
    "an interval that says nothing": (
        {},
        {"judgements": widths(0.02, 2.2e4, 0.02)},
        {},
        "the interval of btc is 2200000.0000% of its prediction wide in 1 of 3 answers; the limits are 0.0100% and "
        "50.0000% (gate interval_min, interval_max)",
    ),
    "an interval without width": (
        {},
        {"judgements": widths(0.0)},
        {},
        "the interval of btc is 0.0000% of its prediction wide in 1 of 1 answers; the limits are 0.0100% and 50.0000% "
        "(gate interval_min, interval_max)",
    ),
    "an interval without width, allowed": ({}, {"judgements": widths(0.0)}, {"interval_min": 0}, ""),
    "another model": (
        {},
        {"judgements": models("ours", "theirs", "theirs"), "model": "ours"},
        {},
        "btc is answered by the model theirs in 2 of 3 answers; the instance's model is ours",
    ),
    "whatever model where the instance doesn't say": ({}, {"judgements": models("ours", "theirs")}, {}, ""),
    "a leak": (
        {},
        {"growth": 4.0 * 1024 * 1024},
        {},
        "each request leaves 4096 KB of memory behind; the limit is 512 KB (gate growth_kb)",
    ),
    "hardly a leak": ({}, {"growth": 512.0 * 1024}, {}, ""),
    "errors of one kind": (
        {},
        {"errors": 10, "kinds": {"for now": (50, 0), "for the last mark": (50, 10)}, "faults": ("HTTP 500",)},
        {"error_rate": 0.1},
        "the error rate of requests for the last mark is 20.0% (10 of 50 requests); the limit is 10.0% "
        "(gate error_rate): HTTP 500",
    ),
    "errors of one kind, as before": (
        {"errors": 10, "kinds": {"for now": (50, 0), "for the last mark": (50, 10)}},
        {"errors": 10, "kinds": {"for now": (50, 0), "for the last mark": (50, 10)}},
        {},
        "",
    ),
    "older prices": (
        {},
        {"age_s": 61.0},
        {},
        "the newest price of an answer is 61 s old; the limit is 60 s (gate max_age_s)",
    ),
    "older prices, allowed": ({}, {"age_s": 61.0}, {"max_age_s": 90}, ""),
}


@pytest.mark.parametrize(("before", "after", "given", "told"), VERDICTS.values(), ids=VERDICTS)
def test_verdict(before, after, given, told):
    before = None if before is None else told_of(**before)
    assert verdict.verdict(instance(), before, told_of(**after), limits.limits(given), WHOLE) == (
        [told] if told else []
    )


@pytest.mark.parametrize(
    ("after", "fresh", "form"),
    [
        ({}, 0, 0),
        ({"judgements": answers(900000.0)}, 0, 0),
        ({"p99_ms": 9999.0}, 0, 0),
        ({"prices": {}}, 0, 0),
        ({"age_s": 61.0}, 1, 0),
        ({"wrong": ("btc: -1",)}, 1, 1),
        ({"errors": 2}, 1, 1),
        ({"errors": 100, "priceless": 100}, 1, 0),
        ({"errors": 100, "priceless": 99}, 1, 1),
    ],
)
def test_release_that_was_good_before_needs_form_and_fresh_prices_and_with_its_source_down_form(after, fresh, form):
    for demand, problems in ((FRESH, fresh), (judge.FORM, form)):
        assert len(verdict.verdict(instance(), told_of(), told_of(**after), limits.limits({}), demand)) == problems


def test_predictions_that_differ_from_other_hosts_are_told():
    demand = WHOLE._replace(peers={"btc": (99000.0, 99100.0)})
    told = verdict.verdict(instance(), None, told_of(judgements=answers(90000.0)), limits.limits({}), demand)
    assert told == [
        "the prediction of btc is 90000 where other hosts that just passed their gate answer 99000 to 99100, 9.1% "
        "away, in 1 of 1 answers; the limit is 5.0% (gate price_tolerance)"
    ]


@pytest.mark.parametrize(
    ("peers", "prices"),
    [
        ([], {}),
        ([{"at": NOW, "predictions": {"btc": 5, "eth": 1}}], {"btc": (5, 5), "eth": (1, 1)}),
        ([{"at": NOW - 800, "predictions": {"btc": 5}}, {"at": NOW + 800, "predictions": {"btc": 6}}], {"btc": (5, 6)}),
        ([{"at": NOW - 1000, "predictions": {"btc": 5}}], {}),
        ([{"at": str(NOW), "predictions": {"btc": 5}}], {}),
        ([None, "x", {}, {"at": NOW, "predictions": []}, {"at": NOW, "predictions": {"btc": -1, "eth": "x"}}], {}),
    ],
)
def test_answers_of_other_hosts_are_compared_with_while_they_are_young(peers, prices):
    assert verdict.peers_prices(peers, NOW) == prices


def test_range_of_the_sources_prices_is_as_good_as_a_price():
    after = told_of(judgements=answers(80000.0, 103000.0))
    assert verdict.far_prices(after, limits.limits({}), {"btc": (84000.0, 99000.0)}) == []
    assert "is 80000 where" in verdict.far_prices(after, limits.limits({}), {"btc": (85000.0, 99000.0)})[0]
    assert verdict.far_prices(after, limits.limits({}), {}) == []


def test_an_asset_may_be_taken_out_on_purpose():
    without = told_of(prices={"btc": 90000.0})
    assert verdict.verdict(instance(assets=("btc",)), told_of(), without, limits.limits({}), WHOLE) == []
    assert len(verdict.verdict(instance(assets=()), told_of(), without, limits.limits({}), WHOLE)) == 1


# -- measuring --------------------------------------------------------------------------------------------------------


def test_a_right_miner_is_measured_at_the_rate(miner):
    began = time.monotonic()
    told = ask.measure(instance(miner.port), quick(rate_hz=50), 0.4)
    assert 0.35 < time.monotonic() - began < 3
    assert (told.requests, told.errors, told.wrong, told.faults) == (22, 0, (), ())
    assert told.prices == PRICES
    assert {tuple(one.prices.items()) for one in told.judgements} == {tuple(PRICES.items())}
    assert 0 < told.p50_ms <= told.p99_ms < 5000
    assert miner.of("POST", "/predict") == 22
    assert miner.bodies.count(b"{}") == 11
    assert verdict.verdict(instance(miner.port), told, told, quick(p99_ms=5000), WHOLE) == []


@pytest.mark.parametrize("known", [(), ASSETS])
def test_half_of_the_time_it_is_asked_as_validators_ask(miner, known):
    told = ask.measure(instance(miner.port, assets=known), quick(), 0.2)
    assert told.wrong == ()
    asked = [json.loads(body) for body in miner.bodies if body != b"{}"]
    assert len(asked) == 5
    moments = {datetime.fromisoformat(one["timestamp"].replace("Z", "+00:00")) for one in asked}
    assert all(time.time() - 301 < moment.timestamp() <= time.time() for moment in moments)
    assert {(moment.minute % 5, moment.second, moment.microsecond) for moment in moments} == {(0, 0, 0)}
    assert {tuple(one["assets"]) for one in asked} == {ASSETS}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"timestamp": "2026-09-21T14:13:20Z"}, "the timestamp of an answer is not that of its request"),
        ({"predictions": {"btc": 90000.0}}, "eth has no prediction that is a price"),
        ({"predictions": {**PRICES, "sol": 5.0}}, "an answer has assets that nobody asked for: sol"),
    ],
)
def test_a_release_that_fails_validators_alone_is_told(miner, changes, told):
    miner.mark_changes = changes
    found = ask.measure(instance(miner.port), quick(), 0.1)
    assert [wrong[: len(told)] for wrong in found.wrong] == [told]


def test_an_answer_for_now_is_none_for_the_mark(miner):
    """As of a release that passes the timestamp over; at the mark itself it can't be told."""
    miner.mark_changes = {"timestamp": answer(time.time() + 3)["timestamp"]}
    assert ask.measure(instance(miner.port), quick(), 0).wrong


def test_connections_are_kept(miner):
    assert ask.measure(instance(miner.port), quick(rate_hz=20), 1).requests == 22
    assert miner.connections < 22


def test_at_least_one_request_of_each_kind_is_made(miner):
    assert ask.measure(instance(miner.port), quick(), 0).requests == 2


@pytest.mark.parametrize(
    ("manner", "fault"),
    [
        ("broken", "/predict answers 500 Traceback: it broke"),
        ("reset", "RemoteDisconnected"),
        ("nonsense", "BadStatusLine"),
        ("cut", "an answer that ends 999 bytes too soon"),
        ("endless", "an answer of more than 1048576 bytes"),
    ],
)
def test_a_request_that_fails_is_an_error_and_is_not_repeated(miner, manner, fault):
    miner.manner = manner
    told = ask.measure(instance(miner.port), quick(), 0.1)
    assert told.errors == told.requests == 6 == len(miner.bodies)
    assert len(told.faults) == 1
    assert fault in told.faults[0]
    assert verdict.verdict(instance(miner.port), None, told, quick(), WHOLE)


@pytest.mark.parametrize("manner", ["right", "drip"])
def test_an_answer_that_is_late_is_an_error_and_is_given_up(miner, manner):
    miner.manner, miner.slow_s = manner, 30.0 if manner == "right" else 0.0
    began = time.monotonic()
    told = ask.measure(instance(miner.port), quick(deadline_ms=300), 0.2)
    assert time.monotonic() - began < 3
    assert told.errors == told.requests == 10
    assert told.faults == (f"127.0.0.1:{miner.port} gave no answer to /predict within 300 ms",)
    assert told.p99_ms >= 300


def test_a_slow_miner_is_asked_at_the_same_rate(miner):
    """Otherwise the slowest would be asked least, and its p99 would look better than it is."""
    miner.slow_s = 0.2
    began = time.monotonic()
    told = ask.measure(instance(miner.port), quick(), 0.5)
    assert time.monotonic() - began < 3
    assert (told.requests, told.errors) == (22, 0)
    assert told.p50_ms >= 200
    assert verdict.verdict(instance(miner.port), told_of(), told, quick(), WHOLE)[0].startswith("p99 is ")


def test_so_many_at_once_and_no_more(miner):
    miner.slow_s = 30.0
    # All are begun long before the first is given up, also on a busy machine.
    told = ask.measure(instance(miner.port), quick(rate_hz=200, deadline_ms=2000), 0.3)
    assert told.requests == 2 + ask.MOST_AT_ONCE


def test_instance_says_which_model_it_has_and_each_answer_who_made_it(miner):
    miner.ready = (200, {**READY, "model": "ours"})
    told = ask.measure(instance(miner.port), quick(p99_ms=5000), 0.1)
    assert (told.model, {name for one in told.judgements for name in one.models.values()}) == ("ours", {"drift"})
    assert len(verdict.verdict(instance(miner.port), None, told, quick(p99_ms=5000), WHOLE)) == len(ASSETS)
    miner.ready = (200, {**READY, "model": ["odd"]})
    assert ask.measure(instance(miner.port), quick(), 0).model == ""


@pytest.mark.parametrize("kind", ["for now", "for the last mark"])
def test_errors_are_counted_by_what_was_asked(miner, kind):
    miner.right_to = kind
    told = ask.measure(instance(miner.port), quick(error_rate=0.6), 0.2)
    other = ({"for now", "for the last mark"} - {kind}).pop()
    assert told.kinds == {kind: (5, 0), other: (5, 5)}
    assert f"the error rate of requests {other} is 100.0%" in " ".join(
        verdict.verdict(instance(miner.port), None, told, quick(error_rate=0.6), WHOLE)
    )


MB = 1 << 20


@pytest.mark.parametrize(
    ("memory", "grown"),
    [
        ([], 0),
        ([80 * MB] * 11, 0),
        ([80 * MB] * 60, 0),
        ([80 * MB + 4 * MB * number for number in range(60)], 4 * MB),
        ([80 * MB + 4 * MB * number for number in range(12)], 4 * MB),
        # A page of prices that is parsed meanwhile, and another one.
        ([80 * MB] * 20 + [95 * MB] * 40, 0),
        ([80 * MB] * 15 + [95 * MB] * 25 + [110 * MB] * 20, 0),
        # Every other request.
        ([80 * MB + 4 * MB * (number // 2) for number in range(61)], 2 * MB),
        ([0] * 60, 0),
    ],
)
def test_memory_that_requests_leave_behind(memory, grown):
    assert judge.growth(memory) == pytest.approx(grown, rel=0.15)


def test_memory_is_looked_at_before_each_request(miner):
    had = iter(range(80 * MB, 1000 * MB, 4 * MB))
    told = ask.measure(instance(miner.port), quick(), 0.5, lambda: next(had))
    assert told.growth == 4 * MB
    assert ask.measure(instance(miner.port), quick(), 0.5).growth == 0


def test_wrong_answers_are_told_once_each(miner):
    miner.changes = {"predictions": {"btc": -5.0}}
    told = ask.measure(instance(miner.port), quick(), 0.1)
    assert told.wrong == ("btc has no prediction that is a price: -5.0", "eth has no prediction that is a price: None")
    assert (told.errors, told.prices) == (0, {})
    miner.manner = "garbage"
    assert "an answer is no JSON object" in ask.measure(instance(miner.port), quick(), 0).wrong[0]


def test_nobody_there_is_an_error():
    told = ask.measure(instance(closed_port()), quick(), 0.1)
    assert told.errors == told.requests == 6
    assert told.faults[0].endswith("connection refused")


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_all_interfaces_are_this_machine(miner, host):
    assert ask.measure(instance(miner.port, http_host=host), quick(), 0).errors == 0


def test_the_addresses_of_version_6_are_this_machine_too():
    names = {ask.Place(host, 8092, 1).name for host in ("::", "[::]", "::1", "[::1]")}
    assert names == {"[::1]:8092"}


def test_an_upstream_miner_needs_its_axon_too(miner):
    axon = ask.measure(instance(miner.port, "upstream"), quick(), 0)
    assert (axon.requests, axon.errors) == (3, 0)
    lost = ask.measure(instance(closed_port(), "upstream", http_port=miner.port), quick(), 0)
    assert (lost.requests, lost.errors) == (3, 1)


def test_an_axon_is_asked_by_what_is_no_request(miner):
    assert ask.Place("127.0.0.1", miner.port, 5).heard() == ""
    assert not miner.asked


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b"SSH-2.0-OpenSSH\r\n", "does not answer HTTP, but 'SSH-2.0-OpenSSH\\r\\n'"),
        (b"", "but ''"),
        (None, "timed out"),
    ],
)
def test_what_is_no_axon_is_told(said, told):
    with socket.create_server(("127.0.0.1", 0)) as other:
        place = ask.Place("127.0.0.1", other.getsockname()[1], 0.5)

        def answer():
            connection, _ = other.accept()
            with connection:
                connection.recv(64)
                if said is None:
                    connection.recv(64)  # ends when the gate has given up
                else:
                    connection.sendall(said)

        answering = threading.Thread(target=answer)
        answering.start()
        try:
            assert place.heard().endswith(told)
        finally:
            answering.join()


def test_a_market_is_asked_for_prices_once(miner):
    told = ask.measure(instance(miner.port, "simulator"), quick(), 0.5)
    assert (told.requests, told.errors, told.wrong, told.p99_ms) == (2, 0, (), 0.0)
    assert miner.of("GET", "/v4/timeseries/asset-metrics") == 1
    assert verdict.verdict(instance(miner.port, "simulator"), told, told, quick(), WHOLE) == []


@pytest.mark.parametrize(
    ("prices", "errors", "wrong"),
    [
        ((429, {}), 0, 0),
        ((500, {}), 1, 1),
        ((200, {"data": []}), 0, 1),
        ((200, b"oops"), 0, 1),
    ],
)
def test_a_market_without_prices_is_told(miner, prices, errors, wrong):
    miner.prices = prices
    told = ask.measure(instance(miner.port, "simulator"), quick(), 0)
    assert (told.errors, len(told.wrong)) == (errors, wrong)


def test_a_market_that_has_been_told_to_fail_may(miner):
    miner.faults, miner.prices = {"500": 0.5, "latency_ms": 1000.0}, (500, {})
    told = ask.measure(instance(miner.port, "simulator"), quick(), 0)
    assert (told.requests, told.errors, told.wrong) == (1, 0, ())


@pytest.fixture
def soaked(monkeypatch):
    """Soak with figures that are made up: tells what speaks against the release, and which of them counted."""

    def run(*measured):
        left = list(measured)
        monkeypatch.setattr(ask, "measure", lambda *_about: left.pop(0))
        after, problems = ask.soak(instance(), told_of(), quick(), WHOLE)
        return problems, measured.index(after), len(measured) - len(left)

    return run


def test_a_host_that_was_busy_for_a_moment_is_measured_again(soaked):
    assert soaked(told_of(p99_ms=300), told_of()) == ([], 1, 2)


def test_a_release_that_is_slow_twice_is_slow(soaked):
    problems, counted, measured = soaked(told_of(p99_ms=300), told_of(p99_ms=200))
    assert problems[0].startswith("p99 is 200 ms")
    assert (counted, measured) == (1, 2)


@pytest.mark.parametrize("bad", [{"errors": 1}, {"wrong": ("x",)}, {"wrong": ("x",), "p99_ms": 300.0}, {}])
def test_nothing_else_is_measured_again(soaked, bad):
    problems, counted, measured = soaked(told_of(**bad), told_of())
    assert bool(problems) == bool(bad)
    assert (counted, measured) == (0, 1)


@pytest.mark.parametrize(("given", "seconds"), [({}, 3), ({"rejoin_s": 2}, 3), ({"rejoin_s": 10}, 10)])
def test_a_soak_lasts_until_load_balancers_have_the_instance_back(monkeypatch, given, seconds):
    lasted = []
    monkeypatch.setattr(ask, "measure", lambda _instance, _limits, soak_s, _memory: lasted.append(soak_s) or told_of())
    ask.soak(instance(), told_of(), limits.limits(given), WHOLE)
    assert lasted == [seconds]


STEADY = Live("active", "active (running)", 7, True, 2, "0" * 12)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, []),
        ({"pid": 8, "restarts": 3}, ["its unit is active (running), its process 8, and systemd started it again 1"]),
        ({"pid": 8}, ["its unit is active (running), its process 8, and systemd started it again 0"]),
        (
            {"active": "activating", "state": "activating (auto-restart)", "pid": 0, "restarts": 3},
            ["its unit is activating (auto-restart), its process none"],
        ),
        (
            {"active": "deactivating", "state": "deactivating (stop)"},
            ["its unit is deactivating (stop), its process 7"],
        ),
    ],
)
def test_an_instance_has_to_run_through_its_soak(changes, told):
    found = verdict.unsteady(STEADY, STEADY._replace(**changes))
    assert len(found) == len(told)
    assert all(text in one for text, one in zip(told, found))


# -- being ready ------------------------------------------------------------------------------------------------------


def test_ready_at_once(miner):
    assert ask.wait_ready(instance(miner.port), quick(), lambda: "unasked", FRESH) == ""
    assert ask.wait_ready(instance(miner.port, "simulator"), quick(), lambda: "unasked", FRESH) == ""


def test_ready_after_a_while(miner):
    miner.ready = (503, {"ready": False})

    def alive():
        if miner.of("GET", "/readyz") == 3:
            miner.ready = (200, READY)
        return ""

    assert ask.wait_ready(instance(miner.port), quick(ready_s=30), alive, FRESH) == ""
    assert miner.of("GET", "/readyz") == 4


def test_never_ready_tells_the_last_thing_seen(miner):
    miner.ready = (503, {"ready": False, "age_s": {"btc": None}})
    began = time.monotonic()
    told = ask.wait_ready(instance(miner.port), quick(ready_s=0.4), lambda: "", FRESH)
    assert time.monotonic() - began < 3
    seen = f'127.0.0.1:{miner.port}/readyz answers 503 {{"ready": false, "age_s": {{"btc": null}}}}'
    assert told == f"not ready after 0.4 s (gate ready_s): {seen}"


def test_what_can_never_be_ready_is_not_waited_for():
    began = time.monotonic()
    failed = "the unit has failed: exit code 1"
    told = ask.wait_ready(instance(closed_port()), quick(ready_s=60), lambda: failed, FRESH)
    assert told == failed
    assert time.monotonic() - began < 5


def test_a_socket_without_a_process_behind_it_is_not_waited_for_long():
    """As with a socket of systemd: connections are taken, and nobody answers."""
    with socket.create_server(("127.0.0.1", 0)) as waiting:
        began = time.monotonic()
        told = ask.wait_ready(instance(waiting.getsockname()[1]), quick(ready_s=1), lambda: "", FRESH)
        assert time.monotonic() - began < 4
    assert "gave no answer to /readyz within 1000 ms" in told


def test_an_upstream_miner_is_ready_when_its_axon_is(miner):
    there = instance(miner.port, "upstream")
    assert ask.wait_ready(there, quick(), lambda: "", FRESH) == ""
    told = ask.wait_ready(there._replace(port=closed_port()), quick(ready_s=0.3), lambda: "", FRESH)
    assert told.endswith("connection refused")


def ages(miner, *told, status=200):
    """Have a miner say one after the other how old its prices are; the last for ever."""
    left = list(told)
    miner.ready = lambda: (status, {"ready": True, "age_s": left.pop(0) if len(left) > 1 else left[0]})


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"btc": -1, "eth": 30}, r"eth got no price in the \d s since the start; its newest is 30 s old"),
        ({"btc": -1, "eth": None}, "eth has no price"),
        ({"btc": -1}, "eth has no price"),
        ({"btc": 61, "eth": -1}, r"the newest price of btc is 61 s old; the limit is 60 s \(gate max_age_s\)"),
        ({}, "btc has no price"),
    ],
)
def test_instance_without_a_price_newer_than_its_process_is_not_ready(miner, told, why):
    """As after a wrong key: it answers from what its predecessor kept, and /readyz says 200."""
    ages(miner, told)
    assert re.search(f"{why}$", ask.wait_ready(instance(miner.port), quick(ready_s=0.3), lambda: "", FRESH))
    assert ask.wait_ready(instance(miner.port), quick(ready_s=0.3), lambda: "", judge.FORM) == ""


def test_instance_whose_assets_nobody_named_has_to_have_prices_of_some(miner):
    unnamed = instance(miner.port, assets=())
    assert ask.wait_ready(unnamed, quick(), lambda: "", FRESH) == ""
    ages(miner, {})
    told = ask.wait_ready(unnamed, quick(ready_s=0.3), lambda: "", FRESH)
    assert told.endswith("/readyz does not say how old its prices are")


def test_instance_is_ready_as_soon_as_prices_came_and_is_made_to_look_for_them(miner):
    kept, came = {"btc": 100, "eth": 100}, {"btc": 0, "eth": 0}
    miner.ready = lambda: (200, {"ready": True, "age_s": came if miner.of("POST", "/predict") else kept})
    began = time.monotonic()
    assert ask.wait_ready(instance(miner.port), quick(ready_s=30), lambda: "", FRESH) == ""
    assert 1 <= time.monotonic() - began < 10


def test_instance_that_has_no_prices_is_well_enough_while_its_source_is_down(miner):
    miner.ready = (503, {"ready": False, "age_s": {"btc": 4000, "eth": None}})
    assert ask.wait_ready(instance(miner.port), quick(), lambda: "", judge.FORM) == ""
    miner.ready = (503, b"starting")
    assert ask.wait_ready(instance(miner.port), quick(ready_s=0.3), lambda: "", judge.FORM)
    miner.ready = (404, {"ready": False, "draining": True})
    assert ask.wait_ready(instance(miner.port), quick(ready_s=0.3), lambda: "", judge.FORM)


def test_answer_that_there_are_no_prices_is_told_from_other_errors(miner):
    nothing = json.dumps({"predictions": {}, "refused": {"btc": "the newest price is 4000 s old"}}).encode()
    miner.manner, miner.said = "unable", nothing
    told = ask.measure(instance(miner.port), quick(), 0.1)
    assert (told.requests, told.errors, told.priceless) == (6, 6, 6)
    miner.said = b"oops"
    assert ask.measure(instance(miner.port), quick(), 0.1).priceless == 0
