"""A release that a killed run left untested: the guard brings the good one back, unless a run is at work."""

from __future__ import annotations

import json
import time

import pytest

GUARD, TIMER = "precog-fleet-guard.service", "precog-fleet-guard.timer"
UNTESTED = "bbbbbbbbbbbb"
PATIENCE_S = 60.0
ASK = "import sys, urllib.request as u; print(u.urlopen(u.Request(sys.argv[1], b'{}'), timeout=20).read().decode())"
# In place of a miner: it is ready at once, and all that it answers is wrong.
WRONG = """
import http.server, os, socket, sys
class Wrong(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"predictions": {"btc": -1.0}, "intervals": {}}')
server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Wrong, bind_and_activate=False)
if os.environ.get("LISTEN_FDS"):
    server.socket = socket.socket(fileno=3)
else:
    server.server_bind()
    server.server_activate()
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
    told.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"].replace("@", chr(0), 1))
server.serve_forever()
"""
# What a run has done when it is killed at its gate.
LEAVE = """
import json, os, pathlib, shutil, sys
os.chdir("/opt/precog")
good, untested, ports = os.readlink("current"), "releases/" + sys.argv[1], json.loads(sys.argv[2])
shutil.copytree(good, untested, symlinks=True)
for name, port in ports.items():
    folder = pathlib.Path(untested, "instances", name)
    (folder / "wrong.py").write_text(sys.argv[3])
    (folder / "start").write_text(f"#!/bin/sh\\nexec /usr/bin/python3 /opt/precog/{folder}/wrong.py {port}\\n")
past = json.loads(pathlib.Path("releases.json").read_text())
pathlib.Path("releases.json").write_text(json.dumps({**past, "trying": sys.argv[1]}))
os.symlink(untested, "next")
os.rename("next", "current")
"""


def ask(host, one):
    """What an instance predicts, by asset."""
    return json.loads(host.check_output("python3 -c %s %s", ASK, f"http://127.0.0.1:{one.port}/predict"))["predictions"]


def is_well(host, one):
    found = host.run("python3 -c %s %s", ASK, f"http://127.0.0.1:{one.port}/predict")
    return found.rc == 0 and min(json.loads(found.stdout)["predictions"].values(), default=0) > 0


def restart(host, miners):
    for one in miners:
        host.check_output("systemctl restart %s", one.service)


@pytest.fixture
def good(host, miners):
    """The release that is good; one that answers wrongly runs, as a killed run left it."""
    release = host.check_output("readlink /opt/precog/current")
    past = host.check_output("cat /opt/precog/releases.json")
    ports = json.dumps({one.name: one.port for one in miners})
    try:
        host.check_output("systemctl stop %s", TIMER)
        host.check_output("python3 -c %s %s %s %s", LEAVE, UNTESTED, ports, WRONG)
        restart(host, miners)
        yield release
    finally:
        # Where the guard did not: the release that is removed here would stay the current one.
        if host.check_output("readlink /opt/precog/current") != release:
            host.check_output("cd /opt/precog && ln -sfn %s next && mv -T next current", release)
            restart(host, miners)
        host.check_output("printf %%s %s >/opt/precog/releases.json", f"{past}\n")
        host.check_output("rm -rf /opt/precog/releases/%s && systemctl start %s", UNTESTED, TIMER)


@pytest.mark.full
def test_untested_release_is_gone_back_from_once_no_run_is_at_work(host, miners, good):
    current = "readlink /opt/precog/current"
    assert [ask(host, one) for one in miners] == [{"btc": -1.0}] * len(miners)
    host.check_output("flock /var/lib/precog-fleet/miner.lock systemctl start %s", GUARD)
    assert host.check_output(current) == f"releases/{UNTESTED}"
    assert [ask(host, one) for one in miners] == [{"btc": -1.0}] * len(miners)
    host.check_output("systemctl start %s", GUARD)
    assert host.check_output(current) == good
    deadline = time.monotonic() + PATIENCE_S
    while not all(is_well(host, one) for one in miners):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    noted = json.loads(host.check_output("cat /opt/precog/releases.json"))
    assert (noted["trying"], noted["withdrawn"]) == ("", UNTESTED)
    journal = host.check_output("journalctl --unit=%s --no-pager -o cat", GUARD)
    assert f"{UNTESTED} did not pass its gate" in journal
    assert "Starting" not in journal
