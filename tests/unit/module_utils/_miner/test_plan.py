"""The plan of a host's miners: what is made of instances, and how what can't be is told."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._host.host import HostError
from ansible_collections.precog.fleet.plugins.module_utils._miner import files, instances, parse, together, units
from ansible_collections.precog.fleet.plugins.module_utils._miner import plan as planning
from ansible_collections.precog.fleet.plugins.module_utils._miner import wallet as wallets
from ansible_collections.precog.fleet.plugins.module_utils._miner.options import OPTIONS
from ansible_collections.precog.fleet.tests.places import ROOT
from hypothesis import example, given
from hypothesis import strategies as st

ENVIRONMENT = "/opt/precog/env/miner-0123456789ab"
COMMIT = "c0ffee" * 6 + "c0ff"
# A key that everyone knows: Alice of Substrate's development chains.
ALICE = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
ALICE_KEY = "d43593c715fdd31c61141abd04a99fd6822c8558854ccde39a5684e7a56da27d"
LETTERS = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def ss58(key: bytes, prefix: bytes = b"\x2a") -> str:
    """An address, by the rules of SS58: written apart from the code under test."""
    raw = prefix + key + hashlib.blake2b(b"SS58PRE" + prefix + key).digest()[:2]
    number, text = int.from_bytes(raw, "big"), ""
    while number:
        number, rest = divmod(number, 58)
        text = LETTERS[rest] + text
    return LETTERS[0] * (len(raw) - len(raw.lstrip(b"\0"))) + text


def hotkey(number: int = 1, **changes) -> str:
    """A hotkey file as bittensor-wallet writes it; its key is made up."""
    public = bytes([number]) * 32
    content = {
        "ss58Address": ss58(public),
        "secretPhrase": "made up for this test alone",
        "accountId": f"0x{public.hex()}",
        "publicKey": f"0x{public.hex()}",
        "cryptoType": 1,
        "secretSeed": f"0x{hashlib.sha256(public).hexdigest()}",
        **changes,
    }
    return json.dumps({name: value for name, value in content.items() if value is not None})


COLDKEY = ss58(b"\x07" * 32)
WALLET = {"wallet": "alice", "coldkey": COLDKEY}


def plan(given=None, /, commit=COMMIT, **params):
    """The plan for instances; other arguments of the module as they are by default."""
    defaults = {name: about.get("default") for name, about in OPTIONS.items()}
    given = {"main": {}} if given is None else given
    return planning.plan({**defaults, "environment": ENVIRONMENT, "instances": given, **params}, commit)


def problems(given=None, /, **params):
    """What is said of arguments that can't be used, without the role's prefix, which each has."""
    with pytest.raises(HostError) as caught:
        plan(given, **params)
    told = str(caught.value).split("\n")
    assert all(one.startswith("miner_service_") for one in told), told
    return [one.removeprefix("miner_service_") for one in told]


def variables(made, name="main"):
    """An instance's environment, as systemd would read it."""
    return parsed(made.files[f"instances/{name}/environment"].data)


def parsed(data: bytes):
    """The variables in a file of this simple form, by the shell: another reader of double quotes."""
    script = 'set -a; . "$1"; env -0'
    path = Path(f"/proc/self/fd/{os.memfd_create('environment', 0)}")
    path.write_bytes(data)
    fd = int(path.name)
    done = subprocess.run(
        ["/bin/sh", "-c", script, "sh", f"/dev/fd/{fd}"], capture_output=True, check=True, pass_fds=[fd], env={}
    )
    os.close(fd)
    found = dict(entry.split("=", 1) for entry in done.stdout.decode().split("\0") if entry)
    return {name: value for name, value in found.items() if name not in ("PWD", "_", "OLDPWD", "SHLVL")}


def command(made, name="main"):
    """The words of an instance's start script, after `exec`."""
    first, line = made.files[f"instances/{name}/start"].data.decode().rstrip("\n").split("\n")
    assert first == "#!/bin/sh"
    words = shlex.split(line)
    assert words[0] == "exec"
    return words[1:]


def section(data: bytes, name: str):
    """The assignments in a section of a unit."""
    text = data.decode().split(f"[{name}]\n", 1)[1].split("\n[", 1)[0]
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))


def drop_in(made, name="main", part="Service"):
    return section(made.units[f"precog-miner@{name}.service.d/10-instance.conf"], part)


# -- what is made -----------------------------------------------------------------------------------------------------


def test_a_host_with_nothing_said_runs_one_server():
    made = plan()
    (one,) = made.instances
    assert one[:7] == ("main", "runtime", "127.0.0.1", 8092, "127.0.0.1", 8092, ())
    assert command(made) == [
        f"{ENVIRONMENT}/bin/python",
        *(f"{ENVIRONMENT}/bin/precog-runtime", "serve", "--host", "127.0.0.1", "--port", "8092"),
    ]
    assert variables(made) == {
        "HOME": "/var/lib/precog-miner/main",
        "PRECOG_MINER_DIGEST": one.digest,
        "PRECOG_RUNTIME_STATE_DIR": "/var/lib/precog-miner/main",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONOPTIMIZE": "1",
        "PYTHONPYCACHEPREFIX": f"{ENVIRONMENT}/pycache",
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
    }
    assert made.files["instances/main/start"].mode == 0o755
    assert made.files["instances/main/environment"].mode == 0o600
    assert made.secrets == {}
    assert made.warnings == ()
    assert re.fullmatch("[0-9a-f]{12}", made.release)
    assert re.fullmatch("[0-9a-f]{12}", one.digest)


