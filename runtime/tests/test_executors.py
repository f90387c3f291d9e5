"""The setting `executor`: models run where the operator's function says, in `serve` and behind the axon alike."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
import types
from concurrent.futures import BrokenExecutor, Executor, Future
from pathlib import Path

import pytest
from processes import call, done, running, wait_until
from simulated import SimulatedMarket

from precog_runtime.errors import SettingError
from precog_runtime.runtime import open_runtime
from precog_runtime.settings import Settings
from precog_runtime.types import Request
from precog_runtime.workers import executors
from precog_runtime.workers.pool import MOST_ABANDONED

MODEL = """
import os
from pathlib import Path
from precog_runtime.types import Forecast

class Told:
    name, lookback_s, kind = "told", 60, "numpy"

    def forecast(self, asset, timestamp, series):
        (Path(__file__).parent / f"by-{os.getpid()}").touch()
        last = float(series.prices[-1])
        return Forecast(last, last * 0.99, last * 1.01)
"""
EXECUTOR = """
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

class Pool(ProcessPoolExecutor):
    def shutdown(self, wait=True, **more):
        (Path(__file__).parent / f"shut-down-{wait}").touch()
        super().shutdown(wait, **more)

def pool():
    return Pool(2, mp_context=get_context("spawn"))

def broken():
    raise ConnectionError("no scheduler")

nothing = dict
number = 7
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "told_model.py").write_text(MODEL)
    (tmp_path / "our_pool.py").write_text(EXECUTOR)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in ("told_model", "our_pool"):
        sys.modules.pop(name, None)


def processes(folder):
    return {int(path.name.removeprefix("by-")) for path in folder.glob("by-*")}


def test_serve_has_its_forecasts_made_by_the_executors_processes(folder):
    model, executor = f"{folder / 'told_model.py'}:Told", f"{folder / 'our_pool.py'}:pool"
    with running("simulate-market", "--port", 0) as market:
        options = ("--api-url", market.url, "--window-s", 600, "--model", model, "--executor", executor)
        with running("serve", "--port", 0, *options) as command:
            wait_until(lambda: call(f"{command.url}/readyz")[0] == 200)
            answer = call(f"{command.url}/predict", {})[1]
            assert set(answer["models"].values()) == {"told"}, answer
            assert processes(folder)
            assert command.process.pid not in processes(folder)
            assert command.end() == 0
    assert (folder / "shut-down-False").exists()
    for pid in processes(folder):
        wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists())


def test_a_runtime_takes_it_from_its_settings_as_behind_the_axon(folder):
    model, executor = f"{folder / 'told_model.py'}:Told", f"{folder / 'our_pool.py'}:pool"
    settings = Settings(window_s=600, monitor_s=0, mark_s=0, model=model, executor=executor)

    async def test():
        async with open_runtime(settings, SimulatedMarket(1, "calm")) as runtime:
            await runtime.attempted.wait()
            request = Request(None, settings.assets, runtime.engine.clock() + 30)
            return await runtime.engine.answer(request, "test")

    answer = asyncio.run(test())
    assert {each.model for each in answer.assets.values()} == {"told"}
    assert processes(folder)
    assert os.getpid() not in processes(folder)


def test_a_module_on_the_path_can_be_named_too(folder):
    sys.path.append(str(folder))
    with executors.made("our_pool:pool") as executor:
        assert executor.submit(os.getpid).result() != os.getpid()


def test_none_is_made_if_none_is_named():
    with executors.made("") as executor:
        assert executor is None


WRONG = [
    ("our_pool", "names no function. Give path/to/file.py:NAME or package.module:NAME"),
    ("nowhere.py:pool", "there is no file"),
    ("no_such_module:pool", "no_such_module can't be imported: ModuleNotFoundError"),
    ("our_pool:pol", "has no 'pol'. Did you mean pool?"),
    ("our_pool:number", "it is a int. Name a function"),
    ("our_pool:broken", "it failed: ConnectionError: no scheduler"),
    ("our_pool:nothing", "it returned a dict. Return a concurrent.futures.Executor"),
]


@pytest.mark.parametrize(("name", "told"), WRONG)
def test_what_is_no_executor_is_told(folder, name, told):
    sys.path.append(str(folder))
    with pytest.raises(SettingError) as caught, executors.made(name):
        pass
    assert f"executor is {name!r}: " in str(caught.value)
    assert told in str(caught.value)


def test_serve_ends_with_2_where_there_is_no_such_executor():
    ended = done("serve", "--port", 0, "--executor", "no_such_module:pool")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "executor is 'no_such_module:pool'" in ended.stderr
    assert "Traceback" not in ended.stderr


