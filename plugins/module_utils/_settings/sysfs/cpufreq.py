# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""CPU frequency as settings, per cpufreq policy: governor, energy preference, limits, and boost for all.

What the kernel takes and refuses is from its sources: drivers/cpufreq/{cpufreq,intel_pstate,amd-pstate}.c.
"""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from ..._engine import model
from ..._engine.ledger import Ledger, Original
from ..._engine.managed import Files, is_ours
from ..._engine.model import Change, Plan
from ..._host import kernel
from ..._host.host import HostError
from ..rivals import CPU_GOVERNOR, Found, detect
from . import unit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..._host.host import Host

CPU = "/sys/devices/system/cpu"
FOLDER = f"{CPU}/cpufreq"
BOOST_SWITCH = f"{FOLDER}/boost"
NO_TURBO = f"{CPU}/intel_pstate/no_turbo"

GOVERNOR = "governor"
PREFERENCE = "energy_performance_preference"
LOWER = "scaling_min_freq"
UPPER = "scaling_max_freq"
BOOST = "boost"
WHOLE = "cpufreq"
ATTRIBUTES = (GOVERNOR, PREFERENCE, UPPER, LOWER)
OFFERS = {
    GOVERNOR: "scaling_available_governors",
    PREFERENCE: "energy_performance_available_preferences",
    UPPER: "scaling_available_frequencies",
    LOWER: "scaling_available_frequencies",
}

FILES = (unit.FILE, unit.WANT)
UNMANAGED = "unmanaged"
PERFORMANCE = "performance"
DEFAULT = "default"
ENABLED, DISABLED = "enabled", "disabled"
# Drivers that choose the frequency themselves: two governors, and an energy preference that the first one holds fast.
ACTIVE_DRIVERS = ("intel_pstate", "amd-pstate-epp", "amd_pstate_epp")
# These set values once at boot, before our unit; the others do so again on events or by a timer.
ONCE_AT_BOOT = ("cpufrequtils", "cpupower", "sapconf", "saptune")

REMEDY = (
    "on metal enable P-states in the firmware or load the driver (modprobe acpi-cpufreq), in a virtual machine tune "
    "the machine underneath"
)

_WORD = re.compile(r"[a-z][a-z0-9_-]{0,30}")
_VALUE = re.compile(r"[\w-]{1,31}", re.ASCII)
_NUMBER = re.compile(r"\d{1,18}", re.ASCII)


class Request(NamedTuple):
    """What is wanted: `policy` by attribute for every policy, `boost` for all; empty to give everything back."""

    policy: Mapping[str, str]
    boost: str | None
    required: bool


class Knob(NamedTuple):
    """One file of the kernel with a value to be set.

    :ivar value: the value now, as a row shows it; None where it can't be read.
    :ivar trouble: why it can't be set on this host, or None.
    :ivar words: the kernel's spelling of what a row shows, where that differs.
    """

    path: str
    value: str | None
    trouble: str | None
    words: Mapping[str, str]

    def spell(self, value: str) -> str:
        """Return a value as the kernel takes it."""
        return self.words.get(value, value)

    def show(self, text: str) -> str:
        """Return what the kernel says as a row shows it."""
        return {spelt: word for word, spelt in self.words.items()}.get(text, text)


class Policy(NamedTuple):
    """One cpufreq policy: the processors that share one frequency.

    :ivar idle: why nothing of it can be set now, or None.
    :ivar offers: the values that the kernel lists, by attribute; of what it doesn't list, none.
    :ivar bounds: the hardware's lowest and highest frequency in kHz, or None.
    """

    name: str
    driver: str
    idle: str | None
    offers: Mapping[str, tuple[str, ...]]
    bounds: tuple[int, int] | None


class State(NamedTuple):
    """What the plan needs to know."""

    policies: tuple[Policy, ...]
    knobs: Mapping[str, Knob]
    sharing: str | None
    lines: Mapping[str, unit.Line]
    rivals: tuple[Found, ...]
    originals: Mapping[str, Original]
    boot: str


def subsystem(params: Mapping[str, Any]) -> CpuFrequency:
    """Return what one call of the module brings into place.

    :param params: as in options.OPTIONS.
    :raises HostError: a parameter makes no sense.
    """
    request = understand(params) if params["state"] == "present" else Request({}, None, False)
    return CpuFrequency(request, apply_shared=params["shared_kernel"] == "apply")


def understand(params: Mapping[str, Any]) -> Request:
    """Return what the parameters ask for. Pure.

    :raises HostError: a parameter makes no sense.
    """
    wanted = {name: str(params[name]).strip() for name in (GOVERNOR, PREFERENCE)}
    for name, value in wanted.items():
        # The kernel compares names of governors without regard to case, and shows its own spelling.
        wanted[name] = value.lower()
        if not _WORD.fullmatch(wanted[name]):
            raise HostError(f"{name} = {value!r} is no name that the kernel could know: a word is wanted")
    limits = {name: params[name] for name in (UPPER, LOWER) if params[name] is not None}
    for name, frequency in limits.items():
        if frequency < 1:
            raise HostError(f"{name} = {frequency} is no frequency: kHz are wanted, as in 2400000")
    if len(limits) == len((UPPER, LOWER)) and limits[LOWER] > limits[UPPER]:
        raise HostError(f"{LOWER} = {limits[LOWER]} is above {UPPER} = {limits[UPPER]}")
    policy = {name: value for name, value in wanted.items() if value != UNMANAGED}
    policy.update({name: str(frequency) for name, frequency in limits.items()})
    boost = None if params[BOOST] == UNMANAGED else params[BOOST]
    return Request(policy, boost, params["required"])


class CpuFrequency(model.Subsystem):
    """The settings `policyN:ATTRIBUTE` of every policy, and `boost`."""

    owner = unit.FILE

    def __init__(self, request: Request, *, apply_shared: bool = False) -> None:
        self._request = request
        self._apply_shared = apply_shared

    def read(self, host: Host, ledger: Ledger, *, check_mode: bool) -> State | None:
        """See Subsystem.read; None: nothing is asked for, and nothing is left of an earlier run."""
        del check_mode
        originals = ledger.of(self.owner)
        is_asked = bool(self._request.policy or self._request.boost)
        if not is_asked and not originals and not any(is_ours(host, path) for path in FILES):
            return None
        return read(host, self._request, originals, apply_shared=self._apply_shared)

    def plan(self, state: State | None) -> Plan:
        """See Subsystem.plan."""
        return Plan([] if state is None else make_plan(state, self._request), FILES, state)

    def current(self, host: Host, plan: Plan, change: Change) -> str | None:
        """See Subsystem.current."""
        knob = plan.state.knobs.get(change.name)
        text = _text(host, knob.path) if knob else None
        return knob.show(text) if knob and text is not None else None

    def same(self, change: Change, left: str | None, right: str | None) -> bool:
        """See Subsystem.same."""
        del change
        return left == right

    def files(self, plan: Plan) -> Mapping[str, bytes]:
        """See Subsystem.files."""
        lines = {change.name: change.line for change in plan.changes if change.line is not None}
        writes = [_boot_write(plan.state, name, line) for name, line in lines.items()]
        if not writes:
            return {}
        return {unit.FILE: unit.render(unit.in_order(writes)).encode(), unit.WANT: unit.DROP_IN.encode()}

    def settle(self, plan: Plan, files: Files) -> None:
        """See Subsystem.settle."""
        lines = unit.parse(*((files.get(path) or b"").decode("utf-8", "surrogateescape") for path in FILES))
        policies = {policy.name: policy for policy in plan.state.policies} if plan.state else {}
        for change in plan.changes:
            knob = plan.state.knobs.get(change.name)
            line = lines.get(knob.path if knob else path_of(change.name))
            change.persisted = None if line is None else knob.show(line.value) if knob else line.value
            change.persisted_by = None if line is None else f"{unit.FILE}:{line.number}"
            _hint(change, policies)

    def announce(self, host: Host, plan: Plan, paths: Sequence[str]) -> None:
        """See Subsystem.announce. The unit itself is not started: its values are set already."""
        del plan, paths
        if host.is_dir("/run/systemd/system"):  # as sd_booted(3)
            host.run(["systemctl", "daemon-reload"])


def _boot_write(state: State, name: str, value: str) -> tuple[str, str]:
    knob = state.knobs.get(name)
    return (knob.path, knob.spell(value)) if knob else (path_of(name), value)


def _hint(change: Change, policies: Mapping[str, Policy]) -> None:
    """Tell what there is to choose from, where the kernel refused a value that it doesn't list."""
    name, _colon, attribute = change.name.partition(":")
    offered = policies[name].offers.get(attribute, ()) if name in policies else ()
    listed = ", ".join(offered)
    if change.status == model.REFUSED and change.desired not in offered and listed not in change.reason:
        change.explain(f"the driver {policies[name].driver} lists {listed}")


