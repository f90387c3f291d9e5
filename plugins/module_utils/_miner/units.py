# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The miners' units of systemd: a hardened template, and what each instance adds to it. Pure.

All of it is understood by systemd 252 and later, so that no host warns of a key it does not know.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, NamedTuple

from .._host import rlimits as limits
from .parse import RUNTIME, UPSTREAM

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .settings import Settings

UNIT_ROOT = "/etc/systemd/system"
SERVICE = "precog-miner"
STATE_ROOT = "/var/lib"  # of systemd's StateDirectory
# Root's alone, down to the files: in a folder of the miner's own it could put a link in root's way.
SECRETS = "/etc/precog-miner"
# Root builds environments from it: a miner that could open a lock in it could hold up every build.
CACHES = "/var/cache/precog-fleet"
# A folder of root's for each instance: what tells it something is there, and it can write nothing in /run.
RUN = f"/run/{SERVICE}"
# Goes back from a release that a run left untested; not named as instances are.
GUARD = "precog-fleet-guard.service"

NOTICE = "# Written by precog.fleet.miner_service; a file beside it named 20-....conf can add to it."
# Five tries, then a pause. RestartSteps would do it too, but its count never goes back while a service is well.
TRIES, TRIES_WITHIN_S, PAUSE_S = 5, 60, 60
# Until it says that it is ready: imports and a first look at the market; upstream's engine reads the chain too.
START_S = {RUNTIME: 90, UPSTREAM: 300}
LONGEST_USER = 31  # characters that useradd takes
STOP_S = 15  # requests in flight get 5 s of it


class Places(NamedTuple):
    """Where things are on the host.

    :ivar root: the folder of releases and of `current`.
    :ivar state: the folder of the instances' state, below STATE_ROOT.
    :ivar user: what the names of the system users begin with that instances run as.
    :ivar writes_code: whether the interpreter writes machine code as it runs, as PyPy does.
    """

    root: str
    state: str
    user: str
    writes_code: bool


def user(prefix: str, name: str) -> str:
    """Return the system user of an instance, one for each: none can read what another wrote, nor signal it."""
    found = f"{prefix}-{name}"
    if len(found) <= LONGEST_USER:
        return found
    return f"{found[: LONGEST_USER - 9]}-{hashlib.sha256(found.encode()).hexdigest()[:8]}"


def user_of(files: Mapping[str, bytes], name: str) -> str:
    """Return the user that units give an instance; "" if they name none.

    :param files: by path below UNIT_ROOT.
    """
    for path in (f"{service(name)}.d/10-instance.conf", f"{SERVICE}@.service"):
        found = re.search(rb"^User=(.+)$", files.get(path, b""), re.MULTILINE)
        if found:
            return found[1].decode()
    return ""


def service(name: str) -> str:
    """Return the name of an instance's service."""
    return f"{SERVICE}@{name}.service"


def socket(name: str) -> str:
    """Return the name of an instance's socket."""
    return f"{SERVICE}@{name}.socket"


def secrets_file(name: str) -> str:
    """Return the path of an instance's secret variables."""
    return f"{SECRETS}/{name}.env"


def wallets(name: str) -> str:
    """Return the folder of an instance's wallets."""
    return f"{SECRETS}/{name}/wallets"


def keeps(name: str, path: str) -> bool:
    """Tell whether a secret is an instance's, by its path."""
    return path == secrets_file(name) or path.startswith(f"{SECRETS}/{name}/")


def common(places: Places) -> dict[str, bytes]:
    """Return the units that all instances share, by path below UNIT_ROOT."""
    return {f"{SERVICE}@.service": _template(places), f"{SERVICE}@.timer": _retry()}


def own(settings: Settings, places: Places) -> dict[str, bytes]:
    """Return what one instance adds, by path below UNIT_ROOT."""
    found = {f"{service(settings.name)}.d/10-instance.conf": _drop_in(settings, places)}
    if settings.engine == RUNTIME:
        found[socket(settings.name)] = _socket(settings)
    return found


