# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads the sysctl keys that the plan needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..._engine.ledger import Original
from ..._host import kernel as host_kernel
from ..._host.host import HostError
from . import files as loading
from . import keys
from .request import Request

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..._host.host import Host

PROC = "/proc/sys"
CONGESTION_CONTROL = "net/ipv4/tcp_congestion_control"


class KeyState(NamedTuple):
    """A key as found: `value` is None where it can't be read, with the reason in `trouble`."""

    exists: bool
    value: str | None = None
    writable: bool = False
    action: bool = False
    trouble: str = ""


class State(NamedTuple):
    """All that the plan needs to know of a host.

    :ivar nearest: of each key that does not exist, the name that is nearest, or "".
    :ivar modules: why a module that a key needs could not be loaded (or found, in check mode), "" where it could.
    :ivar loaded: whether missing modules were loaded: not in check mode.
    :ivar others: other files of this kind that the ledger has originals of.
    """

    kernel: host_kernel.Kernel
    keys: Mapping[str, KeyState]
    fragments: Sequence[loading.Fragment]
    own_lines: Mapping[str, str]
    originals: Mapping[str, Original]
    boot: str
    nearest: Mapping[str, str]
    congestion: frozenset[str]
    modules: Mapping[str, str]
    loaded: bool
    request: Request
    others: tuple[str, ...] = ()

    def values_with(self, path: str) -> dict[str, str]:
        """Return the values of what the kernel rewrites together with a key.

        Of an interface that has another value than the default, its own was written: it does not follow any more.
        """
        counterpart, own = keys.COUNTERPARTS.get(path), self.keys[path].value
        return {
            other: found.value
            for other, found in self.keys.items()
            if found.value is not None and (other == counterpart or keys.follows(other, path))
            if not keys.is_default(path) or found.value == own
        }

    def note(self, path: str) -> Original | None:
        """Return what the ledger has of a key, unless it is void."""
        known = self.originals.get(keys.name_of(path))
        return None if known is None or known.is_void(self.boot, lasted=path in self.own_lines) else known


def is_same(path: str, left: str | None, right: str | None) -> bool:
    if left is None or right is None:
        return left is right
    return keys.canonical(path, left) == keys.canonical(path, right)


def read_key(host: Host, path: str) -> KeyState:
    place = f"{PROC}/{path}"
    mode = host.mode(place)
    if mode is None:
        return KeyState(exists=False)
    if keys.is_action(path) or not mode & 0o444:
        return KeyState(exists=True, action=True)
    try:
        value = " ".join(host.read_text(place).split())
    except OSError as error:
        return KeyState(exists=True, writable=host.may_write(place), trouble=f"cannot be read: {error.strerror}")
    return KeyState(exists=True, value=value, writable=host.may_write(place))


def coupled_with(host: Host, path: str) -> list[str]:
    """Return the keys whose values a write of this one may change."""
    if path in keys.COUNTERPARTS:
        return [keys.COUNTERPARTS[path]]
    family = keys.family_of(path)
    if family is None:
        return []
    names = host.list_dir(f"{PROC}/{family.partition('/{}')[0]}")
    return [other for other in (keys.REDIRECTS, *map(family.format, names)) if keys.follows(other, path)]


def nearest(host: Host, path: str) -> str:
    """Return the existing key whose name is nearest, or "". Looks at names only: reading some keys has effects."""
    from difflib import get_close_matches

    found: list[str] = []
    for part in path.split("/"):
        names = host.list_dir("/".join([PROC, *found]))
        close = [part] if part in names else get_close_matches(part, names, 1, 0.75)
        if not close:
            return ""
        found += close
    near = "/".join(found)
    return "" if host.is_dir(f"{PROC}/{near}") else keys.name_of(near)


def modules_for(host: Host, request: Request, path: str, congestion: frozenset[str]) -> Iterable[str]:
    """Yield the module that a key needs to be there, or its value needs to be taken."""
    if path == CONGESTION_CONTROL and congestion and request.desired[path] not in congestion:
        yield f"tcp_{request.desired[path]}"
    module = keys.module_of(path)
    if module is not None and not host.exists(f"{PROC}/{path}"):
        yield module


def find_module(host: Host, name: str, *, load: bool) -> str:
    """Load a kernel module, or only look for it; return what went wrong, or ""."""
    try:
        host.run(["modprobe", *([] if load else ["--dry-run"]), "--", name])
    except HostError as error:
        return str(error).replace(" --dry-run", "")  # the reason is the same in both modes
    return ""