# -- reading --------------------------------------------------------------------------------------------------------


def path_of(name: str) -> str:
    """Return the kernel's file of a policy's setting: `policy0:governor` -> .../policy0/scaling_governor."""
    policy, _colon, attribute = name.partition(":")
    return f"{FOLDER}/{policy}/{'scaling_governor' if attribute == GOVERNOR else attribute}"


def read(host: Host, request: Request, originals: Mapping[str, Original], *, apply_shared: bool) -> State:
    """Read what the plan needs, and no attribute that neither the request nor the ledger is concerned with."""
    names = [name for name in host.list_dir(FOLDER) if re.fullmatch(r"policy\d+", name)]
    names.sort(key=lambda name: int(name[len("policy") :]))
    concerned = {GOVERNOR, PREFERENCE, *request.policy, *(name.partition(":")[2] for name in originals)}
    if concerned & {LOWER, UPPER}:
        concerned |= {LOWER, UPPER}
    attributes = [attribute for attribute in ATTRIBUTES if attribute in concerned]
    policies = tuple(_read_policy(host, name, attributes) for name in names)
    knobs = {
        f"{policy.name}:{attribute}": _read_knob(host, policy, attribute)
        for policy in policies
        for attribute in attributes
    }
    if request.boost or BOOST in originals:
        knobs.update(_read_boost(host))
    texts = [_text(host, path) or "" for path in (unit.FILE, unit.WANT)]
    return State(
        policies=policies,
        knobs=knobs,
        sharing=None if apply_shared else kernel.look(host).sharing(),
        lines=unit.parse(*texts),
        rivals=tuple(detect(host, CPU_GOVERNOR)) if GOVERNOR in request.policy else (),
        originals=dict(originals),
        boot=host.boot_id(),
    )


