"""Structured logs: one line a record, whatever is logged, and no secret in it."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from precog_runtime import logs
from precog_runtime.errors import SettingError
from precog_runtime.settings import Settings

KEY = "kq7-Zw/31+x"


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """Give the root logger back as it was; while the test runs, without what commands that ran before set up."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.handlers[:] = [each for each in handlers if not isinstance(each, logs.LineHandler)]
    yield
    root.handlers[:], root.level = handlers, level


def logged(*arguments: Any, text: bool = False, secrets: tuple[str, ...] = (), **more: Any) -> str:
    """Return what a call of Logger.error writes, which has to be one line."""
    stream = io.StringIO()
    logging.getLogger().handlers.clear()  # pytest's own raise what they can't show
    logs.setup("DEBUG", stream, text, secrets)
    logging.getLogger("a.b").error(*arguments, **more)
    written = stream.getvalue()
    assert written.endswith("\n")
    assert len(written.splitlines()) == 1
    return written[:-1]


def fields(*arguments: Any, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(logged(*arguments, **more))
    return found


class Broken:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class BrokenError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class BrokenMapping(dict[str, int]):
    def items(self) -> Any:
        raise RuntimeError("no items")


def test_a_record_is_one_object_with_its_fields() -> None:
    found = fields("%s took %d ms", "it", 12, extra={"asset": "btc", "age_s": 1.5, "assets": ("btc", "eth")})
    moment = found.pop("time")
    assert found == {
        "level": "ERROR",
        "logger": "a.b",
        "message": "it took 12 ms",
        "asset": "btc",
        "age_s": 1.5,
        "assets": ["btc", "eth"],
    }
    assert moment.endswith("Z")
    assert len(moment) == len("2026-11-23T21:05:00.000Z")


def test_time_is_utc() -> None:
    record = logging.makeLogRecord({"created": 1795467900.25, "msg": "x"})
    assert json.loads(logs.LineFormatter().format(record))["time"] == "2026-11-23T21:05:00.250Z"


def test_an_exception_and_its_cause_are_in_the_same_line() -> None:
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("second") from error
    except ValueError:
        found = fields("failed", exc_info=True)
        text = logged("failed", exc_info=True, text=True)
    assert found["traceback"].count("Traceback") == 2
    assert found["traceback"].endswith("ValueError: second")
    assert "KeyError: 'first'" in found["traceback"]
    assert "ValueError: second" in text


def test_the_stack_is_in_the_same_line() -> None:
    assert "test_the_stack" in fields("here", stack_info=True)["stack"]


STRANGE = [
    (Broken(), "<Broken: RuntimeError>"),
    (BrokenMapping(a=1), "<BrokenMapping: RuntimeError>"),
    ("\ud83d and \udcff", "\\ud83d and \\udcff"),
    (2**70, str(2**70)),
    (-(2**63) - 1, str(-(2**63) - 1)),
    (float("nan"), None),
    (np.float64(1.5), 1.5),
    (np.int32(7), 7),
    (np.array([1, 2]), "[1 2]"),
    ({1: {"x": b"\xff"}, (2, 3): None}, {"1": {"x": "b'\\xff'"}, "(2, 3)": None}),
    ({"a": {"b": {"c": {"d": 1}}}}, {"a": {"b": {"c": "{'d': 1}"}}}),
    (list(range(1000)), list(range(logs.WIDEST))),
    (Path("/tmp/x"), "/tmp/x"),
    ({"only"}, ["only"]),
    (True, True),
]


@pytest.mark.parametrize(("value", "shown"), STRANGE, ids=lambda value: type(value).__name__)
def test_strange_values_are_shown_as_well_as_possible(value: object, shown: object) -> None:
    assert fields("x", extra={"value": value})["value"] == shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("%d apples", "many"), "%d apples ('many',)"),
        (("%s %s", 1), "%s %s (1,)"),
        (("%s", Broken()), "%s <tuple: RuntimeError>"),
        ((Broken(),), "<Broken: RuntimeError> ()"),
        (("\udc80\n\x1b[31mred",), "\\udc80\n\x1b[31mred"),
    ],
)
def test_a_message_that_cannot_be_made_is_still_a_line(arguments: tuple[Any, ...], message: str) -> None:
    assert fields(*arguments)["message"] == message


def test_an_exception_without_text_is_still_a_line() -> None:
    try:
        raise BrokenError
    except BrokenError:
        assert "BrokenError" in fields("failed", exc_info=True)["traceback"]


def test_a_line_too_long_tells_which_fields_it_leaves_out() -> None:
    circle: list[Any] = []
    circle.extend([circle] * 50)
    found = fields("x", extra={"circle": circle, "asset": "btc"})
    assert found.pop("time")
    assert found == {"level": "ERROR", "logger": "a.b", "message": "x", "left_out": ["circle", "asset"]}
    text = logged("x", extra={"circle": circle}, text=True)
    assert text.endswith("ERROR a.b: x left_out=['circle']")