class Lost(Executor):
    """A cluster's client: what it is given while its scheduler is away never ends, and then it is closed for good."""

    made = 0
    reachable = True

    def __init__(self):
        if not type(self).reachable:
            raise ConnectionError("no scheduler")
        type(self).made += 1
        self.state = "open"

    def submit(self, fn, /, *args, **kwargs):
        if self.state == "closed":
            raise RuntimeError("the client is closed")
        future = Future()
        if self.state != "queued":
            future.set_running_or_notify_cancel()
        if self.state == "open":
            future.set_result(fn(*args, **kwargs))
        return future


@pytest.fixture
def cluster(monkeypatch):
    class Cluster(Lost):
        pass

    monkeypatch.setattr(executors, "RENEW_S", 0.05)
    monkeypatch.setattr(executors, "PROBE_S", 0.0)
    module = types.ModuleType("our_cluster")
    module.cluster = Cluster
    monkeypatch.setitem(sys.modules, "our_cluster", module)
    return Cluster


@pytest.mark.full
def test_client_that_lost_its_scheduler_for_a_while_makes_forecasts_again(cluster, caplog):
    """It hangs, is closed, can't be made for a while, and then can."""
    settings = Settings(window_s=600, monitor_s=0, mark_s=0, poll_s=300, executor="our_cluster:cluster", deadline_s=0.6)

    async def test():
        async with open_runtime(settings, SimulatedMarket(1, "calm")) as runtime:
            engine = runtime.engine

            async def ask(ago_s):
                request = Request(int(time.time()) - ago_s, settings.assets, engine.clock() + 0.6)
                return {one.degraded for one in (await engine.answer(request, "test")).assets.values()}

            await runtime.attempted.wait()
            assert await ask(1) == {""}
            client = engine._forecaster._pool._executor._current
            client.state, cluster.reachable = "connecting", False
            ends = time.monotonic() + 20
            while engine._forecaster._pool._abandoned < MOST_ABANDONED:
                assert time.monotonic() < ends
                assert all(await asyncio.gather(*(ask(10 + number) for number in range(6))))
                await asyncio.sleep(0.4)
            client.state = "closed"
            for number in range(5):
                assert all(await ask(30 + number))
                await asyncio.sleep(0.1)
            cluster.reachable, ends, number = True, time.monotonic() + 10, 40
            while await ask(number) != {""}:
                assert time.monotonic() < ends
                await asyncio.sleep(0.05)
                number += 1
            assert engine._forecaster._pool._abandoned == 0

    asyncio.run(test())
    assert cluster.made == 2
    told = [each.getMessage() for each in caplog.records if each.name == executors.__name__]
    assert told == [
        "executor our_cluster:cluster was lost (the client is closed), and is being made again",
        "executor is 'our_cluster:cluster': it failed: ConnectionError: no scheduler",
        "executor our_cluster:cluster was made again",
    ]


def test_pool_whose_process_was_killed_is_made_again(folder, monkeypatch):
    monkeypatch.setattr(executors, "RENEW_S", 0.05)
    sys.path.append(str(folder))
    with executors.made("our_pool:pool") as executor:
        first = executor.submit(os.getpid).result(30)
        with pytest.raises(BrokenExecutor):
            executor.submit(os.kill, first, signal.SIGKILL).result(30)

        def answered():
            try:
                return executor.submit(os.getpid).result(30)
            except BrokenExecutor:
                return 0

        assert wait_until(answered) != first


@pytest.mark.usefixtures("cluster")
def test_dask_client_that_is_closed_is_made_again_though_it_takes_tasks():
    """A closed one raises once, and from then on takes tasks that never end (distributed 2026.8)."""
    with executors.made("our_cluster:cluster") as executor:
        client = executor._current
        client.state, client._client = "connecting", types.SimpleNamespace(status="running")
        hanging = executor.submit(os.getpid)
        client._client.status = "closed"
        with pytest.raises(BrokenExecutor):
            executor.submit(os.getpid)
        with pytest.raises(BrokenExecutor):
            hanging.result(5)
        wait_until(lambda: executor._current is not None)
        assert executor.submit(os.getpid).result(5) == os.getpid()


def test_task_that_is_cancelled_does_not_lose_the_executor(cluster):
    with executors.made("our_cluster:cluster") as executor:
        executor._current.state = "queued"
        task = executor.submit(os.getpid)
        assert task.cancel()
        assert task.cancelled()
        executor._current.state = "open"
        assert executor.submit(os.getpid).result(1) == os.getpid()
    assert cluster.made == 1
