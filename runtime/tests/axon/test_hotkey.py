"""The hotkey fix: the same synapse, without reading the key from disk at each request."""

import asyncio
import inspect
from pathlib import Path

import pytest
from axon.challenge import Challenge
from axon.loopback import Letter, new_axon, question, wallet
from bittensor.core.axon import AxonMiddleware
from bittensor.core.errors import InvalidRequestNameError, UnknownSynapseError
from bittensor_wallet import Keypair
from starlette.requests import Request

from precog_runtime.axon import keep_hotkey
from precog_runtime.axon.hotkey import View, kept_wallet

ORIGINAL = inspect.unwrap(AxonMiddleware.preprocess)
CALLER = Keypair.create_from_uri("//caller")


@pytest.fixture
def axon():
    def forward(synapse: Challenge) -> Challenge:
        return synapse

    return new_axon("keeper").attach(forward)


def http(axon, path="/Challenge", **headers):
    sent = {**Letter(axon, CALLER, question(timestamp="t"), nonce=5).headers, **headers}
    return Request(
        {
            "type": "http",
            "path": path,
            "headers": [(key.lower().encode(), str(value).encode()) for key, value in sent.items()],
            "client": ("127.0.0.1", 4711),
            "server": ("127.0.0.1", axon.port),
            "scheme": "http",
            "query_string": b"",
            "method": "POST",
        }
    )


def preprocessed(function, axon, request):
    return asyncio.run(function(AxonMiddleware(None, axon), request))


def test_the_synapse_is_the_same_and_signed_by_the_same_key(axon, monkeypatch):
    monkeypatch.setattr("bittensor.core.axon.time.time_ns", lambda: 1)
    request = http(axon)
    fixed, original = (preprocessed(function, axon, request) for function in (AxonMiddleware.preprocess, ORIGINAL))
    # A signature holds a random number, so that two are never the same.
    for synapse in (fixed, original):
        said = f"{synapse.axon.nonce}.{synapse.dendrite.hotkey}.{synapse.axon.hotkey}.{synapse.axon.uuid}"
        assert Keypair(axon.wallet.hotkey.ss58_address).verify(said, synapse.axon.signature)
        synapse.axon.signature = None
    assert type(fixed) is Challenge
    assert fixed.model_dump() == original.model_dump()


def test_the_key_is_read_once(axon):
    request = http(axon)
    preprocessed(AxonMiddleware.preprocess, axon, request)
    file = Path(axon.wallet.hotkey_file.path)
    aside = file.rename(file.with_suffix(".aside"))
    try:
        assert preprocessed(AxonMiddleware.preprocess, axon, request).axon.signature
    finally:
        aside.rename(file)


def test_another_wallet_brings_its_own_key(axon):
    first = kept_wallet(axon).hotkey.ss58_address
    axon.wallet = wallet("another")
    assert kept_wallet(axon).hotkey.ss58_address == axon.wallet.hotkey.ss58_address != first
    assert kept_wallet(axon).name == "another"


def test_headers_that_do_not_parse_are_the_callers_fault(axon):
    with pytest.raises(InvalidRequestNameError, match="not those of this synapse"):
        preprocessed(AxonMiddleware.preprocess, axon, http(axon, bt_header_dendrite_nonce="soon"))


def test_other_errors_stay_what_they_are(axon):
    for function in (AxonMiddleware.preprocess, ORIGINAL):
        with pytest.raises(UnknownSynapseError):
            preprocessed(function, axon, http(axon, path="/Nothing"))


def test_what_is_set_on_a_view_is_set_on_the_thing_itself(axon):
    view = View(axon, wallet="mine")
    view.started = "set"
    assert (view.wallet, view.port, axon.started) == ("mine", axon.port, "set")


def test_it_is_applied_once():
    before = AxonMiddleware.preprocess
    assert keep_hotkey()
    assert AxonMiddleware.preprocess is before


def test_another_bittensors_method_is_left_alone(monkeypatch):
    async def preprocess(_self, request):
        return request

    monkeypatch.setattr(AxonMiddleware, "preprocess", preprocess)
    assert not keep_hotkey()
    assert AxonMiddleware.preprocess is preprocess
