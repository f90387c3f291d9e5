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


def test_no_other_file_has_one(host, is_clean):
    places = "/opt/precog/releases /opt/precog/upstream /opt/precog/*.json /etc /run /tmp /var/tmp /var/log /root /home"
    left_out = "-path /etc/precog-miner -prune -o -path /run/log -prune -o"
    files = f"find {places} -xdev {left_out} -type f -size -4M -print0 2>/dev/null"
    text = host.check_output(f"{files} | xargs -0 cat 2>/dev/null | {PRINTABLE}; true")
    assert "PRECOG_MINER_DIGEST" in text
    assert is_clean(text)


def test_ansible_says_none(verbose_run, is_clean):
    said, report = verbose_run()
    assert "TASK [precog.fleet.miner_service : " in said
    assert is_clean(said)
    assert is_clean(report)
