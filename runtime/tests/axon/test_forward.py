"""The drop-in, as upstream's miner loads and calls it."""

import asyncio
import contextlib
import gc
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest
from axon.challenge import Challenge
from axon.loopback import EVERYTHING, ago, free_port, question, wait_until
from bittensor.core.axon import Axon
from processes import Manager
from simulated import SimulatedMarket

from precog_runtime.axon import answering
from precog_runtime.axon.forward import Background, asked, drop_in, forward_by
from precog_runtime.axon.verify import announced
from precog_runtime.errors import ModelError, SettingError
from precog_runtime.settings import Settings

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent.parent / "src"

DEADLINES = [
    (16.0, 15.0),
    (120.0, 119.0),
    (2.0, 1.5),
    (0.4, 0.3),
    (None, 9.0),
    (0, 9.0),
    (-3.0, 9.0),
    (float("nan"), 9.0),
    (float("inf"), 9.0),
    (121.0, 9.0),
]


@pytest.mark.parametrize(("timeout", "left"), DEADLINES, ids=str)
def test_the_deadline_is_the_callers_time_out_less_a_margin_if_it_is_sane(timeout, left):
    synapse = question()
    synapse.__dict__["timeout"] = timeout
    assert asked(synapse, 100.0, 10.0).deadline == pytest.approx(100.0 + left)


def test_what_is_asked_is_handed_on_unchecked():
    synapse = question(timestamp="any", assets=["x", "y"])
    synapse.dendrite.hotkey = "a caller"
    got = asked(synapse, 0.0, 10.0)
    assert (got.timestamp, got.assets, got.caller) == ("any", ["x", "y"], "a caller")
    synapse.dendrite = None
    assert asked(synapse, 0.0, 10.0).caller == ""


def test_what_is_ready_is_answered_without_the_runtimes_thread(background):
    forward = forward_by(background)
    asyncio.run(forward(question(timestamp="2000-01-01"), None))  # a refusal is ready at once
    request = question(timestamp=ago(40))
    again = None
    for _ in range(5):  # if prices came between the two, it was right not to be ready
        asyncio.run(forward(request, None))
        again = Challenge(timestamp=request.timestamp, assets=EVERYTHING, timeout=0.4)
        with held(background):
            asyncio.run(forward(again, None))
        if again.predictions:
            break
    assert again.predictions == request.predictions
    assert set(again.predictions) == set(EVERYTHING)


def test_a_runtime_that_does_not_come_to_it_costs_no_more_than_the_deadline(background):
    # One that no other test asks for: what is ready waits for nothing.
    waiting = question(timestamp=ago(2222))
    waiting.timeout = 0.4
    with held(background):
        got = asyncio.run(forward_by(background)(waiting, None))
    assert (got.predictions, got.intervals) == ({}, {})
    assert got is waiting


@pytest.mark.parametrize("leaves", [False, True], ids=["too late", "has gone"])
def test_a_request_that_is_cut_off_is_counted_and_logged(background, leaves):
    async def ask():
        asking = asyncio.ensure_future(forward_by(background)(waiting, None))
        await asyncio.wait({asking}, timeout=0.2 if leaves else 20)
        asking.cancel()
        await asyncio.wait({asking})

    def counted(name, **labels):
        return background.runtime.metrics.registry.get_sample_value(name, labels) or 0

    def figures():
        none = counted("precog_request_duration_seconds_count", front="axon", outcome="none")
        return none, counted("precog_errors_total", kind="late"), counted("precog_errors_total", kind="internal")

    # Where the prices of that time are known to be missing, nothing is waited for: they come a while after the start.
    # Asked for one asset alone, the answer for all three is not ready afterwards.
    old = question(timestamp=ago(3333 - 600 * leaves), assets=["btc"])
    wait_until(lambda: asyncio.run(forward_by(background)(old, None)).predictions)
    # Of a mark that nobody else asks for: what is ready waits for nothing.
    waiting = question(timestamp=ago(3333 - 600 * leaves))
    waiting.timeout = 20.0 if leaves else 0.4
    waiting.dendrite.hotkey = f"cut off {leaves}"
    before = figures()
    with held(background):
        asyncio.run(ask())
    assert [after - then for then, after in zip(before, figures(), strict=True)] == [1, 1, 0]
    background.runtime.log.store.flush()
    sql = "SELECT front, outcome, latency_s FROM requests WHERE caller = ?"
    [(front, outcome, latency_s)] = background.runtime.log.store.query(sql, (waiting.dendrite.hotkey,))
    assert (front, outcome) == ("axon", "none")
    assert 0.19 <= latency_s < 10


