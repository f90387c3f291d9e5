"""`serve` asked by callers that go away or break HTTP: an answer where one can be given, and no line in the log."""

from __future__ import annotations

import gzip
import http.client
import socket
import struct
from pathlib import Path

import pytest
from processes import call, running, wait_until
from test_connections import errors

HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\n"
BOMB = gzip.compress(b" " * 10_000_000)


def encoded(encoding, body=b"{}"):
    return HEAD + b"Content-Encoding: %s\r\nContent-Length: %d\r\n\r\n%s" % (encoding, len(body), body)


BROKEN = {
    "no-gzip": (encoded(b"gzip"), 400, b"does not match its Content-Encoding"),
    "no-deflate": (encoded(b"deflate"), 400, b"does not match its Content-Encoding"),
    "brotli": (encoded(b"br"), 400, b"Content-Encoding"),
    "bomb": (encoded(b"gzip", BOMB), 413, b""),
    "chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, b"not valid HTTP"),
    "no-http": (b"\x16\x03\x01\x00\r\n\r\n", 400, b"not valid HTTP"),
    "header": (HEAD + b"no header\r\n\r\n", 400, b"not valid HTTP"),
    "long-header": (HEAD + b"A: " + b"a" * 20_000 + b"\r\n\r\n", 400, b"not valid HTTP"),
    "length": (HEAD + b"Content-Length: two\r\n\r\n{}", 400, b"not valid HTTP"),
}
ASKED = HEAD + b"Expect: 100-continue\r\n"  # the server says when it reads the body
# What is sent of a request before its caller goes away: its head, and a part of its body.
ABORTED = {
    "head": (HEAD, b""),
    "no-body": (ASKED + b"Content-Length: 20\r\n\r\n", b""),
    "body": (ASKED + b"Content-Length: 20\r\n\r\n", b"{"),
    "chunk": (ASKED + b"Transfer-Encoding: chunked\r\n\r\n", b"5\r\n{}"),
    "large": (ASKED + b"Content-Length: 70000\r\n\r\n", b" " * 66_000),
    "whole": (ASKED + b"Content-Length: 2\r\n\r\n", b"{}"),
}


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    with (tmp_path_factory.mktemp("log") / "stderr").open("w+") as file:
        yield file


@pytest.fixture(scope="module")
def served(log):
    options = ("--port", 0, "--window-s", 600, "--monitor-s", 0)
    with (
        running("simulate-market", "--port", 0, "--rate-limit", 0) as market,
        running("serve", *options, "--api-url", market.url, stderr=log) as command,
    ):
        wait_until(lambda: call(f"{command.url}/readyz")[0] == 200)
        yield command


@pytest.fixture
def command(served, log):
    """The server; after the test it answers, and has logged nothing."""
    log.truncate(0)
    yield served
    assert call(f"{served.url}/predict", {})[0] == 200
    assert Path(log.name).read_text().strip("\0") == ""


def connected(command):
    host, port = command.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def answer(connection):
    """Return status and body of the next answer."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, response.read()


@pytest.mark.parametrize("name", BROKEN)
def test_a_request_that_breaks_http_gets_status_400_and_no_line_in_the_log(command, name):
    sent, status, told = BROKEN[name]
    before = errors(command, "bad_http")
    with connected(command) as connection:
        connection.sendall(sent)
        got, text = answer(connection)
    assert (got, told in text) == (status, True)
    assert errors(command, "bad_http") == before + (status == 400)


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("name", ABORTED)
def test_a_caller_that_goes_away_leaves_no_line_in_the_log(command, name, reset):
    connection = connected(command)
    head, body = ABORTED[name]
    connection.sendall(head)
    if head.startswith(ASKED):
        assert connection.recv(100).startswith(b"HTTP/1.1 100")
    connection.sendall(body)
    if reset:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


MISSPELLED = [
    ({"timestmap": 0}, "unknown key 'timestmap'. Did you mean 'timestamp'?"),
    ({"asset": ["btc"]}, "unknown key 'asset'. Did you mean 'assets'?"),
    ({"assets": ["btc"], "when": 0}, "unknown key 'when'. Use 'timestamp' and 'assets'"),
]


@pytest.mark.parametrize(("body", "told"), MISSPELLED, ids=lambda value: str(value)[:20])
def test_a_misspelled_key_is_refused_with_the_nearest_name(command, body, told):
    status, answer = call(f"{command.url}/predict", body)
    assert (status, answer) == (400, {"error": f"the body has an {told}"})