def test_a_wallet_makes_it_upstreams_engine():
    made = plan({"main": WALLET}, hotkeys={"main": hotkey()})
    (one,) = made.instances
    assert one[:6] == ("main", "upstream", "0.0.0.0", 8092, "127.0.0.1", 9092)
    checkout = f"/opt/precog/upstream/{COMMIT}"
    assert command(made)[:2] == [f"{ENVIRONMENT}/bin/python", f"{checkout}/source/precog/miners/miner.py"]
    words = command(made)[2:]
    assert dict(zip(words[::2], words[1::2])) == {
        "--neuron.name": "main",
        "--wallet.path": "/etc/precog-miner/main/wallets",
        "--wallet.name": "alice",
        "--wallet.hotkey": "default",
        "--subtensor.chain_endpoint": "wss://entrypoint-finney.opentensor.ai:443",
        "--axon.port": "8092",
        "--netuid": "55",
        "--logging.level": "info",
        "--timeout": "16",
        "--vpermit_tao_limit": "2",
        "--forward_function": "precog_fleet",
    }
    found = variables(made)
    assert found["PYTHONPATH"] == f"{checkout}/source:{checkout}/metadata"
    assert found["PYTHONSAFEPATH"] == "1"
    assert found["PRECOG_RUNTIME_METRICS_PORT"] == "9092"
    assert "PYTHONOPTIMIZE" not in found
    assert found["POLARS_SKIP_CPU_CHECK"] == "1"  # its check would end at MemoryDenyWriteExecute=
    folder = "/etc/precog-miner/main/wallets/alice"
    assert set(made.secrets) == {f"{folder}/hotkeys/default", f"{folder}/coldkeypub.txt"}
    assert json.loads(made.secrets[f"{folder}/hotkeys/default"].data) == json.loads(hotkey())
    assert json.loads(made.secrets[f"{folder}/coldkeypub.txt"].data) == {"ss58Address": COLDKEY}
    assert {secret.owner for secret in made.secrets.values()} == {"miner"}


def test_a_simulator_comes_first_and_has_a_port_of_its_own():
    made = plan({"a": {}, "market": {"engine": "simulator"}}, api_key="key")
    assert [one.name for one in made.instances] == ["market", "a"]
    assert command(made, "market")[2:] == ["simulate-market", "--host", "127.0.0.1", "--port", "8099"]
    assert "PRECOG_RUNTIME_STATE_DIR" not in variables(made, "market")
    assert set(made.secrets) == {"/etc/precog-miner/a.env"}
    assert not any("market.socket" in path for path in made.units)


def test_instances_stand_over_their_defaults_and_those_over_ours():
    made = plan(
        {"a": {"port": 1, "nice": None, "variables": {"B": "a", "C": None}}, "b": {"port": 2}},
        instance_defaults={"nice": 5, "variables": {"B": "default"}, "arguments": ["--log-level", "debug"]},
        variables={"A": "all", "B": "all", "C": "all"},
    )
    assert drop_in(made, "a")["Nice"] == "0"
    assert drop_in(made, "b")["Nice"] == "5"
    own = {name: [variables(made, name).get(key) for key in "ABC"] for name in "ab"}
    assert own == {"a": ["all", "a", None], "b": ["all", "default", "all"]}
    assert command(made, "b")[-2:] == ["--log-level", "debug"]


def test_a_wallet_in_the_defaults_leaves_other_engines_alone():
    made = plan(
        {"one": {}, "market": {"engine": "simulator"}, "local": {"engine": "runtime", "port": 8200}},
        instance_defaults=WALLET,
        hotkeys={"one": hotkey()},
    )
    assert [one.engine for one in made.instances] == ["simulator", "upstream", "runtime"]


def test_all_that_an_instance_may_say_lands_in_its_unit():
    made = plan(
        {
            "main": {
                "nofile": "1024:4096",
                "nproc": 512,
                "cpu_affinity": "0-1, 3",
                "nice": -5,
                "memory_high": "800M",
                "memory_max": "1G",
                "oom_score_adjust": 100,
                "tasks_max": "50%",
                "restart_s": 2.5,
                "watchdog_s": 0,
            }
        }
    )
    assert drop_in(made) == {
        "TimeoutStartSec": "90",
        "RestartSec": "2.5",
        "WatchdogSec": "0",
        "LimitNOFILE": "1024:4096",
        "LimitNPROC": "512:512",
        "CPUAffinity": "0-1 3",
        "Nice": "-5",
        "MemoryHigh": "800M",
        "MemoryMax": "1G",
        "OOMScoreAdjust": "100",
        "User": "precog-miner-main",
        "Group": "precog-miner-main",
        "TasksMax": "50%",
        "IPAddressDeny": "169.254.169.254/32 fd00:ec2::254/128",
    }


