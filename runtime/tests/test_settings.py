"""Settings: where they come from, which wins, and what is said of those that can't be used."""

from __future__ import annotations

import argparse
import json

import pytest

from precog_runtime import settings
from precog_runtime.errors import SettingError
from precog_runtime.options import add_settings, described, given_settings
from precog_runtime.settings import Settings, load


def test_the_later_source_wins(tmp_path):
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"poll_s": 7, "fresh_s": 1, "assets": ["eth"]}))
    environ = {"PRECOG_RUNTIME_FRESH_S": "3", "PRECOG_RUNTIME_MAX_WORKERS": "4", "PATH": "/bin"}
    found = load({"max_workers": "2", "mark_s": None}, str(file), environ)
    assert (found.poll_s, found.fresh_s, found.max_workers, found.mark_s) == (7.0, 3.0, 2, 300)
    assert found.assets == ("eth",)


GOOD = [
    ("assets", "eth, btc,eth", ("eth", "btc")),
    ("window_s", "7200", 7200),
    ("window_s", 7200.0, 7200),
    ("poll_s", "0.5", 0.5),
    ("state_dir", "/x", "/x"),
]


@pytest.mark.parametrize(("name", "value", "expected"), GOOD)
def test_values_are_converted(name, value, expected):
    assert getattr(load({name: value}, environ={}), name) == expected


BAD = [
    ({"pol_s": 1}, "--pol-s: there is no setting 'pol_s'. Did you mean poll_s?"),
    ({"zzz": 1}, "doctor --list-settings"),
    (
        {"disk_cache_mb": 64},
        "--disk-cache-mb: the setting disk_cache_mb was removed: forecasts are cached in memory",
    ),
    ({"poll_s": "fast"}, "--poll-s: poll_s is 'fast', not a number. Its default is 5.0"),
    ({"poll_s": True}, "not a number"),
    ({"poll_s": "nan"}, "not a number"),
    ({"window_s": "1.5"}, "not a whole number"),
    ({"window_s": 10}, "window_s is 10: it is not between 600 and 604800"),
    ({"assets": ""}, "assets is (): it is empty"),
    ({"assets": "btc,e th"}, "assets is 'e th': it is no name of an asset"),
    ({"assets": 5}, "not a list of names"),
    ({"api_url": "ftp://x"}, "api_url is 'ftp://x': it is no URL"),
    ({"metrics_port": 70000}, "metrics_port is 70000: it is not between 0 and 65535"),
    (
        {"deadline_s": 0.25},
        "deadline_s is 0.25: 0.25 s of it are kept for the answer itself, so the model would hardly",
    ),
    ({"min_workers": 4, "max_workers": 2}, "max_workers is 2: it is below min_workers (4)"),
]


@pytest.mark.parametrize(("given", "message"), BAD, ids=lambda value: str(value)[:30])
def test_what_can_not_be_used_is_told_with_name_value_and_remedy(given, message):
    with pytest.raises(SettingError) as told:
        load(given, environ={})
    assert message in str(told.value)


@pytest.mark.parametrize("text", ["[1]", "{", '{"a"', ""])
def test_a_file_that_is_no_object_is_named(tmp_path, text):
    file = tmp_path / "settings.json"
    file.write_text(text)
    with pytest.raises(SettingError, match=str(file)):
        load(file=str(file), environ={})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SettingError, match=r"absent\.json.*No such file"):
        load(file=str(tmp_path / "absent.json"), environ={})


def test_the_environment_is_named_where_it_is_wrong():
    with pytest.raises(SettingError, match=r"^PRECOG_RUNTIME_POLL_S: poll_s is 'x'"):
        load(environ={"PRECOG_RUNTIME_POLL_S": "x"})


def test_a_removed_setting_in_the_environment_is_refused_as_removed():
    with pytest.raises(SettingError, match=r"^PRECOG_RUNTIME_DISK_CACHE_MB: .* was removed: .*\. Leave it out$"):
        load(environ={"PRECOG_RUNTIME_DISK_CACHE_MB": "64"})


def test_the_key_is_never_shown():
    assert "hush" not in repr(load({"api_key": "hush"}, environ={}))


def test_every_setting_is_bounded_described_and_an_option_but_the_key(monkeypatch):
    parser = argparse.ArgumentParser()
    add_settings(parser)
    options = {option for action in parser._actions for option in action.option_strings}
    for name, told in described().items():
        assert told.endswith("."), name
        assert (f"--{name.replace('_', '-')}" in options) == (name != "api_key")
        if isinstance(getattr(Settings, name), (int, float)):
            assert name in settings._BOUNDS
    monkeypatch.setenv("PRECOG_RUNTIME_POLL_S", "9")
    assert given_settings(parser.parse_args(["--mark-s", "60"])) == Settings(mark_s=60, poll_s=9.0)


@pytest.mark.parametrize("url", ["http://prices.example/v4", "http://192.0.2.1:8099/v4"])
def test_the_key_is_not_sent_in_clear_over_a_network(url):
    assert Settings(api_url=url).api_url == url
    with pytest.raises(SettingError, match="everybody on the way could read api_key") as caught:
        Settings(api_url=url, api_key="hush")
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("url", ["https://prices.example/v4", "http://127.0.0.1:1/v4", "http://[::1]:1/v4"])
def test_encrypted_or_on_this_host_it_is(url):
    assert Settings(api_url=url, api_key="hush").api_key == "hush"
