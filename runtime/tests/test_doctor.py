"""The doctor finds what is wrong, says what to do, and tells it by its exit code."""

from __future__ import annotations

import json

import pytest
from processes import done, running


def findings(*arguments, **environ):
    ended = done("doctor", "--json", *arguments, **environ)
    assert "Traceback" not in ended.stderr
    return ended.returncode, {each["check"]: each for each in json.loads(ended.stdout)}


def test_with_a_market_and_a_folder_nothing_is_wrong(tmp_path):
    with running("simulate-market", "--port", 0) as market:
        code, found = findings("--api-url", market.url, "--state-dir", tmp_path)
    assert code == 0, found
    assert {check for check in found if check.startswith("source ")} == {
        "source btc",
        "source eth",
        "source tao_bittensor",
    }
    assert all(each["level"] == "ok" for check, each in found.items() if check.startswith("source "))
    assert (found["state"]["level"], found["model"]["level"]) == ("ok", "ok")
    assert list(tmp_path.iterdir()) == []


def test_without_a_market_it_says_so():
    code, found = findings("--api-url", "http://127.0.0.1:9/v4", "--api-timeout-s", "0.5")
    assert code == 1
    assert found["source"]["level"] == "error"
    assert "http://127.0.0.1:9/v4" in found["source"]["told"]
    assert found["state"]["level"] == "warning"


def test_an_asset_without_prices_is_named():
    with running("simulate-market", "--port", 0, "--assets", "btc") as market:
        _, found = findings("--api-url", market.url, "--assets", "btc,doge")
    assert found["source btc"]["level"] == "ok"
    assert found["source doge"]["level"] == "error"


WRONG = [
    (("--state-dir", "/proc/nowhere"), "state"),
    (("--model", "no such model"), "model"),
    (("--model", "/nowhere/model.py:Mine"), "model"),
]


@pytest.mark.parametrize(("arguments", "check"), WRONG)
def test_what_can_not_be_used_is_an_error(arguments, check):
    code, found = findings("--offline", *arguments)
    assert (code, found[check]["level"]) == (1, "error")


def test_settings_are_listed_with_their_values_but_not_the_key():
    ended = done("doctor", "--list-settings", "--poll-s", "7", PRECOG_RUNTIME_API_KEY="hush-hush")
    assert ended.returncode == 0
    assert "poll_s = 7.0" in ended.stdout
    assert "api_key = '***'" in ended.stdout
    assert "hush" not in ended.stdout + ended.stderr


def test_a_wrong_setting_ends_it_with_2():
    ended = done("doctor", "--poll-s", "fast")
    assert (ended.returncode, "--poll-s: poll_s is 'fast'" in ended.stderr) == (2, True)