@pytest.mark.parametrize(("engine", "level"), [("runtime", "1"), ("simulator", "1"), ("upstream", None)])
@pytest.mark.parametrize(("said", "expected"), [("auto", ...), (0, None), ("2", "2")])
def test_optimisation_is_by_engine_unless_the_instance_says(engine, level, said, expected):
    made = plan(
        {"main": {**WALLET, "engine": engine, "optimize": said}}
        if engine == "upstream"
        else {"main": {"engine": engine, "optimize": said}},
        hotkeys={"main": hotkey()},
    )
    assert variables(made).get("PYTHONOPTIMIZE") == (level if expected is ... else expected)
    warned = engine == "upstream" and said == "2"
    assert any("removes assertions" in text for text in made.warnings) == warned


@pytest.mark.parametrize(("levels", "told"), [([0, 1], True), ([0, 1, 2], False), ([2], False), ((), False)])
def test_a_level_that_nothing_was_compiled_for_is_refused_with_the_remedy(levels, told):
    given = {"main": {"optimize": 2}}
    if told:
        (said,) = problems(given, levels=levels)
        assert said.startswith("instances.main.optimize: 2 is no level that the environment was compiled for: 0, 1. ")
        assert said.endswith("Set python_env_optimize: [0, 1, 2]")
    else:
        assert plan(given, levels=levels).instances


def test_the_default_level_is_looked_for_too():
    (said,) = problems(None, levels=[0])
    assert said.startswith("instances.main.optimize: 1 is no level")


def test_how_python_behaves_may_be_said_otherwise():
    made = plan(variables={"PYTHONUNBUFFERED": "", "PYTHONDONTWRITEBYTECODE": 0, "PYTHONPYCACHEPREFIX": "/var/cache/x"})
    found = variables(made)
    assert (found["PYTHONUNBUFFERED"], found["PYTHONDONTWRITEBYTECODE"]) == ("", "0")
    assert found["PYTHONPYCACHEPREFIX"] == "/var/cache/x"


def test_the_key_of_the_api_is_read_by_systemd_alone():
    made = plan(api_key="s3cret-key\n")
    secret = made.secrets["/etc/precog-miner/main.env"]
    assert (parsed(secret.data), secret.owner) == ({"PRECOG_RUNTIME_API_KEY": "s3cret-key"}, "root")
    everything = b"".join([*(file.data for file in made.files.values()), *made.units.values()])
    assert b"s3cret" not in everything


def test_a_process_keeps_to_real_paths():
    """A start script that went through `current` could load another release's code."""
    made = plan({"main": {}, "up": {**WALLET, "port": 8100}}, hotkeys={"up": hotkey()})
    for path, file in made.files.items():
        assert b"/current" not in file.data, path


def test_assets_are_those_that_the_instance_is_told():
    made = plan({"main": {"variables": {"PRECOG_RUNTIME_ASSETS": "btc, eth,,btc"}}})
    assert made.instances[0].assets == ("btc", "eth")


def test_the_release_says_what_it_runs():
    made = plan({"main": WALLET}, hotkeys={"main": hotkey()})
    record = json.loads(made.files["release.json"].data)
    assert (record["environment"], record["commit"]) == (ENVIRONMENT, COMMIT)
    assert [planning.Instance(**{**one, "assets": tuple(one["assets"])}) for one in record["instances"]] == [
        *made.instances
    ]


def test_what_a_host_is_to_have_may_be_text_or_left_out():
    assert plan(minimum_memory_mb={"upstream": "4096"}, minimum_cpus={"upstream": None}).instances


def test_a_commit_that_is_not_known_yet_is_no_error():
    """In check mode nothing is checked out."""
    assert plan({"main": WALLET}, commit="", hotkeys={"main": hotkey()}).instances


# -- what instances share ---------------------------------------------------------------------------------------------

REQUESTS = "PRECOG_RUNTIME_API_REQUESTS"
ELSEWHERE = {"PRECOG_RUNTIME_API_URL": "http://127.0.0.1:8900/v4"}


def shares(given, **params):
    """How many requests each instance may send, by its name; those without a word are left out."""
    given = {name: {"port": 8100 + at, **one} for at, (name, one) in enumerate(given.items())}
    made = plan(given, hotkeys={name: hotkey(at) for at, name in enumerate(given)}, **params)
    found = {one.name: variables(made, one.name).get(REQUESTS) for one in made.instances}
    return {name: share for name, share in found.items() if share}


def test_instances_share_the_requests_that_the_community_api_takes_of_an_address():
    assert shares({"a": {}}) == {}
    assert shares({"a": {}, "b": WALLET}) == {"a": "5", "b": "4"}
    assert shares({"a": {}, "b": {}, "c": {}}) == dict.fromkeys("abc", "3")
    assert set(shares({f"n{number}": {} for number in range(12)}).values()) == {"1"}


@pytest.mark.parametrize("many", range(2, 10))
def test_one_request_is_left_for_the_gate(many):
    given = shares({f"n{number}": {} for number in range(many)}).values()
    assert sum(map(int, given)) == together.COMMUNITY_REQUESTS - 1
    assert max(given) <= str(int(min(given)) + 1)


