"""A made-up market data API that answers over HTTP, rightly or wrongly."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

from ansible_collections.precog.fleet.tests.unit.made_miner import PRICES, Server


class Api:
    """Its address, what it gives, and what it was asked.

    `prices` are those of every second; `age_s` is how old the newest is; `key` is the only one it lets in, if any.
    `answers` are statuses and bodies that it gives before it works; `broken` is what it gives for ever, if anything.
    """

    def __init__(self):
        self.prices = dict(PRICES)
        self.age_s = 1
        self.key = ""
        self.answers = []
        self.broken = None
        self.headers = {}
        self.asked = []
        self.url = ""


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_words):
        pass

    def do_GET(self):
        api, parts = self.server.miner, urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        api.asked.append(asked)
        if api.broken or api.answers:
            return self.say(*(api.broken or api.answers.pop(0)))
        if parts.path != "/v4/timeseries/asset-metrics":
            return self.say(404, {"error": {"type": "not_found", "message": "Not found."}})
        if asked.get("api_key", "") != api.key:
            message = f"Requested resource requires authorization: {parts.query}"
            return self.say(401, {"error": {"type": "unauthorized", "message": message}})
        return self.say(200, {"data": rows(api, asked["assets"].split(","))})

    def say(self, status, content):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in self.server.miner.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def rows(api, assets, now=None):
    """The prices of a few seconds."""
    newest = int(time.time() if now is None else now) - api.age_s
    return [
        {
            "asset": asset,
            "time": f"{datetime.fromtimestamp(second, timezone.utc):%Y-%m-%dT%H:%M:%S}.000000000Z",
            "ReferenceRateUSD": str(api.prices[asset]),
        }
        for asset in assets
        if asset in api.prices
        for second in range(newest - 2, newest + 1)
    ]


@contextmanager
def made_api():
    """Yield a running API."""
    api = Api()
    with Server(("127.0.0.1", 0), Handler) as server:
        server.miner = api
        api.url = f"http://127.0.0.1:{server.server_address[1]}/v4"
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        try:
            yield api
        finally:
            server.shutdown()
            serving.join()
