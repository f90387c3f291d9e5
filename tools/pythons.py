"""This machine's interpreters, and environments with nothing but one version of ansible-core."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What targets may run (tests/config.yml) and what controllers run; ansible-test names those it does not find.
PYTHONS = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14")
# The versions of ansible-core that the collection is for, and which Pythons run them; requirements/core-VERSION.txt.
CORES = {
    "2.19": ("3.11", "3.12", "3.13"),
    "2.20": ("3.12", "3.13", "3.14"),
    "2.21": ("3.12", "3.13", "3.14"),
}


def works(python: Path) -> bool:
    """Tell whether an interpreter is there and runs; a version manager's shim may be there and refuse."""
    argv = [str(python), "-c", "import ensurepip"]
    try:
        return subprocess.run(argv, check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def search_path(environ: dict[str, str]) -> str:
    """Return a PATH on which every `pythonX.Y` works, with those that pyenv keeps."""
    folders = [Path(folder) for folder in environ["PATH"].split(os.pathsep)]
    kept = Path(environ.get("PYENV_ROOT") or Path(environ["HOME"]) / ".pyenv") / "versions"
    for version in PYTHONS:
        name = f"python{version}"
        broken = {folder for folder in folders if (folder / name).exists() and not works(folder / name)}
        folders = [folder for folder in folders if folder not in broken]
        if not any((folder / name).exists() for folder in folders):
            found = [folder for folder in sorted(kept.glob(f"{version}.*/bin")) if works(folder / name)]
            folders += found[-1:]
    return os.pathsep.join(map(str, folders))


def core(version: str, cache: Path) -> Path | None:
    """Return an environment with this ansible-core alone, from its lock with hashes; None without a Python for it.

    :raises OSError: it can't be written; CalledProcessError where uv fails, which has to be on PATH.
    """
    path = search_path(dict(os.environ))
    python = next(filter(None, (shutil.which(f"python{one}", path=path) for one in CORES[version])), None)
    if python is None:
        return None
    lock = ROOT / f"requirements/core-{version}.txt"
    digest = hashlib.sha256(lock.read_bytes() + python.encode()).hexdigest()[:12]
    made = cache / "venv" / f"core-{version}-{digest}"
    if not (made / ".complete").exists():
        subprocess.run(["uv", "venv", "--quiet", "--clear", "--python", python, str(made)], check=True)
        sync = ["uv", "pip", "sync", "--quiet", "--require-hashes", "--python", str(made / "bin/python"), str(lock)]
        subprocess.run(sync, check=True)
        (made / ".complete").touch()
    return made
