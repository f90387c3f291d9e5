"""Asks the balancer for predictions until told to stop: `python3 clients.py PORT CLIENTS STOP-FILE`.

Each client keeps its connection, and asks again as soon as it is answered. Prints {"answers": N, "failures": [[begun,
ended, what came instead], ...]}, times in seconds since the epoch. Ends after five minutes in any case.
"""

import http.client
import json
import sys
import threading
import time
from pathlib import Path

LONGEST_S = 300
ASSETS = ("btc", "eth", "tao_bittensor")


def failure(connection):
    """Ask once; return "" for a right answer, or what came instead."""
    try:
        connection.request("POST", "/predict", b"{}")
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        return repr(error)
    if response.status != 200:
        return f"{response.status} {body[:80]!r}"
    return "" if set(json.loads(body)["predictions"]) == set(ASSETS) else repr(body)


def ask(port, stop, answers, failures):
    """Ask until there is the file, or it has taken too long."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    end = time.time() + LONGEST_S
    while not stop.exists() and time.time() < end:
        begun = time.time()
        told = failure(connection)
        if told:
            failures.append([begun, time.time(), told])
        else:
            answers.append(time.time())


def main():
    """Ask, and tell."""
    port, clients, stop = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    answers, failures = [], []
    threads = [threading.Thread(target=ask, args=(port, stop, answers, failures)) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"answers": len(answers), "failures": failures}))


main()
