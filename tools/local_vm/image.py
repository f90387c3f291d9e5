"""Builds a disk image once per recipe, in the cache: the disk, its kernel and RAM disk, and its host key."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from local_fleet.images import check_room, locked
from local_fleet.model import FleetError, Problem
from local_fleet.process import Failed, Runner
from local_fleet.recipe import MIRROR

from local_vm.recipe import DISK_BYTES, GUEST, VmRecipe


@dataclass(frozen=True)
class Image:
    """A folder of the cache."""

    folder: Path

    @property
    def disk(self) -> Path:
        """The root file system; never written to: each machine has a layer of its own above it."""
        return self.folder / "disk.img"

    @property
    def kernel(self) -> Path:
        """What QEMU boots."""
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """The kernel's initial RAM disk."""
        return self.folder / "initrd.img"

    @property
    def host_key(self) -> str:
        """The public key by which its machines are known."""
        return (self.folder / "host_key.pub").read_text()


class Images:
    """The disk images of one cache."""

    def __init__(self, runner: Runner, cache: Path, environ: Mapping[str, str], say: Callable[[str], None]) -> None:
        self._runner, self._environ, self._say = runner, environ, say
        self._folder = cache / "vm-images"

    @property
    def key(self) -> Path:
        """The private key that may log in to all machines of this cache; beside it the public one."""
        return self._folder / "id_ed25519"

    def ensure(self, suite: str) -> Image:
        """Returns the image of *suite*, built unless it is there.

        Raises FleetError when there is no room or the build fails; then nothing of it is left.
        """
        with locked(self._folder / "key.lock", self._runner):
            if not self.key.exists():
                self._make_key(self.key)
        public_key = self.key.with_suffix(".pub").read_text().strip()
        recipe = VmRecipe(suite, self._environ.get("PRECOG_FLEET_MIRROR") or MIRROR, public_key)
        image = Image(self._folder / recipe.name)
        with locked(self._folder / f"{suite}.lock", self._runner):
            if not image.folder.exists():
                if os.geteuid() != 0:
                    raise FleetError(Problem("a disk image is built as root", "Run this as root, or with sudo."))
                self._build(recipe, image)
                self._forget_others(suite, image)
        return image

    def _forget_others(self, suite: str, image: Image) -> None:
        """Removes the suite's images of earlier recipes, but for those that a machine's disk is a layer above."""
        notes = self._folder.parent.glob("fleets/*/machines.json")
        used = "".join(note.read_text() for note in notes)
        for other in self._folder.glob(f"{suite}-*"):
            if other != image.folder and str(other) not in used:
                shutil.rmtree(other)

    def _build(self, recipe: VmRecipe, image: Image) -> None:
        # /var/tmp: /tmp is often in memory, and mounted so that device nodes can't be made there.
        scratch = Path(self._environ.get("TMPDIR") or "/var/tmp")
        check_room(self._folder, scratch)
        self._say(f"{recipe.suite}: building a disk image with mmdebstrap (about a minute, once)")
        with tempfile.TemporaryDirectory(prefix="precog-vm-", dir=scratch) as own:
            Path(own).chmod(0o755)  # apt downloads as a user of its own
            part = Path(tempfile.mkdtemp(prefix=".part-", dir=self._folder))
            try:
                self._make(recipe, Path(own), part)
                part.chmod(0o700)
                part.replace(image.folder)
            except FileNotFoundError as error:
                raise FleetError(
                    Problem(f"{error.filename} is missing", "bin/local-vm installs what it wants; or see docs/vm.md.")
                ) from None
            except Failed as failure:
                remedy = f"Is {recipe.mirror} reachable? Another mirror can be named in PRECOG_FLEET_MIRROR."
                raise FleetError(Problem(f"building the {recipe.suite} image failed: {failure}", remedy)) from None
            finally:
                shutil.rmtree(part, ignore_errors=True)

    def _make(self, recipe: VmRecipe, own: Path, part: Path) -> None:
        root, guest = own / "root", own / "guest"
        shutil.copytree(GUEST, guest)
        self._make_key(part / "host_key")
        shutil.copy(part / "host_key", guest)
        self._runner.run(recipe.build_argv(root, guest), env={"TMPDIR": str(own)}, timeout=1800)
        for name in ("vmlinuz", "initrd.img"):
            (found,) = (root / "boot").glob(f"{name}-*")
            shutil.copy(found, part / name)
        disk = part / "disk.img"
        self._runner.run(["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(disk), f"{DISK_BYTES // 2**20}M"])

    def _make_key(self, file: Path) -> None:
        self._runner.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "precog-vm", "-f", str(file)])
