# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the source of an instance's prices says itself, asked by the gate with the instance's own settings.

It is what a release's predictions are compared with: neither the release that is left nor other hosts can be, as what
is wrong may run there already.
"""

from __future__ import annotations

import email.utils
import json
import random
import re
import shlex
import socket
import ssl
import threading
import time
from datetime import datetime, timezone
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from .together import API_URL, COMMUNITY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

API_KEY = "PRECOG_RUNTIME_API_KEY"
ASSETS = "PRECOG_RUNTIME_ASSETS"
DEFAULT_ASSETS = ("btc", "eth", "tao_bittensor")  # the runtime's
METRIC = "ReferenceRateUSD"
PATH = "/timeseries/asset-metrics"
PAGE_ROWS = 10_000  # the most that the API gives
MOST_PAGES = 3
REACH_S = 600  # prices of the last mark and the one before are within it
TIMEOUT_S = 5.0  # of one request
PATIENCE_S = 20.0  # of all attempts
BUSY_S = 60.0  # of all attempts, where the rate limit alone is in the way: the miners use it too
PAUSE_S = 0.5  # between two
ATTEMPTS = 4  # that may fail otherwise than by the rate limit, before the source counts as down
LARGEST_BODY = 16 << 20  # bytes
LONGEST_TEXT = 120  # characters of the API's own message
THROTTLED, TIMED_OUT = 429, 408
_ENTRY = re.compile(r'^([A-Za-z_][A-Za-z0-9_]*)=(?:"((?:[^"\\]|\\.)*)"|(.*))$')


class Source(NamedTuple):
    """Where an instance has its prices from.

    :ivar url: root of the API.
    :ivar api_key: "" for none; never shown.
    :ivar assets: what the instance asks for.
    """

    url: str
    api_key: str
    assets: tuple[str, ...]

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.url)
        try:
            port = parts.port
        except ValueError:
            port = None
        return parts.hostname or "", port or (443 if parts.scheme == "https" else 80)


class Market(NamedTuple):
    """What a source says.

    :ivar down: why nobody gets fresh prices from it; "" where they come.
    :ivar busy: that it is up, and its rate limit left no request for the gate; "" where it did.
    :ivar refused: why it gives the instance none, though it answers: a wrong key, or a wrong URL; "" where it does.
    :ivar prices: lowest and highest price of the last REACH_S seconds, USD, by asset.
    """

    down: str = ""
    busy: str = ""
    refused: str = ""
    prices: Mapping[str, tuple[float, float]] = {}


class _Answer(NamedTuple):
    """One answer of the API; `trouble` is why there is none."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    trouble: str = ""


def of(start: str, variables: Mapping[str, str]) -> Source:
    """Return the source of an instance. Pure.

    :param start: its start script, whose last line is its command.
    :param variables: of its environment, the secret ones too.
    """
    words = shlex.split(start.strip().rpartition("\n")[2])
    url = _option(words, "--api-url") or variables.get(API_URL, "") or COMMUNITY
    named = _option(words, "--assets") or variables.get(ASSETS, "")
    assets = tuple(dict.fromkeys(name.strip() for name in named.split(",") if name.strip()))
    return Source(url.rstrip("/"), variables.get(API_KEY, ""), assets or DEFAULT_ASSETS)


def _option(words: list[str], option: str) -> str:
    """Return the last value of an option on a command line, "" where it is not given."""
    found = ""
    for position, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == option:
            found = value if equals else "".join(words[position + 1 : position + 2])
    return found


def parse_variables(text: str) -> dict[str, str]:
    """Return the variables of a file that `plan.environment_file` made."""
    entries = filter(None, map(_ENTRY.match, text.splitlines()))
    return {
        name: bare if bare is not None else re.sub(r"\\(.)", r"\1", quoted)
        for name, quoted, bare in (entry.groups() for entry in entries)
    }


def ask(source: Source, max_age_s: float) -> Market:
    """Ask a source for its newest prices. It never raises.

    A rate limit is waited for; whatever else goes wrong is tried again a few times.

    :param max_age_s: an asset whose newest price is older has none that is fresh.
    """
    began = time.monotonic()
    failed = 0
    while True:
        now, market, pause_s = _attempt(source, max_age_s)
        failed += pause_s is None
        pause_s = PAUSE_S if pause_s is None else pause_s
        patience_s = BUSY_S if market.busy else PATIENCE_S
        if now or failed >= ATTEMPTS or time.monotonic() + pause_s >= began + patience_s:
            return market
        time.sleep(pause_s)


def _attempt(source: Source, max_age_s: float) -> tuple[bool, Market, float | None]:
    """Return whether a source has answered for good, what it says, and how long to wait; None counts as a failure."""
    rows: list[Any] = []
    token, now = "", time.time()
    for _page in range(MOST_PAGES):
        answer = _get(source, token)
        where = "{}:{}".format(*source.address)
        if answer.trouble:
            return False, Market(down=f"{where}: {answer.trouble}"), None
        if answer.status == THROTTLED:
            busy = f"{where} allowed the gate no request in {BUSY_S:g} s (HTTP 429)"
            return False, Market(busy=busy), _pause_s(answer)
        if answer.status >= 500 or answer.status == TIMED_OUT:
            return False, Market(down=f"{where} answers HTTP {answer.status}"), None
        if answer.status != 200:
            return True, Market(refused=_refusal(source, answer)), 0.0
        try:
            page = json.loads(answer.body)
            rows += page["data"]
            token = str(page.get("next_page_token") or "")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return False, Market(down=f"{where} does not answer as the API does"), None
        now = _clock(answer.headers)
        if not token:
            break
    return True, understood(source, rows, now, max_age_s), 0.0


