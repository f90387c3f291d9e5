"""Files of somebody else that win over ours: the audit names them, before they take effect and after."""

from __future__ import annotations

from pathlib import Path

import pytest

AUDIT = Path(__file__).parents[4] / "playbooks/audit.yml"
RIVALS = {
    "vm.swappiness": "/etc/sysctl.d/zzz-rival.conf",
    "pam:*:nofile": "/etc/security/limits.d/zzz-rival.conf",
    "unit:sleeper.service:LimitNOFILE": "/etc/systemd/system/sleeper.service.d/zzz-rival.conf",
}


@pytest.fixture(scope="module")
def audit(play):
    """What the audit says while the rivals' files are there: 2, as something is not as wanted."""
    return play(AUDIT, code=2)


@pytest.mark.parametrize("name", RIVALS)
def test_the_audit_names_the_file_that_wins(audit, name):
    row = audit.settings[name]
    assert row["status"] == "overridden"
    assert RIVALS[name] in row["reason"]
    assert RIVALS[name] in audit.output


def test_all_else_is_as_wanted(audit):
    others = {name: row["status"] for name, row in audit.settings.items() if name not in RIVALS}
    assert set(others.values()) == {"ok"}, others