@contextlib.contextmanager
def held(background):
    """The runtime's thread is busy until the block ends."""
    busy, go_on = threading.Event(), threading.Event()

    def hold():
        busy.set()
        go_on.wait(20)

    background._loop.call_soon_threadsafe(hold)
    busy.wait(20)
    try:
        yield
    finally:
        go_on.set()


def test_a_bug_is_counted_and_not_raised(background, monkeypatch):
    def broken(*_args):
        raise RuntimeError("a bug")

    def bugs():
        return background.runtime.metrics.registry.get_sample_value("precog_errors_total", {"kind": "internal"}) or 0

    before = bugs()
    monkeypatch.setattr(background.runtime.engine, "ready", broken)
    got = asyncio.run(forward_by(background)(question(), None))
    assert (got.predictions, got.intervals) == ({}, {})
    assert bugs() == before + 1


def test_without_prices_the_answer_is_empty():
    class Nothing(SimulatedMarket):
        async def fetch(self, assets, start, end, timeout_s):
            return {}

    empty = Background(Settings(window_s=600, monitor_s=0, patience_s=0.1), Nothing(1, "calm"))
    try:
        got = asyncio.run(forward_by(empty)(question(), None))
        assert (got.predictions, got.intervals) == ({}, {})
    finally:
        empty.close()


def test_settings_that_cannot_be_used_are_told_at_the_start():
    with pytest.raises(ModelError):
        Background(Settings(model="no such model"))


def test_an_announced_request_has_its_prices_fetched_once_before_it_is_answered():
    class Counting(SimulatedMarket):
        held = False
        fetches = 0

        async def fetch(self, assets, start, end, timeout_s):
            self.fetches += 1
            return {} if self.held else await super().fetch(assets, start, end, timeout_s)

    source = Counting(1, "calm")
    settings = Settings(window_s=600, monitor_s=0, mark_s=0, poll_s=300, fresh_s=1)
    background = Background(settings, source)
    try:
        engine = background.runtime.engine
        wait_until(lambda: max(engine.ages().values()) < 60)
        wait_until(engine.behind)
        source.held, before = True, source.fetches
        for _ in range(20):
            background.expect()
        wait_until(lambda: source.fetches > before)
        assert source.fetches == before + 1
        source.held = False
        wait_until(lambda: (background.expect(), not engine.behind())[1])
        assert max(engine.ages().values()) <= 2
        assert background.expect in announced
    finally:
        background.close()
    assert background.expect not in announced


def test_what_is_loaded_is_left_out_of_pythons_collections():
    gc.unfreeze()
    try:
        Background(Settings(window_s=600, monitor_s=0), SimulatedMarket(1, "calm")).close()
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()


def test_metrics_can_be_scraped_and_a_port_in_use_is_told():
    port = free_port()
    settings = Settings(window_s=600, monitor_s=0, metrics_port=port)
    served = Background(settings, SimulatedMarket(1, "calm"))
    scraper = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        asyncio.run(forward_by(served)(question(), None))
        scraper.request("GET", "/metrics")
        assert 'precog_request_duration_seconds_count{front="axon"' in scraper.getresponse().read().decode()
        with pytest.raises(SettingError, match=f"can't listen at 127.0.0.1:{port}"):
            Background(settings, SimulatedMarket(1, "calm"))
    finally:
        served.close()  # with the scraper's connection open, as Prometheus keeps it
        scraper.close()
    assert not served._thread.is_alive()


