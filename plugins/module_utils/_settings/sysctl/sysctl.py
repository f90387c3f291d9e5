# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The sysctl keys of one profile, as a subsystem of the settings engine."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from ..._engine import model
from ..._engine.ledger import PATH as LEDGER
from ..._engine.ledger import Ledger, Original
from ..._engine.managed import HEADER, Files
from ..._engine.model import Change, Plan
from ..._host import kernel as host_kernel
from ..._host.host import HostError
from . import files as loading
from . import keys, profiles
from .plan import make_plan
from .request import Request, understand
from .state import State, coupled_with, find_module, is_same, modules_for, nearest, read_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..._host.host import Host

FOLDER = "/etc/sysctl.d"
MODULES_FOLDER = "/etc/modules-load.d"
CONGESTION_AVAILABLE = "net/ipv4/tcp_available_congestion_control"


class Lasting(NamedTuple):
    """What is needed to tell what lasts: of the plan, and of the host.

    :ivar modules, kept: as in `Keys`.
    """

    modules: Mapping[str, str]
    kept: Mapping[str, str]
    fragments: Sequence[loading.Fragment]


class Sysctl(model.Subsystem):
    """The keys of one profile, made to last by one file in /etc/sysctl.d."""

    advice: ClassVar[Mapping[int, str]] = {errno.EINVAL: "give a value in the key's range"}

    def __init__(
        self,
        name: str,
        *,
        present: bool,
        profile: str = profiles.NONE,
        parameters: Mapping[str, Any] | None = None,
        path: profiles.Path = profiles.DEFAULT_PATH,
        memory: int | None = None,
        apply_shared: bool = False,
        only_file: bool = False,
    ) -> None:
        self.owner = f"{FOLDER}/{name}.conf"
        self.modules_file = f"{MODULES_FOLDER}/{name}.conf"
        self.paths = (self.owner, self.modules_file)
        self._present = present
        self._profile = profile
        self._parameters = parameters or {}
        self._path = path
        self._memory = memory
        self._apply_shared = apply_shared
        self._only_file = only_file

    # -- reading ------------------------------------------------------------------------------------------------

    def _request(self, host: Host, originals: Mapping[str, Original]) -> Request:
        if not self._present:
            return Request({})
        known = {name: original.value for name, original in originals.items()}
        for name in ("net.core.rmem_max", "net.core.wmem_max", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"):
            found = read_key(host, keys.path_of(name)).value
            if found is not None:
                known.setdefault(name, found)
        try:
            profile = profiles.values(self._profile, self._memory, self._path, known)
        except ValueError as error:
            raise HostError(str(error)) from error
        return understand(profile, self._parameters)

    def read(self, host: Host, ledger: Ledger, *, check_mode: bool) -> State:
        """See Subsystem.read. Loads kernel modules that keys need and that are missing, but not in check mode."""
        originals, load = ledger.of(self.owner), not check_mode
        request = self._request(host, originals)
        kernel = host_kernel.look(host)
        try:
            managed = [keys.path_of(name) for name in originals]
        except ValueError as error:
            raise HostError(f"the ledger of originals {LEDGER} is damaged: {error}") from error
        wanted = sorted({*request.desired, *request.removed, *managed})
        congestion = frozenset((read_key(host, CONGESTION_AVAILABLE).value or "").split())
        needed = {module for path in request.desired for module in modules_for(host, request, path, congestion)}
        modules = {name: "" if kernel.container else find_module(host, name, load=load) for name in sorted(needed)}
        coupled = [other for path in wanted for other in coupled_with(host, path)]
        found = {path: read_key(host, path) for path in {*wanted, *coupled}}
        fragments = loading.read_fragments(host)
        own = next((fragment.text or "" for fragment in fragments if fragment.path == self.owner), "")
        return State(
            kernel=kernel,
            keys=found,
            fragments=fragments,
            own_lines={path: value for _line, path, value in loading.parse(own) if value is not None},
            originals=originals,
            boot=host.boot_id(),
            nearest={path: nearest(host, path) for path in wanted if not found[path].exists},
            congestion=congestion,
            modules=modules,
            loaded=load,
            request=request,
            others=tuple(sorted(owner for owner in ledger.settings if self._is_another(owner, ledger))),
        )

    # -- planning -----------------------------------------------------------------------------------------------

    def plan(self, state: State) -> Plan:
        """See Subsystem.plan."""
        made = make_plan(state, state.request, owner=self.owner, apply_shared=self._apply_shared)
        lasting = Lasting(made.modules, made.kept, state.fragments)
        told = {owner: _renamed(owner) for owner in state.others} if self._only_file else {}
        if self._present:
            return Plan(made.changes, self.paths, lasting, tuple(told.values()))
        left = [Change(owner, malformed=True, status=model.REFUSED, reason=why) for owner, why in told.items()]
        return Plan([*made.changes, *left], self.paths, lasting)

    def _is_another(self, owner: str, ledger: Ledger) -> bool:
        """Tell whether the ledger has originals of another file of this kind."""
        return owner != self.owner and os.path.dirname(owner) == FOLDER and bool(ledger.settings[owner])

    # -- applying -----------------------------------------------------------------------------------------------

    def current(self, host: Host, plan: Plan, change: Change) -> str | None:
        """See Subsystem.current."""
        del plan
        return read_key(host, keys.path_of(change.name)).value

    def same(self, change: Change, left: str | None, right: str | None) -> bool:
        """See Subsystem.same."""
        return is_same(keys.path_of(change.name), left, right)

    def files(self, plan: Plan) -> Mapping[str, bytes]:
        """See Subsystem.files."""
        lasting: Lasting = plan.state
        lines = {**lasting.kept, **{change.name: change.line for change in plan.changes if change.line is not None}}
        modules = sorted({module for name, module in lasting.modules.items() if name in lines})
        order = sorted(lines, key=lambda name: keys.order_of(keys.path_of(name)))
        wanted = {
            self.owner: "".join(f"{name} = {lines[name]}\n" for name in order),
            self.modules_file: "".join(f"{module}\n" for module in modules),
        }
        notice = f"{HEADER}: the next run undoes what is changed here.\n"
        return {path: f"{notice}{text}".encode("utf-8", "surrogateescape") for path, text in wanted.items() if text}

    def settle(self, plan: Plan, files: Files) -> None:
        """See Subsystem.settle."""
        content = files.get(self.owner)
        text = None if content is None else content.decode("utf-8", "surrogateescape")
        fragments = loading.with_fragment(plan.state.fragments, self.owner, text)
        boots = [loading.Boot(fragments, loader) for loader in loading.LOADERS]
        for change in plan.changes:
            if change.status != model.UNKNOWN and not change.malformed:
                _settle(change, boots)


def _renamed(owner: str) -> str:
    name = os.path.basename(owner)[: -len(".conf")]
    return (
        f"this host was tuned under another kernel_tuning_file_name too, {name!r}, whose values are still in force. "
        "Roll them back by that name: ansible-playbook playbooks/rollback.yml --tags kernel_tuning "
        f"-e kernel_tuning_file_name={name}"
    )


def _settle(change: Change, boots: Sequence[loading.Boot]) -> None:
    """Say what the next boot gives one key, and where another file than ours decides otherwise."""
    path = keys.path_of(change.name)
    deciding = [boot.deciding(path) for boot in boots]
    systemd = deciding[0]
    change.persisted = systemd.value if systemd is not None and systemd.pattern != keys.COUNTERPARTS.get(path) else None
    change.persisted_by = systemd.place if systemd is not None else None
    if change.desired is None or change.line is None or change.status == model.REFUSED:
        return
    rivals: dict[str, list[str]] = {}
    for boot, line in zip(boots, deciding):
        if line is not None and not (_aliased(line.pattern, path) and is_same(path, line.value, change.desired)):
            told = f"{line.place} sets {keys.name_of(line.pattern)} = {line.value}"
            rivals.setdefault(told, []).append(boot.loader)
    change.overridden_by = "; ".join(
        f"{told} ({' and '.join(loaders)}): remove that line, or set the value here to match"
        for told, loaders in rivals.items()
    )


def _aliased(pattern: str, path: str) -> bool:
    """Tell whether a line's value is one for this key, not for its counterpart."""
    return pattern != keys.COUNTERPARTS.get(path)
