"""The log of predictions: what was asked, what was answered, and what came true.

`state_dir`/predictions.sqlite, to be read with `sqlite3` while the runtime writes it. Times are seconds since the epoch
(UTC), prices USD, ratios 1 for 100 %:

- requests: one row a request. time (of the answer), front, caller, timestamp (asked for; NULL if not understood),
  latency_s, outcome (full, partial, none), hit (1 if all was ready), refused (how many names were refused).
- answers: one row an asset answered. request_id, asset, timestamp, point, low, high, age_s, model, degraded ("" if
  not), price_time (second of the newest price used); NULL until the hour has passed: realised (price at timestamp +
  3600), hour_low, hour_high (range of the hour's prices), seconds (how many prices of the hour there were), inside
  (share of them within low..high), error, score.
- refusals: request_id, asset (name as asked for, "" for the whole request), reason; the first few of each request.
- log: a view of requests and answers side by side, with times as text. `SELECT * FROM log ORDER BY id DESC LIMIT 10`

error is |point - realised| / realised, by which validators rank points. score is what they rank intervals by
(github.com/coinmetrics/precog, validators/reward.py, v3.0.0): the share of the hour's prices, both ends of the hour
included, that lie within the interval, times the part of the interval that lies within the hour's range; 0 for an
interval without width.

With `state_dir` "" the log is in memory, shorter and gone at the end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from precog_runtime.forecast.score import coverage, interval_score, point_error
from precog_runtime.metrics import Metrics
from precog_runtime.settings import Settings
from precog_runtime.store import MEMORY, Column, Row, Schema, Statement, Store
from precog_runtime.types import HORIZON_S, Answer, Request, Series

FILE = "predictions.sqlite"
TEXT = 128  # characters kept of what a caller sent, or a model or fault says
REFUSALS = 8  # kept of one request
MOST_REQUESTS = 1_000_000  # kept on disk, whatever the retention: a flood must not fill it (about 500 MB)
MOST_IN_MEMORY = 10_000  # kept in memory (about 6 MB)
REFUSED_SHARE = 0.1  # so many requests without any answer are kept besides, and may wait to be written
PRUNE_EVERY = 1_000  # requests
REALISE_MOST = 500  # forecasts looked at in one call of realise()

_SCHEMA = Schema(
    application=0x5052464C,  # "PRFL"
    version=1,
    statements=(
        """CREATE TABLE IF NOT EXISTS requests (
            id INTEGER PRIMARY KEY, time REAL NOT NULL, front TEXT NOT NULL, caller TEXT NOT NULL, timestamp INTEGER,
            latency_s REAL NOT NULL, outcome TEXT NOT NULL, hit INTEGER NOT NULL, refused INTEGER NOT NULL)""",
        # Without rowids, so that last_insert_rowid() stays the request's.
        """CREATE TABLE IF NOT EXISTS answers (
            request_id INTEGER NOT NULL REFERENCES requests (id) ON DELETE CASCADE, asset TEXT NOT NULL,
            timestamp INTEGER NOT NULL, point REAL NOT NULL, low REAL NOT NULL, high REAL NOT NULL, age_s REAL NOT NULL,
            model TEXT NOT NULL, degraded TEXT NOT NULL, price_time INTEGER,
            realised REAL, hour_low REAL, hour_high REAL, seconds INTEGER, inside REAL, error REAL, score REAL,
            PRIMARY KEY (request_id, asset)) WITHOUT ROWID""",
        """CREATE TABLE IF NOT EXISTS refusals (
            request_id INTEGER NOT NULL REFERENCES requests (id) ON DELETE CASCADE, asset TEXT NOT NULL,
            reason TEXT NOT NULL, PRIMARY KEY (request_id, asset)) WITHOUT ROWID""",
        "CREATE INDEX IF NOT EXISTS requests_by_time ON requests (time)",
        "CREATE INDEX IF NOT EXISTS answered ON requests (id) WHERE outcome != 'none'",
        "CREATE INDEX IF NOT EXISTS unanswered ON requests (id) WHERE outcome = 'none'",
        "CREATE INDEX IF NOT EXISTS answers_by_timestamp ON answers (timestamp)",
        "CREATE INDEX IF NOT EXISTS unrealised ON answers (timestamp, asset) WHERE realised IS NULL",
        """CREATE VIEW IF NOT EXISTS log AS SELECT
            id, datetime(time, 'unixepoch') AS answered, front, caller, latency_s, outcome, hit, refused,
            datetime(coalesce(answers.timestamp, requests.timestamp), 'unixepoch') AS asked_for,
            asset, point, low, high, age_s, datetime(price_time, 'unixepoch') AS priced, model, degraded,
            realised, hour_low, hour_high, seconds, inside, error, score
            FROM requests LEFT JOIN answers ON request_id = id""",
    ),
    added=(Column("answers", "price_time", "INTEGER", view="log"),),
)
_REQUEST = """INSERT INTO requests (time, front, caller, timestamp, latency_s, outcome, hit, refused)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
_ANSWER = """INSERT INTO answers (request_id, asset, timestamp, point, low, high, age_s, model, degraded, price_time)
    VALUES (last_insert_rowid(), ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_REFUSAL = "INSERT OR IGNORE INTO refusals (request_id, asset, reason) VALUES (last_insert_rowid(), ?, ?)"
# In this order, so that the next call can go on behind the last row of this one.
_DUE = """SELECT timestamp, asset, low, high, point FROM answers
    WHERE realised IS NULL AND timestamp BETWEEN ? AND ? AND (timestamp, asset, low, high, point) > (?, ?, ?, ?, ?)
    GROUP BY timestamp, asset, low, high, point ORDER BY timestamp, asset, low, high, point LIMIT ?"""
_REALISE = """UPDATE answers
    SET realised = ?, hour_low = ?, hour_high = ?, seconds = ?, inside = ?, error = ?, score = ?
    WHERE realised IS NULL AND timestamp = ? AND asset = ? AND low = ? AND high = ? AND point = ?"""
_ACCURACY = """SELECT asset, model, count(*), avg(error), avg(inside), avg(abs(high - low) / realised), avg(score)
    FROM answers WHERE realised IS NOT NULL AND timestamp > ? GROUP BY asset, model ORDER BY asset, model"""
_OLD = "DELETE FROM requests WHERE time < ?"
# Those with an answer and those without are bounded each by itself: anybody can have requests refused, which must not
# drive out the history.
_MANY = """DELETE FROM requests WHERE outcome != 'none' AND id <=
    (SELECT id FROM requests WHERE outcome != 'none' ORDER BY id DESC LIMIT 1 OFFSET ?)"""
_MANY_REFUSED = """DELETE FROM requests WHERE outcome = 'none' AND id <=
    (SELECT id FROM requests WHERE outcome = 'none' ORDER BY id DESC LIMIT 1 OFFSET ?)"""


_BEGINNING: Row = (0, "", 0.0, 0.0, 0.0)  # before the first row of _DUE


class Accuracy(NamedTuple):
    """How good the forecasts of one asset by one model were; means over answers.

    :ivar answers: how many there were.
    :ivar error: by which part of the price the point was off; 0.01 is 1 %.
    :ivar coverage: share of the hour's prices that lay within the interval.
    :ivar width: of the interval, as a part of the realised price.
    :ivar score: of the interval, as validators make it: 0 to 1.
    """

    answers: int
    error: float
    coverage: float
    width: float
    score: float


class PredictionLog:
    """The log of predictions. `realise` belongs to the event loop, the rest is called from any thread."""

    def __init__(self, settings: Settings, metrics: Metrics, now: Callable[[], float] = time.time) -> None:
        self._metrics = metrics
        self._now = now
        self._retention_s = settings.retention_days * 86400
        self._window_s = settings.window_s
        self._assets = settings.assets
        self._most = MOST_REQUESTS if settings.state_dir else MOST_IN_MEMORY
        self._records = 0
        self._sent: set[Row] = set()
        self._looked_at = _BEGINNING
        self.store = Store(str(Path(settings.state_dir) / FILE) if settings.state_dir else MEMORY, _SCHEMA, metrics)

    def record(self, front: str, request: Request, answer: Answer, latency_s: float) -> None:
        """Log a request and its answer; they are written a little later, this doesn't wait for it."""
        outcome = ("partial" if answer.refused else "full") if answer.assets else "none"
        refused = len(answer.refused)
        head = (self._now(), front, _text(request.caller), answer.timestamp, latency_s, outcome, answer.hit, refused)
        transaction: list[Statement] = [(_REQUEST, [head])]
        if answer.assets:
            transaction.append((_ANSWER, _answers(answer)))
        if answer.refused:
            first = islice(answer.refused.items(), REFUSALS)
            transaction.append((_REFUSAL, [(_text(name), _text(reason)) for name, reason in first]))
        self.store.put_all(transaction, 1.0 if answer.assets else REFUSED_SHARE)
        self._records += 1
        if self._records % PRUNE_EVERY == 0:
            self.prune()

    async def realise(
        self, price: Callable[[str, int], float | None], extremes: Callable[[str, int, int], Series]
    ) -> int:
        """Fill in what came true for answers whose hour has passed; call it about once a minute.

        What has no price yet is tried again as long as the window of prices reaches back to it (`window_s`; with less
        than an hour of it nothing comes true). The file is read, and figures are made, in a thread.

        :param price: gives an asset's price at a second, None if there is none.
        :param extremes: gives an asset's prices from one second to another, both included.
        :return: for how many forecasts (equal answers are one); they are written a little later.
        """
        loop = asyncio.get_running_loop()
        due = await loop.run_in_executor(None, self._due)
        rows: list[Row] = []
        for (timestamp, asset), forecasts in groupby(due, lambda row: (row[0], row[1])):
            # The market's windows belong to this thread: an hour of one asset at a time is copied here.
            realised = price(asset, timestamp + HORIZON_S)
            if realised is None:
                continue
            hour = extremes(asset, timestamp, timestamp + HORIZON_S)
            if len(hour):
                rows += await loop.run_in_executor(None, _realised, list(forecasts), float(realised), hour)
        # Maybe not written yet at the next call, which leaves them out; should they be dropped, a later one finds them.
        self._sent = {tuple(row[-len(_BEGINNING) :]) for row in rows}
        if rows:
            self.store.put(_REALISE, rows)
        return len(rows)

    def _due(self) -> list[tuple[Any, ...]]:
        """Return forecasts whose hour has passed, REALISE_MOST at most: those behind the last ones, or the first."""
        now = int(self._now())
        bounds = (now - self._window_s, now - HORIZON_S)
        found = self.store.query(_DUE, (*bounds, *self._looked_at, REALISE_MOST))
        self._looked_at = found[-1] if len(found) == REALISE_MOST else _BEGINNING
        return [row for row in found if row not in self._sent]

    def accuracy(self, hours: float = 24.0) -> dict[tuple[str, str], Accuracy]:
        """Return by (asset, model) how good the forecasts were whose hour ended within so many hours.

        Reads the file: tens of milliseconds for a day of it, so call it in a thread.
        """
        since = self._now() - hours * 3600 - HORIZON_S
        return {(row[0], row[1]): Accuracy(*row[2:]) for row in self.store.query(_ACCURACY, (since,))}

    def export(self, hours: float = 24.0) -> None:
        """Tell the metrics how good each asset's answers were, of all models together. As slow as `accuracy`."""
        found = self.accuracy(hours)
        for asset in self._assets:
            models = [each for (name, _), each in found.items() if name == asset]
            if models:
                weights = [each.answers for each in models]
                means = np.average([each[1:] for each in models], axis=0, weights=weights).tolist()
                self._metrics.accuracy(asset, *means)

    def prune(self) -> None:
        """Remove what is older than `retention_days`, and give the room back to the disk; doesn't wait for it."""
        self.store.put(_OLD, [(self._now() - self._retention_s,)])
        self.store.put(_MANY, [(self._most,)])
        self.store.put(_MANY_REFUSED, [(int(self._most * REFUSED_SHARE),)])
        self.store.shrink()

    def close(self) -> None:
        """Write what is queued and close the file. Safe to call twice."""
        self.store.close()