def _text(host: Host, path: str) -> str | None:
    try:
        return host.read_text(path).strip()
    except OSError:
        return None


def _read_policy(host: Host, name: str, attributes: Iterable[str]) -> Policy:
    folder = f"{FOLDER}/{name}"
    bounds = [_text(host, f"{folder}/{file}") or "" for file in ("cpuinfo_min_freq", "cpuinfo_max_freq")]
    return Policy(
        name=name,
        driver=_text(host, f"{folder}/scaling_driver") or "of this host",
        idle=_idle(host, folder),
        offers={
            attribute: tuple((_text(host, f"{folder}/{OFFERS[attribute]}") or "").split()) for attribute in attributes
        },
        bounds=(int(bounds[0]), int(bounds[1])) if all(map(_NUMBER.fullmatch, bounds)) else None,
    )


def _idle(host: Host, folder: str) -> str | None:
    """Tell why nothing of a policy can be set now: all its processors are offline. None if it can."""
    try:
        processors = [word for word in host.read_text(f"{folder}/affected_cpus").split() if word.isdecimal()]
    except OSError as error:
        if error.errno != errno.EBUSY:  # the kernel's answer to every question about such a policy
            return f"cannot be read: {error.strerror}"
        processors = []
    if any(_is_online(host, processor) for processor in processors):
        return None
    first = folder.rpartition("policy")[2]
    return f"inactive: all processors of this policy are offline (bring one back: echo 1 > {CPU}/cpu{first}/online)"


def _is_online(host: Host, processor: str) -> bool:
    # A processor that can't be taken offline has no such file.
    return _text(host, f"{CPU}/cpu{processor}/online") in (None, "1")


