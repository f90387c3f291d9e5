"""A miner in this process that answers as it is told to: rightly, wrongly, late, half, or not at all."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

ASSETS = ("btc", "eth")
PRICES = {"btc": 90000.0, "eth": 3000.0}


def answer(now=None, assets=ASSETS, **changes):
    """What `precog-runtime serve` answers to a request for assets."""
    moment = datetime.fromtimestamp(int(time.time() if now is None else now), timezone.utc)
    prices = {name: PRICES[name] for name in assets}
    return {
        "timestamp": moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "predictions": prices,
        "intervals": {name: [price * 0.99, price * 1.01] for name, price in prices.items()},
        "age_s": dict.fromkeys(prices, 1.0),
        "models": dict.fromkeys(prices, "drift"),
        "degraded": {},
        "refused": {},
        **changes,
    }


class Miner:
    """Its address, what it does, and what it was asked.

    `manner` is the name of one of the functions below; `slow_s` is how long it takes to answer at all. `changes` are to
    every answer, `mark_changes` to those for a timestamp; `decide` returns more, at each answer;
    `said` is what it says where it is unable;
    `right_to` is the one kind of request that it answers rightly, if not all.
    """

    def __init__(self):
        self.manner = "right"
        self.slow_s = 0.0
        self.changes = {}
        self.mark_changes = {}
        # A price that is newer than whatever asks.
        self.ready = (200, {"ready": True, "age_s": dict.fromkeys(ASSETS, -1)})
        self.decide = dict
        self.said = b""
        self.right_to = ""
        self.faults = {"drop": 0.0, "latency_ms": 1000.0}
        self.prices = (200, {"data": [{"asset": "btc", "ReferenceRateUSD": "1"}]})
        self.asked = []
        self.bodies = []
        self.connections = 0
        self.ended = threading.Event()
        self.port = 0

    def of(self, method, path):
        return sum(1 for one in self.asked if one == (method, path))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.1"  # an answer to what is no request has a status line too
    disable_nagle_algorithm = True

    def setup(self):
        super().setup()
        self.miner = self.server.miner
        self.miner.connections += 1

    def log_message(self, *_words):
        pass

    def do_GET(self):
        path = urlsplit(self.path).path
        self.miner.asked.append(("GET", path))
        if path == "/readyz":
            return self.say(*(self.miner.ready() if callable(self.miner.ready) else self.miner.ready))
        if path == "/control":
            return self.say(200, self.miner.faults)
        if path == "/v4/timeseries/asset-metrics":
            return self.say(*self.miner.prices)
        return self.say(404, {})

    def do_POST(self):
        self.miner.asked.append(("POST", self.path))
        self.body = self.rfile.read(int(self.headers["Content-Length"]))
        self.miner.bodies.append(self.body)
        self.miner.ended.wait(self.miner.slow_s)
        kind = "for the last mark" if b"timestamp" in self.body else "for now"
        wrong = self.miner.right_to and self.miner.right_to != kind
        getattr(self, "broken" if wrong else self.miner.manner)()

    def say(self, status, content):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    # -- manners --

    def right(self):
        asked = json.loads(self.body)
        about = {"assets": asked.get("assets", ASSETS), **self.miner.changes}
        if "timestamp" in asked:
            about = {"timestamp": asked["timestamp"], **about, **self.miner.mark_changes}
        self.say(200, answer(**{**about, **self.miner.decide()}))

    def broken(self):
        self.say(500, b"Traceback: it broke")

    def unable(self):
        self.say(503, self.miner.said)

    def garbage(self):
        self.say(200, b"<html>hello</html>")

    def reset(self):
        self.close_connection = True

    def nonsense(self):
        self.wfile.write(b"\x00\xff no HTTP at all\r\n\r\n")
        self.close_connection = True

    def cut(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"{")
        self.close_connection = True

    def drip(self):
        """A byte now and then, without an end: each one renews a socket's time-out."""
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        while not self.miner.ended.wait(0.02):
            self.wfile.write(b" ")

    def endless(self):
        self.say(200, b" " * (2 << 20))


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_about):
        """Clients that hang up are what the tests are about."""


@contextmanager
def made_miner():
    """Yield a running miner."""
    miner = Miner()
    with Server(("127.0.0.1", 0), Handler) as server:
        server.miner = miner
        miner.port = server.server_address[1]
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        try:
            yield miner
        finally:
            miner.ended.set()
            server.shutdown()
            serving.join()
