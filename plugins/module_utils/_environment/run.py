# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One run of python_env: look, and where something differs, build, switch the link, and sweep.

What stands in the way raises before the link is touched, so that the environment in use stays the one in use.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from .._engine import model
from .._host import commands
from .._host.host import COMMAND_ENVIRONMENT, HostError
from . import check
from . import plan as environment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._host.host import Host
    from .plan import Interpreter, Request

LOCK = ".lock"
PATIENCE = 1800.0  # seconds; another run may be fetching half a gigabyte over a slow line
UMASK = 0o022  # who runs from an environment is not who made it
ABSENT = "absent"


class View(NamedTuple):
    """What a look at the host found.

    :ivar interpreter: None where it is not there yet.
    :ivar name: of the folder of the environment asked for; "" where it depends on a missing interpreter.
    :ivar linked: the name that the link leads to, or None.
    :ivar wrong: why it is yet to be made: `ABSENT`, what is damaged of the one that is there, or "".
    :ivar lacking: Debian packages that were asked for and are not installed.
    :ivar remains: what killed runs left.
    """

    interpreter: Interpreter | None
    name: str
    linked: str | None
    wrong: str
    lacking: tuple[str, ...]
    remains: tuple[str, ...]

    @property
    def settled(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.wrong or self.lacking or self.remains or self.name != self.linked)


def look(host: Host, asked: Request) -> View:
    """Look at the host, and change nothing.

    :raises HostError: the interpreter is not there, and no Debian package is known to bring it.
    """
    linked, lacking = environment.linked(host, asked), tuple(_lacking(asked.system_packages))
    remains = tuple(environment.remains(host, asked))
    path = environment.program(asked.interpreter)
    if not path:
        package = environment.debian_package(asked.interpreter)
        if not package:
            raise HostError(f"interpreter is {asked.interpreter}, which is not on this host: name one that is there")
        return View(None, "", linked, ABSENT, (*lacking, package), remains)
    interpreter = environment.inspect(path)
    name, wrong = _wanted(host, asked, environment.folder_name(asked, interpreter), linked)
    return View(interpreter, name, linked, wrong, lacking, remains)


def _wanted(host: Host, asked: Request, name: str, linked: str | None) -> tuple[str, str]:
    """Return the name of the environment that is to be in use, and why it can't be what is there; "" if it can."""
    made = environment.alike(host, asked, name)
    if not made:
        return name, ABSENT
    best = linked if linked in made else made[-1]
    wrong = check.damage(f"{asked.root}/{best}", full=asked.full)
    return (environment.repaired(made[-1]) if wrong else best), wrong


def _lacking(packages: Sequence[str]) -> list[str]:
    """Return which Debian packages are not installed."""
    if not packages:
        return []
    argv = ["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package}\\n", "--", *packages]
    try:
        done = commands.run(argv, env=COMMAND_ENVIRONMENT)
    except OSError as error:
        raise HostError("system_packages can only be looked for on Debian: leave it empty here") from error
    installed = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("installed ")}
    return [name for name in packages if name not in installed]


def present(host: Host, asked: Request, *, check_mode: bool) -> dict[str, Any]:
    """Bring the environment asked for into place, and return the module's result.

    :raises HostError: it can't be; the message says what is used instead.
    :raises environment.Missing: the control node has to bring something first.
    """
    began = time.monotonic()
    before = look(host, asked)
    steps: dict[str, float] = {}
    warnings: list[str] = []
    done = before
    if not before.settled:
        if check_mode:
            _foresee(asked, before)
        else:
            steps, warnings = _locked(host, asked, before.linked)
            done = look(host, asked)
    result = _report(asked, before, done)
    seconds = {**steps, "all": round(time.monotonic() - began, 2)}
    return {**result, "seconds": seconds, **({"warnings": warnings} if warnings else {})}


def _foresee(asked: Request, view: View) -> None:
    """Find out in check mode what would stand in the way."""
    from . import build, lock

    if view.interpreter:
        build.expect(asked, view.interpreter)
    else:
        lock.parse(asked.lock)
    if view.wrong:
        build.expect_room(asked, view.linked)


def _locked(host: Host, asked: Request, before: str | None) -> tuple[dict[str, float], list[str]]:
    """Do what is to be done, after whoever else is at it; returns seconds by step, and warnings.

    :param before: where the link led to.
    """
    mask = os.umask(UMASK)
    try:
        with host.lock(f"{asked.root}/{LOCK}", PATIENCE):
            os.chmod(asked.root, 0o755)  # the lock's folder is made for root alone
            return _apply(host, asked, look(host, asked))
    except OSError as error:
        raise HostError(f"{model.write_error(error)}. {model.remedy(error)} {_outcome(host, asked, before)}") from error
    except HostError as error:
        raise HostError(f"{error}. {_outcome(host, asked, before)}") from error
    finally:
        os.umask(mask)


def _outcome(host: Host, asked: Request, before: str | None) -> str:
    """Say where a failed run leaves the link."""
    linked = environment.linked(host, asked)
    if linked != before:
        return f"{asked.link} is {linked} already"
    return f"Nothing was changed: {asked.link} is still {linked}" if linked else "There is no environment yet"


