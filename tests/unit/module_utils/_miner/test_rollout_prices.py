"""A rollout whose gate is the real one: releases with wrong prices, or none, and sources that are down.

The host and its systemd are made up; what runs on it answers over HTTP, and so does the source of its prices.
"""

from __future__ import annotations

import time

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._host.host import HostError
from ansible_collections.precog.fleet.plugins.module_utils._miner import prices, rollout, run, source
from ansible_collections.precog.fleet.plugins.module_utils._miner.model import File, Secret
from ansible_collections.precog.fleet.tests.unit.made_api import made_api
from ansible_collections.precog.fleet.tests.unit.made_miner import ASSETS, PRICES, made_miner
from ansible_collections.precog.fleet.tests.unit.made_systemd import (
    PARAMS,
    instance,
    know,
    made_plan,
    make_systemd,
    roll,
    store_of,
)

KEY_FILE = "/etc/precog-miner/one.env"
GATE = {"soak_s": 0.2, "rate_hz": 50, "ready_s": 2, "p99_ms": 5000, "p99_slack_ms": 5000}


@pytest.fixture
def api(monkeypatch):
    monkeypatch.setattr(source, "PAUSE_S", 0.01)
    with made_api() as running:
        yield running


@pytest.fixture
def miner():
    with made_miner() as running:
        yield running


class Fleet:
    """A host of one instance, whose releases answer a multiple of the price, or have prices of so many seconds ago.

    :ivar ages: the age of each release's newest price; -1 is one that comes as soon as it is asked for.
    """

    def __init__(self, host, api, miner):
        self.host, self.api, self.miner = host, api, miner
        self.factors, self.ages = {}, {}
        miner.decide = self._answer
        miner.ready = lambda: (
            200,
            {"ready": True, "age_s": dict.fromkeys(ASSETS, self._of(self.ages, -1)), "model": "drift"},
        )

    def _of(self, known, default):
        digest = self.host.known()["processes"]["one"]["digest"]
        return known.get(digest.partition("-")[0], default)

    def _answer(self):
        factor = self._of(self.factors, 1.0)
        prices = {asset: price * factor for asset, price in PRICES.items()}
        about = {"predictions": prices, "intervals": {name: [one * 0.99, one * 1.01] for name, one in prices.items()}}
        age_s = max(0, self._of(self.ages, -1))
        stale = dict.fromkeys(ASSETS, f"prices are {age_s} s old") if age_s > 2 else {}
        return {**about, "age_s": dict.fromkeys(ASSETS, age_s), "degraded": stale}

    def make(self, release, factor=1.0, age_s=-1, url=""):
        """Make a release."""
        one = instance("one", release, self.miner.port)._replace(assets=ASSETS)
        plan = made_plan(release, one)
        variables = f"PRECOG_RUNTIME_API_URL={url or self.api.url}\nPRECOG_RUNTIME_ASSETS={','.join(ASSETS)}\n"
        made = plan.files["instances/one/environment"]
        plan.files["instances/one/environment"] = File(made.data + variables.encode(), made.mode)
        self.factors[release], self.ages[release] = factor, age_s
        know(self.host, plan)

    def roll(self, release, secrets=None, peers=()):
        if not secrets:
            return roll(self.host, release, gate=GATE, peers=list(peers))
        store = store_of(self.host)
        store.save(self.host.plans[release], {})
        work = rollout.Rollout(self.host, {**PARAMS, "gate": GATE})
        return run._roll(self.host, work, store.load(release), secrets, check_mode=False)


@pytest.fixture
def fleet(memory, api, miner, monkeypatch):
    monkeypatch.setattr(rollout.systemd, "holders", lambda _port: {})
    return Fleet(make_systemd(memory / "host"), api, miner)


# -- prices -----------------------------------------------------------------------------------------------------------


def test_release_that_was_good_is_gone_back_to_from_one_that_answers_ten_times_the_price(fleet):
    """`wrong` passed its gate, and began to answer wrongly later."""
    fleet.make("first")
    fleet.make("wrong")
    assert fleet.roll("first").failure == fleet.roll("wrong").failure == ""
    fleet.factors["wrong"] = 10.0
    outcome = fleet.roll("previous")
    assert (outcome.failure, fleet.host.current()) == ("", "first")