def _template(places: Places) -> bytes:
    folder = places.state[len(STATE_ROOT) + 1 :]
    return _text(
        f"""
        {NOTICE}
        [Unit]
        Description=Precog miner %i
        Wants=network-online.target
        # At boot the guard goes first, so that no untested release answers.
        After=network-online.target {GUARD}
        # A crash loop ends in a pause, after which the timer tries again.
        StartLimitIntervalSec={TRIES_WITHIN_S}
        StartLimitBurst={TRIES}
        OnFailure={SERVICE}@%i.timer

        [Service]
        Type=notify
        NotifyAccess=main
        # An instance's own part names its own. Without that part this one, if it is there at all, and never root.
        User={places.user}
        Group={places.user}
        EnvironmentFile={places.root}/current/instances/%i/environment
        EnvironmentFile=-{SECRETS}/%i.env
        Environment=RUNTIME_DIRECTORY={RUN}/%i
        ExecStartPre=+/usr/bin/install -d -o root -g root -m 0755 {RUN} {RUN}/%i
        ExecStart={places.root}/current/instances/%i/start
        Restart=always
        TimeoutStopSec={STOP_S}
        # The main process ends the others itself; what is left then is killed.
        KillMode=mixed
        SyslogIdentifier={SERVICE}@%i
        # A core holds the keys.
        LimitCORE=0

        UMask=0077
        WorkingDirectory={places.state}/%i
        StateDirectory={folder}/%i
        StateDirectoryMode=0700
        # Other instances' state and secrets are not visible.
        TemporaryFileSystem={places.state}:ro,mode=0755 {SECRETS}:ro,mode=0755
        BindPaths={places.state}/%i
        # Without a wallet there is none.
        BindReadOnlyPaths=-{SECRETS}/%i
        # Nor D-Bus, where every service of the host can be asked for something.
        InaccessiblePaths=-{CACHES} -/run/dbus
        # ProtectSystem leaves it writable.
        ReadOnlyPaths=/run

        ProtectSystem=strict
        ProtectHome=yes
        PrivateTmp=yes
        PrivateDevices=yes
        DevicePolicy=closed
        PrivateIPC=yes
        # With a user namespace of its own each, instances can't look into one another's /proc/PID.
        PrivateUsers=yes
        ProtectProc=invisible
        ProtectClock=yes
        ProtectControlGroups=yes
        ProtectHostname=yes
        ProtectKernelLogs=yes
        ProtectKernelModules=yes
        ProtectKernelTunables=yes
        KeyringMode=private
        LockPersonality=yes
        MemoryDenyWriteExecute={"no" if places.writes_code else "yes"}
        NoNewPrivileges=yes
        RemoveIPC=yes
        # What counts packets is what filters them: without figures, IPAddressDeny= is not in force.
        IPAccounting=yes
        RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
        RestrictNamespaces=yes
        RestrictRealtime=yes
        RestrictSUIDSGID=yes
        CapabilityBoundingSet=
        AmbientCapabilities=
        SystemCallArchitectures=native
        SystemCallFilter=@system-service
        SystemCallFilter=~@privileged @resources
        SystemCallErrorNumber=EPERM

        [Install]
        WantedBy=multi-user.target
        """
    )


def _retry() -> bytes:
    return _text(
        f"""
        {NOTICE}
        [Unit]
        Description=Another try of the Precog miner %i
        # Who stops the miner stops this too.
        PartOf={SERVICE}@%i.service
        StartLimitIntervalSec=0

        [Timer]
        OnActiveSec={PAUSE_S}s
        AccuracySec=1s
        RemainAfterElapse=no
        """
    )


def _socket(settings: Settings) -> bytes:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    both = "BindIPv6Only=both\n" if settings.host == "::" else ""
    return _text(
        f"""
        {NOTICE}
        [Unit]
        Description=Requests to the Precog miner {settings.name}

        [Socket]
        # It outlives the service: while a release is switched, requests wait here.
        ListenStream={host}:{settings.port}
        {both}Backlog=1024
        NoDelay=yes
        # An address that the network brings later than this.
        FreeBind=yes
        FileDescriptorName=http
        Service={service(settings.name)}

        [Install]
        WantedBy=sockets.target
        """
    )


def _drop_in(settings: Settings, places: Places) -> bytes:
    unit = ["[Unit]", f"Requires={socket(settings.name)}", f"After={socket(settings.name)}", ""]
    own_user = user(places.user, settings.name)
    values = {
        "User": own_user,
        "Group": own_user,
        "TimeoutStartSec": f"{START_S.get(settings.engine, START_S[RUNTIME])}",
        "RestartSec": f"{settings.restart_s:g}",
        "WatchdogSec": f"{settings.watchdog_s:g}",
        "LimitNOFILE": _limit(settings.nofile),
        "LimitNPROC": _limit(settings.nproc),
        "CPUAffinity": settings.cpu_affinity,
        "Nice": f"{settings.nice}",
        "MemoryHigh": settings.memory_high,
        "MemoryMax": settings.memory_max,
        "OOMScoreAdjust": f"{settings.oom_score_adjust}",
        "TasksMax": settings.tasks_max,
        "IPAddressDeny": "any" if settings.ip_allow else " ".join(settings.ip_deny),
        "IPAddressAllow": " ".join(("localhost", *settings.ip_allow)) if settings.ip_allow else "",
    }
    lines = [NOTICE, *(unit if settings.engine == RUNTIME else []), "[Service]"]
    lines += [f"{key}={value}" for key, value in values.items() if value]
    return ("\n".join(lines) + "\n").encode()


def _limit(pair: limits.Pair | None) -> str:
    return limits.systemd_text(pair) if pair else ""


def _text(text: str) -> bytes:
    return "".join(f"{line.strip()}\n" for line in text.strip().splitlines()).encode()
