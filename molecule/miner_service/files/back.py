"""Sends a unit's process a signal, and prints the seconds until another process answers: `back.py SIGNAL UNIT PORT`."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from datetime import datetime, timezone

PATIENCE_S = 90


def pid_of(unit):
    """Return the main process of a unit, 0 while there is none."""
    return int(subprocess.run(["systemctl", "show", "-P", "MainPID", unit], capture_output=True, check=True).stdout)


def answers(port):
    """Tell whether a prediction comes back."""
    question = {"timestamp": datetime.now(timezone.utc).isoformat(), "assets": ["btc"]}
    url = f"http://127.0.0.1:{port}/predict"
    request = urllib.request.Request(url, json.dumps(question).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=1) as response:
            return "btc" in json.load(response)["predictions"]
    except OSError:
        return False


def main():
    """Kill, wait, print."""
    number, unit, port = getattr(signal, sys.argv[1]), sys.argv[2], int(sys.argv[3])
    before = pid_of(unit)
    began = time.monotonic()
    os.kill(before, number)
    while pid_of(unit) in (0, before) or not answers(port):
        if time.monotonic() - began > PATIENCE_S:
            sys.exit(f"{unit} does not answer again within {PATIENCE_S} s")
        time.sleep(0.05)
    print(f"{time.monotonic() - began:.1f}")


if __name__ == "__main__":
    main()