@contextlib.contextmanager
def upstream_like(folder, port, *optimised, descriptors=0, **variables):
    """Run a miner in upstream's manner; yield it as it is before its axon starts.

    :param descriptors: its `ulimit -n`; 0 leaves it as it is.
    """
    home = folder / "home"
    home.mkdir()
    bound = ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh"] if descriptors else []
    miner = subprocess.Popen(
        [*bound, sys.executable, *optimised, str(HERE / "upstream_like.py"), str(port)],
        env={
            "HOME": str(home),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{SOURCE}:{HERE.parent}",
            "PYTHONDONTWRITEBYTECODE": "1",
            **variables,
        },
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert told(miner) == {"made": True}
        yield miner
    finally:
        miner.kill()
        miner.communicate()


def told(miner):
    return json.loads(next(line for line in miner.stdout if line.startswith("{")))


def let_start(miner):
    miner.stdin.write("\n")
    miner.stdin.flush()


@pytest.mark.parametrize("optimised", [[], ["-O"]], ids=["plain", "-O"])
def test_upstreams_way_in_a_process_of_its_own(tmp_path, optimised):
    metrics_port = free_port()
    variables = {"PRECOG_RUNTIME_METRICS_PORT": str(metrics_port)}
    with upstream_like(tmp_path, free_port(), *optimised, **variables) as miner:
        let_start(miner)
        assert told(miner) == {"answered": [200, sorted(EVERYTHING)], "unsigned": 401, "unknown": 403}
        metrics = urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=10).read().decode()
        for status in ("401", "403"):
            assert f'precog_axon_refused_requests_total{{status="{status}"}} 1.0' in metrics
        miner.send_signal(signal.SIGINT)
        miner.wait(10)
        assert "precog_runtime" not in miner.stderr.read()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert {path.name for path in (tmp_path / "home").iterdir()} == {".bittensor", "wallets"}


def test_systemd_hears_of_a_miner_while_its_axon_answers(tmp_path):
    port, metrics_port = free_port(), free_port()
    variables = {"PRECOG_RUNTIME_METRICS_PORT": str(metrics_port), "WATCHDOG_USEC": "300000"}
    with (
        Manager(str(tmp_path / "notify")) as manager,
        upstream_like(tmp_path, port, NOTIFY_SOCKET=manager.address, **variables) as miner,
    ):
        # The metrics are served by now, and aren't taken for the axon.
        assert b"precog" in urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=10).read()
        assert manager.hear(within_s=5 * answering.LOOK_S) == {}
        let_start(miner)
        assert manager.hear() == {"READY": "1", "STATUS": f"The axon answers at port {port}"}
        assert asyncio.run(answering.answers(("127.0.0.1", port)))
        assert told(miner)["answered"][0] == 200
        for _ in range(5):
            assert manager.hear() == {"WATCHDOG": "1"}
        miner.send_signal(signal.SIGUSR1)
        wait_until(lambda: not manager.hear(within_s=1.0))
        assert not asyncio.run(answering.answers(("127.0.0.1", port), within_s=0.5))
        assert miner.poll() is None
        miner.send_signal(signal.SIGINT)
        assert manager.hear() == {"STOPPING": "1"}
        said = "".join(miner.communicate(timeout=20))
        assert "UnknownSynapse" not in said, "the axon logs each look at it as an error"


def test_an_unknown_bittensor_is_not_served_with_lax_verification(monkeypatch):
    async def default_verify(self, synapse):
        """What another version verifies with."""

    def running():
        return [each for each in threading.enumerate() if each.name == "precog-runtime"]

    monkeypatch.setattr(Axon, "default_verify", default_verify)
    before = running()
    with pytest.raises(SettingError, match="can't be verified strictly"):
        drop_in(Settings(), SimulatedMarket(1, "mixed"))
    assert running() == before
    assert Axon.default_verify is default_verify
