"""The header fix: the same headers, without making the schema anew each time."""

import inspect
import logging

import pydantic
import pytest
from axon.challenge import Challenge
from bittensor import Synapse
from bittensor.core.synapse import TerminalInfo
from hypothesis import given, settings
from hypothesis import strategies as st

from precog_runtime.axon import fix_headers

ORIGINAL = inspect.unwrap(Synapse.get_required_fields)


class Nested(pydantic.BaseModel):
    depth: int = 1


class Plenty(Synapse):
    numbers: list[float]
    text: str
    nested: dict[str, list[int]]
    flag: bool
    maybe: str | None = None


class Deeper(Plenty):
    more: int = 0
    inner: Nested = Nested()


class OwnRule(Challenge):
    def get_required_fields(self):
        return ["assets"]


TEXT = st.text(max_size=20)
CHALLENGES = st.builds(
    Challenge,
    timestamp=TEXT,
    assets=st.lists(TEXT, max_size=5),
    predictions=st.none() | st.dictionaries(TEXT, st.floats(allow_nan=False)),
    intervals=st.none() | st.dictionaries(TEXT, st.lists(st.floats(allow_nan=False), max_size=2)),
)
PLENTY = {
    "numbers": st.lists(st.floats()),
    "text": TEXT,
    "nested": st.dictionaries(TEXT, st.lists(st.integers())),
    "flag": st.booleans(),
    "maybe": st.none() | TEXT,
}
TERMINALS = st.builds(
    TerminalInfo,
    status_code=st.none() | st.integers(100, 599),
    status_message=st.none() | TEXT,
    process_time=st.none() | st.floats(0, 10),
    hotkey=st.none() | TEXT,
    nonce=st.none() | st.integers(0, 2**62),
)
SYNAPSES = st.one_of(
    CHALLENGES,
    st.builds(Synapse),
    st.builds(Plenty, **PLENTY),
    st.builds(Deeper, **PLENTY, more=st.integers()),
    st.builds(OwnRule, timestamp=TEXT, assets=st.lists(TEXT)),
)


@settings(deadline=None, max_examples=25)
@given(synapse=SYNAPSES, axon=TERMINALS, dendrite=TERMINALS)
def test_headers_are_the_same_with_and_without_the_fix(synapse, axon, dendrite):
    synapse.axon, synapse.dendrite = axon, dendrite
    size = synapse.total_size  # to_headers() notes another one
    fixed = synapse.to_headers()
    synapse.total_size = size
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Synapse, "get_required_fields", ORIGINAL)
        original = synapse.to_headers()
    assert list(fixed.items()) == list(original.items())


def test_the_schema_is_made_once_for_a_class():
    made = []

    class Counted(Challenge):
        @classmethod
        def model_json_schema(cls, *args, **kwargs):
            made.append(cls)
            return super().model_json_schema(*args, **kwargs)

    for _ in range(3):
        Counted(timestamp="t").to_headers()
    assert made == [Counted]


def test_a_class_that_is_rebuilt_is_looked_at_again():
    class Growing(Synapse):
        first: int

    assert Growing(first=1).get_required_fields() == ["first"]
    Growing.model_fields["second"] = pydantic.fields.FieldInfo(annotation=int)
    Growing.__annotations__["second"] = int
    Growing.model_rebuild(force=True)
    assert Growing(first=1, second=2).get_required_fields() == ["first", "second"]


def test_the_list_is_the_callers_own():
    Challenge(timestamp="t").get_required_fields().append("spoiled")
    assert Challenge(timestamp="t").get_required_fields() == ["timestamp"]


def test_it_is_applied_once():
    before = Synapse.get_required_fields
    assert fix_headers()
    assert fix_headers(Challenge)
    assert Synapse.get_required_fields is before


def test_it_can_be_applied_to_one_class_alone(monkeypatch):
    monkeypatch.setattr(Synapse, "get_required_fields", ORIGINAL)

    class Alone(Challenge):
        pass

    assert fix_headers(Alone)
    assert Alone(timestamp="t").get_required_fields() == ["timestamp"]
    assert Synapse.get_required_fields is ORIGINAL


def test_a_method_that_is_not_the_one_known_is_left_alone_with_a_warning(caplog):
    logging.getLogger("precog_runtime.axon.known").setLevel(logging.NOTSET)  # bittensor mutes it
    method = OwnRule.get_required_fields
    assert not fix_headers(OwnRule)
    assert OwnRule.get_required_fields is method
    assert "OwnRule.get_required_fields of this bittensor is not the one known" in caplog.text