def test_who_asks_somebody_else_has_no_share():
    assert shares({"a": {}, "b": {}}, variables=ELSEWHERE) == {}
    others = {"c": {"variables": ELSEWHERE}, "d": {"arguments": ["--api-url=x"]}, "e": {"engine": "simulator"}}
    assert shares({"a": {}, **others}) == {}
    assert shares({"a": {}, "b": {}, **others}) == {"a": "5", "b": "4"}
    assert shares({"a": {"variables": {"PRECOG_RUNTIME_API_URL": together.COMMUNITY + "/"}}, "b": {}}) == {
        "a": "5",
        "b": "4",
    }


def test_what_is_said_of_requests_stands():
    assert shares({"a": {"variables": {REQUESTS: 9}}, "b": {}}) == {"a": "9"}
    assert shares({"a": {"arguments": ["--api-requests", "9"]}, "b": {}}) == {}


def test_the_api_and_its_limit_are_those_of_the_runtime():
    text = (ROOT / "runtime/src/precog_runtime/settings.py").read_text()
    assert f'COMMUNITY = "{together.COMMUNITY}"' in text
    assert f"api_requests: int = {together.COMMUNITY_REQUESTS}\n" in text
    assert "api_period_s: float = 6.0\n" in text


# -- identities -------------------------------------------------------------------------------------------------------

CHANGES = {
    "port": {"given": {"main": {"port": 8100}}},
    "variable": {"variables": {"A": "b"}},
    "limit": {"given": {"main": {"nofile": 1024}}},
    "argument": {"given": {"main": {"arguments": ["--log-level", "debug"]}}},
    "environment": {"environment": "/opt/precog/env/miner-ba9876543210"},
    "user": {"user": "somebody"},
    "interpreter": {"implementation": "pypy"},
}


def of(given=None, **params):
    return plan(given, **params)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_changes_changes_the_digest_and_the_release(change):
    before, after = of(), of(**change)
    assert before.release != after.release
    assert before.instances[0].digest != after.instances[0].digest


def test_one_instances_change_leaves_the_others_alone():
    before = plan({"a": {"port": 1}, "b": {"port": 2}})
    after = plan({"a": {"port": 1}, "b": {"port": 3}})
    digests = [{one.name: one.digest for one in made.instances} for made in (before, after)]
    assert digests[0]["a"] == digests[1]["a"]
    assert digests[0]["b"] != digests[1]["b"]
    assert before.release != after.release


def test_secrets_are_no_part_of_the_identity():
    """Nobody may try keys against a digest that lies open."""
    one, other = (plan({"main": WALLET}, hotkeys={"main": hotkey(n)}, api_key=f"key{n}") for n in (1, 2))
    assert one.secrets != other.secrets
    assert (one.release, one.instances, one.files) == (other.release, other.instances, other.files)


def test_the_order_of_what_is_given_does_not_matter():
    one = plan({"a": {"port": 1, "nice": 1}, "b": {"port": 2}}, variables={"A": 1, "B": 2})
    other = plan({"a": {"nice": 1, "port": 1}, "b": {"port": 2}}, variables={"B": 2, "A": 1})
    assert one == other


# -- what can't be ----------------------------------------------------------------------------------------------------

