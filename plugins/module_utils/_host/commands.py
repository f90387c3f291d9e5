# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Commands of the host: the one place that starts a process."""

from __future__ import annotations

import errno
import subprocess
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Longer than systemd waits for a service to stop. A command that hangs must not hold a run, and our lock, for ever.
SECONDS = 300.0


class Done(NamedTuple):
    """A command that has ended: its exit code (minus the signal that killed it) and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def start(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str | None = None,
    out: int = subprocess.PIPE,
    alone: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a command with exactly this environment and no standard input.

    :param out: where its standard output goes, as `subprocess.Popen` takes it; standard error is a pipe.
    :param alone: whether it gets a session of its own, which has no terminal and can be killed as one group.
    :raises OSError: it can't be started.
    """
    # Not AnsibleModule.run_command, which adds to the caller's environment and knows neither time-outs nor sessions.
    return subprocess.Popen(  # pylint: disable=ansible-bad-function
        argv, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE, start_new_session=alone
    )


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str | None = None,
    seconds: float = SECONDS,
    errors: str = "strict",
    alone: bool = False,
) -> Done:
    """Run a command with exactly this environment and no standard input, until it ends.

    :param seconds: after which it is killed.
    :param errors: what becomes of bytes that are not UTF-8, as `bytes.decode` takes it.
    :raises OSError: it can't be started; a TimeoutError, which is one: it was killed.
    :raises UnicodeDecodeError: its output is not UTF-8, and `errors` is "strict".
    """
    with start(argv, env=env, cwd=cwd, alone=alone) as process:
        try:
            printed = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise TimeoutError(errno.ETIMEDOUT, f"it was killed after {seconds:g} s without an end") from error
        except BaseException:
            process.kill()
            raise
    out, err = (text.decode("utf-8", errors).replace("\r\n", "\n").replace("\r", "\n") for text in printed)
    return Done(process.returncode, out, err)
