"""Tells what the balancer knows of its servers: `python3 servers.py [SERVER STATUS SECONDS | watch STOP-FILE]`.

Prints {name: {"status": "UP", "NOLB" (drained) or "DOWN", "total": requests sent there}}. With a server and a status it
first waits until the server has it, and then tells "waited", seconds, too; it ends with 1 if that takes too long. With
`watch` it prints a list instead, {name: status} at the begin and at each change, until there is the file.
"""

import csv
import json
import socket
import sys
import time
from pathlib import Path

LONGEST_S = 300
SOCKET = "/run/precog-load-balancer/admin.sock"


def servers():
    """Return what there is to tell, by server."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(SOCKET)
        connection.sendall(b"show stat miners 4 -1\n")
        text = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    rows = csv.DictReader(text.lstrip("# ").splitlines())
    return {
        row["svname"].rpartition(":")[2]: {"status": row["status"].split()[0], "total": int(row["stot"])}
        for row in rows
    }


def watch(stop):
    """Return the statuses of all servers, each change of them, until there is the file."""
    seen, end = [], time.monotonic() + LONGEST_S
    while not stop.exists() and time.monotonic() < end:
        now = {name: about["status"] for name, about in servers().items()}
        if now not in seen[-1:]:
            seen.append(now)
        time.sleep(0.02)
    return seen


def main():
    """Wait if told to, and tell."""
    if sys.argv[1:2] == ["watch"]:
        print(json.dumps(watch(Path(sys.argv[2]))))
        return
    began = time.monotonic()
    found = servers()
    if len(sys.argv) > 1:
        name, status, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
        while found[name]["status"] != status:
            if time.monotonic() - began > seconds:
                sys.exit(f"{name} is {found[name]['status']} after {seconds} s")
            time.sleep(0.02)
            found = servers()
    print(json.dumps({**found, "waited": time.monotonic() - began}))


main()
