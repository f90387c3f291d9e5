"""After site.yml the miners answer; one that somebody stopped is told by the audit, and started again by site.yml."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
AUDIT = ROOT / "playbooks/audit.yml"
SITE = ROOT / "site.yml"


def test_the_miner_answers(host):
    request = "urllib.request.urlopen('http://127.0.0.1:8092/predict', b'{}', 10)"
    answer = json.loads(host.check_output("python3 -c %s", f"import urllib.request;print({request}.read().decode())"))
    assert answer["predictions"].keys() == {"btc", "eth", "tao_bittensor"}
    assert all(low < answer["predictions"][name] < high for name, (low, high) in answer["intervals"].items())


def test_a_miner_that_somebody_stopped_is_told_and_started_again(host, play):
    host.check_output("systemctl stop precog-miner@main.socket precog-miner@main.service")
    found = play(AUDIT, code=2)
    assert (found.settings["miner:main"]["status"], found.settings["miner:main"]["where"]) == ("drifted", "run time")
    assert "playbooks/miner.yml brings them there" in found.output
    assert not host.service("precog-miner@main").is_running
    repaired = play(SITE).settings["miner:main"]
    assert (repaired["status"], repaired["after"].endswith(" active")) == ("changed", True)
    assert host.service("precog-miner@main").is_running
    assert play(AUDIT).settings["miner:main"]["status"] == "ok"