def test_corrected_release_takes_the_place_of_one_that_answers_ten_times_the_price(fleet):
    fleet.make("wrong")
    fleet.make("corrected")
    assert fleet.roll("wrong").failure == ""
    fleet.factors["wrong"] = 10.0
    assert (fleet.roll("corrected").failure, fleet.host.current()) == ("", "corrected")


def test_first_release_with_wrong_prices_is_rejected(fleet):
    fleet.make("wrong", 10.0)
    outcome = fleet.roll("wrong")
    assert "the prediction of btc is 900000 where its source says 90000 to 90000, 900.0% away" in outcome.failure
    assert "There was no release before it" in outcome.failure
    assert fleet.host.running() == {}


def test_releases_each_a_little_off_do_not_add_up(fleet):
    fleet.make("first", 1.049)
    fleet.make("second", 1.049**2)
    assert fleet.roll("first").failure == ""
    assert "10.0% away" in fleet.roll("second").failure
    assert fleet.host.current() == "first"


def test_host_that_is_back_on_wrong_prices_is_not_called_healthy(fleet):
    fleet.make("first")
    fleet.make("second", 7.0)
    assert fleet.roll("first").failure == ""
    fleet.factors["first"] = 10.0
    failure = fleet.roll("second").failure
    assert failure.startswith("one: the prediction of btc is 630000")
    assert "back on first, which runs, but its answers are doubtful (one: the prediction of btc is 900000" in failure
    assert "healthy" not in failure


def test_going_back_to_wrong_prices_is_warned_of(fleet):
    fleet.make("first")
    fleet.make("second")
    assert fleet.roll("first").failure == fleet.roll("second").failure == ""
    fleet.factors["first"] = 10.0
    outcome = fleet.roll("previous")
    assert (outcome.failure, fleet.host.current()) == ("", "first")
    assert "this release was good before, but one: the prediction of btc is 900000" in outcome.warnings[0]


# -- other hosts ------------------------------------------------------------------------------------------------------


def test_new_release_is_compared_with_other_hosts_that_passed(fleet, monkeypatch):
    monkeypatch.setattr(prices, "LOCAL", ())
    fleet.make("first")
    answers = fleet.roll("first").answers
    assert answers["predictions"] == PRICES
    other = {**answers, "predictions": {**PRICES, "btc": 99000.0}}
    fleet.make("second")
    failure = fleet.roll("second", peers=[other]).failure
    assert "btc is 90000 where other hosts that just passed their gate answer 99000 to 99000" in failure
    assert (fleet.roll("second", peers=[answers]).failure, fleet.host.current()) == ("", "second")


def test_way_back_is_compared_with_no_other_host(fleet, monkeypatch):
    monkeypatch.setattr(prices, "LOCAL", ())
    fleet.make("first")
    fleet.make("second")
    other = {**fleet.roll("first").answers, "predictions": {"btc": 99000.0}}
    assert fleet.roll("second").failure == ""
    outcome = fleet.roll("previous", peers=[other])
    assert (outcome.failure, outcome.answers, fleet.host.current()) == ("", {}, "first")


def test_prices_of_a_hosts_own_simulator_are_compared_with_no_other_host(fleet):
    fleet.make("first")
    other = {"at": time.time(), "predictions": {"btc": 99000.0}}
    outcome = fleet.roll("first", peers=[other])
    assert (outcome.failure, outcome.answers) == ("", {})


# -- useless answers --------------------------------------------------------------------------------------------------


def every_third(fleet, changes):
    """Have each third answer of the release `useless` differ."""
    count = iter(range(10**6))
    right = fleet.miner.decide

    def decide():
        useless = fleet.host.running().get("one", "").startswith("useless")
        return {**right(), **(changes if useless and next(count) % 3 == 0 else {})}

    fleet.miner.decide = decide


WIDE = {asset: [price * 1e-9, price + 1e9] for asset, price in PRICES.items()}
USELESS = {
    "seven times the price": (
        {
            "predictions": {asset: price * 7 for asset, price in PRICES.items()},
            "intervals": {asset: [price * 6.9, price * 7.1] for asset, price in PRICES.items()},
        },
        "btc is 630000 where its source says 90000 to 90000, 600.0% away, in ",
    ),
    "too wide": ({"intervals": WIDE}, "the interval of btc is 1111211.1111% of its prediction wide in "),
    "no width": (
        {"intervals": {asset: [price, price] for asset, price in PRICES.items()}},
        "the interval of btc is 0.0000% of its prediction wide in ",
    ),
    "another model": ({"models": dict.fromkeys(ASSETS, "other")}, "btc is answered by the model other in "),
}


