"""Who may ask, by a metagraph that changes."""

from types import SimpleNamespace

import numpy as np
import pytest

from precog_runtime.axon import Callers


class Counting(list):
    """Hotkeys that tell how often they were gone through."""

    reads = 0

    def __iter__(self):
        self.reads += 1
        return super().__iter__()


def graph(**neurons):
    """A metagraph of hotkey=(permit, stake)."""
    return SimpleNamespace(
        hotkeys=Counting(neurons),
        validator_permit=np.array([permit for permit, _ in neurons.values()]),
        S=np.array([stake for _, stake in neurons.values()], dtype=np.float32),
    )


NEURONS = {"validator": (True, 5.0), "poor": (True, 1.0), "miner": (False, 9.0), "unknown stake": (True, float("nan"))}

TABLE = [
    ({}, "validator", False, "recognized"),
    ({}, "poor", False, "recognized"),
    ({}, "miner", True, "Non-validator"),
    ({}, "stranger", True, "Unrecognized"),
    ({}, None, True, "Missing"),
    ({}, "", True, "Missing"),
    ({"validators_only": False}, "miner", False, "recognized"),
    ({"validators_only": False}, "stranger", True, "Unrecognized"),
    ({"allow_unregistered": True}, "stranger", False, ""),
    ({"allow_unregistered": True}, "miner", True, "Non-validator"),
    ({"allow_unregistered": True}, None, True, "Missing"),
    ({"vpermit_tao_limit": 2}, "validator", False, "recognized"),
    ({"vpermit_tao_limit": 2}, "poor", True, "Stake below 2 TAO"),
    ({"vpermit_tao_limit": 2}, "unknown stake", True, "Stake below"),
    ({"vpermit_tao_limit": 5}, "validator", False, "recognized"),
]


@pytest.mark.parametrize(("options", "hotkey", "refused", "reason"), TABLE, ids=str)
def test_who_is_let_in(options, hotkey, refused, reason):
    got = Callers(graph(**NEURONS), **options).blacklist(hotkey)
    assert (got[0], reason in got[1]) == (refused, True)


@pytest.mark.parametrize(("hotkey", "priority"), [("validator", 5.0), ("miner", 9.0), ("stranger", 0.0), (None, 0.0)])
def test_priority_is_the_stake(hotkey, priority):
    got = Callers(graph(**NEURONS)).priority(hotkey)
    assert (got, type(got)) == (priority, float)


def test_a_synchronised_metagraph_is_seen_at_the_next_request():
    metagraph = graph(old=(True, 1.0))
    callers = Callers(metagraph)
    assert not callers.blacklist("old")[0]
    vars(metagraph).update(vars(graph(new=(True, 2.0), old=(False, 3.0))))
    assert not callers.blacklist("new")[0]
    assert callers.blacklist("old")[0]
    metagraph.S = np.array([7.0, 8.0])
    assert (callers.priority("new"), callers.priority("old")) == (7.0, 8.0)


def test_between_two_synchronisations_the_metagraph_is_not_gone_through():
    metagraph = graph(**NEURONS)
    callers = Callers(metagraph)
    for _ in range(100):
        callers.blacklist("validator")
        callers.priority("stranger")
    assert metagraph.hotkeys.reads == 1


def test_in_the_middle_of_a_synchronisation_who_is_not_in_all_parts_waits():
    metagraph = graph(one=(True, 1.0))
    callers = Callers(metagraph)
    metagraph.hotkeys = [*metagraph.hotkeys, "two"]
    assert callers.blacklist("two")[0]
    assert not callers.blacklist("one")[0]


def test_bittensors_own_metagraph():
    import bittensor

    metagraph = bittensor.Metagraph(netuid=55, network="mock", sync=False)
    axons = [SimpleNamespace(hotkey=hotkey) for hotkey in ("a", "b")]
    metagraph.axons, metagraph.validator_permit = axons, np.array([True, False])
    metagraph.total_stake = metagraph.stake = np.array([4.0, 5.0])
    callers = Callers(metagraph)
    assert [callers.blacklist(hotkey)[0] for hotkey in "abc"] == [False, True, True]
    table = callers._known()
    assert callers._known() is table
    metagraph.axons = [*reversed(axons)]
    assert [callers.blacklist(hotkey)[0] for hotkey in "abc"] == [True, False, True]
