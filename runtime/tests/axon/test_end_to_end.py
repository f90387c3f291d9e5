"""The real axon, asked by the real dendrite and by callers that are up to something."""

import sqlite3
import time
from pathlib import Path
from typing import ClassVar

import bittensor
import pytest
from axon.challenge import Challenge
from axon.loopback import EVERYTHING, Letter, ago, ask, ask_all, new_axon, question, start, wait_until
from bittensor_wallet import Keypair

from precog_runtime.axon import Callers, attach
from precog_runtime.axon.forward import forward_by
from precog_runtime.timestamps import parse
from precog_runtime.types import Request


class Signed(Challenge):
    """A challenge whose fields are in the signed hash; upstream's signs none."""

    required_hash_fields: ClassVar[tuple[str, ...]] = ("timestamp",)


@pytest.fixture
def key(validators):
    return validators[0].keypair


@pytest.fixture(scope="module")
def signed_axon(background, metagraph):
    axon = attach(new_axon(), Signed, forward_by(background), Callers(metagraph))
    yield start(axon)
    axon.stop()


def test_a_validator_is_answered_with_the_engines_own_forecasts(axon, validators, background):
    engine, timestamp = background.runtime.engine, ago(60)
    for _ in range(5):  # if prices came between the two, it was right not to be ready
        got = ask(validators[0], axon, question(timestamp=timestamp))
        assert got.axon.status_code == 200
        ours = engine.ready(Request(timestamp, EVERYTHING, engine.clock() + 5))
        if ours is not None:
            break
    assert got.predictions == ours.predictions()
    assert got.intervals == ours.intervals()
    for asset in EVERYTHING:
        low, high = got.intervals[asset]
        assert low < got.predictions[asset] < high


def test_sixty_four_at_once_are_all_answered_alike(axon, validators):
    dendrites = [bittensor.Dendrite(one.keypair) for one in validators for _ in range(16)]
    got = ask_all(dendrites, axon, question(timestamp=ago(30)))
    assert {one.axon.status_code for one in got} == {200}
    assert len({str(one.predictions) for one in got}) <= 2  # a newer price may come between two of them
    assert set(got[0].predictions) == set(EVERYTHING)


def test_its_http_is_parsed_by_httptools(axon):
    assert "HttpToolsProtocol" in [each.__name__ for each in axon.fast_config.http_protocol_class.__mro__]


PARTS = [
    ({"assets": ["btc", "doge"]}, ["btc"]),
    ({"assets": ["BTC", " eth "]}, ["btc", "eth"]),
    ({"assets": ["doge"]}, []),
    ({"assets": []}, []),
    ({"assets": ["btc"] * 1000}, ["btc"]),
    ({"timestamp": "2030-01-01T00:00:00Z"}, []),
    ({"timestamp": "yesterday"}, []),
    ({"timestamp": ""}, []),
]


@pytest.mark.parametrize(("fields", "answered"), PARTS, ids=str)
def test_what_cannot_be_answered_is_left_out_and_the_next_is_answered(axon, validators, fields, answered):
    got = ask(validators[1], axon, question(**fields))
    assert (got.axon.status_code, sorted(got.predictions), sorted(got.intervals)) == (200, answered, answered)
    assert set(ask(validators[1], axon).predictions) == set(EVERYTHING)


def test_a_signed_letter_is_answered_and_its_copy_is_not(axon, key):
    letter = Letter(axon, key)
    status, answer = letter.send()
    assert (status, set(answer["predictions"])) == (200, set(EVERYTHING))
    status, answer = letter.send()
    assert (status, "not newer" in answer["message"]) == (401, True)
    assert Letter(axon, key).send()[0] == 200


REFUSED = [
    ({"signature": None}, 401),
    ({"signature": ""}, 401),
    ({"signature": "0x"}, 401),
    ({"signature": "0x" + "00" * 64}, 401),
    ({"signature": "none of the kind"}, 401),
    ({"nonce": None}, 401),
    ({"nonce": "soon"}, 400),
    ({"nonce": 1}, 401),
    ({"nonce": 2**63}, 401),
    ({"uuid": None}, 401),
    ({"uuid": ""}, 401),
    ({"uuid": "another dendrite"}, 401),
    ({"hotkey": None}, 403),
    ({"hotkey": ""}, 403),
    ({"hotkey": "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"}, 403),  # registered nowhere
]


@pytest.mark.parametrize(("changes", "status"), REFUSED, ids=str)
def test_a_letter_that_was_tampered_with_is_refused(axon, key, changes, status):
    got, answer = Letter(axon, key, uuid=f"{changes}").send(**changes)
    assert got == status
    assert "predictions" not in answer


def test_one_who_is_registered_cannot_ask_in_the_name_of_another(axon, validators):
    letter = Letter(axon, validators[0].keypair, uuid="a thief's")
    assert letter.send(hotkey=validators[1].keypair.ss58_address)[0] == 401


def test_a_letter_to_another_miner_is_refused(axon, key):
    assert Letter(axon, key, receiver=Keypair.create_from_uri("//other").ss58_address).send()[0] == 401


@pytest.mark.parametrize("pretended", [{}, {"version": 7_001_000}], ids=str)
def test_an_old_letter_is_refused_whatever_it_says_of_version_and_time_out(axon, key, pretended):
    minutes_ago = time.time_ns() - 120 * 10**9
    letter = Letter(axon, key, uuid=f"old {pretended}", nonce=minutes_ago, timeout=1e9)
    assert letter.send(**pretended)[0] == 401


def test_who_is_not_registered_is_refused_with_403(axon):
    stranger = Keypair.create_from_mnemonic(Keypair.generate_mnemonic())
    got = ask(bittensor.Dendrite(stranger), axon)
    assert (got.axon.status_code, got.predictions) == (403, None)
    assert "Unrecognized hotkey" in got.axon.status_message


def test_a_body_that_is_not_the_one_signed_is_refused(signed_axon, key):
    letter = Letter(signed_axon, key, Signed(timestamp=ago(), assets=EVERYTHING))
    letter.body["timestamp"] = ago(100)
    status, answer = letter.send()
    assert (status, "not the one signed" in answer["message"]) == (401, True)
    assert Letter(signed_axon, key, Signed(timestamp=ago(), assets=EVERYTHING)).send()[0] == 200


def test_a_body_that_is_none_is_refused(signed_axon, key):
    letter = Letter(signed_axon, key, Signed(timestamp=ago(), assets=EVERYTHING))
    letter.body = ["no", "object"]
    assert letter.send()[0] == 401


def test_the_log_names_who_signed_not_who_the_body_says(axon, key, validators, background):
    letter = Letter(axon, key, uuid="for the log")
    letter.body["dendrite"]["hotkey"] = validators[1].keypair.ss58_address
    letter.body["timestamp"] = asked_for = ago(77)
    assert letter.send()[0] == 200
    file = Path(background.runtime.settings.state_dir) / "predictions.sqlite"

    def logged():
        with sqlite3.connect(file) as log:
            return log.execute("SELECT caller FROM requests WHERE timestamp = ?", [parse(asked_for)]).fetchone()

    assert wait_until(logged) == (key.ss58_address,)
