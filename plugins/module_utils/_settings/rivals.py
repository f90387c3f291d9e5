# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Other tools that tune the same kernel: which are at work on this host, and what they would override.

Told from unit files, enablement links and systemd's state below /run, so that looking costs a few folder
listings and no systemctl call. Not rivals: irqbalance (interrupts), systemd-oomd (kills, sets nothing), thermald.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .._host.host import Host

# In systemd's order of precedence (systemd.unit(5)): the first that has a unit masks the rest.
UNIT_FOLDERS = (
    "/etc/systemd/system",
    "/run/systemd/system",
    "/run/systemd/generator",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
    "/run/systemd/generator.late",  # units made of /etc/init.d scripts
)
WANTS_SUFFIXES = (".wants", ".requires")
# systemd keeps a link `invocation:UNIT` here as long as a unit is active (unit.c, unit_unlink_state_files).
ACTIVE_FOLDER = "/run/systemd/units"

SYSCTL = "sysctl"
CPU_GOVERNOR = "cpu_governor"
THP = "thp"

TUNED = "tuned"
TUNED_CONFIGURATION = "/etc/tuned/tuned-main.conf"
# What is TuneD's although it applies /etc/sysctl.d after its own sysctl keys (plugin_sysctl.py, _apply_system_sysctl).
TUNED_OWN = "CPU governor, energy preference, transparent huge pages, vm.dirty_* keys, as its active profile has them"

ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([A-Za-z_]\w*)=(.*)")


class Rival(NamedTuple):
    """A tool that sets what we set."""

    name: str
    units: tuple[str, ...]
    subsystems: tuple[str, ...]
    overrides: str


class Found(NamedTuple):
    """A rival at work on this host."""

    name: str
    subsystems: tuple[str, ...]
    evidence: str
    overrides: str
    remedy: str


RIVALS = (
    # On Debian 13 its package starts it. Source: sysctl_tuner.c, event_handler; tcp_buffer_tuner.c; bpftune-sysctl(8).
    Rival(
        "bpftune",
        ("bpftune.service",),
        (SYSCTL,),
        "net.ipv4.tcp_rmem, net.ipv4.tcp_wmem, net.ipv4.tcp_mem, net.core.netdev_max_backlog and other net.* keys, as "
        "traffic changes. Once a run writes such a key, the tuner that has it is off until bpftune starts again; what "
        "systemd-sysctl writes at boot, before bpftune starts, turns no tuner off",
    ),
    Rival(
        TUNED,
        ("tuned.service",),
        (SYSCTL, CPU_GOVERNOR, THP),
        "sysctl keys, CPU governor, energy preference, transparent huge pages, as its active profile has them",
    ),
    Rival(
        "power-profiles-daemon",
        ("power-profiles-daemon.service", "tuned-ppd.service"),
        (CPU_GOVERNOR,),
        "CPU governor and energy preference",
    ),
    Rival(
        "tlp",
        ("tlp.service",),
        (SYSCTL, CPU_GOVERNOR),
        "CPU governor, energy preference and turbo; vm.laptop_mode, vm.dirty_writeback_centisecs, "
        "vm.dirty_expire_centisecs, kernel.nmi_watchdog",
    ),
    Rival(
        "auto-cpufreq",
        ("auto-cpufreq.service",),
        (CPU_GOVERNOR,),
        "CPU governor, energy preference and turbo, again every few seconds",
    ),
    Rival("ondemand", ("ondemand.service",), (CPU_GOVERNOR,), "CPU governor, about a minute after each boot"),
    Rival(
        "cpufrequtils",
        ("cpufrequtils.service",),
        (CPU_GOVERNOR,),
        "CPU governor and frequency limits, at boot",
    ),
    Rival("cpupower", ("cpupower.service",), (CPU_GOVERNOR,), "CPU governor and frequency limits, at boot"),
    Rival(
        "laptop-mode-tools",
        ("laptop-mode.service",),
        (SYSCTL, CPU_GOVERNOR),
        "CPU governor; vm.laptop_mode and the vm.dirty_* keys",
    ),
    Rival(
        "sapconf",
        ("sapconf.service",),
        (SYSCTL, CPU_GOVERNOR, THP),
        "sysctl keys, CPU governor, transparent huge pages",
    ),
    Rival(
        "saptune",
        ("saptune.service",),
        (SYSCTL, CPU_GOVERNOR, THP),
        "sysctl keys, CPU governor, transparent huge pages, as its active notes have them",
    ),
)


