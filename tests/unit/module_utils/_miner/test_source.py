"""What the source of an instance's prices says, asked by the gate: up, down, or refusing the instance's settings."""

from __future__ import annotations

import re
import socket
import time
from email.utils import formatdate

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._miner import files, source
from ansible_collections.precog.fleet.tests.places import ROOT
from ansible_collections.precog.fleet.tests.unit.made_api import made_api, rows
from ansible_collections.precog.fleet.tests.unit.made_miner import ASSETS, PRICES

SETTINGS = ROOT / "runtime/src/precog_runtime/settings.py"
RANGES = {asset: (price, price) for asset, price in PRICES.items()}


@pytest.fixture
def api():
    with made_api() as running:
        yield running


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr(source, "PAUSE_S", 0.01)


def ask(api, key="", assets=ASSETS, max_age_s=60):
    return source.ask(source.Source(api.url, key, assets), max_age_s)


def test_source_of_an_instance_is_that_of_its_settings():
    variables = {"PRECOG_RUNTIME_API_URL": "http://here:8900/v4/", "PRECOG_RUNTIME_ASSETS": " btc,eth,"}
    start = "#!/bin/sh\nexec /env/bin/precog-runtime serve --port 8092"
    assert source.of(start, variables) == source.Source("http://here:8900/v4", "", ASSETS)
    arguments = f"{start} --api-url=https://there/v4 --assets sol\n"
    assert source.of(arguments, {**variables, source.API_KEY: "k"}) == source.Source("https://there/v4", "k", ("sol",))


def test_source_of_an_instance_without_settings_is_the_runtimes_default():
    text = SETTINGS.read_text()
    found = source.of("#!/bin/sh\nexec x\n", {})
    assert found.url == re.search(r'^COMMUNITY = "(.*)"$', text, re.MULTILINE)[1]
    assert found.assets == tuple(
        re.findall(r'"(\w+)"', re.search(r"^    assets: .* = \((.*)\)$", text, re.MULTILINE)[1])
    )


def test_variables_are_parsed_as_the_release_has_them():
    variables = {"A": 'a "b" \\ $c `d`', "B": "", "PRECOG_RUNTIME_API_URL": "http://x/v4"}
    assert source.parse_variables(files.environment_file(variables).decode()) == variables
    assert source.parse_variables("A=bare\n# no\n") == {"A": "bare"}


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://a/v4", ("a", 80)),
        ("https://a/v4", ("a", 443)),
        ("http://[::1]:8/v4", ("::1", 8)),
        ("http://a:x", ("a", 80)),
    ],
)
def test_address_of_a_source(url, address):
    assert source.Source(url, "", ()).address == address


def test_source_that_gives_prices(api):
    api.key = "secret"
    assert ask(api, "secret") == source.Market(prices=RANGES)
    assert {name: api.asked[0][name] for name in ("assets", "metrics", "frequency")} == {
        "assets": "btc,eth",
        "metrics": "ReferenceRateUSD",
        "frequency": "1s",
    }
    assert len(api.asked) == 1


@pytest.mark.parametrize("trouble", [(500, b""), (503, {}), (200, b"<html>"), (200, {"data": 1}), (200, [])])
def test_source_that_fails_for_a_moment_is_asked_again(api, trouble):
    api.answers = [trouble] * 2
    assert ask(api) == source.Market(prices=RANGES)


def test_rate_limit_is_waited_for(api):
    api.answers, api.headers = [(429, {})] * (source.ATTEMPTS + 2), {"x-ratelimit-reset": "0"}
    assert ask(api) == source.Market(prices=RANGES)


def test_source_whose_rate_limit_leaves_no_request_is_busy_and_not_down(api, monkeypatch):
    monkeypatch.setattr(source, "BUSY_S", 0.1)
    api.broken, api.headers = (429, {}), {"x-ratelimit-reset": "0"}
    found = ask(api)
    assert re.search(r"127.0.0.1:\d+ allowed the gate no request in 0.1 s \(HTTP 429\)", found.busy)
    assert (found.down, found.refused) == ("", "")
    assert len(api.asked) > source.ATTEMPTS


def test_turns_are_tried_for_before_all_others_come(monkeypatch):
    monkeypatch.setattr(source, "PAUSE_S", 0.5)
    pauses = {source._pause_s(source._Answer(429, {"x-ratelimit-reset": "6"}, b"")) for _ in range(100)}
    assert 1.8 <= min(pauses) < max(pauses) <= 6.0
    assert source._pause_s(source._Answer(429, {"x-ratelimit-reset": "soon"}, b"")) == 0.5
    assert source._pause_s(source._Answer(429, {"x-ratelimit-reset": "1e9"}, b"")) <= source.PATIENCE_S


@pytest.mark.parametrize(
    ("trouble", "told"),
    [((500, b""), "answers HTTP 500"), ((200, b"oops"), "does not answer as the API does")],
)
def test_source_that_fails_for_good_is_down(api, trouble, told):
    api.broken = trouble
    found = ask(api)
    assert told in found.down
    assert (found.refused, len(api.asked)) == ("", source.ATTEMPTS)


def test_source_that_nobody_reaches_is_down():
    with socket.create_server(("127.0.0.1", 0)) as here:
        port = here.getsockname()[1]
    found = source.ask(source.Source(f"http://127.0.0.1:{port}/v4", "", ASSETS), 60)
    assert found == source.Market(down=f"127.0.0.1:{port}: connection refused")


def test_source_that_never_answers_is_down(monkeypatch):
    monkeypatch.setattr(source, "TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        found = source.ask(source.Source(f"http://127.0.0.1:{silent.getsockname()[1]}/v4", "", ASSETS), 60)
    assert found.down
    assert time.monotonic() - began < 5


def test_source_whose_prices_are_old_is_down(api):
    api.age_s = 90
    assert re.search(r"its newest price of btc is 9\d s old, .*; the limit is 60 s \(gate max_age_s\)", ask(api).down)
    assert ask(api, max_age_s=120).down == ""
    assert "it has no sol" in ask(api, assets=("btc", "sol"), max_age_s=120).down


def test_age_of_prices_is_by_the_sources_own_clock(api):
    made = source.Source(api.url, "", ("btc",))
    old = time.time() - 7200
    assert source.understood(made, rows(api, ["btc"], old), old, 60).down == ""
    assert source._clock({"date": formatdate(old, usegmt=True)}) == int(old)
    assert abs(source._clock({"date": "soon"}) - time.time()) < 1


@pytest.mark.parametrize(
    ("url", "key", "told"),
    [
        ("", "wrong", "answers HTTP 401 (.*): check miner_service_api_key"),
        ("/typo", "right", r"answers HTTP 404 (Not found\.): check PRECOG_RUNTIME_API_URL in miner_service_variables"),
    ],
)
def test_source_that_refuses_the_settings_names_the_one_to_check_and_never_the_key(api, url, key, told):
    api.key = "right"
    api.url += url
    found = ask(api, key)
    assert re.search(told.replace("(", r"\(").replace(")", r"\)"), found.refused), found.refused
    assert found.down == ""
    assert key not in found.refused.replace("wrong key", "")
    assert len(api.asked) == 1


@pytest.mark.parametrize("row", [None, {}, {"asset": "btc"}, {"asset": "btc", "time": 1, "ReferenceRateUSD": "x"}, []])
def test_row_that_is_none_is_passed_over(api, row):
    api.answers = [(200, {"data": [row, *rows(api, ASSETS)]})]
    assert ask(api) == source.Market(prices=RANGES)