BAD = {
    "unknown option": ({"main": {"prot": 1}}, "instances.main: there is no 'prot'. Is port meant?"),
    "unknown engine": ({"main": {"engine": "upstraem"}}, "instances.main.engine: there is no 'upstraem'. Is upstream"),
    "name with a blank": ({"a b": {}}, "instances: 'a b' is no name of an instance"),
    "name with a slash": ({"../x": {}}, "instances: '../x' is no name of an instance"),
    "name with an underscore": ({"a_b": {}}, "instances: 'a_b' is no name of an instance"),
    "name too long": ({"a" * 49: {}}, f"instances: '{'a' * 49}' is no name of an instance"),
    "no options": ({"main": None}, "instances.main: None is no dictionary of options. Write {}"),
    "none": ({}, "instances: it is empty. Name one"),
    "port too high": ({"main": {"port": 65536}}, "instances.main.port: 65536 is no whole number from 1 to 65535"),
    "port of words": ({"main": {"port": "http"}}, "instances.main.port: 'http' is no whole number"),
    "port true": ({"main": {"port": True}}, "instances.main.port: True is no whole number"),
    "port for root": (
        {"market": {"engine": "simulator", "port": 80}},
        "instances.market.port: 80 is no whole number from 1024 to 65535",
    ),
    "host by name": ({"main": {"host": "localhost"}}, "instances.main.host: 'localhost' is no IP address to listen at"),
    "wallet of no use": (
        {"main": {"engine": "runtime", "wallet": "w"}},
        "instances.main.wallet: 'w' is of no use: engine runtime signs nothing",
    ),
    "metrics of no use": ({"main": {"metrics_port": 9000}}, "instances.main.metrics_port: 9000 is of no use"),
    "upstream without a wallet": (
        {"main": {"engine": "upstream"}},
        "instances.main.wallet: '' is empty: engine upstream signs its answers",
    ),
    "wallet beside the folder": ({"main": {**WALLET, "wallet": "../x"}}, "instances.main.wallet: '../x' is no name"),
    "hidden wallet": ({"main": {**WALLET, "hotkey": ".x"}}, "instances.main.hotkey: '.x' is no name"),
    "no coldkey": ({"main": {"wallet": "w"}}, "instances.main.coldkey: '' is no SS58 address"),
    "coldkey with a typo": (
        {"main": {"wallet": "w", "coldkey": COLDKEY[:-1] + ("x" if COLDKEY[-1] != "x" else "y")}},
        "its checksum does not fit",
    ),
    "metrics port beyond the last": (
        {"main": {**WALLET, "port": 65000}},
        "instances.main.metrics_port: 0 means port + 1000, which is 66000",
    ),
    "soft above hard": (
        {"main": {"nofile": "2:1"}},
        "instances.main.nofile: '2:1' is no limit: soft 2 is above hard 1",
    ),
    "limit of words": ({"main": {"nproc": "many"}}, "instances.main.nproc: 'many' is no limit"),
    "CPUs backwards": ({"main": {"cpu_affinity": "3-1"}}, "instances.main.cpu_affinity: '3-1' is no list of CPUs"),
    "CPUs of words": ({"main": {"cpu_affinity": "all"}}, "instances.main.cpu_affinity: 'all' is no list of CPUs"),
    "too nice": ({"main": {"nice": 20}}, "instances.main.nice: 20 is no whole number from -20 to 19"),
    "memory of words": ({"main": {"memory_max": "much"}}, "instances.main.memory_max: 'much' is no amount"),
    "no memory": ({"main": {"memory_max": 0}}, "instances.main.memory_max: 0 is no amount"),
    "more than all memory": ({"main": {"memory_max": "200%"}}, "instances.main.memory_max: '200%' is no amount"),
    "high above max": (
        {"main": {"memory_high": "2G", "memory_max": "1024M"}},
        "instances.main.memory_high: '2G' is above memory_max (1024M)",
    ),
    "tasks in bytes": ({"main": {"tasks_max": "1K"}}, "instances.main.tasks_max: '1K' is no amount"),
    "score beyond": (
        {"main": {"oom_score_adjust": -1001}},
        "instances.main.oom_score_adjust: -1001 is no whole number",
    ),
    "no pause": ({"main": {"restart_s": 0}}, "instances.main.restart_s: 0 is no number from 0.1"),
    "a watchdog too keen": ({"main": {"watchdog_s": 1}}, "instances.main.watchdog_s: 1 is no number from 5"),
    "optimize too far": ({"main": {"optimize": 3}}, "instances.main.optimize: 3 is no level"),
    "a line break": (
        {"main": {"variables": {"A": "a\nb"}}},
        "instances.main.variables.A: its value holds a line break",
    ),
    "a truth": ({"main": {"variables": {"A": True}}}, "instances.main.variables.A: True is neither text nor a number"),
    "a variable's name": ({"main": {"variables": {"A-B": 1}}}, "instances.main.variables: 'A-B' is no name"),
    "a variable of ours": (
        {"main": {"variables": {"PYTHONOPTIMIZE": 2}}},
        "instances.main.variables: 'PYTHONOPTIMIZE' is set by the service: set optimize of the instance",
    ),
    "code from elsewhere": (
        {"main": {"variables": {"PYTHONSAFEPATH": ""}}},
        "instances.main.variables: 'PYTHONSAFEPATH' is set by the service: code comes from the environment",
    ),
    "variables as a list": ({"main": {"variables": ["A=1"]}}, "instances.main.variables: ['A=1'] is no dictionary"),
    "a secret in the open": (
        {"main": {"arguments": ["--api-key=abc"]}},
        "instances.main.arguments: --api-key looks like a secret, and everyone on the host can read a command line",
    ),
    "an argument of ours": (
        {"main": {"arguments": ["--port", "1"]}},
        "instances.main.arguments: '--port' is what the service itself sets: use port",
    ),
    "arguments as text": ({"main": {"arguments": "-v"}}, "instances.main.arguments: '-v' is no list of words"),
}


@pytest.mark.parametrize(("given", "expected"), BAD.values(), ids=BAD)
def test_what_cannot_be_is_told(given, expected):
    told = problems(given, hotkeys={"main": hotkey()})
    assert any(expected in one for one in told), told


