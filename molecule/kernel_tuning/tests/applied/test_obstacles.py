"""A disk that can't be written: the role says so before it changes anything, in check mode too."""

from __future__ import annotations

import pytest

FILE = "/etc/sysctl.d/99-zz-precog-fleet.conf"
GOOD = {"net.ipv4.tcp_keepalive_time": 611}
READ_ONLY = "mount --bind /etc/sysctl.d /etc/sysctl.d && mount -o remount,ro,bind /etc/sysctl.d"
FULL = "cd /var/lib/precog-fleet && mount -t tmpfs -o size=4k none . && dd if=/dev/zero of=$PWD/full bs=4k"


@pytest.mark.once
@pytest.mark.parametrize("check", [True, False], ids=["check", "real"])
@pytest.mark.parametrize(
    ("obstacle", "folder", "told"),
    [(READ_ONLY, "/etc/sysctl.d", "Read-only file system"), (FULL, "/var/lib/precog-fleet", "No space left on device")],
    ids=["read-only", "full"],
)
def test_what_can_not_be_written_changes_nothing(host, kernel, converge, check, obstacle, folder, told):
    before = host.file(FILE).content_string
    host.run(obstacle)
    try:
        run = converge({"kernel_tuning_parameters": GOOD}, check=check, expect_failure=True)
    finally:
        host.check_output("umount %s", folder)
    assert told in run.output
    assert "Nothing was changed" in run.output
    assert kernel["net.ipv4.tcp_keepalive_time"] == "600"
    assert host.file(FILE).content_string == before
