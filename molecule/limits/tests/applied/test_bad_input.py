"""What can't be is named, what can be still lands, and check mode says the same as the real run."""

from __future__ import annotations

import pytest

PAM = "/etc/security/limits.d/99-zz-precog-fleet.conf"
NR_OPEN = "/proc/sys/fs/nr_open"
BAD = {
    "pam:operator:nofle": ("unknown", "is nofile meant?"),
    "pam:operator:nproc": ("refused", "soft 2 is above hard 1"),
    "pam:operator:nofile": ("refused", "fs.nr_open = "),
    "unit:molecule-minor.service:LimitNOFILE": ("unknown", "is molecule-miner.service meant?"),
}


@pytest.fixture(scope="module", params=[True, False], ids=["check", "real"])
def check(request):
    """Whether the role runs in check mode; the real run comes last."""
    return request.param


@pytest.fixture(scope="module")
def run(check, host, converge):
    """A run with bad input and good; then the host is brought back to what the scenario applied."""
    too_many = int(host.file(NR_OPEN).content_string) + 1
    parameters = {"operator": {"nofle": 1, "nproc": "2:1", "nofile": too_many, "core": 7}}
    services = {"molecule-minor": {"nofile": 5}}
    yield converge({"limits_parameters": parameters, "limits_services": services}, check=check, expect_failure=True)
    if not check:
        converge()


@pytest.mark.once
@pytest.mark.parametrize("name", BAD)
def test_what_can_not_be_is_named_with_its_reason(run, name):
    status, reason = BAD[name]
    assert run.settings[name]["status"] == status
    assert reason in run.settings[name]["reason"]
    assert f"{name} = " in run.output


@pytest.mark.once
def test_the_rest_lands_and_nothing_else_is_kept(run, check, host):
    assert run.settings["pam:operator:core"]["status"] == "changed"
    assert "Traceback" not in run.output
    text = host.file(PAM).content_string
    assert ("operator\t-\tcore\t7" in text) == (not check)
    assert "operator\t-\tnofile" not in text
