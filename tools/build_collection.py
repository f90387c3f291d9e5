"""Builds the collection's artifact, with the wheel of the miner's runtime in it.

Usage: python tools/build_collection.py [FOLDER]     the artifact goes into FOLDER (dist/); its path is printed

The wheel lies in roles/python_env/files/ of the artifact, where the role python_env looks for it when there is no
runtime/ beside the collection. It is not committed. The same tree makes the same wheel, byte for byte. It is also the
wheel that a checkout of that tree makes, so a host whose environment was built from the checkout keeps it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WHEELS = "roles/python_env/files"
# plugins/action/python_env.py has the same: it is the time of all files in the wheel.
SOURCE_DATE_EPOCH = "1580601600"


class BuildError(Exception):
    """The artifact can't be built; the message says why and what to do."""


def run(command: list[str], folder: Path, **variables: str) -> None:
    """Run a command in a folder, and show its output only if it fails.

    :raises BuildError: it failed; with the last lines of its output.
    """
    done = subprocess.run(command, cwd=folder, env=os.environ | variables, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()[-5:]
        raise BuildError("\n".join([f"{' '.join(command)} failed with code {done.returncode}:", *lines]))


def export(target: Path) -> None:
    """Copy what is or would be committed: no cache and no ignored file can slip into the artifact."""
    argv = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        source = ROOT / name
        if not source.exists():
            continue  # removed, but not yet committed
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, copy, follow_symlinks=False)


def add_wheel(tree: Path) -> None:
    """Build the wheel of the runtime in a copy of the repository, and put it where the role looks for it.

    :raises BuildError: the build failed, or hatchling is not installed.
    """
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tree / WHEELS)]
    run(command, tree / "runtime", SOURCE_DATE_EPOCH=SOURCE_DATE_EPOCH, PYTHONDONTWRITEBYTECODE="1")


def build(folder: Path) -> Path:
    """Return the path of the artifact, built into a folder from a clean copy of the repository.

    :raises BuildError: a step failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="precog-fleet-") as work:
        tree, out = Path(work, "tree"), Path(work, "out")
        tree.mkdir()
        export(tree)
        add_wheel(tree)
        galaxy = [sys.executable, "-m", "ansible", "galaxy", "collection", "build", "--output-path", str(out)]
        run(galaxy, tree)
        artifact = next(out.glob("precog-fleet-*.tar.gz"))
        return Path(shutil.move(artifact, folder / artifact.name))


def main(arguments: list[str]) -> int:
    """Build the artifact and print its path; returns 1 if that failed."""
    try:
        print(build(Path(arguments[0]) if arguments else ROOT / "dist"))
    except BuildError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
