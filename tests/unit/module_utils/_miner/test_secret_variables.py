"""Variables that are secrets: which they are, and that they get to the process by root's file alone."""

from __future__ import annotations

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._miner import secrecy
from ansible_collections.precog.fleet.plugins.plugin_utils import _secrets as secrets
from ansible_collections.precog.fleet.tests.unit.module_utils._miner.test_plan import parsed, plan, problems

SECRET = (
    *("API_KEY", "PRECOG_RUNTIME_API_KEY", "MY_SECRET", "DB_PASSWORD", "PASSWD", "MNEMONIC", "GITHUB_TOKEN"),
    *("DATABASE_URL", "WALLET_SEED", "AWS_ACCESS_KEY_ID", "AWS_PROFILE", "PRIVATE_KEY", "SENTRY_DSN", "COOKIE"),
)
OPEN = ("PRECOG_RUNTIME_ASSETS", "PYTHONHASHSEED", "SORT_KEY", "OMP_NUM_THREADS", "DSNX", "MONKEY")
ARGUMENTS = ("--api-key", "--seed", "--private_key", "--wallet.seed", "--password=x", "--database-url", "--access-key")


@pytest.mark.parametrize("name", SECRET)
def test_a_name_shows_a_secret(name):
    assert secrecy.is_secret_variable(name)


@pytest.mark.parametrize("name", OPEN)
def test_other_names_show_none(name):
    assert not secrecy.is_secret_variable(name)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("postgres://me:word@host/db", True),
        ("https://host/v4?api_key=abc", True),
        ("https://host/v4?asset=btc&access_token=abc", True),
        ("https://host:8443/v4", False),
        ("me:word@host", False),
        (5, False),
    ],
)
def test_an_address_with_a_password_is_a_secret(value, expected):
    assert secrecy.is_secret_value(value) is expected


@pytest.mark.parametrize("word", ARGUMENTS)
def test_a_secret_on_the_command_line_is_refused_without_its_value(word):
    (told,) = problems({"main": {"arguments": [word.partition("=")[0] + "=hush"]}})
    assert "looks like a secret" in told
    assert "hush" not in told


def test_so_is_an_address_with_a_password():
    (told,) = problems({"main": {"arguments": ["--api-url", "https://me:hush@host/v4"]}})
    assert "looks like a secret" in told
    assert "hush" not in told


def test_the_simulators_seed_is_none():
    assert plan({"market": {"engine": "simulator", "arguments": ["--seed", "7"]}}).instances


def test_secrets_are_separated_by_instance_and_a_null_takes_one_out():
    args = {
        "variables": {"WALLET_SEED": "a", "PLAIN": 1, "MARKED": "m"},
        "instance_defaults": {"nice": 3, "variables": {"MY_TOKEN": "t"}},
        "instances": {"one": {"variables": {"WALLET_SEED": "b", "OTHER": 2}}, "two": {"variables": {"MY_TOKEN": None}}},
        "secret_variables": ["MARKED"],
    }
    found = secrets.separated(args)
    assert found["variables"] == {"PLAIN": 1}
    assert found["instance_defaults"] == {"nice": 3, "variables": {}}
    assert found["instances"] == {"one": {"variables": {"OTHER": 2}}, "two": {"variables": {}}}
    assert found["secrets"] == {
        "one": '{"MARKED": "m", "MY_TOKEN": "t", "WALLET_SEED": "b"}',
        "two": '{"MARKED": "m", "WALLET_SEED": "a"}',
    }
    assert args["variables"]["WALLET_SEED"] == "a", "the inventory's own value was changed"


def test_an_address_with_a_password_is_separated_whatever_its_variable_is_called():
    url = "https://me:hush@host/v4"
    found = secrets.separated({"variables": {"PRECOG_RUNTIME_API_URL": url, "PLAIN": "https://host/v4"}})
    assert found["variables"] == {"PLAIN": "https://host/v4"}
    assert found["secrets"] == {"main": f'{{"PRECOG_RUNTIME_API_URL": "{url}"}}'}


def test_without_instances_the_one_by_default_has_them():
    assert secrets.separated({"variables": {"MY_TOKEN": 5}})["secrets"] == {"main": '{"MY_TOKEN": "5"}'}


def test_a_secret_that_is_no_text_is_refused_without_it():
    with pytest.raises(ValueError, match="MY_TOKEN of instance one is neither text nor a number") as caught:
        secrets.separated({"instances": {"one": {"variables": {"MY_TOKEN": ["hush"]}}}})
    assert "hush" not in str(caught.value)


def test_a_secret_lies_in_roots_file_and_in_nothing_of_the_release():
    made = plan({"main": {}}, secrets={"main": '{"WALLET_SEED": "hush $\\"5\\""}'}, api_key="hush-key")
    ((path, secret),) = made.secrets.items()
    assert (path, secret.owner) == ("/etc/precog-miner/main.env", "root")
    assert parsed(secret.data) == {"WALLET_SEED": 'hush $"5"', "PRECOG_RUNTIME_API_KEY": "hush-key"}
    assert not [path for path, file in made.files.items() if b"hush" in file.data]
    assert plan({"main": {}}).release == made.release


def test_a_secret_is_checked_as_other_variables_are():
    (told,) = problems({"main": {}}, secrets={"main": '{"WALLET_SEED": "a\\nhush"}'})
    assert told.startswith("instances.main.variables.WALLET_SEED: its value holds a line break")
    assert "hush" not in told


def test_an_api_with_a_password_in_its_address_is_not_the_communitys():
    given = {"one": {}, "two": {"port": 9000}}
    url = '{"PRECOG_RUNTIME_API_URL": "https://me:hush@host/v4"}'
    made = plan(given, secrets={"one": url, "two": url})
    assert b"API_REQUESTS" not in made.files["instances/one/environment"].data
