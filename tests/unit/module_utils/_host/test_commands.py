"""Commands of the host: what they are given, and how they end."""

from __future__ import annotations

import inspect
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.precog.fleet.plugins.module_utils._host import commands
from ansible_collections.precog.fleet.plugins.module_utils._host.host import Host, HostError

ENV = {"LC_ALL": "C", "PATH": "/usr/bin:/bin"}
MODULE_UTILS = Path(commands.__file__).parents[1]


def python(code, **options):
    return commands.run([sys.executable, "-c", code], env=ENV, **options)


def test_command_gets_exactly_its_environment_and_no_input(monkeypatch):
    monkeypatch.setenv("SECRET", "x")
    done = commands.run(["sh", "-c", "env; cat; pwd"], env=ENV, cwd="/usr")
    assert {line.split("=")[0] for line in done.stdout.splitlines()} == {"LC_ALL", "PATH", "PWD", "/usr"}


def test_output_and_code_are_returned():
    code = "import sys; print('a\\r\\nb'); sys.stderr.buffer.write(b'\\xff\\rx'); sys.exit(3)"
    assert python(code, errors="backslashreplace") == (3, "a\nb\n", "\\xff\nx")


def test_command_that_takes_too_long_is_killed():
    began = time.monotonic()
    with pytest.raises(OSError, match=r"it was killed after 0\.3 s without an end"):
        python("import time; time.sleep(60)", seconds=0.3)
    assert time.monotonic() - began < 20


def test_every_command_has_a_time_out():
    """Without a word a command may take this long; the compiler's processes are watched by what starts them."""
    assert inspect.signature(commands.run).parameters["seconds"].default == 300
    calls = {path.name: path.read_text().count("commands.start(") for path in MODULE_UTILS.rglob("*.py")}
    assert {name: count for name, count in calls.items() if count} == {"compiling.py": 1}


def test_a_command_of_a_host_that_hangs_is_a_failure_with_its_name(monkeypatch):
    monkeypatch.setattr(commands.run, "__kwdefaults__", {**commands.run.__kwdefaults__, "seconds": 0.3})
    with pytest.raises(HostError, match=r"cannot run sleep: it was killed after 0\.3 s without an end"):
        Host().run(["sleep", "60"])


@pytest.mark.parametrize("alone", [False, True])
def test_command_of_its_own_session_leads_it(alone):
    assert python("import os; print(os.getsid(0) == os.getpid())", alone=alone).stdout == f"{alone}\n"


def test_missing_command_is_an_os_error():
    with pytest.raises(FileNotFoundError):
        commands.run(["/no/such/command"], env=ENV)


def test_no_other_module_starts_a_process():
    """ansible-test of ansible-core 2.21 refuses each such call (ansible-bad-function); one has its reason.

    The guard is a program by itself, which runs on the host without the collection.
    """
    calls = ("subprocess.run(", "subprocess.Popen(", "subprocess.check_", "subprocess.call(", "os.system(", "os.popen(")
    found = {path.name for path in MODULE_UTILS.rglob("*.py") if any(call in path.read_text() for call in calls)}
    assert found == {"commands.py", "guard.py"}