def test_a_field_does_not_hide_one_of_ours() -> None:
    found = fields("x", extra={"time": 1, "level": "low", "logger": "me"})
    assert (found["level"], found["level_"], found["logger_"], found["time_"]) == ("ERROR", "low", "me", 1)


def test_long_texts_are_cut() -> None:
    found = fields("y" * 100_000, extra={"value": "z" * 100_000})
    assert len(found["message"]) == len(found["value"]) == logs.LONGEST + 3


SECRETS = [
    (f"GET /v4/x?api_key={KEY}&page=1", {}),
    (f"headers: {{'Authorization': 'Bearer {KEY}'}}", {}),
    (f"Authorization: Bearer {KEY}", {}),
    (f'{{"api_key": "{KEY}", "a": 1}}', {}),
    (f'{{\\"apikey\\": \\"{KEY}\\"}}', {}),
    (f"PRECOG_RUNTIME_API_KEY={KEY}", {}),
    (f'token="{KEY} and more', {}),
    (f"password: {KEY}", {}),
    ("x", {"api_key": KEY}),
    ("x", {"headers": {"X-Auth-Token": KEY}}),
    ("x", {"found": [{"Password": KEY}]}),
    ("x", {"settings": Settings(api_key=KEY)}),
]


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize(("message", "extra"), SECRETS)
def test_what_is_named_like_a_secret_is_hidden(message: str, extra: dict[str, Any], text: bool) -> None:
    line = logged("%s", message, extra=extra, text=text)
    assert KEY not in line
    assert "Settings(" in line or logs.HIDDEN in line


@pytest.mark.parametrize("form", [KEY, "kq7-Zw%2F31%2Bx"])
def test_a_secret_that_is_known_is_hidden_wherever_it_is(form: str) -> None:
    try:
        raise ValueError(f"cannot use {form}!")
    except ValueError:
        line = logged(f"a {form} b", extra={"deep": [{form: form}]}, exc_info=True, secrets=(KEY, ""))
    assert form not in line
    assert line.count(logs.HIDDEN) >= 4


def test_a_key_cut_at_the_end_of_a_long_text_does_not_show() -> None:
    line = logged("a" * (logs.LONGEST - 4) + KEY, secrets=(KEY,))
    assert KEY[:4] not in line


def test_text_for_people_is_one_line_that_moves_no_cursor() -> None:
    line = logged("two\nlines\x1b[2J\u2028", extra={"asset": "btc"}, text=True)
    assert line.isprintable()
    assert line.endswith("ERROR a.b: two\\nlines\\x1b[2J\\u2028 asset=btc")


def test_setup_replaces_its_own_handler_and_keeps_those_of_others() -> None:
    root, other = logging.getLogger(), logging.NullHandler()
    root.addHandler(other)
    before = len(root.handlers)
    first, second = io.StringIO(), io.StringIO()
    logs.setup("INFO", first)
    logs.setup("warning", second)
    assert len(root.handlers) == before + 1
    assert other in root.handlers
    logging.getLogger("x").info("unseen")
    logging.getLogger("x").warning("seen")
    assert first.getvalue() == ""
    assert json.loads(second.getvalue())["message"] == "seen"


def test_a_level_that_is_none_is_refused_and_nothing_changes() -> None:
    before = list(logging.getLogger().handlers)
    with pytest.raises(SettingError, match=r"log level is 'LOUD'.*DEBUG, INFO"):
        logs.setup("LOUD")
    assert logging.getLogger().handlers == before


def test_lines_go_to_stderr_as_utf8_whatever_its_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, encoding="ascii"))
    logs.setup("INFO")
    logging.getLogger("x").error("é €")
    assert json.loads(raw.getvalue().decode("utf-8"))["message"] == "é €"


def test_a_stream_that_fails_raises_nothing_and_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    handler = logs.setup("INFO", stream)
    stream.close()
    logging.getLogger("x").error("lost")
    assert isinstance(handler, logs.LineHandler)
    assert handler.lost == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("text", [False, True])
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    st.text(st.characters(exclude_categories=())),
    st.dictionaries(
        st.text(st.characters(), min_size=1).filter(lambda name: name not in logs._OWN),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers() | st.text(), inner, max_size=4),
            max_leaves=8,
        ),
        max_size=4,
    ),
)
def test_anything_is_one_line(text: bool, message: str, extra: dict[str, Any]) -> None:
    stream = io.StringIO(newline="")
    handler = logs.setup("DEBUG", stream, text)
    # To our handler alone: pytest's own would keep lone surrogates, which its workers can't send.
    handler.handle(logging.getLogger("a").makeRecord("a", logging.ERROR, "file", 1, message, (), None, extra=extra))
    written = stream.getvalue()
    assert handler.lost == 0  # type: ignore[attr-defined]
    assert written.count("\n") == 1
    if text:
        assert written[:-1].isprintable()
    else:
        assert {"time", "level", "logger", "message"} <= json.loads(written).keys()
