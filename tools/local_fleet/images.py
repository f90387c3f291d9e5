"""Builds images once per recipe: a tar in the cache, and from it an image in the engine."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from local_fleet.engine import Engine, last_line
from local_fleet.model import FleetError, Problem
from local_fleet.process import Failed, Runner
from local_fleet.recipe import MIRROR, Recipe, install_script, own_image_variable, tag_with

# Unpacked root file system and tar of one suite, with room to spare.
NEEDED_BYTES = 1_500_000_000


@contextmanager
def locked(file: Path, runner: Runner) -> Iterator[None]:
    """Holds the lock *file*, so that two commands at once don't do the same work or undo each other's.

    Waits for as long as someone else holds it; raises Stopped when interrupted.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as handle:
        while not _try_lock(handle):
            runner.pause(0.2)
        yield


def _try_lock(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Images:
    """The images of one cache."""

    def __init__(
        self, runner: Runner, engine: Engine, cache: Path, environ: Mapping[str, str], say: Callable[[str], None]
    ) -> None:
        self._runner, self._engine, self._say, self._environ = runner, engine, say, environ
        self._folder = cache / "images"

    def tag(self, suite: str) -> str:
        """The image that hosts of *suite* run: the user's own where one is named, else ours."""
        return self._environ.get(own_image_variable(suite)) or self._recipe(suite).tag

    def ensure(self, suite: str, packages: Sequence[str] = ()) -> str:
        """Makes sure the engine holds the image of *suite*, with *packages* installed, and returns its tag.

        Raises FleetError when there is no room or the build fails; then nothing of it is left.
        """
        bare = self._ensure_bare(suite)
        if not packages:
            return bare
        tag = tag_with(bare, suite, packages)
        with locked(self._folder / f"{suite}-with.lock", self._runner):
            if not self._engine.has_image(tag):
                self._say(f"{suite}: making an image with {', '.join(packages)}")
                self._install(bare, tag, packages)
                self._engine.drop_images(tag)
        return tag

    def _install(self, bare: str, tag: str, packages: Sequence[str]) -> None:
        try:
            self._engine.derive(bare, tag, install_script(packages))
        except Failed as failure:
            raise FleetError(
                Problem(
                    f"{', '.join(packages)} can't be installed in {bare}: {last_line(failure.output)}",
                    "Are the packages' names right, and is Debian's mirror reachable?",
                )
            ) from None

    def _ensure_bare(self, suite: str) -> str:
        if own := self._environ.get(own_image_variable(suite)):
            self._fetch(own, own_image_variable(suite))
            return own
        recipe = self._recipe(suite)
        with locked(self._folder / f"{suite}.lock", self._runner):
            if not self._engine.has_image(recipe.tag):
                tar = self._folder / recipe.tar_name
                if not tar.exists():
                    self._build(recipe, tar)
                self._say(f"{suite}: making the image {recipe.tag}")
                self._engine.load(tar, recipe.tag)
                self._forget_others(recipe)
        return recipe.tag

    def _fetch(self, tag: str, variable: str) -> None:
        if self._engine.has_image(tag):
            return
        try:
            self._engine.pull(tag)
        except Failed as failure:
            raise FleetError(
                Problem(
                    f"the image {tag!r} that {variable} names is neither here nor to be fetched: "
                    f"{last_line(failure.output)}",
                    f"Build or load it, or unset {variable}.",
                )
            ) from None

    def _recipe(self, suite: str) -> Recipe:
        return Recipe(suite, self._environ.get("PRECOG_FLEET_MIRROR") or MIRROR)

    def _build(self, recipe: Recipe, tar: Path) -> None:
        # /var/tmp: /tmp is often in memory, and mounted so that device nodes can't be made there.
        scratch = Path(self._environ.get("TMPDIR") or "/var/tmp")
        check_room(self._folder, scratch)
        self._say(f"{recipe.suite}: building with mmdebstrap (about half a minute, once)")
        part = tar.with_suffix(".part")
        try:
            with tempfile.TemporaryDirectory(prefix="precog-image-", dir=scratch) as own:
                Path(own).chmod(0o755)  # apt downloads as a user of its own
                argv = recipe.build_argv(str(part), as_root=os.geteuid() == 0)
                self._runner.run(argv, env={"TMPDIR": own}, timeout=1800)
            part.replace(tar)
        except FileNotFoundError:
            raise FleetError(Problem("mmdebstrap is not installed", "Install it: apt-get install mmdebstrap")) from None
        except Failed as failure:
            raise FleetError(
                Problem(
                    f"building the {recipe.suite} image failed: {failure}",
                    f"Is {recipe.mirror} reachable? Another mirror can be named in PRECOG_FLEET_MIRROR, "
                    f"an image of your own in {own_image_variable(recipe.suite)}.",
                )
            ) from None
        finally:
            part.unlink(missing_ok=True)

    def _forget_others(self, recipe: Recipe) -> None:
        for tar in self._folder.glob(f"{recipe.suite}-*.tar"):
            if tar.name != recipe.tar_name:
                tar.unlink()
        self._engine.drop_images(recipe.tag)


def check_room(*folders: Path) -> None:
    """Raises FleetError for each of *folders* whose file system lacks room for an image."""
    problems = []
    for folder in folders:
        free = shutil.disk_usage(folder).free
        if free < NEEDED_BYTES:
            problems.append(
                Problem(
                    f"{os.fspath(folder)} has {free / 1e9:.1f} GB free, and an image takes {NEEDED_BYTES / 1e9:.1f} GB",
                    "Make room there, or choose another place with PRECOG_FLEET_CACHE or TMPDIR.",
                )
            )
    if problems:
        raise FleetError(*problems)
