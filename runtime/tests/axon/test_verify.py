"""Strict verification, on a clock of the test's."""

import inspect
import time

import pytest
from axon.challenge import Challenge
from axon.loopback import Letter, ask, new_axon, question, start
from bittensor.core.axon import Axon
from bittensor.core.synapse import Synapse, TerminalInfo
from bittensor_wallet import Keypair
from hypothesis import given, settings
from hypothesis import strategies as st

from precog_runtime.axon.verify import FEWEST, Refused, Verifier, announced, verify_strictly

OWN = Keypair.create_from_uri("//miner").ss58_address
KEY = Keypair.create_from_uri("//validator")
SECOND = 10**9
NOW = 1_795_474_800 * SECOND


class Clock:
    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def verifier(clock):
    return Verifier(OWN, clock)


def letter(nonce=NOW, uuid="u", key=KEY, receiver=OWN, timeout=12.0, body_hash="hash", version=9_012_002, **changes):
    said = f"{nonce}.{key.ss58_address}.{receiver}.{uuid}.{body_hash}"
    terminal = {
        "nonce": nonce,
        "uuid": uuid,
        "hotkey": key.ss58_address,
        "version": version,
        "signature": f"0x{key.sign(said).hex()}",
        **{name: value for name, value in changes.items() if name != "computed_body_hash"},
    }
    made = Synapse(computed_body_hash=changes.get("computed_body_hash", body_hash))
    made.__dict__["timeout"] = timeout
    made.dendrite = TerminalInfo(**terminal)
    return made


def test_a_genuine_one_tells_who_signed(verifier):
    assert verifier.check(letter()) == KEY.ss58_address


def test_only_a_genuine_one_is_announced(verifier, monkeypatch):
    told = []
    monkeypatch.setattr("precog_runtime.axon.verify.announced", [*announced, lambda: told.append(1)])
    verifier.check(letter())
    assert told == [1]
    for forged in (letter(), letter(nonce=NOW + 1, signature="0x00"), letter(nonce=NOW + 2, body_hash="")):
        with pytest.raises(Refused):
            verifier.check(forged)
    assert told == [1]


OTHER = Keypair.create_from_uri("//thief")
FORGED = {
    **{f"no {name}": {name: None} for name in ("hotkey", "nonce", "uuid", "signature", "computed_body_hash")},
    **{f"empty {name}": {name: ""} for name in ("hotkey", "uuid", "signature", "computed_body_hash")},
    "signed without a body": {"body_hash": ""},
    "nonce 0": {"nonce": 0},
    "another's hotkey": {"hotkey": OTHER.ss58_address},
    "another body": {"computed_body_hash": "other"},
    "another miner's": {"receiver": OTHER.ss58_address},
    "signed by another": {"signature": f"0x{OTHER.sign('x').hex()}"},
}


@pytest.mark.parametrize("changes", FORGED.values(), ids=FORGED)
def test_a_forged_one_is_refused_and_the_genuine_one_still_accepted(verifier, changes):
    with pytest.raises(Refused):
        verifier.check(letter(**changes))
    assert verifier.check(letter())


def test_what_has_no_caller_is_refused(verifier):
    nobody = letter()
    nobody.dendrite = None
    with pytest.raises(Refused, match="missing"):
        verifier.check(nobody)


@settings(deadline=None)
@given(hotkey=st.text(), signature=st.text() | st.from_regex(r"0x[0-9a-f]{0,130}", fullmatch=True), uuid=st.text())
def test_any_garbage_is_refused_and_nothing_worse(hotkey, signature, uuid):
    for changes in ({"hotkey": hotkey}, {"signature": signature}, {"uuid": uuid + "!"}):
        with pytest.raises(Refused):
            Verifier(OWN, lambda: NOW).check(letter(**{"signature": "0x" + "1f" * 64, **changes}))


AGES = [
    (0, 12, True),
    (15.9, 12, True),  # bittensor allows the time-out and 4 s
    (16.1, 12, False),
    (3.9, None, True),
    (4.1, None, False),
    (63.9, 1e9, True),
    (64.1, 1e9, False),
    (64.1, float("inf"), False),
    (4.1, float("nan"), False),
    (4.1, -5, False),
    (-59, 12, True),
    (-61, 12, False),
]


@pytest.mark.parametrize(("age_s", "timeout", "accepted"), AGES, ids=str)
@pytest.mark.parametrize("version", [9_012_002, 7_000_000, None], ids=str)
def test_a_nonce_is_judged_by_its_age_whatever_the_caller_says(verifier, age_s, timeout, accepted, version):
    asked = letter(NOW - int(age_s * SECOND), timeout=timeout, version=version)
    if accepted:
        verifier.check(asked)
    else:
        with pytest.raises(Refused, match="nonce"):
            verifier.check(asked)


def test_a_caller_who_is_known_is_judged_by_age_as_well(verifier, clock):
    verifier.check(letter())
    captured = letter(NOW + SECOND)
    clock.now += 600 * SECOND
    with pytest.raises(Refused, match="too old"):
        verifier.check(captured)


def test_a_nonce_must_be_newer_than_the_last_of_that_dendrite(verifier):
    verifier.check(letter(NOW, "one"))
    for nonce in (NOW, NOW - 1):
        with pytest.raises(Refused, match="not newer"):
            verifier.check(letter(nonce, "one"))
    verifier.check(letter(NOW, "two"))
    verifier.check(letter(NOW + 1, "one"))


def test_a_refused_one_does_not_use_up_the_nonce(verifier):
    with pytest.raises(Refused):
        verifier.check(letter(NOW + 5, signature="0x00"))
    verifier.check(letter(NOW + 1))


def test_callers_are_forgotten_when_their_nonces_are_too_old_anyway(verifier, clock):
    for number in range(FEWEST):
        verifier.check(letter(NOW, f"{number}"))
    clock.now += 100 * SECOND
    for number in range(2 * FEWEST):
        verifier.check(letter(clock.now, f"new {number}"))
    assert len(verifier._newest) == 2 * FEWEST
    for uuid, nonce in (("0", NOW), ("new 0", clock.now)):
        with pytest.raises(Refused):
            verifier.check(letter(nonce, uuid))


def test_upstreams_miner_which_brings_no_function_of_its_own_is_made_strict(monkeypatch, validators):
    monkeypatch.setattr(Axon, "default_verify", inspect.unwrap(Axon.default_verify))
    before = Axon.default_verify

    async def forward(synapse: Challenge) -> Challenge:
        return synapse

    def served():
        return start(new_axon().attach(forward))

    lax = served()
    assert verify_strictly()
    assert verify_strictly()
    assert Axon.default_verify is not before
    strict = served()
    try:
        unsigned = {"signature": None}
        assert Letter(lax, validators[0].keypair).send(**unsigned)[0] == 200  # what bittensor does
        assert Letter(strict, validators[0].keypair).send(**unsigned)[0] == 401
        assert Letter(strict, validators[0].keypair, Synapse()).send(**unsigned)[0] == 401  # a ping
        assert ask(validators[0], strict, question()).axon.status_code == 200
    finally:
        lax.stop()
        strict.stop()


def test_a_real_clock_is_the_default():
    assert Verifier(OWN).check(letter(time.time_ns()))
