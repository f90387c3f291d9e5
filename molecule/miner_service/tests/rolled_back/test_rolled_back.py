"""After the rollback: all is as before, but what the miners wrote, which is kept."""

from __future__ import annotations


def test_units_releases_environments_and_the_user_are_gone(is_as_recorded, host):
    assert is_as_recorded()
    assert host.check_output("systemctl list-units --all --plain --no-legend 'precog-miner@*'") == ""
    for path in ("/opt/precog/current", "/opt/precog/releases", "/opt/precog/upstream", "/etc/precog-miner"):
        assert not host.file(path).exists, path
    assert "precog-miner" not in host.file("/etc/passwd").content_string


def test_nothing_runs_any_more(host):
    # In brackets, so that the look doesn't find itself.
    command = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -c '/opt/[p]recog' || true"
    assert host.check_output(command) == "0"


def test_what_the_miners_wrote_is_kept(host, instances):
    for one in instances:
        assert host.file(f"/var/lib/precog-miner/{one.name}").is_directory
    assert host.check_output("find /var/lib/precog-miner -name '*.sqlite' -printf x") != ""


def test_a_second_rollback_changes_nothing(roll_back):
    assert roll_back().stats["changed"] == 0
