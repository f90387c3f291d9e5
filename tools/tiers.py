"""Which long parts of the tests are due, and when each passed last.

`bin/test` runs in minutes; what takes longer is a *long part*, declared in tests/tiers.yml with the files it tests.
Each part's last pass is in tests/passes.json, which is committed, and in the cache, which is newer on a machine that
tests often. `bin/test full --within SECONDS` asks for the plan: parts whose files changed since their last pass first,
then the others, each group by the oldest pass.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from pathlib import Path

import yaml
from local_fleet.cli import cache_folder

ROOT = Path(__file__).resolve().parent.parent
DECLARATION = ROOT / "tests/tiers.yml"
COMMITTED = ROOT / "tests/passes.json"


@dataclass(frozen=True)
class Pass:
    """A pass of a part: the commit it ran on, when it ended (UTC, ISO 8601), how many seconds it took."""

    commit: str
    time: str
    seconds: int


@dataclass(frozen=True)
class Due:
    """A part in the order it should run: its last pass, if any, and why it stands where it does."""

    part: str
    last: Pass | None
    why: str


@dataclass(frozen=True)
class Map:
    """Which parts a path concerns, by patterns in which `*` also matches `/`.

    *everything* concerns every part, *nothing* none; a path that no pattern knows concerns every part.
    """

    parts: Mapping[str, tuple[str, ...]]
    everything: tuple[str, ...]
    nothing: tuple[str, ...]

    def concerned(self, path: str) -> set[str]:
        """The parts that *path*, relative to the repository's root, concerns."""
        found = {part for part, patterns in self.parts.items() if matches(path, patterns)}
        if matches(path, self.everything) or not (found or matches(path, self.nothing)):
            return set(self.parts)
        return found


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns matches *path*."""
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def declared(file: Path = DECLARATION) -> Map:
    """The map in *file*; raises KeyError or yaml.YAMLError when it is not as declared here."""
    content = yaml.safe_load(file.read_text())
    parts = {name: tuple(paths) for name, paths in content["parts"].items()}
    return Map(parts, tuple(content["everything"]), tuple(content["nothing"]))


def order(parts: Iterable[str], passes: Mapping[str, Pass], changed: Mapping[str, Sequence[str]]) -> list[Due]:
    """The parts in the order they are due.

    *changed* has, for each part whose files changed since its last pass, those files.
    """

    def why(part: str) -> str:
        if part not in passes:
            return "has no pass on record"
        if files := changed.get(part):
            more = f" and {len(files) - 1} more" if len(files) > 1 else ""
            return f"changed since its last pass: {files[0]}{more}"
        return f"passed last at {passes[part].time}"

    def key(part: str) -> tuple[bool, str]:
        is_changed = part not in passes or bool(changed.get(part))
        return not is_changed, passes[part].time if part in passes else ""

    return [Due(part, passes.get(part), why(part)) for part in sorted(parts, key=key)]


def newest(*records: Mapping[str, Pass]) -> dict[str, Pass]:
    """Each part's newest pass of several records."""
    found: dict[str, Pass] = {}
    for record in records:
        for part, one in record.items():
            if part not in found or found[part].time < one.time:
                found[part] = one
    return found


def read(file: Path) -> dict[str, Pass]:
    """The passes in *file*; none when there is no such file."""
    if not file.exists():
        return {}
    return {part: Pass(**entry) for part, entry in json.loads(file.read_text()).items()}


def write(file: Path, passes: Mapping[str, Pass]) -> None:
    """Write the passes to *file*, whole or not at all."""
    text = json.dumps({part: asdict(one) for part, one in sorted(passes.items())}, indent=1)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(f"{text}\n")
    part.replace(file)


def git(*words: str) -> str:
    """What git prints; raises CalledProcessError."""
    return subprocess.run(["git", "-C", str(ROOT), *words], check=True, capture_output=True, text=True).stdout


def changed_since(commit: str) -> list[str] | None:
    """The paths that differ from *commit*, uncommitted ones too; None when git does not know that commit."""
    try:
        listed = git("diff", "--name-only", "--no-renames", commit)
    except subprocess.CalledProcessError:
        return None
    return sorted({*listed.splitlines(), *git("ls-files", "--others", "--exclude-standard").splitlines()})


def changes(known: Map, passes: Mapping[str, Pass]) -> dict[str, list[str]]:
    """For each part with a pass, its files that changed since."""
    by_commit = {one.commit: changed_since(one.commit) for one in passes.values()}
    found = {}
    for part in known.parts.keys() & passes.keys():
        paths = by_commit[passes[part].commit]
        if paths is None:
            found[part] = [f"commit {passes[part].commit[:12]} is not in this clone"]
        else:
            found[part] = [path for path in paths if part in known.concerned(path)]
    return found


def in_cache() -> Path:
    """Where this machine keeps its own record."""
    return cache_folder(dict(os.environ)) / "passes.json"


def show_plan(known: Map) -> None:
    """Print a line for each part in its order: name, seconds of its last pass (0: none), and why it stands there."""
    passes = newest(read(COMMITTED), read(in_cache()))
    for due in order(known.parts, passes, changes(known, passes)):
        print(due.part, due.last.seconds if due.last else 0, due.why, sep="\t")


def note_pass(part: str, seconds: int) -> None:
    """Keep a pass of the commit that is checked out; a tree with changes is no commit's, and is not kept."""
    if git("status", "--porcelain"):
        print(f"{part}: not recorded as passed, as the work tree has uncommitted changes")
        return
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    one = Pass(git("rev-parse", "HEAD").strip(), now, seconds)
    write(in_cache(), newest(read(in_cache()), {part: one}))


def main(words: Sequence[str]) -> int:
    """Run one command; returns the exit status."""
    top = argparse.ArgumentParser(prog="tools/tiers.py", description="Which long parts of the tests are due.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("plan", help="print the long parts in the order they are due")
    commands.add_parser("commit", help="bring tests/passes.json up to this machine's record, to be committed")
    passed = commands.add_parser("passed", help="keep in this machine's record that a part passed")
    passed.add_argument("part")
    passed.add_argument("seconds", type=int)
    arguments = top.parse_args(words)
    known = declared()
    if arguments.command == "plan":
        show_plan(known)
    elif arguments.command == "passed":
        note_pass(arguments.part, arguments.seconds)
    else:
        passes = newest(read(COMMITTED), read(in_cache()))
        write(COMMITTED, {part: one for part, one in passes.items() if part in known.parts})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