def detect(host: Host, subsystem: str | None = None) -> list[Found]:
    """Return the rivals that are enabled or active, by looking only.

    :param subsystem: `SYSCTL`, `CPU_GOVERNOR` or `THP`: only those that touch it.
    :raises OSError: a folder of systemd's can't be listed.
    """
    wanted = _wanted_units(host)
    found = [_as_configured(host, _find(host, rival, wanted)) for rival in RIVALS]
    found.append(_find_ufw(host))
    return [rival for rival in found if rival and subsystem in (None, *rival.subsystems)]


def _wanted_units(host: Host) -> set[str]:
    """Return the units that something is to start, by the links of `systemctl enable` and of generators."""
    return {
        unit
        for folder in UNIT_FOLDERS
        for name in host.list_dir(folder)
        if name.endswith(WANTS_SUFFIXES)
        for unit in host.list_dir(f"{folder}/{name}")
    }


def _find(host: Host, rival: Rival, wanted: set[str]) -> Found | None:
    states = {unit: _state(host, unit, wanted) for unit in rival.units}
    at_work = {unit: state for unit, state in states.items() if state}
    if not at_work:
        return None
    evidence = ", ".join(f"{unit} is {state}" for unit, state in at_work.items())
    remedy = f"systemctl disable --now {' '.join(at_work)}"
    return Found(rival.name, rival.subsystems, evidence, rival.overrides, remedy)


def _as_configured(host: Host, found: Found | None) -> Found | None:
    """Return what TuneD leaves alone by its own settings; any other rival as it was found."""
    if found is None or found.name != TUNED:
        return found
    settings = _ini(host, TUNED_CONFIGURATION)
    # Its default is yes; it takes yes as Python's configparser does.
    if settings.get("reapply_sysctl", "1").lower() not in ("1", "yes", "true", "on"):
        return found
    excluded = settings.get("reapply_sysctl_exclude", "")
    but = f", but for those that reapply_sysctl_exclude names ({excluded})" if excluded else ""
    kept = f"It applies /etc/sysctl.d after its own sysctl keys (reapply_sysctl), so those of ours stay{but}"
    return found._replace(overrides=f"{TUNED_OWN}. {kept}")


def _state(host: Host, unit: str, wanted: set[str]) -> str:
    # A removed package may leave its enablement link behind; that starts nothing.
    enabled = unit in wanted and _is_loadable(host, unit)
    active = host.readlink(f"{ACTIVE_FOLDER}/invocation:{unit}") is not None
    return " and ".join(word for word, true in (("enabled", enabled), ("active", active)) if true)


def _is_loadable(host: Host, unit: str) -> bool:
    for folder in UNIT_FOLDERS:
        path = f"{folder}/{unit}"
        if host.readlink(path) == "/dev/null":  # masked
            return False
        if host.exists(path):
            return True
    return False


def _find_ufw(host: Host) -> Found | None:
    """Return ufw if it is on and has a sysctl file: it loads that at boot and at each `ufw enable`.

    Source: ufw-init-functions, ufw_start.
    """
    # ufw.service is enabled wherever the package is; only this says whether it does anything.
    if _settings(host, "/etc/ufw/ufw.conf").get("ENABLED", "").lower() != "yes":
        return None
    path = _settings(host, "/etc/default/ufw").get("IPT_SYSCTL", "")
    keys = _sysctl_keys(host, path) if path else []
    if not keys:
        return None
    evidence = f"ufw is enabled, and IPT_SYSCTL={path} in /etc/default/ufw"
    remedy = f"put your values for these keys into {path} too, or set IPT_SYSCTL= in /etc/default/ufw"
    return Found("ufw", (SYSCTL,), evidence, ", ".join(keys), remedy)


def _settings(host: Host, path: str) -> dict[str, str]:
    try:
        return assignments(host.read_text(path))
    except OSError:
        return {}


def _ini(host: Host, path: str) -> dict[str, str]:
    """Return the settings of a file of lines `name = value`, comments left out; none if it can't be read."""
    try:
        lines = [line.partition("#")[0].partition("=") for line in host.read_text(path).splitlines()]
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, equals, value in lines if equals}


def _sysctl_keys(host: Host, path: str) -> list[str]:
    try:
        lines = host.read_text(path).splitlines()
    except OSError:
        return []
    names = (line.split("=", 1)[0].strip() for line in lines if "=" in line and line.lstrip()[0] not in "#;")
    return [name.lstrip("-").replace("/", ".") for name in names]


def assignments(text: str) -> dict[str, str]:
    """Return the assignments of a file in the shell's syntax (/etc/os-release, /etc/default/…), the last wins.

    Lines that are no assignment, or whose quotes don't match, are left out.
    """
    found = {}
    for match in map(ASSIGNMENT.match, text.splitlines()):
        if not match:
            continue
        try:
            words = shlex.split(match[2], comments=True)
        except ValueError:
            continue
        found[match[1]] = words[0] if words else ""
    return found
