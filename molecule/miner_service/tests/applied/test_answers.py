"""Every miner answers: over HTTP, and as a validator asks it, with bittensor's own client."""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone

import pytest

ASSETS = {"btc", "eth", "tao_bittensor"}


def ask(host, port, path, question=None):
    """The status and the document that an instance answers."""
    asked = "json.loads(sys.argv[2]) and sys.argv[2].encode()" if question else "None"
    program = (
        "import json, sys, urllib.request as u, urllib.error as e\n"
        f"r = u.Request(sys.argv[1], {asked}, {{'Content-Type': 'application/json'}})\n"
        "try:\n    a = u.urlopen(r, timeout=20)\n"
        "except e.HTTPError as error:\n    a = error\n"
        "print(json.dumps([a.status, json.load(a)]))"
    )
    url = f"http://127.0.0.1:{port}{path}"
    return json.loads(host.check_output("python3 -c %s %s %s", program, url, json.dumps(question)))


def test_prices_an_hour_ahead_with_their_intervals(host, miners):
    for one in miners:
        question = {"timestamp": datetime.now(timezone.utc).isoformat(), "assets": sorted(ASSETS)}
        status, answer = ask(host, one.port, "/predict", question)
        assert status == 200, answer
        assert set(answer["predictions"]) == ASSETS
        for asset, price in answer["predictions"].items():
            low, high = answer["intervals"][asset]
            assert 0 < low < price < high


def test_each_is_ready(host, miners):
    for one in miners:
        status, told = ask(host, one.port, "/readyz")
        assert (status, told["ready"]) == (200, True)


def test_only_upstreams_port_is_open_to_the_network(host, miners):
    listening = host.check_output("ss --listening --tcp --numeric --no-header")
    addresses = [line.split()[3] for line in listening.splitlines()]
    for one in miners:
        assert f"127.0.0.1:{one.port}" in addresses
    # Nothing else of ours, and no axon anywhere else.
    ports = {str(port) for one in miners for port in (one.port, one.axon)}
    open_ones = {one for one in addresses if one.rpartition(":")[2] in ports and not one.startswith("127.0.0.1:")}
    assert open_ones == {f"0.0.0.0:{one.axon}" for one in miners if one.axon}


@pytest.fixture
def upstream(name):
    if name != "svc-12":
        pytest.skip("upstream's engine runs on svc-12")


@pytest.fixture
def ask_axon(host, made):
    """Asks an instance's axon with bittensor's client and a wallet; returns what comes back."""
    python = "env HOME=/var/lib/molecule PYTHONDONTWRITEBYTECODE=1 /opt/precog/current/environment/bin/python"
    hotkeys = json.loads((made / "public.json").read_text())["hotkeys"]

    def ask(one, wallet):
        program = f"/var/lib/molecule/ask.py /var/lib/molecule/wallets {hotkeys[one.name]} {one.axon} {wallet}"
        return json.loads(host.check_output(f"{python} {program}").splitlines()[-1])

    return ask


@pytest.mark.usefixtures("upstream")
def test_a_validator_gets_predictions_through_each_axon_signed_by_its_own_hotkey(ask_axon, made, miners):
    hotkeys = json.loads((made / "public.json").read_text())["hotkeys"]
    assert len(set(hotkeys.values())) == len(miners)
    for one in miners:
        answer = ask_axon(one, "validator")
        assert answer["status"] == 200, one.name
        assert set(answer["predictions"]) == set(answer["intervals"]) == ASSETS


def refused(host, one):
    """How many requests an instance's axon has refused with status 403."""
    metrics = host.check_output(
        "python3 -c %s",
        f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{one.port}/metrics').read().decode())",
    )
    [count] = re.findall(r'^precog_axon_refused_requests_total\{status="403"\} (\S+)$', metrics, re.MULTILINE)
    return float(count)


@pytest.mark.usefixtures("upstream")
def test_callers_that_may_not_ask_get_403_counted_and_no_line_in_the_journal(ask_axon, host, miners):
    one = miners[0]
    before = refused(host, one)
    since = host.check_output("date +%s.%N")
    assert ask_axon(one, "stranger")["status"] == 403  # registered nowhere
    assert ask_axon(one, "idler")["status"] == 403  # registered, without a validator permit
    assert refused(host, one) == before + 2
    assert "ERROR" not in host.check_output("journalctl --since=@%s --unit=%s -o cat --no-pager", since, one.service)


@pytest.mark.usefixtures("upstream")
def test_it_runs_the_commit_that_is_asked_for_with_our_forward(host, made, instances):
    commit = (made / "upstream-commit").read_text().strip()
    checkout = f"/opt/precog/upstream/{commit}"
    command = host.file(f"/proc/{instances[1].pid(host)}/cmdline").content_string.split("\0")
    assert command[1] == f"{checkout}/source/precog/miners/miner.py"
    assert command[command.index("--forward_function") + 1] == "precog_fleet"
    assert host.check_output("readlink /opt/precog/current/upstream") == checkout
    assert host.check_output("ls -A /opt/precog/upstream") == commit
