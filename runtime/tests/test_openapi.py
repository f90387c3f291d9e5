"""The OpenAPI document that `serve` serves says exactly what it answers: schemathesis asks it, rightly and wrongly."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from processes import call, running, wait_until

from precog_runtime import openapi, serve
from precog_runtime.settings import Settings

COMMAND = Path(sys.executable).parent / "schemathesis"
OPTIONS = (
    *("--generation-deterministic", "--max-examples", "10", "--suppress-health-check", "all", "--warnings", "off"),
    "--no-color",
    # A timestamp of the right form may still be too far from now.
    *("--exclude-checks", "positive_data_acceptance"),
)


def test_schemathesis_finds_no_answer_that_the_document_does_not_describe(tmp_path):
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PRECOG"))}
    with (
        running("simulate-market", "--port", 0, "--rate-limit", 0) as market,
        running("serve", "--port", 0, "--api-url", market.url, "--window-s", 7200, "--monitor-s", 0.2) as command,
    ):
        wait_until(lambda: call(f"{command.url}/readyz")[0] == 200)
        ended = subprocess.run(
            [COMMAND, "run", f"{command.url}/openapi.json", *OPTIONS],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"Tested: {len(openapi.document()['paths']) - 1}" in ended.stdout  # all but the document itself


def test_the_document_has_all_routes_and_no_others():
    application = serve.Server(SimpleNamespace(settings=Settings())).application()
    routes = {
        (route.method.lower(), route.resource.canonical)
        for route in application.router.routes()
        if route.method != "HEAD"
    }
    told = {(method, path) for path, operations in openapi.document()["paths"].items() for method in operations}
    assert told == routes
