"""Structured logs: one JSON object a line on stderr, for all that uses the standard library's logging."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from itertools import islice
from typing import Any, TextIO
from urllib.parse import quote

import numpy as np
import orjson

from precog_runtime.errors import SettingError

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
LONGEST, LONGEST_LINE = 8192, 65536  # characters
DEEPEST, WIDEST = 3, 32  # levels and members of a nested field
HIDDEN = "***"
SHORTEST_SECRET = 4  # characters; hiding each "a" would make lines unreadable

_NAMES = r"(?:api_?key|token|secret|passw(?:or)?d|passphrase|mnemonic|authorization|private_?key)"
_SECRET_NAME = re.compile(_NAMES, re.IGNORECASE)
# name=value, name: value, "name": "value", \"name\": \"value\", Authorization: Bearer value; with no closing quote, all
_SECRET_TEXT = re.compile(
    rf"(?P<name>{_NAMES}\w*\\*[\"']?\s*[=:]\s*\\*)(?:\"[^\"]*\"|'[^']*'|[\"'].*|(?:(?:Bearer|Basic)\s+)?[^\s&,;\"'}})\]]+)",
    re.IGNORECASE | re.DOTALL,
)
_ALWAYS = ("time", "level", "logger", "message")
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def setup(level: str, stream: TextIO | None = None, text: bool = False, secrets: Iterable[str] = ()) -> logging.Handler:
    """Send the logs of this process to a stream, and return the handler; a second call replaces the first.

    :param level: DEBUG, INFO, WARNING, ERROR or CRITICAL.
    :param stream: stderr if not given.
    :param text: lines for people instead of JSON.
    :param secrets: values that are never shown, wherever they turn up.
    :raises SettingError: there is no such level.
    """
    if level.upper() not in LEVELS:
        raise SettingError(f"log level is {level!r}: there is no such level. Give one of {', '.join(LEVELS)}")
    root = logging.getLogger()
    for old in [each for each in root.handlers if isinstance(each, LineHandler)]:
        root.removeHandler(old)
    handler = LineHandler(stream or sys.stderr)
    handler.setFormatter(LineFormatter(text, secrets))
    root.addHandler(handler)
    root.setLevel(level.upper())
    return handler


def hide(secret: str) -> None:
    """Never show a value from now on, wherever it turns up in this process's logs."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LineHandler) and isinstance(handler.formatter, LineFormatter):
            handler.formatter.hide([secret])


class LineFormatter(logging.Formatter):
    """Makes one line of a record: time (UTC), level, logger, message, extra fields, and the traceback if there is one.

    Never raises: what can't be shown is shown as well as possible. Fields and words that are named like a secret have
    their values hidden.

    :param text: lines for people instead of JSON.
    :param secrets: values that are never shown.
    """

    def __init__(self, text: bool = False, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self._text = text
        self._secrets: list[str] = []
        self.hide(secrets)

    def hide(self, secrets: Iterable[str]) -> None:
        """Never show these values from now on, nor as parts of an URL."""
        forms = {
            form for secret in secrets if len(secret) >= SHORTEST_SECRET for form in (secret, quote(secret, safe=""))
        }
        self._secrets = sorted(forms.union(self._secrets), key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        moment = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        fields: dict[str, Any] = {
            "time": moment.replace("+00:00", "Z"),
            "level": self._plain(_shown(record.levelname)),
            "logger": self._plain(_shown(record.name)),
            "message": self._plain(_message(record)),
        }
        for name, value in vars(record).items():
            if name not in _OWN:
                plain = self._plain(name)
                fields[f"{plain}_" if plain in fields else plain] = self._extra(name, value)
        if record.exc_info and record.exc_info[0]:
            fields["traceback"] = self._plain(self._traceback(record.exc_info))
        elif record.exc_text:
            fields["traceback"] = self._plain(record.exc_text)
        if record.stack_info:
            fields["stack"] = self._plain(record.stack_info)
        line = self._line(fields)
        if len(line) <= LONGEST_LINE:
            return line
        kept = {name: fields[name] for name in _ALWAYS}
        return self._line({**kept, "left_out": [name for name in fields if name not in kept]})

    def _line(self, fields: Mapping[str, Any]) -> str:
        return _as_text(fields) if self._text else orjson.dumps(fields).decode()

    def _traceback(self, found: Any) -> str:
        try:
            return self.formatException(found)[-LONGEST:]
        except Exception as error:  # an exception whose text can't be made
            return f"{found[0].__name__} (no text: {type(error).__name__})"

    def _extra(self, name: str, value: object) -> Any:
        try:
            return self._field(name, value, DEEPEST)
        except Exception as error:  # code of the value's class
            return f"<{type(value).__name__}: {type(error).__name__}>"

    def _field(self, name: object, value: object, depth: int) -> Any:
        if isinstance(name, str) and _SECRET_NAME.search(name):
            return HIDDEN
        return self._value(value, depth)

    def _value(self, value: object, depth: int) -> Any:
        """Return a value that orjson takes."""
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, np.generic):
            value = value.item()
        if type(value) is float or (type(value) is int and abs(value) < 2**63):
            return value
        if isinstance(value, str):
            return self._plain(value)
        if depth and isinstance(value, Mapping):
            return {
                self._plain(_shown(key)): self._field(key, each, depth - 1)
                for key, each in islice(value.items(), WIDEST)
            }
        if depth and isinstance(value, (list, tuple, set, frozenset)):
            return [self._value(each, depth - 1) for each in islice(value, WIDEST)]
        return self._plain(_shown(value))

    def _plain(self, text: str) -> str:
        """Return a text without secrets and without what UTF-8 can't carry, cut if it is too long."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        if len(text) > LONGEST:
            text = f"{text[:LONGEST]}..."
        hidden = _SECRET_TEXT.sub(rf"\g<name>{HIDDEN}", text)
        return hidden.encode("utf-8", "backslashreplace").decode()


class LineHandler(logging.Handler):
    """Writes lines as UTF-8, whatever the stream's encoding, and never raises.

    :ivar lost: lines that could not be written.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.stream, self.lost = stream, 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record's line."""
        try:
            line = f"{self.format(record)}\n"
            raw = getattr(self.stream, "buffer", None)
            if raw is None:
                self.stream.write(line)
            else:
                self.stream.flush()
                raw.write(line.encode())
            self.stream.flush()
        except Exception:  # a full disk or a closed pipe: there is nowhere to tell it
            self.lost += 1


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # arguments that don't fit the format, or can't be shown
        return f"{_shown(record.msg)} {_shown(record.args)}"


def _shown(value: object) -> str:
    try:
        return str(value)
    except Exception as error:  # code of the value's class
        return f"<{type(value).__name__}: {type(error).__name__}>"


def _as_text(fields: Mapping[str, Any]) -> str:
    head = f"{fields['time']} {fields['level']} {fields['logger']}: {fields['message']}"
    rest = [f"{name}={value}" for name, value in fields.items() if name not in _ALWAYS]
    # Line ends and control codes are escaped: a line stays a line, and moves no cursor.
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in " ".join([head, *rest])
    )