@pytest.mark.parametrize(("changes", "told"), USELESS.values(), ids=USELESS)
def test_release_whose_every_third_answer_is_useless_is_rejected(fleet, changes, told):
    fleet.make("first")
    fleet.make("useless")
    every_third(fleet, changes)
    assert fleet.roll("first").failure == ""
    assert told in fleet.roll("useless").failure
    assert fleet.host.current() == "first"


def test_release_that_leaks_is_rejected(fleet, monkeypatch):
    fleet.make("first")
    fleet.make("leaks")
    had = iter(range(80 << 20, 1 << 40, 4 << 20))

    def memory(*_about):
        return next(had) if fleet.host.running()["one"].startswith("leaks") else 80 << 20

    monkeypatch.setattr(rollout.systemd, "memory", memory)
    monkeypatch.setitem(GATE, "soak_s", 0.5)
    assert fleet.roll("first").failure == ""
    assert "each request leaves 4096 KB of memory behind" in fleet.roll("leaks").failure


# -- no prices --------------------------------------------------------------------------------------------------------


def test_release_that_gets_no_prices_is_rejected(fleet):
    """It answers from the window that the release before has left on disk, and its prices stay within the limit."""
    fleet.make("first")
    fleet.make("deaf", age_s=30)
    assert fleet.roll("first").failure == ""
    failure = fleet.roll("deaf").failure
    assert "not ready after 2 s (gate ready_s): btc got no price in the " in failure
    assert "back on first, and that is healthy" in failure
    assert fleet.host.current() == "first"


def test_release_with_a_mistyped_url_does_not_begin(fleet):
    fleet.make("first")
    assert fleet.roll("first").failure == ""
    before = fleet.host.known()
    fleet.make("mistyped", url=f"{fleet.api.url}/typo")
    told = r"HTTP 404 \(Not found\.\): check PRECOG_RUNTIME_API_URL in miner_service_variables\. Nothing was touched"
    with pytest.raises(HostError, match=told):
        fleet.roll("mistyped")
    assert (fleet.host.known(), fleet.host.current(), store_of(fleet.host).past().trying) == (before, "first", "")


def with_key(key):
    return {KEY_FILE: Secret(f'PRECOG_RUNTIME_API_KEY="{key}"\n'.encode(), "root")}


def test_mistyped_key_does_not_begin_though_the_release_was_good(fleet):
    """A key is no part of a release's name."""
    fleet.api.key = "right"
    fleet.make("first")
    assert fleet.roll("first", secrets=with_key("right")).failure == ""
    before = fleet.host.known()
    with pytest.raises(HostError, match=r"HTTP 401 \(.*\): check miner_service_api_key. Nothing was touched") as told:
        fleet.roll("first", secrets=with_key("wrong1"))
    assert "wrong1" not in str(told.value)
    assert fleet.host.known() == before
    assert b"right" in fleet.host.at(KEY_FILE).read_bytes()


# -- the source is down -----------------------------------------------------------------------------------------------


@pytest.fixture
def down(fleet):
    """A host that ran two releases, and whose source has been down for ten minutes."""
    fleet.make("first")
    fleet.make("second")
    assert fleet.roll("first").failure == fleet.roll("second").failure == ""
    fleet.api.broken = (503, b"")
    fleet.ages = dict.fromkeys(fleet.ages, 600)
    return fleet


def test_no_new_release_begins_while_the_source_is_down(down):
    down.make("third")
    before = down.host.known()
    told = r"source of its prices \(PRECOG_RUNTIME_API_URL\) is down: 127.0.0.1:\d+ answers HTTP 503\. No new"
    with pytest.raises(HostError, match=told):
        down.roll("third")
    assert (down.host.known(), down.host.current()) == (before, "second")


def test_stopped_instance_is_repaired_while_the_source_is_down(down):
    down.host.run(["systemctl", "stop", "precog-miner@one.service"])
    outcome = down.roll("second")
    assert (outcome.failure, set(down.host.running())) == ("", {"one"})
    assert "the form of the answers alone was checked" in outcome.warnings[0]


def test_way_back_is_open_while_the_source_is_down(down):
    assert (down.roll("previous").failure, down.host.current()) == ("", "first")


