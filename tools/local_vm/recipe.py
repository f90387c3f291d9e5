"""What goes into a virtual machine's image: Debian with its cloud kernel, swap of three kinds, a made-up processor."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from local_fleet.recipe import PACKAGES, Recipe

GUEST = Path(__file__).with_name("guest")
# The kernel with what boots it, the generator of zram swap, and what builds the processor's driver. psutil, as a
# guest that can't reach Debian's mirrors has to have it: that preflight installs it is proven in containers.
VM_PACKAGES = (
    *PACKAGES,
    "initramfs-tools",
    "linux-headers-cloud-amd64",
    "linux-image-cloud-amd64",
    "make",
    "python3-psutil",
    "systemd-zram-generator",
    "udev",
)
DISK_BYTES = 2 * 2**30
# An initial RAM disk with these alone is a tenth of the usual one, and boots faster.
_SMALL_INITRD = (
    'mkdir -p "$1/etc/initramfs-tools/conf.d" && echo MODULES=list >"$1/etc/initramfs-tools/conf.d/small" && '
    'printf "%s\\n" virtio_pci virtio_blk ext4 >"$1/etc/initramfs-tools/modules"'
)


@dataclass(frozen=True)
class VmRecipe:
    """All that decides what a disk image holds; `name` changes with any of it."""

    suite: str
    mirror: str
    public_key: str
    """Of who may log in."""

    @property
    def base(self) -> Recipe:
        """The Debian in it."""
        return Recipe(self.suite, self.mirror, VM_PACKAGES)

    @property
    def name(self) -> str:
        """The image's folder in the cache."""
        made_of = [self.base.checksum, self.public_key, _SMALL_INITRD, str(DISK_BYTES)]
        made_of += [path.name + path.read_text() for path in sorted(GUEST.iterdir())]
        return f"{self.suite}-{hashlib.sha256(''.join(made_of).encode()).hexdigest()[:12]}"

    def build_argv(self, root: Path, guest: Path) -> list[str]:
        """The command that unpacks Debian into the folder *root* and sets it up with what is in the folder *guest*."""
        hooks = [
            f"--essential-hook={_SMALL_INITRD}",
            f"--customize-hook=copy-in {guest} /root",
            f"--customize-hook=chroot \"$1\" sh /root/{guest.name}/setup.sh '{self.public_key}'",
        ]
        argv = self.base.build_argv(str(root), as_root=True)
        at = argv.index("--format=tar")
        return [*argv[:at], "--format=directory", *hooks, *argv[at + 1 :]]