def understood(source: Source, rows: Iterable[Any], now: float, max_age_s: float) -> Market:
    """Return what the rows of the API's answer say. Pure.

    :param now: by the source's own clock, seconds since the epoch.
    """
    found: dict[str, list[float]] = {}
    newest: dict[str, float] = {}
    for row in rows:
        try:
            asset, price, moment = str(row["asset"]), float(row[METRIC]), _second(row["time"])
        except (LookupError, TypeError, ValueError):
            continue
        if 0 < price < float("inf"):
            found.setdefault(asset, []).append(price)
            newest[asset] = max(newest.get(asset, 0.0), moment)
    old = [
        f"its newest price of {asset} is {now - newest[asset]:.0f} s old" if asset in newest else f"it has no {asset}"
        for asset in source.assets
        if now - newest.get(asset, 0.0) > max_age_s
    ]
    down = "{}:{}: {}; the limit is {:g} s (gate max_age_s)".format(*source.address, ", ".join(old), max_age_s)
    prices = {asset: (min(all_), max(all_)) for asset, all_ in found.items()}
    return Market(down=down if old else "", prices=prices)


def _second(text: str) -> float:
    """Return the second of a time such as 2026-11-23T21:05:00.000000000Z, since the epoch.

    :raises ValueError: it is none.
    """
    return datetime.fromisoformat(f"{text[:19]}+00:00").timestamp()


def _refusal(source: Source, answer: _Answer) -> str:
    """Return what an answer says that no further attempt would change, without the key should it be quoted there."""
    try:
        said = str(json.loads(answer.body)["error"]["message"])
    except (ValueError, LookupError, TypeError, RecursionError):
        said = ""
    if source.api_key:
        said = said.replace(source.api_key, "***")
    said = re.sub(r"api_key=[^&\s]*", "api_key=***", said)[:LONGEST_TEXT]
    setting = {
        401: "miner_service_api_key",
        403: "miner_service_api_key, or an asset in PRECOG_RUNTIME_ASSETS of miner_service_variables",
        400: "PRECOG_RUNTIME_ASSETS in miner_service_variables",
    }.get(answer.status, f"{API_URL} in miner_service_variables")
    where = "{}:{}".format(*source.address)
    return f"{where} answers HTTP {answer.status}{f' ({said})' if said else ''}: check {setting}"


def _pause_s(throttled: _Answer) -> float:
    """Return after how many seconds to try again, by the header of a 429: by chance a part of what it says.

    Who comes when all come, which is when it says, may come too late each time.
    """
    try:
        reset_s = float(throttled.headers.get("x-ratelimit-reset", PAUSE_S))
    except ValueError:
        reset_s = PAUSE_S
    return max(PAUSE_S, min(PATIENCE_S, reset_s) * random.uniform(0.3, 1.0))


def _clock(headers: Mapping[str, str]) -> float:
    """Return the time of an answer by the source's own clock, seconds since the epoch; without one by this host's."""
    try:
        return email.utils.parsedate_to_datetime(headers["date"]).timestamp()
    except (LookupError, TypeError, ValueError):
        return time.time()


def _get(source: Source, token: str) -> _Answer:
    """Ask once for the prices of the last REACH_S seconds."""
    parts = urlsplit(source.url)
    start = datetime.fromtimestamp(time.time() - REACH_S, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    query = {
        "assets": ",".join(source.assets),
        "metrics": METRIC,
        "frequency": "1s",
        "start_time": start,
        "page_size": str(PAGE_ROWS),
        **({"next_page_token": token} if token else {}),
        **({"api_key": source.api_key} if source.api_key else {}),
    }
    host, port = source.address
    connection: HTTPConnection
    if parts.scheme == "https":
        connection = HTTPSConnection(host, port, timeout=TIMEOUT_S, context=ssl.create_default_context())
    else:
        connection = HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        return _exchange(connection, f"{parts.path}{PATH}?{urlencode(query)}")
    # What an error says may quote the URL, in which the key is.
    except OSError as error:
        return _Answer(0, {}, b"", (error.strerror or type(error).__name__).lower())
    except (HTTPException, ValueError) as error:
        return _Answer(0, {}, b"", type(error).__name__)
    finally:
        connection.close()


def _exchange(connection: HTTPConnection, path: str) -> _Answer:
    """Send a request and return its answer.

    :raises OSError, HTTPException: there is none within TIMEOUT_S.
    """
    connection.connect()
    # The socket's own time-out begins anew with each byte.
    deadline = threading.Timer(TIMEOUT_S, _ender(connection.sock))
    deadline.start()
    try:
        connection.request("GET", path, headers={"Accept": "application/json"})
        response = connection.getresponse()
        body = response.read(LARGEST_BODY)
        headers = {name.lower(): value for name, value in response.getheaders()}
        return _Answer(response.status, headers, body)
    finally:
        deadline.cancel()


def _ender(connected: socket.socket) -> Callable[[], None]:
    """Return what ends a connection under whoever waits for it in another thread."""

    def end() -> None:
        try:
            connected.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended by itself

    return end
