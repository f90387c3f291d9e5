"""`serve` as a real process, fed by `simulate-market` as another, asked by a client that is none of ours."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import time
from pathlib import Path

import pytest
from processes import call, done, running, wait_until
from prometheus_client.parser import text_string_to_metric_families

EVERYTHING = {"btc", "eth", "tao_bittensor"}


@pytest.fixture(scope="module")
def market():
    with running("simulate-market", "--port", 0, "--latency-ms", 20) as command:
        yield command


@pytest.fixture(scope="module")
def served(market, tmp_path_factory):
    options = (
        "--port",
        0,
        "--api-url",
        market.url,
        "--window-s",
        7200,
        "--state-dir",
        tmp_path_factory.mktemp("state"),
    )
    with running("serve", *options) as command:
        wait_until(lambda: call(f"{command.url}/readyz")[0] == 200)
        yield command.url


def test_all_assets_are_answered_by_default(served):
    code, answer = call(f"{served}/predict", {})
    assert code == 200
    assert set(answer["predictions"]) == set(answer["intervals"]) == set(answer["age_s"]) == EVERYTHING
    for asset, point in answer["predictions"].items():
        low, high = answer["intervals"][asset]
        assert low < point < high
    assert (answer["degraded"], answer["refused"]) == ({}, {})


def test_a_timestamp_and_assets_can_be_named(served):
    asked = int(time.time()) // 300 * 300
    code, answer = call(f"{served}/predict", {"timestamp": asked, "assets": ["ETH", "nonsense"]})
    assert code == 200
    assert set(answer["predictions"]) == {"eth"}
    assert list(answer["refused"]) == ["nonsense"]
    assert answer["timestamp"].endswith("Z")


BAD = [
    (b"{", 400, "no JSON"),
    (b"[1]", 400, "no JSON object"),
    (b"\xff", 400, "no JSON"),
    ({"timestamp": "2030-01-01T00:00:00Z"}, 422, "in the future"),
    ({"assets": []}, 422, "no asset is named"),
    ({"assets": ["nonsense"]}, 422, "unknown asset"),
    ({"assets": "btc"}, 422, "no list"),
    (b" " * 70_000, 413, ""),
]


@pytest.mark.parametrize(("body", "code", "told"), BAD, ids=lambda value: str(value)[:20])
def test_a_wrong_request_is_told_why_and_the_next_is_answered(served, body, code, told):
    got, answer = call(f"{served}/predict", body)
    assert got == code
    assert told in str(answer)
    assert call(f"{served}/predict", {})[0] == 200


def test_health_readiness_and_metrics(served):
    assert call(f"{served}/healthz")[1]["status"] == "ok"
    code, ready = call(f"{served}/readyz")
    assert (code, ready["ready"], set(ready["age_s"])) == (200, True, EVERYTHING)
    assert set(call(f"{served}/predict", {})[1]["models"].values()) == {ready["model"]}
    code, text = call(f"{served}/metrics")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    counts = [
        sample.value
        for sample in families["precog_request_duration_seconds"].samples
        if sample.name.endswith("_count") and sample.labels == {"front": "serve", "outcome": "full"}
    ]
    assert counts[0] >= 1
    ages = {sample.labels["asset"]: sample.value for sample in families["precog_data_age_seconds"].samples}
    assert set(ages) == EVERYTHING
    assert max(ages.values()) < 60


def test_without_prices_it_is_alive_but_not_ready_and_says_so():
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # a port that refuses
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/v4"
        with running("serve", "--port", 0, "--api-url", url, "--log-level", "error") as command:
            assert call(f"{command.url}/healthz")[0] == 200
            code, ready = call(f"{command.url}/readyz")
            assert (code, ready["ready"], set(ready["age_s"].values())) == (503, False, {None})
            code, answer = call(f"{command.url}/predict", {})
            assert code == 503
            assert "there is no price" in answer["refused"]["btc"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly(market, number):
    with running("serve", "--port", 0, "--api-url", market.url, "--window-s", 600) as command:
        assert command.end(number) == 0


def test_with_a_state_dir_that_cannot_be_used_it_answers_and_tells_it(market, tmp_path, capfd):
    (tmp_path / "state").write_text("no folder")
    options = ("--port", 0, "--api-url", market.url, "--window-s", 600, "--state-dir", tmp_path / "state")
    with running("serve", *options) as command:
        wait_until(lambda: call(f"{command.url}/readyz")[0] == 200)
        assert set(call(f"{command.url}/predict", {})[1]["predictions"]) == EVERYTHING
        assert 'precog_errors_total{kind="state"}' in (text := call(f"{command.url}/metrics")[1])
        assert 'precog_errors_total{kind="state"} 0.0' not in text
        # A folder again, and the log is kept there from then on.
        (tmp_path / "state").unlink()
        wait_until((tmp_path / "state" / "predictions.sqlite").exists)
        assert command.end() == 0
    with sqlite3.connect(tmp_path / "state" / "predictions.sqlite") as log:
        assert log.execute("SELECT outcome FROM requests").fetchall() == [("full",)]
    told = [line for line in map(json.loads, capfd.readouterr().err.splitlines()) if line["level"] == "ERROR"]
    assert [line["message"].partition(". ")[0] for line in told] == [f"state_dir is '{tmp_path}/state': File exists"]


HANGING = """
import time
from precog_runtime.types import Forecast

