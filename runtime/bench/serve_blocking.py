"""The blocking baseline as an HTTP server: `serve_blocking.py URL-OF-THE-API`. Prints {"listening": ...}."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from types import SimpleNamespace

from aiohttp import web
from axon_blocking import Blocking

from precog_runtime import timestamps
from precog_runtime.settings import Settings


async def main(api: str) -> None:
    """Serve until killed."""
    blocking = Blocking(api)

    async def predict(request: web.Request) -> web.Response:
        asked = await request.json()
        second = asked.get("timestamp", int(time.time()))
        stamp = second if isinstance(second, str) else timestamps.text(second)
        assets = list(asked.get("assets", Settings.assets))
        synapse = SimpleNamespace(timestamp=stamp, assets=assets, predictions=None, intervals=None)
        await blocking.forward(synapse)
        told = {"timestamp": stamp, "predictions": synapse.predictions, "intervals": synapse.intervals}
        return web.json_response({**told, "age_s": {}, "degraded": {}, "refused": {}})

    async def healthz(_request: web.Request) -> web.Response:
        return web.json_response({})

    application = web.Application()
    application.router.add_post("/predict", predict)
    application.router.add_get("/healthz", healthz)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    print(json.dumps({"listening": f"http://127.0.0.1:{runner.addresses[0][1]}"}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