def _answers(answer: Answer) -> list[tuple[Any, ...]]:
    return [
        (
            _text(name),
            answer.timestamp,
            float(each.forecast.point),
            float(each.forecast.low),
            float(each.forecast.high),
            float(each.age_s),
            _text(each.model),
            _text(each.degraded),
            each.price_time,
        )
        for name, each in answer.assets.items()
    ]


def _realised(forecasts: Sequence[Row], realised: float, hour: Series) -> list[Row]:
    """Return the rows of _REALISE for forecasts of one hour of one asset."""
    return [
        (realised, *_outcome(point, low, high, realised, hour), timestamp, asset, low, high, point)
        for timestamp, asset, low, high, point in forecasts
    ]


def _outcome(point: float, low: float, high: float, realised: float, hour: Series) -> tuple[float, ...]:
    """Return hour_low, hour_high, seconds, inside, error and score, as the module describes them."""
    low, high = min(low, high), max(low, high)
    hour_low, hour_high = float(hour.prices.min()), float(hour.prices.max())
    inside, score = coverage(low, high, hour.prices), interval_score(low, high, hour.prices)
    return hour_low, hour_high, len(hour), inside, point_error(point, realised), score


def _text(text: str) -> str:
    """Return text that is fit for a row: bounded, and without what a terminal or UTF-8 can't take."""
    cut = text[:TEXT]
    return cut if cut.isprintable() else "".join(each if each.isprintable() else "?" for each in cut)