def _apply(host: Host, asked: Request, view: View) -> tuple[dict[str, float], list[str]]:
    from . import build, pip

    if view.interpreter:
        build.expect(asked, view.interpreter)
    debian, wheels = list(view.lacking), []
    if view.wrong:
        build.expect_room(asked, view.linked)
        debian += pip.missing()
        wheels = [one.sha256 for one in asked.packages if not one.path]
    if debian or wheels:
        raise environment.Missing(debian, wheels)
    for name in view.remains:
        host.remove_tree(f"{asked.root}/{name}")
    steps = {}
    if view.wrong and view.interpreter:
        steps = build.build(host, asked, view.interpreter, view.name)
    if view.linked == view.name:
        return steps, []
    host.replace_link(asked.link, view.name)
    try:
        _prune(host, asked, view.name)
    except OSError as error:
        return steps, [f"{asked.link} is {view.name} now, but not all that nothing needs could be removed: {error}"]
    return steps, []


def _prune(host: Host, asked: Request, linked: str) -> None:
    """Remove the environments that nothing needs any more: what was damaged, then the oldest."""
    have = {name: _made(f"{asked.root}/{name}") for name in environment.environments(host, asked)}
    needed = [*environment.users(asked), linked]
    damaged = [name for name in environment.alike(host, asked, linked) if name not in needed]
    whole = {name: when for name, when in have.items() if name not in damaged}
    gone = [*damaged, *environment.superfluous(whole, asked.keep, needed)]
    running = environment.processes(asked, gone) if gone else {}
    for name in gone:
        if name not in running:
            _remove(host, asked, name)


def _made(place: str) -> float:
    try:
        return os.stat(f"{place}/{check.MARKER}").st_mtime
    except OSError:
        return 0.0


def _remove(host: Host, asked: Request, name: str) -> None:
    """Remove an environment so that no half of it is ever found under its name."""
    doomed = f"{asked.root}/.{name}{environment.REMOVING}"
    host.remove_tree(doomed)
    host.rename(f"{asked.root}/{name}", doomed)
    host.remove_tree(doomed)


def _report(asked: Request, before: View, done: View) -> dict[str, Any]:
    changed = not before.settled
    row = model.Change(f"python_env:{asked.name}", desired=done.name or None)
    row.before, row.persisted_before = before.linked, before.linked
    row.after = row.persisted = done.name or None
    row.persisted_by = asked.link
    row.status = model.CHANGED if changed else model.OK
    row.reason = _reason(asked, before)
    place = f"{asked.root}/{done.name}" if done.name else asked.link
    return {
        "changed": changed,
        "settings": [row.row()],
        "environment": place,
        "environment_variables": {str(level): environment.variables(place, level) for level in asked.optimize},
        "interpreter": done.interpreter._asdict() if done.interpreter else None,
        "diff": {"before": f"{before.linked or ''}\n", "after": f"{done.name}\n", "before_header": asked.link},
    }


def _reason(asked: Request, before: View) -> str:
    texts = []
    if before.interpreter is None:
        texts.append(f"{asked.interpreter} is not installed yet; its build decides the name")
    if before.wrong and before.wrong != ABSENT:
        texts.append(f"it is built again: {before.wrong}")
    if before.lacking:
        texts.append(f"needs {', '.join(before.lacking)}")
    if before.remains and before.linked == before.name and not before.wrong:
        texts.append("what a stopped run left is removed")
    return "; ".join(texts)


def absent(host: Host, asked: Request, *, check_mode: bool) -> dict[str, Any]:
    """Remove the environments of this name, the link, and what only they needed; return the module's result.

    Check mode does not mind who uses one: the run that it foretells may remove that first, as a rollback does.

    :raises HostError: something still runs from one of them.
    """
    began = time.monotonic()
    names = environment.environments(host, asked)
    used = {name: links for name, links in environment.users(asked).items() if name in names}
    used = used or (environment.processes(asked, names) if names else {})
    if used and not check_mode:
        told = "; ".join(f"{name} by {', '.join(links)}" for name, links in sorted(used.items()))
        raise HostError(f"environments of {asked.name} are in use: {told}. Remove what uses them first (miner_service)")
    linked = environment.linked(host, asked)
    changed = bool(names or linked or environment.remains(host, asked))
    if changed and not check_mode:
        try:
            with host.lock(f"{asked.root}/{LOCK}", PATIENCE):
                _clear(host, asked)
        except OSError as error:
            raise HostError(f"{model.write_error(error)}. {model.remedy(error)}") from error
        host.remove_if_empty(asked.root)
        host.remove_if_empty(os.path.dirname(asked.root))
    row = model.Change(f"python_env:{asked.name}", before=linked, persisted_before=linked, persisted_by=asked.link)
    row.status = model.CHANGED if changed else model.OK
    return {
        "changed": changed,
        "settings": [row.row()],
        "environment": "",
        "environment_variables": {},
        "interpreter": None,
        "diff": {"before": f"{linked or ''}\n", "after": "\n", "before_header": asked.link},
        "seconds": {"all": round(time.monotonic() - began, 2)},
    }


def _clear(host: Host, asked: Request) -> None:
    host.remove(asked.link)
    for name in environment.environments(host, asked):
        _remove(host, asked, name)
    for name in environment.remains(host, asked):
        host.remove_tree(f"{asked.root}/{name}")
    others = [name for name in host.list_dir(asked.root) if not name.startswith(".")]
    if others:
        return
    # uv, what it has fetched, and the lock serve all environments of this folder.
    from . import build

    for name in host.list_dir(asked.root):
        if name.startswith(".tool-"):
            host.remove_tree(f"{asked.root}/{name}")
    host.remove_tree(build.CACHE)
    host.remove_if_empty(os.path.dirname(build.CACHE))
    host.remove(f"{asked.root}/{LOCK}")