def test_all_problems_are_told_at_once():
    given = {"a": {"port": 0.5, "nice": "very"}, "B": {"engine": "x"}}
    told = problems(given, upstream={"netuid": -1}, state_root="/srv", user="root", root="opt", environment="")
    for place in ("instances.a.port", "instances.a.nice", "instances: 'B'", "instances.B.engine", "upstream.netuid"):
        assert any(one.startswith(place) for one in told), place
    for place in ("state_root", "user", "root", "environment"):
        assert any(one.startswith(f"{place}: ") for one in told), place


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"instance_defaults": {"prt": 1}}, "instance_defaults: there is no 'prt'. Is port meant?"),
        ({"upstream": {"netuids": 55}}, "upstream: there is no 'netuids'. Is netuid meant?"),
        ({"upstream": {"logging_level": "warning"}}, "upstream.logging_level: 'warning' is no level of upstream's"),
        ({"upstream": {"chain_endpoint": "finney"}}, "upstream.chain_endpoint: 'finney' is no address of a chain"),
        ({"environment": "/home/me/env"}, "environment: '/home/me/env' is hidden from the service"),
        ({"environment": "/opt/a b"}, "environment: '/opt/a b' is no absolute path"),
        ({"root": "/opt/../x"}, "root: '/opt/../x' is no absolute path"),
        ({"state_root": "/srv/miner"}, "state_root: '/srv/miner' is not below /var/lib"),
        ({"user": "root"}, "user: 'root' is no name of a system user"),
        ({"minimum_memory_mb": {"upstream": "8 GB"}}, "minimum_memory_mb.upstream: '8 GB' is no whole number from 0"),
        ({"minimum_memory_mb": {"upstraem": 1}}, "minimum_memory_mb: there is no 'upstraem'. Is upstream meant?"),
        ({"minimum_memory_mb": 8192}, "minimum_memory_mb: 8192 is no dictionary"),
        ({"minimum_cpus": {"runtime": [2]}}, "minimum_cpus.runtime: [2] is no whole number from 0"),
        ({"minimum_disk_mb": -1}, "minimum_disk_mb: -1 is below 0"),
        ({"user": "-x"}, "user: '-x' is no name of a system user"),
    ],
)
def test_what_the_host_cannot_have_is_told(params, expected):
    told = problems(None, **params)
    assert any(expected in one for one in told), told


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        ({}, {}, True),
        ({"port": 1}, {"port": 2}, False),
        ({"host": "127.0.0.2"}, {}, False),
        ({"host": "0.0.0.0"}, {}, True),
        ({"host": "::"}, {}, True),
        ({"host": "::1"}, {}, False),
        ({"host": "::1"}, {"host": "0.0.0.0"}, False),
        ({"host": "::"}, {"host": "::1"}, True),
        ({"port": "8092"}, {"port": 8092}, True),
        ({**WALLET, "port": 7092}, {}, True),
        ({**WALLET, "port": 7092, "metrics_port": 7093}, {}, False),
        ({**WALLET, "port": 7092, "metrics_port": 7092}, {"port": 1}, True),
        ({**WALLET, "port": 7092, "host": "127.0.0.9", "metrics_port": 7092}, {}, False),
    ],
)
def test_two_listeners_at_one_port_are_refused(one, other, clash):
    given, keys = {"one": one, "other": other}, {"one": hotkey()}
    if clash:
        told = problems(given, hotkeys=keys)
        assert len(told) == 1
        assert "already" in told[0]
    else:
        assert len(plan(given, hotkeys=keys).instances) == 2


def test_a_clash_names_both_and_the_port():
    (told,) = problems({"one": {}, "two": {}})
    assert told == "instances.two.port: 8092 is already the port of instance one (127.0.0.1): give each one of its own"


# -- secrets ----------------------------------------------------------------------------------------------------------


NO_HOTKEYS = {
    "nothing": ("", "is empty"),
    "words": ("made up words of a seed that no wallet has ever seen before us", "is a bare phrase of words"),
    "a number": ("17", "it is no JSON object"),
    "some text": ("not a hotkey", "it is no JSON object"),
    "other JSON": ('{"a": 1}', "there is none of secretPhrase, secretSeed, privateKey"),
    "the public half": (hotkey(secretPhrase=None, secretSeed=None), "holds the public half only"),
    "a password": ("$NACL2\x86abc", "is encrypted with a password, which a service can't type"),
    "a vault in a vault": ("$ANSIBLE_VAULT;1.1;AES256\n6162", "is encrypted with a password"),
    "an address with a typo": (hotkey(ss58Address=ALICE[:-1] + "Z"), "its checksum does not fit"),
    "two keys": (hotkey(ss58Address=ALICE), "its publicKey and its ss58Address are of different keys"),
}


@pytest.mark.parametrize(("content", "expected"), NO_HOTKEYS.values(), ids=NO_HOTKEYS)
def test_what_is_no_hotkey_is_refused_without_a_word_of_it(content, expected):
    (told,) = problems({"main": WALLET}, hotkeys={"main": content})
    assert told.startswith("hotkeys.main: it ")
    assert expected in told
    for secret in re.findall(r"0x[0-9a-f]{64}|[a-z]+ up [a-z ]+|NACL2.*", content):
        assert secret not in told


def test_no_secret_lies_where_the_miner_writes():
    """Or it could put a link in the way of root, who follows it."""
    made = plan({"main": WALLET}, hotkeys={"main": hotkey()}, api_key="key", state_root="/var/lib/precog-miner")
    assert len(made.secrets) == 3
    assert all(path.startswith("/etc/precog-miner/main") for path in made.secrets)
    assert section(made.units["precog-miner@.service"], "Service")["ProtectSystem"] == "strict"


def test_of_all_wallets_an_instance_sees_its_own():
    service = section(plan().units["precog-miner@.service"], "Service")
    assert "/etc/precog-miner:ro,mode=0755" in service["TemporaryFileSystem"].split()
    assert service["BindReadOnlyPaths"] == "-/etc/precog-miner/%i"