def _read_knob(host: Host, policy: Policy, attribute: str) -> Knob:
    path = path_of(f"{policy.name}:{attribute}")
    trouble = policy.idle
    if trouble is None and not host.exists(path):
        trouble = f"the driver {policy.driver} has no {path.rpartition('/')[2]}"
    elif trouble is None and not host.may_write(path):
        trouble = "read-only here"
    value = _text(host, path)
    meaning = _NUMBER if attribute in (LOWER, UPPER) else _VALUE
    if trouble is None and not meaning.fullmatch(value or ""):
        trouble = "cannot be read" if value is None else f"shows {value!r}, which makes no sense"
    return Knob(path, value, trouble, {})


def _read_boost(host: Host) -> dict[str, Knob]:
    for path, on, off in ((BOOST_SWITCH, "1", "0"), (NO_TURBO, "0", "1")):
        text = _text(host, path)
        if text in (on, off):
            knob = Knob(path, None, None if host.may_write(path) else "read-only here", {ENABLED: on, DISABLED: off})
            return {BOOST: knob._replace(value=knob.show(text))}
    return {}


# -- planning -------------------------------------------------------------------------------------------------------


def make_plan(state: State, request: Request) -> list[Change]:
    """Return a change for every setting concerned, in the order of writing. Pure."""
    wants = bool(request.policy or request.boost)
    missing = _missing(state) if wants else None
    if state.sharing is not None and wants:
        return [_whole(request, state.sharing, "tune that machine")]
    changes = [_whole(request, missing, REMEDY)] if missing else []
    for policy in state.policies:
        changes += _plan_policy(state, policy, request.policy)
    changes += _plan_lost(state, request)
    if request.boost is not None and not missing:
        knob = state.knobs.get(BOOST) or Knob(BOOST_SWITCH, None, "the driver has no switch for it", {})
        changes.append(_want(state, BOOST, knob, request.boost, None))
    elif BOOST in state.originals and BOOST in state.knobs and request.boost is None:
        changes.append(_release(state, BOOST, state.knobs[BOOST]))
    for change in changes:
        _tell_disk(state, change)
    return changes


def _tell_disk(state: State, change: Change) -> None:
    knob = state.knobs.get(change.name)
    line = state.lines.get(knob.path) if knob else None
    change.persisted_before = knob.show(line.value) if knob and line else None


def _missing(state: State) -> str | None:
    if state.policies:
        return None
    return f"no CPU frequency scaling on this host ({FOLDER} has no policy), as in most virtual machines"


def _whole(request: Request, reason: str, remedy: str) -> Change:
    """Return the one row where nothing can be set: an error only where that is said."""
    change = Change(name=WHOLE, desired=request.policy.get(GOVERNOR))
    if not request.required:
        change.reject(model.UNSUPPORTED, reason)
        return change
    change.reject(model.REFUSED, f"required, but {reason}: {remedy}, or set cpu_governor_required: false here")
    return change


def _plan_lost(state: State, request: Request) -> list[Change]:
    """Return a change for what the ledger knows and the kernel no longer shows: a policy or a switch that is gone."""
    changes = []
    for name, original in state.originals.items():
        if name in state.knobs or (name == BOOST and request.boost and state.policies):
            continue
        wanted = request.boost if name == BOOST else request.policy.get(name.partition(":")[2])
        change = Change(name=name, desired=wanted)
        if wanted is None:
            change.forget, change.status = True, model.CHANGED
            change.explain("gone from this kernel: nothing to give back")
        else:
            change.reject(model.UNSUPPORTED, "not there now: the unit keeps its line for when it is back")
            change.line = None if name == BOOST else original.desired
        changes.append(change)
    return changes


def _plan_policy(state: State, policy: Policy, wanted: Mapping[str, str]) -> list[Change]:
    rows: dict[str, Change] = {}
    outlook = _outlook(state, policy, wanted)
    for attribute in ATTRIBUTES:
        name = f"{policy.name}:{attribute}"
        if attribute in wanted:
            objection = _objection(policy, attribute, wanted[attribute], outlook)
            rows[attribute] = _want(state, name, state.knobs[name], wanted[attribute], objection)
        elif name in state.originals:
            rows[attribute] = _release(state, name, state.knobs[name])
    if GOVERNOR in rows:
        _name_rivals(rows[GOVERNOR], state.rivals)
    _couple(state, policy, rows, outlook)
    return _in_order(rows)


