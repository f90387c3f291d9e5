# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs git on a host without anybody's settings, and explains its failures."""

from __future__ import annotations

import errno
import os
import re
from typing import TYPE_CHECKING, NamedTuple

from .._host import commands
from .._host.host import COMMAND_ENVIRONMENT, HostError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from .._host.host import Host

HASH = re.compile(r"[0-9a-f]{40}")
SHORT_HASH = re.compile(r"[0-9a-f]{7,39}")
# Narrower than git's own rule for names; nothing that git could take for an option, a range or a pattern.
NAME = re.compile(r"(?!.*(?:\.\.|//|\.lock$))[A-Za-z0-9][A-Za-z0-9._/+-]{0,199}")
URL = re.compile(r"(?P<protocol>https|ssh)://(?:(?P<user>[^/@]*)@)?[A-Za-z0-9\[][^/@\s]*/\S+")
SCP_LIKE = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9][A-Za-z0-9.-]*:[^\s:/-][^\s:]*")
GIT_SETTINGS = {
    "core.symlinks": "false",  # a link becomes a small file: nothing in a checkout leads out of it
    "credential.helper": "",
    "gc.auto": "0",
    "http.lowSpeedLimit": "1",  # bytes/s ...
    "http.lowSpeedTime": "30",  # ... for so many seconds, then it is no connection
    "protocol.version": "2",  # lets a commit be asked for that no branch names
}
# Without HOME and the system's file git reads nobody's settings, and a repository made from no template has no hooks.
GIT_ENVIRONMENT = {
    **COMMAND_ENVIRONMENT,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "true",
    "SSH_ASKPASS": "true",
    "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o ConnectTimeout=30",
}
# How a host reaches the web is its own affair; root's git settings and everything else are left out.
PASSED_ON = ("http_proxy", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "SSL_CERT_FILE", "GIT_SSL_CAINFO")


class Repository(NamedTuple):
    """Where upstream comes from: *url* for git, *protocol* the only one that git may speak there."""

    url: str
    protocol: str


# Exception is named for ansible-test's pylint, which loses its way through two relative imports.
class GitFailed(HostError, Exception):
    """A git command failed; `said` is what it wrote."""

    def __init__(self, message: str, said: str) -> None:
        super().__init__(message)
        self.said = said


def repository(upstream: Mapping[str, Any]) -> Repository:
    """Return the repository that `upstream.repository` names.

    :raises HostError: it is none that git could be told safely. A value with a password in it is not repeated.
    """
    value = str(upstream["repository"])
    told = f"upstream.repository = {value}"
    if value.startswith("/"):
        return Repository(value, "file")
    if value.startswith("file:///"):
        return Repository(value[len("file://") :], "file")
    url = URL.fullmatch(value)
    if url and (":" in (url["user"] or "") or (url["user"] and url["protocol"] == "https")):
        raise HostError(
            "upstream.repository has a password or a token in it, which every process on the host could read while git"
            " runs: name it without, as an ssh:// address that root's key opens"
        )
    if url:
        return Repository(value, url["protocol"])
    if "://" not in value and SCP_LIKE.fullmatch(value):
        return Repository(value, "ssh")
    raise HostError(f"{told} is no repository: give an https:// or ssh:// address, or an absolute path on the host")


def moving_name(upstream: Mapping[str, Any], found: str) -> str:
    """Return a warning where the version is a name that its owner can move; empty where it is a commit.

    :param found: the commit that it stands for now.
    """
    version = str(upstream["version"])
    if HASH.fullmatch(version.lower()):
        return ""
    return (
        f"upstream.version = {version} is a name that can be moved, and asks {upstream['repository']} at every run;"
        f" now it is {found}: write that instead"
    )


def name_of(upstream: Mapping[str, Any]) -> str:
    """Return the tag or branch that the version is."""
    version = str(upstream["version"])
    told = f"upstream.version = {version}"
    if SHORT_HASH.fullmatch(version.lower()) and not version.isdigit():
        raise HostError(
            f"{told} looks like a part of a commit's hash, which may stand for two one day: give all 40 digits"
        )
    if not NAME.fullmatch(version):
        raise HostError(f"{told} is neither a commit (40 hexadecimal digits) nor the name of a tag or branch")
    return version


class Git:
    """git on one repository, away from everybody's settings, hooks and prompts."""

    def __init__(self, host: Host, where: Repository) -> None:
        self.told = where.url
        self.url = host.locate(where.url) if where.protocol == "file" else where.url
        passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        self._environment = {**GIT_ENVIRONMENT, **passed_on, "GIT_ALLOW_PROTOCOL": where.protocol}

    def run(self, words: list[str], seconds: float) -> str:
        """Return what a git command prints.

        :raises GitFailed: it failed, or took longer than `seconds`.
        :raises HostError: there is no git.
        """
        settings = [part for name, value in GIT_SETTINGS.items() for part in ("-c", f"{name}={value}")]
        try:
            # A session of its own has no terminal that ssh could ask at.
            done = commands.run(
                ["git", *settings, *words],
                env=self._environment,
                cwd="/",
                seconds=seconds,
                errors="replace",
                alone=True,
            )
        except FileNotFoundError as error:
            raise HostError("git is missing, which brings upstream's miner: apt-get install git") from error
        except TimeoutError as error:
            raise GitFailed(f"git took longer than {seconds:g} s", "") from error
        if done.returncode:
            raise GitFailed(_gist(done.stderr) or f"git ended with code {done.returncode}", done.stderr)
        return done.stdout


def _gist(said: str) -> str:
    """Return what git names as the reason, without its progress and advice."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    reasons = [line.partition(": ")[2] for line in lines if line.startswith(("fatal: ", "error: "))]
    return "; ".join(dict.fromkeys(reasons)) or " ".join(lines[-1:])


def unreachable(told: str, error: GitFailed) -> HostError:
    return HostError(f"cannot read upstream.repository = {told}: {error}")


def says_full(said: str) -> bool:
    return os.strerror(errno.ENOSPC) in said or os.strerror(errno.EDQUOT) in said


def full_or(number: int | None, otherwise: str, path: str) -> str:
    if number not in (errno.ENOSPC, errno.EDQUOT):
        return otherwise
    return f"the disk is too full for upstream's checkout below {os.path.dirname(path)}: make room, then run again"
