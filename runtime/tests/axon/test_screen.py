"""Who asks upstream's miner without being registered: its own kind of blacklist, behind a real axon."""

import inspect
import logging
from types import SimpleNamespace

import pytest
from axon.challenge import Challenge
from axon.loopback import Letter, ask, new_axon, question, start
from bittensor.core import axon as bittensor_axon
from bittensor.core.axon import Axon, Tuple
from bittensor_wallet import Keypair

from precog_runtime.axon.refusals import count_refusals, counted
from precog_runtime.axon.screen import screen_callers

STRANGER = Keypair.create_from_uri("//stranger")
IDLER = Keypair.create_from_uri("//idler")  # registered, and no validator
UNLIKED = Keypair.create_from_uri("//unliked")  # a validator, whom the miner itself refuses


class Miner:
    """Its blacklist and priority look for a caller's number first, as upstream's do."""

    def __init__(self, validators, **rules):
        validators = [*(one.keypair for one in validators), UNLIKED]
        keys = [*validators, IDLER]
        self.metagraph = SimpleNamespace(
            hotkeys=[key.ss58_address for key in keys],
            validator_permit=[key in validators for key in keys],
            S=[100.0] * len(keys),
        )
        self.config = SimpleNamespace(
            blacklist=SimpleNamespace(**{"force_validator_permit": True, "allow_non_registered": False, **rules})
        )
        self.asked = []

    async def forward(self, synapse: Challenge) -> Challenge:
        synapse.predictions = {"btc": 1.0}
        return synapse

    async def blacklist(self, synapse: Challenge) -> Tuple[bool, str]:
        self.asked.append(synapse.dendrite.hotkey)
        uid = self.metagraph.hotkeys.index(synapse.dendrite.hotkey)
        if synapse.dendrite.hotkey == UNLIKED.ss58_address:
            if getattr(self.config.blacklist, "fails", False):
                raise RuntimeError("a bug of the miner's")
            return True, "unliked"
        return not self.metagraph.validator_permit[uid], "Non-validator hotkey"

    async def priority(self, synapse: Challenge) -> float:
        return float(self.metagraph.S[self.metagraph.hotkeys.index(synapse.dendrite.hotkey)])


@pytest.fixture
def served(validators):
    """Start a miner's axon, with rules of its own; stopped at the end."""
    axons = []

    def serve(**rules):
        miner = Miner(validators, **rules)
        axon = new_axon()
        axon.attach(forward_fn=miner.forward, blacklist_fn=miner.blacklist, priority_fn=miner.priority)
        axons.append(start(axon))
        return axon, miner

    yield serve
    for axon in axons:
        axon.stop()


@pytest.fixture
def as_installed(monkeypatch):
    """Bittensor without our replacements."""
    _as_installed(monkeypatch)


def _as_installed(monkeypatch):
    monkeypatch.setattr(Axon, "attach", inspect.unwrap(Axon.attach))
    original = inspect.unwrap(bittensor_axon.log_and_handle_error)
    monkeypatch.setattr(bittensor_axon, "log_and_handle_error", original)


@pytest.fixture
def screened(monkeypatch):
    """Both replacements, put in place by now; a second time changes nothing."""
    _as_installed(monkeypatch)
    for _ in range(2):
        assert screen_callers()
        assert count_refusals()


@pytest.fixture
def errors():
    """What bittensor logs as errors."""
    told = []

    class Handler(logging.Handler):
        def emit(self, record):
            told.append(record.getMessage())

    handler = Handler(logging.ERROR)
    logging.getLogger("bittensor").addHandler(handler)
    yield told
    logging.getLogger("bittensor").removeHandler(handler)


@pytest.fixture
def statuses():
    told = []
    counted.append(told.append)
    yield told
    counted.remove(told.append)


def status(axon, key, **headers):
    return Letter(axon, key, question()).send(**headers)[0]


@pytest.mark.usefixtures("as_installed")
def test_upstreams_own_blacklist_answers_500_and_logs_an_error_for_an_unregistered_caller(served, errors):
    axon, _ = served()
    assert status(axon, STRANGER) == 500
    assert any("is not in list" in line for line in errors)


@pytest.mark.usefixtures("screened")
def test_unregistered_caller_gets_403_counted_and_not_logged(served, errors, statuses):
    axon, miner = served()
    for _ in range(3):
        assert status(axon, STRANGER) == 403
    assert (statuses, errors, miner.asked) == ([403] * 3, [], [])


@pytest.mark.usefixtures("screened")
def test_validator_is_answered_and_upstreams_own_rules_still_count(served, validators, errors, statuses):
    axon, miner = served()
    got = ask(validators[0], axon, question())
    assert (got.axon.status_code, got.predictions) == (200, {"btc": 1.0})
    assert miner.asked == [validators[0].keypair.ss58_address]
    assert status(axon, UNLIKED) == 403
    assert status(axon, IDLER) == 403
    assert miner.asked == [validators[0].keypair.ss58_address, UNLIKED.ss58_address]
    assert (statuses, errors) == ([403, 403], [])


@pytest.mark.usefixtures("screened")
def test_flags_of_the_miner_let_others_in(served):
    axon, miner = served(allow_non_registered=True, force_validator_permit=False)
    assert status(axon, STRANGER) == 200
    assert miner.asked == []
    assert status(axon, IDLER) == 403  # by the miner's own blacklist, which is asked
    assert miner.asked == [IDLER.ss58_address]


@pytest.mark.usefixtures("screened")
def test_unverified_unreadable_and_unknown_requests_are_counted_and_not_logged(served, validators, errors, statuses):
    axon, _ = served()
    assert status(axon, validators[0].keypair, signature="0x" + "00" * 64) == 401
    assert status(axon, validators[0].keypair, nonce="soon") == 400
    assert Letter(axon, validators[0].keypair).send(name="Nothing")[0] == 404
    assert (statuses, errors) == ([401, 400, 404], [])


@pytest.mark.usefixtures("screened")
def test_a_fault_of_the_miners_own_is_logged_and_not_counted(served, errors, statuses):
    axon, _ = served(fails=True)
    assert status(axon, UNLIKED) == 500
    assert any("a bug of the miner's" in line for line in errors)
    assert statuses == []


@pytest.mark.usefixtures("screened")
def test_functions_without_a_metagraph_are_left_alone():
    async def forward(synapse: Challenge) -> Challenge:
        return synapse

    async def blacklist(synapse: Challenge) -> Tuple[bool, str]:
        return synapse.dendrite is None, ""

    axon = new_axon().attach(forward_fn=forward, blacklist_fn=blacklist)
    assert axon.blacklist_fns["Challenge"] is blacklist
    assert axon.priority_fns["Challenge"] is None