def test_a_hotkey_that_is_missing_is_asked_for_by_its_instance():
    (told,) = problems({"main": {**WALLET, "hotkey": "h1"}}, hotkeys={"mian": hotkey()})
    assert "there is one for mian only, not for instance main" in told
    assert "wallets/alice/hotkeys/h1" in told


@pytest.mark.parametrize("form", [json.loads, str, lambda text: f"\n{text}\n\n"], ids=["object", "text", "blank lines"])
def test_a_hotkey_may_come_as_text_or_as_an_object(form):
    made = plan({"main": WALLET}, hotkeys={"main": form(hotkey())})
    (data,) = [secret.data for path, secret in made.secrets.items() if "/hotkeys/" in path]
    assert json.loads(data) == json.loads(hotkey())


@pytest.mark.parametrize("kept", ["secretPhrase", "secretSeed", "privateKey"])
def test_one_secret_is_enough(kept):
    """bittensor-wallet opens such files too."""
    assert wallets.hotkey_file(json.dumps({kept: "0x00"}))


def test_one_hotkey_serves_one_instance():
    given = {"a": WALLET, "b": {**WALLET, "wallet": "bob", "port": 8200}}
    (told,) = problems(given, hotkeys={"a": hotkey(), "b": hotkey()})
    assert told.startswith("instances.b.hotkey: 'bob/default' is that of instances.a too. A hotkey has one address")
    assert len(plan(given, hotkeys={"a": hotkey(1), "b": hotkey(2)}).instances) == 2


def test_hotkeys_that_name_no_address_are_told_apart():
    keys = {name: json.dumps({"secretSeed": name, "ss58Address": None}) for name in ("a", "b")}
    assert len(plan({"a": WALLET, "b": {**WALLET, "port": 8200}}, hotkeys=keys).instances) == 2


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "ümlaut", "a" * 513])
def test_a_key_that_is_none_is_refused_without_a_word_of_it(key):
    (told,) = problems(None, api_key=key)
    assert told.startswith("api_key: it is no key")
    assert key not in told


def test_a_repository_with_a_password_is_not_repeated():
    (told,) = problems(None, upstream={"repository": "https://me:hush@example.org/x"})
    assert told.startswith("upstream.repository: it holds a password")
    assert "hush" not in told


def test_a_known_address_is_understood():
    assert wallets.public_key(ALICE).hex() == ALICE_KEY


@given(st.binary(min_size=32, max_size=32))
def test_every_address_gives_its_key(key):
    assert wallets.public_key(ss58(key)) == key


@pytest.mark.parametrize("prefix", [b"\x00", b"\x02", b"\x47\x40"])
def test_an_address_of_another_network_is_told(prefix):
    with pytest.raises(ValueError, match="none of Bittensor's"):
        wallets.public_key(ss58(b"\xaa" * 32, prefix))


@given(st.data())
def test_a_letter_that_is_wrong_is_found(data):
    at = data.draw(st.integers(0, len(ALICE) - 1))
    letter = data.draw(st.sampled_from(LETTERS).filter(lambda one: one != ALICE[at]))
    with pytest.raises(ValueError, match="is no SS58 address"):
        wallets.public_key(ALICE[:at] + letter + ALICE[at + 1 :])


# -- quoting ----------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)
LINE = TEXT.filter(lambda text: not parse.unfit(text))
FILES = st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True), LINE, max_size=5)
SHARED = sorted(Path("/usr/lib").glob("*/systemd/libsystemd-shared-*.so"))


@pytest.mark.skipif(not SHARED, reason="this machine has no systemd, whose reader this asks")
@given(FILES)
@example({"A": "blank  \"double\" 'single' back\\slash\\ $HOME ${x} `ls` #no =\t"})
@example({"A": "\\", "B": "\\\\n", "C": "'", "D": " x "})
def test_systemd_reads_every_value_as_it_was(found):
    lib = ctypes.CDLL(str(SHARED[-1]))
    strings = ctypes.POINTER(ctypes.c_char_p)()
    fd = os.memfd_create("environment", 0)
    os.write(fd, planning.environment_file(found))
    assert lib.load_env_file(None, f"/proc/self/fd/{fd}".encode(), ctypes.byref(strings)) == 0
    os.close(fd)
    read, at = [], 0
    while strings and strings[at] is not None:
        read.append(strings[at].decode())
        at += 1
    assert sorted(read) == sorted(f"{name}={value}" for name, value in found.items())


@given(TEXT)
def test_a_value_is_taken_as_it_is_or_refused(text):
    given = {"main": {"variables": {"VALUE": text}}}
    if parse.unfit(text):
        assert problems(given)[0].startswith("instances.main.variables.VALUE: its value ")
    else:
        assert f"VALUE={files.quoted(text)}\n".encode() in plan(given).files["instances/main/environment"].data


@given(st.lists(LINE, max_size=4))
@example(["a b", "$(reboot)", "'", ";", "--", ""])
def test_the_shell_hands_every_word_on_as_it_was(words):
    try:
        made = plan({"main": {"arguments": words}})
    except HostError:
        return
    assert command(made)[7:] == words


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), TEXT, st.lists(TEXT, max_size=2), st.dictionaries(TEXT, TEXT)
)


