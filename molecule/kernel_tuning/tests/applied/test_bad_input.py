"""What can't be is named, what can be still lands, and check mode says the same as the real run."""

from __future__ import annotations

import pytest

FILE = "/etc/sysctl.d/99-zz-precog-fleet.conf"
GOOD = {"net.ipv4.tcp_keepalive_time": 611}
BAD = {
    "net.ipv4.tcp_wmen": (3, "unknown", "is net.ipv4.tcp_wmem meant?"),
    "net.ipv4.tcp_keepalive_probes": (-1, "refused", "EINVAL"),
    "net.ipv4.nothing_like_it": (1, "unknown", "no such key"),
    "net.ipv4.udp_rmem_min": (True, "refused", "write 0 or 1"),
    "net.ipv4.conf.lo.arp_filter": ({"a": 1}, "refused", "dictionary"),
    "net.ipv4.ping_group_range": ([1], "refused", "2 field(s)"),
    "net.ipv4.../tcp_ecn": (1, "refused", "must stay below /proc/sys"),
}


@pytest.fixture(scope="module", params=[True, False], ids=["check", "real"])
def check(request):
    """Whether the role runs in check mode; the real run comes last."""
    return request.param


@pytest.fixture(scope="module")
def run(check, converge):
    """A run with bad input and good; then the host is brought back to what the scenario applied."""
    parameters = {**GOOD, **{name: value for name, (value, _status, _reason) in BAD.items()}}
    yield converge({"kernel_tuning_parameters": parameters}, check=check, expect_failure=True)
    if not check:
        converge()


@pytest.mark.once
@pytest.mark.parametrize("name", BAD)
def test_what_can_not_be_is_named_with_its_reason(run, name):
    _value, status, reason = BAD[name]
    assert run.settings[name]["status"] == status
    assert reason in run.settings[name]["reason"]
    assert f"{name} = " in run.output


@pytest.mark.once
def test_the_rest_lands_and_nothing_else_is_kept(run, check, host, kernel):
    assert run.settings["net.ipv4.tcp_keepalive_time"]["status"] == "changed"
    assert "Traceback" not in run.output
    text = host.file(FILE).content_string
    assert (kernel["net.ipv4.tcp_keepalive_time"] == "611") == (not check)
    assert ("net.ipv4.tcp_keepalive_time = 611" in text) == (not check)
    assert not any(name in text for name in BAD)