def _outlook(state: State, policy: Policy, wanted: Mapping[str, str]) -> dict[str, str | None]:
    """Return what each attribute of a policy will be after the run, as far as it was read."""
    found: dict[str, str | None] = {}
    for attribute in ATTRIBUTES:
        name = f"{policy.name}:{attribute}"
        knob, original = state.knobs.get(name), state.originals.get(name)
        if attribute in wanted and not _unoffered(policy, attribute, wanted[attribute]):
            found[attribute] = wanted[attribute]
        elif attribute not in wanted and original is not None:
            found[attribute] = original.give_back(None, state.boot)
        elif knob is not None:
            found[attribute] = knob.value
    return found


def _unoffered(policy: Policy, attribute: str, value: str) -> bool:
    """Tell whether a value is sure to be refused as it is not listed.

    Not so a governor in general: the kernel may load its module when it is named.
    """
    offered = policy.offers.get(attribute, ())
    if attribute == GOVERNOR and policy.driver not in ACTIVE_DRIVERS:
        return False
    return attribute in (GOVERNOR, PREFERENCE) and bool(offered) and value not in offered


def _held(policy: Policy, governor: str | None, preference: str) -> bool:
    """Tell whether the governor holds the energy preference at another value (the kernel says EBUSY)."""
    return policy.driver in ACTIVE_DRIVERS and governor == PERFORMANCE and preference != PERFORMANCE


def _objection(policy: Policy, attribute: str, value: str, outlook: Mapping[str, str | None]) -> str | None:
    """Return why the kernel would refuse a value or make another of it, or None."""
    if _unoffered(policy, attribute, value):
        return f"the driver {policy.driver} has only {', '.join(policy.offers[attribute])}"
    if attribute == PREFERENCE and _held(policy, outlook.get(GOVERNOR), value):
        return (
            f"the governor {PERFORMANCE} holds it at {PERFORMANCE} (the kernel says EBUSY): "
            f"ask for that, or for another governor"
        )
    if attribute in (LOWER, UPPER):
        return _limit_objection(policy, attribute, int(value), outlook)
    return None


def _limit_objection(policy: Policy, attribute: str, value: int, outlook: Mapping[str, str | None]) -> str | None:
    if policy.bounds is not None and not policy.bounds[0] <= value <= policy.bounds[1]:
        return f"the hardware goes from {policy.bounds[0]} to {policy.bounds[1]} kHz"
    other = LOWER if attribute == UPPER else UPPER
    limit = outlook.get(other) or ""
    if not _NUMBER.fullmatch(limit) or (value >= int(limit) if attribute == UPPER else value <= int(limit)):
        return None
    return f"{'below' if attribute == UPPER else 'above'} {other}, which is {limit}: set both"


def _want(state: State, name: str, knob: Knob, desired: str, objection: str | None) -> Change:
    known = state.originals.get(name)
    change = Change(name=name, desired=desired, target=desired, before=knob.value)
    change.kept = known.desired if known else None
    if knob.trouble is not None:
        change.reject(model.UNSUPPORTED, knob.trouble)
        # What an earlier run set stays in the unit: processors that are offline now come back.
        change.line = change.kept if name in state.knobs else None
        return change
    if objection is not None:
        if name.endswith(PREFERENCE):
            change.kept = None  # what was taken before does not go with the new governor either
        change.reject(model.REFUSED, objection)
        return change
    change.line = desired
    if name.endswith(f":{PREFERENCE}") and desired == DEFAULT:
        _want_default(change, knob, known)
    elif knob.value != desired:
        _set(change, knob, desired)
    line = state.lines.get(knob.path)
    on_disk = knob.show(line.value) if line else None
    if known is None or known.is_void(state.boot, lasted=line is not None):
        change.original = _original(state, name, knob)
    model.judge(change, known, on_disk, lambda value: value == desired)
    return change


def _want_default(change: Change, knob: Knob, known: Original | None) -> None:
    """Ask for the firmware's own preference: the kernel then shows the word that it stands for, whichever that is."""
    change.target = None
    if known is None or known.desired != DEFAULT:
        _set(change, knob, DEFAULT)
    else:
        change.explain(f"the kernel shows it as {knob.value}: a drift at run time can't be told")


def _set(change: Change, knob: Knob, value: str) -> None:
    change.writes = ((knob.path, knob.spell(value)),)
    if knob.value is not None:
        change.undo = ((knob.path, knob.spell(knob.value)),)