def test_instance_without_any_price_is_repaired_while_the_source_is_down(down):
    down.miner.ready = (503, {"ready": False, "age_s": dict.fromkeys(ASSETS)})
    down.miner.manner, down.miner.said = "unable", b'{"predictions": {}, "refused": {"btc": "there is no price"}}'
    down.host.run(["systemctl", "stop", "precog-miner@one.service"])
    assert (down.roll("second").failure, set(down.host.running())) == ("", {"one"})


def test_wrong_form_is_no_repair_while_the_source_is_down(down):
    down.miner.manner = "garbage"
    down.host.run(["systemctl", "stop", "precog-miner@one.service"])
    assert "an answer is no JSON object" in down.roll("second").failure


def test_source_that_goes_down_while_a_host_goes_back_does_not_stop_it(fleet, monkeypatch):
    fleet.make("first")
    fleet.make("second")
    assert fleet.roll("first").failure == fleet.roll("second").failure == ""
    real = rollout.ask.wait_ready

    def goes_down(*about):
        fleet.api.broken = (503, b"")
        fleet.ages["first"] = 600
        return real(*about)

    monkeypatch.setattr(rollout.ask, "wait_ready", goes_down)
    assert (fleet.roll("previous").failure, fleet.host.current()) == ("", "first")


def test_new_release_whose_source_goes_down_before_its_gate_is_gone_back_from(fleet, monkeypatch):
    """Its answers could be compared with nothing."""
    fleet.make("first")
    fleet.make("second")
    assert fleet.roll("first").failure == ""
    monkeypatch.setattr(prices, "FRESH_S", 0.0)
    real = rollout.systemd.start

    def goes_down(*about, **more):
        fleet.api.broken = (503, b"")
        return real(*about, **more)

    monkeypatch.setattr(rollout.systemd, "start", goes_down)
    failure = fleet.roll("second").failure
    assert "the source of its prices gives it none" in failure
    assert "back on first" in failure
    assert fleet.host.current() == "first"


def test_source_is_asked_once_for_what_many_need(fleet):
    fleet.make("first")
    assert fleet.roll("first").failure == ""
    assert len(fleet.api.asked) == 1


# -- the source is up, and its rate limit leaves no request for the gate -----------------------------------------------


@pytest.fixture
def busy(fleet, monkeypatch):
    """A host that ran two releases, and whose miners use all the requests that its source allows."""
    monkeypatch.setattr(source, "BUSY_S", 0.2)
    fleet.make("first")
    fleet.make("second")
    assert fleet.roll("first").failure == fleet.roll("second").failure == ""
    fleet.api.broken = (429, {})
    return fleet


def test_no_new_release_begins_while_the_gate_gets_no_turn(busy):
    busy.make("third")
    before = busy.host.known()
    with pytest.raises(HostError) as caught:
        busy.roll("third")
    assert "is up, and 127.0.0.1" in str(caught.value)
    assert "Let instances ask less (PRECOG_RUNTIME_API_REQUESTS in miner_service_variables)" in str(caught.value)
    assert (busy.host.known(), busy.host.current()) == (before, "second")


def test_way_back_is_open_though_the_gate_gets_no_turn(busy):
    outcome = busy.roll("previous")
    assert (outcome.failure, busy.host.current()) == ("", "first")
    assert "so the answers were not compared with its prices" in outcome.warnings[0]


def test_way_back_needs_fresh_prices_though_the_gate_gets_no_turn(busy):
    busy.ages["first"] = 600
    assert "price of btc is 600 s old" in busy.roll("previous").failure


def test_what_the_source_said_before_counts_while_the_gate_gets_no_turn(fleet, monkeypatch):
    monkeypatch.setattr(source, "BUSY_S", 0.2)
    monkeypatch.setattr(prices, "FRESH_S", 0.0)
    fleet.make("first")
    assert fleet.roll("first").failure == ""
    real = rollout.ask.wait_ready

    def gets_busy(*about):
        fleet.api.broken = (429, {})
        return real(*about)

    monkeypatch.setattr(rollout.ask, "wait_ready", gets_busy)
    fleet.make("second")
    assert fleet.roll("second").failure == ""
    fleet.api.broken = None
    fleet.make("wrong", factor=10.0)
    assert "% away" in fleet.roll("wrong").failure