class Hanging:
    name, lookback_s, kind = "hanging", 60, "numpy"

    def forecast(self, asset, timestamp, series):
        time.sleep(1e6)
"""


def test_a_model_that_hangs_is_answered_for_and_holds_up_no_end(market, tmp_path):
    (tmp_path / "hanging_model.py").write_text(HANGING)
    options = ("--model", f"{tmp_path / 'hanging_model.py'}:Hanging", "--deadline-s", 1, "--max-workers", 1)
    with running("serve", "--port", 0, "--api-url", market.url, "--window-s", 600, *options) as command:
        wait_until(lambda: call(f"{command.url}/readyz")[0] == 200)
        for _ in range(2):
            code, answer = call(f"{command.url}/predict", {})
            assert code == 200
            assert set(answer["degraded"].values()) == {"model too slow"}
        began = time.monotonic()
        assert command.end() == 0
        assert time.monotonic() - began < 10


def test_a_port_in_use_is_told(served):
    port = served.rpartition(":")[2]
    ended = done("serve", "--port", port, "--api-url", "http://127.0.0.1:9/v4")
    assert ended.returncode == 2
    assert f"can't listen at 127.0.0.1:{port}" in ended.stderr
    assert "Traceback" not in ended.stderr


# The default model looks back on hours, which are fetched one by one, and makes a forecast anew with each.
BRIEF = """
from precog_runtime.types import Forecast

class Brief:
    name, lookback_s, kind = "brief", 120, "numpy"  # within the first prices that are fetched

    def forecast(self, asset, timestamp, series):
        last = float(series.prices[-1])
        return Forecast(last, float(series.prices.min()) * 0.999, float(series.prices.max()) * 1.001)
"""


def logged(folder):
    with sqlite3.connect(folder / "predictions.sqlite") as file:
        return file.execute("SELECT asset, point FROM answers ORDER BY asset").fetchall()


def test_its_event_loop_is_uvloops(market):
    with running("serve", "--port", 0, "--api-url", market.url, "--window-s", 600) as command:
        maps = Path(f"/proc/{command.process.pid}/maps").read_text()
        assert "/uvloop/loop." in maps


def test_killed_and_started_again_it_has_its_log_and_its_prices(market, tmp_path):
    (tmp_path / "brief_model.py").write_text(BRIEF)
    model = f"{tmp_path / 'brief_model.py'}:Brief"
    options = ("--port", 0, "--state-dir", tmp_path, "--window-s", 7200, "--mark-s", 0, "--price-basis", "mark")
    options += ("--model", model)
    with running("serve", *options, "--api-url", market.url) as command:
        wait_until(lambda: call(f"{command.url}/readyz")[0] == 200)
        mark = int(time.time()) // 60 * 60 - 60  # its prices are all there by now, so the forecast will be the same
        before = call(f"{command.url}/predict", {"timestamp": mark})[1]
        wait_until((tmp_path / "window.npz").exists)
        wait_until(lambda: len(logged(tmp_path)) == 3)
        command.end(signal.SIGKILL)
    assert logged(tmp_path) == sorted(before["predictions"].items())
    # The source is away now: what there is was kept.
    with running("serve", *options, "--api-url", "http://127.0.0.1:9/v4", "--log-level", "error") as command:
        code, after = call(f"{command.url}/predict", {"timestamp": before["timestamp"]})
        assert code == 200
        assert set(after["predictions"]) == EVERYTHING
        assert (after["predictions"], after["intervals"]) == (before["predictions"], before["intervals"])
        assert call(f"{command.url}/readyz")[0] == 200
        assert command.end() == 0
    assert logged(tmp_path) == sorted(2 * [*before["predictions"].items()])
