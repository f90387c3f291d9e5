# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Installs and removes units, secrets and wallets."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .._host.host import HostError, Meta
from . import drain, systemd
from .compare import content, files_below, is_variables, names_in, ours
from .faults import Fault, noting
from .model import Secret
from .plan import ROOT
from .units import SECRETS, UNIT_ROOT, socket, user_of
from .units import user as unit_user
from .user import user

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .._host.host import Host
    from .store import Release


def instance_of(path: str) -> str:
    """Return the name of the instance that a part of a wallet is of."""
    return path[len(SECRETS) + 1 :].partition("/")[0]


def folders_above(path: str) -> list[str]:
    """Return the folders between a secret and SECRETS, the innermost first."""
    parts = path[len(SECRETS) + 1 :].split("/")[:-1]
    return [f"{SECRETS}/{'/'.join(parts[:depth])}" for depth in range(len(parts), 0, -1)]


class Places:
    """The places of secrets and wallets on a host.

    :param prefix: of the users' names.
    """

    def __init__(self, host: Host, prefix: str) -> None:
        self._host = host
        self._prefix = prefix

    def secret(self, path: str, secret: Secret) -> None:
        """Write a secret, or take away one that is wanted no more."""
        if secret.data is None:
            # A wallet stays until the gate has passed: only with it can the release before it start again.
            if is_variables(path):
                self._host.remove(path)
            return
        uid, gid = (0, 0) if secret.owner == ROOT else self._owner(instance_of(path))
        self._host.make_folder(SECRETS, Meta(0o700, 0, 0))
        for folder in reversed(folders_above(path)):
            self._host.make_folder(folder, Meta(0o750, 0, gid))
        self._host.stage(path, secret.data, Meta(0o400, uid, gid)).commit()

    def remove_secrets(self, paths: Iterable[str]) -> None:
        """Take secrets away, and their folders where these are empty then."""
        for path in paths:
            self._host.remove(path)
            for folder in folders_above(path):
                self._host.remove_if_empty(folder)

    def restore(self, path: str, data: bytes | None, owner: str) -> None:
        """Bring a secret back as it was; None: there was none."""
        if data is None:
            self._host.remove(path)
        elif content(self._host, path) != data:
            self.secret(path, Secret(data, owner))

    def give_wallet(self, name: str, release: Release) -> None:
        """Let the user of an instance's unit read its wallet: in releases of before, all instances had one user."""
        folder, owner = f"{SECRETS}/{name}", user_of(release.units, name)
        if not owner or not self._host.is_dir(folder):
            return
        uid, gid = self._ids(owner)
        for path in list(files_below(self._host, folder)):
            for above in reversed(folders_above(path)):
                self._host.make_folder(above, Meta(0o750, 0, gid))
            if self._host.meta(path) != Meta(0o400, uid, gid):
                self._host.stage(path, self._host.read_bytes(path), Meta(0o400, uid, gid)).commit()

    def _owner(self, instance: str) -> tuple[int, int]:
        return self._ids(unit_user(self._prefix, instance))

    def _ids(self, name: str) -> tuple[int, int]:
        ids = user(self._host, name)
        if ids is None:
            raise HostError(f"there is no user {name} on this host, though it was made: see /etc/passwd")
        return ids


def leave_nothing(host: Host, drain_s: float = 0) -> list[Fault]:
    """Stop all instances and remove our units.

    :param drain_s: seconds for load balancers to see it coming.
    :returns: what went wrong; the rest is done.
    """
    faults: list[Fault] = []
    units = ours(host)
    names = names_in(units)
    balanced = [name for name in names if socket(name) in units] if drain_s else []
    with noting(faults):
        for name in balanced:
            drain.mark(host, name)
        time.sleep(drain_s if balanced else 0)
    for name in names:
        with noting(faults):
            systemd.stop(host, [name])
            drain.forget(host, name)
            remove_units(host, [unit for unit in units if names_in([unit]) == [name]])
    with noting(faults):
        for name in balanced:
            drain.unmark(host, name)
        # The template of an instance that could not be stopped is what stops it next time.
        remove_units(host, [] if faults else [unit for unit in units if not names_in([unit])])
        systemd.reload(host)
    return faults


def remove_units(host: Host, names: Iterable[str]) -> None:
    for name in names:
        host.remove(f"{UNIT_ROOT}/{name}")
        if "/" in name:
            host.remove_if_empty(f"{UNIT_ROOT}/{name.partition('/')[0]}")