@given(st.dictionaries(st.sampled_from(sorted(instances.DEFAULTS)), VALUES, max_size=4), st.one_of(VALUES))
def test_whatever_is_given_is_taken_or_told(options, other):
    """No input ends in another error than the one that names all problems."""
    for wanted in ({"main": options}, {"main": other}, {"main": {}, "x": options}):
        try:
            assert plan(wanted, hotkeys={"main": hotkey()}).instances
        except HostError as error:
            assert str(error)


# -- units ------------------------------------------------------------------------------------------------------------


def test_a_socket_of_its_own_stays_while_a_release_is_switched():
    made = plan({"main": {"host": "::1", "port": 8093}})
    listen = section(made.units["precog-miner@main.socket"], "Socket")
    assert listen == {
        "ListenStream": "[::1]:8093",
        "Backlog": "1024",
        "NoDelay": "yes",
        "FreeBind": "yes",
        "FileDescriptorName": "http",
        "Service": "precog-miner@main.service",
    }
    wanted = drop_in(made, part="Unit")
    assert wanted == {"Requires": "precog-miner@main.socket", "After": "precog-miner@main.socket"}


def test_every_address_means_that_of_both_families():
    made = plan({"main": {"host": "::"}})
    assert section(made.units["precog-miner@main.socket"], "Socket")["BindIPv6Only"] == "both"


AFFINITIES = {
    "all there": ("0-3", "0-3", None),
    "known to nobody": ("0-7", "", None),
    "one too many": ("0-4", "0-3", 4),
    "in a gap": ("1,3", "0-1,4-5", 3),
    "above all": ("64", "0", 64),
}


@pytest.mark.parametrize(("affinity", "cpus", "lacking"), AFFINITIES.values(), ids=AFFINITIES)
def test_a_cpu_that_the_host_has_not_is_refused(affinity, cpus, lacking):
    given = {"main": {"cpu_affinity": affinity}}
    if lacking is None:
        assert plan(given, cpus=cpus).instances
        return
    told = f"names CPU {lacking}, which this host has not or has switched off: it has {cpus}"
    (problem,) = problems(given, cpus=cpus)
    assert problem.startswith("instances.main.cpu_affinity: ")
    assert problem.endswith(told)


@pytest.mark.parametrize(("implementation", "expected"), [("cpython", "yes"), ("pypy", "no")])
def test_only_pypy_may_write_code_as_it_runs(implementation, expected):
    made = plan(implementation=implementation)
    assert section(made.units["precog-miner@.service"], "Service")["MemoryDenyWriteExecute"] == expected


def test_the_template_names_what_it_is_given():
    made = plan(root="/srv/precog", state_root="/var/lib/m", user="miner")
    service = section(made.units["precog-miner@.service"], "Service")
    assert service["ExecStart"] == "/srv/precog/current/instances/%i/start"
    assert (service["User"], service["Group"], service["StateDirectory"]) == ("miner", "miner", "m/%i")
    own = section(made.units["precog-miner@main.service.d/10-instance.conf"], "Service")
    assert (own["User"], own["Group"]) == ("miner-main", "miner-main")
    assert service["BindPaths"] == "/var/lib/m/%i"


def test_the_units_are_without_fault_by_systemds_own_reading(tmp_path):
    """Of what an older systemd does not know it would warn in every host's journal."""
    if subprocess.run(["which", "systemd-analyze"], capture_output=True, check=False).returncode:
        pytest.skip("this machine has no systemd-analyze")
    made = plan({"main": {"cpu_affinity": "0", "memory_max": "1G", "nproc": 100}, "two": {"port": 1, "host": "::"}})
    for path, data in made.units.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(data)
    names = [
        "precog-miner@main.service",
        "precog-miner@main.socket",
        "precog-miner@two.socket",
        "precog-miner@two.timer",
    ]
    for name in names:
        template = re.sub("@.*[.]", "@.", name)
        if not (tmp_path / name).exists():
            (tmp_path / name).symlink_to(template)
    done = subprocess.run(
        ["systemd-analyze", "verify", *(str(tmp_path / name) for name in names)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:/usr/lib/systemd/system", "LC_ALL": "C"},
    )
    faults = [line for line in done.stderr.splitlines() if "precog-miner" in line and "is not executable" not in line]
    assert faults == []


def test_a_unit_names_no_value_that_systemd_would_expand():
    made = plan({"main": {}, "market": {"engine": "simulator"}})
    for path, data in made.units.items():
        expanded = set(re.findall(rb"%.", data))
        assert expanded <= ({b"%i"} if path.startswith("precog-miner@.") else set()), path


def test_the_secret_file_is_where_the_unit_reads_it():
    made = plan(api_key="key")
    (path,) = made.secrets
    assert f"EnvironmentFile=-{path.replace('main', '%i')}\n".encode() in made.units["precog-miner@.service"]
    assert path.startswith(f"{units.SECRETS}/")
    assert units.secrets_file("main") == path
