"""The unit that a machine of its own would get, put to the real systemd of each Debian: with rivals beside it, among
them one that starts after its own target, as TLP does."""

from __future__ import annotations

import json
import time

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._settings.sysfs import unit

RIVALS = {
    "tlp.service": f"After={unit.TARGET}",
    "tuned.service": "After=network.target",
    "power-profiles-daemon.service": f"Before={unit.TARGET}",
}
SERVICE = "[Unit]\n{}\n[Service]\nType=oneshot\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
FOLDER = "/sys/devices/system/cpu/cpufreq"


@pytest.fixture(scope="module")
def installed(host):
    """The unit and its rivals on the host, for a policy that is not there; taken away again at the end."""
    files = {
        unit.FILE: unit.render([(f"{FOLDER}/policy4711/scaling_governor", "performance")]),
        unit.WANT: unit.DROP_IN,
        **{f"/etc/systemd/system/{name}": SERVICE.format(order) for name, order in RIVALS.items()},
    }
    program = (
        "import json, os, sys\n"
        "for path, text in json.loads(sys.argv[1]).items():\n"
        "    os.makedirs(os.path.dirname(path), exist_ok=True)\n"
        "    open(path, 'w').write(text)\n"
    )
    host.check_output("python3 -c %s %s", program, json.dumps(files))
    host.check_output(f"systemctl daemon-reload && systemctl enable {' '.join(RIVALS)}")
    yield unit.NAME
    host.check_output(f"systemctl disable {' '.join(RIVALS)} && rm {' '.join(files)} && systemctl daemon-reload")


def test_systemd_finds_nothing_wrong_and_no_circle(host, installed):
    done = host.run(f"systemd-analyze verify --man=no {unit.TARGET} {installed}")
    assert done.rc == 0, done.stderr
    assert "cycle" not in done.stderr
    assert installed not in done.stderr


def test_the_target_starts_it_after_the_rivals(host, installed):
    wanted = host.check_output("systemctl show --property=Wants --value multi-user.target").split()
    after = host.check_output(f"systemctl show --property=After --value {installed}").split()
    assert installed in wanted
    assert {*RIVALS, unit.TARGET} <= set(after)


def test_a_policy_that_is_absent_fails_nothing(host, installed):
    host.check_output(f"systemctl start {installed}")
    assert host.check_output(f"systemctl show --property=Result --value {installed}") == "success"
    assert host.run(f"systemctl is-failed {installed}").stdout.strip() == "inactive"


def ended(host, installed):
    """Return when the unit's last run ended, in microseconds since boot; 0: it never ran."""
    return int(host.check_output(f"systemctl show --property=ExecMainExitTimestampMonotonic --value {installed}"))


def test_starting_the_target_as_a_boot_does_starts_it(host, installed):
    before = ended(host, installed)
    host.check_output(f"systemctl start {unit.TARGET}")
    # The unit comes after the target, so systemctl returns before the unit has run.
    deadline = time.monotonic() + 30
    while ended(host, installed) <= before:
        assert time.monotonic() < deadline, host.check_output(f"systemctl status {installed} || true")
        time.sleep(0.1)
