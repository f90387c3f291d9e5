"""No part of a secret is anywhere but in its own file and its own process."""

from __future__ import annotations

import pytest

PRINTABLE = "tr -cd '[:print:]\\n'"  # of binary files, what a text may have


@pytest.fixture
def is_clean(secrets):
    """Tell whether no secret is in a text. It is searched here: a search there would itself be in the journal."""
    return lambda text: [name for name, secret in secrets.items() if secret in text] == []


def test_the_search_finds_what_is_there(host, miners, is_clean, secrets):
    for one in miners:
        assert one.environ(host)["PRECOG_RUNTIME_API_KEY"] == secrets["api_key"]
        assert not is_clean(host.check_output(f"tr '\\0' '\\n' </proc/{one.pid(host)}/environ"))


def test_the_journal_has_none(host, is_clean):
    journal = host.check_output(f"journalctl --all --no-pager -o export | {PRINTABLE}")
    assert "precog-miner@" in journal
    assert is_clean(journal)


def test_no_command_line_has_one(host, is_clean):
    lines = host.check_output("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '")
    assert "precog" in lines
    assert is_clean(lines)


def test_no_environment_that_others_can_read_has_one(host, is_clean):
    script = "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n'; true"
    seen = host.check_output("runuser -u nobody -- sh -c %s", script)
    assert "precog" in seen
    assert is_clean(seen)


def test_systemd_shows_none(host, instances, is_clean):
    for one in instances:
        assert is_clean(host.check_output("systemctl show --all %s; systemctl cat %s", one.service, one.service))


def test_no_other_file_of_the_host_has_one(host, instances, miners, secrets, look):
    """All are looked into. What to look for comes by standard input: a command line would itself be in the journal."""
    words = "".join(f"{secret}\n" for secret in secrets.values())
    look.ssh("sudo", "sh", "-c", "umask 077; cat >/run/molecule-secrets", stdin=words)
    skipped = "--exclude-dir=proc --exclude-dir=sys --exclude=molecule-secrets --devices=skip"
    try:
        found = host.run(f"grep -rlaF {skipped} -f /run/molecule-secrets /").stdout.splitlines()
    finally:
        host.check_output("rm /run/molecule-secrets")
    hotkeys = [f"/etc/precog-miner/{one.name}/wallets/molecule/hotkeys/{one.hotkey}" for one in instances if one.hotkey]
    assert sorted(found) == sorted([*hotkeys, *(f"/etc/precog-miner/{one.name}.env" for one in miners)])


@pytest.fixture
def others(vault, verbose_run, is_clean):
    """Other secrets than those in force: each miner's hotkey is another one's, and another key of the API."""
    hotkeys = dict(vault["miner_service_hotkeys"])
    changed = dict(zip(hotkeys, [*list(hotkeys.values())[1:], *list(hotkeys.values())[:1]]))
    yield {"miner_service_hotkeys": changed, "miner_service_api_key": "molecule0new0key0of0the0api"}
    said, report = verbose_run()
    assert is_clean(said + report)


def keys(host, miners):
    """The key of the API that each miner's process was given."""
    return [one.environ(host)["PRECOG_RUNTIME_API_KEY"] for one in miners]


@pytest.mark.full
def test_ansible_says_none_where_they_change(host, miners, verbose_run, others, is_clean):
    said, report = verbose_run(others)
    assert "TASK [precog.fleet.miner_service : " in said
    assert "changed=1 " in said
    assert keys(host, miners) == [others["miner_service_api_key"]] * len(miners)
    assert is_clean(said + report)
    assert others["miner_service_api_key"] not in said + report


@pytest.mark.full
def test_ansible_says_none_where_a_release_fails_and_all_are_as_before(
    host, miners, verbose_run, others, is_clean, secrets
):
    bad = {"PRECOG_RUNTIME_API_URL": "http://127.0.0.1:8900/v4", "PRECOG_RUNTIME_POLL_S": "often"}
    said, report = verbose_run({**others, "miner_service_variables": bad}, code=2)
    assert "This host is back on" in " ".join(said.split())
    assert keys(host, miners) == [secrets["api_key"]] * len(miners)
    assert is_clean(said + report)
    assert others["miner_service_api_key"] not in said + report


@pytest.mark.full
def test_a_key_that_is_emptied_is_taken_away_and_no_process_keeps_it(host, miners, converge, others):
    """The fixture brings it back."""
    assert others
    before = [one.pid(host) for one in miners]
    converge({"miner_service_api_key": ""})
    for one, pid in zip(miners, before):
        assert not host.file(f"/etc/precog-miner/{one.name}.env").exists
        assert one.pid(host) != pid
        assert "PRECOG_RUNTIME_API_KEY" not in one.environ(host)
    assert converge({"miner_service_api_key": ""}).stats["changed"] == 0