def _original(state: State, name: str, knob: Knob) -> Original:
    """Return what the ledger notes; of an energy preference what it was before our governor moved it."""
    policy, _colon, attribute = name.partition(":")
    governor = state.originals.get(f"{policy}:{GOVERNOR}")
    if attribute == PREFERENCE and governor is not None and knob.path in governor.companions:
        return Original(governor.companions[knob.path], None, state.boot)
    return Original(str(knob.value), None, state.boot)


def _release(state: State, name: str, knob: Knob) -> Change:
    """Give a setting back that is no longer wanted."""
    original = state.originals[name]
    change = Change(name=name, before=knob.value, forget=True)
    if original.is_void(state.boot, lasted=knob.path in state.lines):
        change.explain("was never applied: nothing to give back")
        return change
    if knob.trouble is not None:
        change.reject(model.UNSUPPORTED, f"not given back yet: {knob.trouble}")
        return change
    change.status, change.target = model.CHANGED, original.give_back(None, state.boot)
    change.explain(f"given back: {change.target}")
    if knob.value != change.target:
        _set(change, knob, change.target)
    return change


def _name_rivals(change: Change, rivals: Iterable[Found]) -> None:
    """Say who else sets the governor; those that come back to it later override ours."""
    if change.line is None or change.status in (model.UNSUPPORTED, model.REFUSED):
        return
    lasting = [rival for rival in rivals if rival.name not in ONCE_AT_BOOT]
    change.overridden_by = "; ".join(
        f"{rival.name} sets it again ({rival.evidence}): {rival.remedy}, or set it there" for rival in lasting
    )
    for rival in rivals:
        if rival.name in ONCE_AT_BOOT:
            change.explain(f"{rival.name} sets it at boot too, before {unit.NAME} ({rival.evidence})")


def _couple(state: State, policy: Policy, rows: Mapping[str, Change], outlook: Mapping[str, str | None]) -> None:
    """Let the energy preference follow the governor: a new governor moves it, and not every driver moves it back."""
    governor, preference = rows.get(GOVERNOR), rows.get(PREFERENCE)
    knob = state.knobs[f"{policy.name}:{PREFERENCE}"]
    if preference is not None and preference.target and _held(policy, outlook.get(GOVERNOR), preference.target):
        # Only when it is given back: what is wanted and held was refused already.
        preference.target, preference.writes, preference.undo = None, (), ()
        preference.explain(f"as soon as the governor is no longer {PERFORMANCE}")
    if governor is None or governor.target is None or knob.value is None or policy.driver not in ACTIVE_DRIVERS:
        return
    known = state.originals.get(governor.name)
    if governor.original is not None:
        noted = state.originals.get(f"{policy.name}:{PREFERENCE}")
        governor.original.companions[knob.path] = noted.value if noted else knob.value
    final = _final_preference(known, governor, preference, knob)
    # Cut off between the two: the governor is as it should be, and the preference not yet.
    unfinished = known is not None and known.desired != governor.target and final not in (None, knob.value)
    if not governor.writes and not unfinished:
        return
    if final is not None and not (preference and preference.writes) and not _held(policy, governor.target, final):
        governor.writes = (*governor.writes, (knob.path, final))
    governor.undo = (*governor.undo, (knob.path, knob.value))


def _final_preference(known: Original | None, governor: Change, preference: Change | None, knob: Knob) -> str | None:
    """Return the energy preference that has to be there once the governor is set, or None for any."""
    if preference is not None and preference.status not in (model.REFUSED, model.UNSUPPORTED):
        return preference.target or preference.desired
    if known is not None and (governor.desired is None or known.desired == PERFORMANCE != governor.desired):
        return known.companions.get(knob.path)
    return None


def _in_order(rows: Mapping[str, Change]) -> list[Change]:
    """Return a policy's changes so that at no moment the lower limit would be above the upper one."""
    order = list(ATTRIBUTES)
    later = rows.get(UPPER)
    if later is not None and later.writes and int(later.target or 0) < int(later.before or 0):
        order = [GOVERNOR, PREFERENCE, LOWER, UPPER]
    return [rows[attribute] for attribute in order if attribute in rows]
