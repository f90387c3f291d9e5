"""What goes into an image: a minimal Debian server, as the installer leaves one."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass

MIRROR = "http://deb.debian.org/debian"
PACKAGES = (
    "ca-certificates",
    "dbus",
    "iproute2",
    "kmod",
    "libpam-systemd",
    "openssh-server",
    "procps",
    "python3",
    "sudo",
    "systemd",
    "systemd-sysv",
)


@dataclass(frozen=True)
class Recipe:
    """All that decides what an image holds; `checksum` changes with any of it."""

    suite: str
    mirror: str = MIRROR
    packages: tuple[str, ...] = PACKAGES
    variant: str = "minbase"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mirror", self.mirror.rstrip("/"))

    @property
    def checksum(self) -> str:
        """Twelve hex digits that name this recipe."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def tag(self) -> str:
        """The image's name in the container engine."""
        return f"localhost/precog-fleet/{self.suite}:{self.checksum}"

    @property
    def tar_name(self) -> str:
        """The file name of the image's tar in the cache."""
        return f"{self.suite}-{self.checksum}.tar"

    def sources(self) -> list[str]:
        """The image's /etc/apt/sources.list, line by line: the suite, its updates and its security fixes."""
        return [
            f"deb {self.mirror} {self.suite} main",
            f"deb {self.mirror} {self.suite}-updates main",
            f"deb {self.mirror}-security {self.suite}-security main",
        ]

    def build_argv(self, target: str, as_root: bool) -> list[str]:
        """The command that writes the image's root file system to the tar file *target*.

        As root in a mount namespace of its own: what mmdebstrap mounts is gone with it, even when it is killed.
        """
        return [
            *(["unshare", "--mount"] if as_root else []),
            "mmdebstrap",
            f"--variant={self.variant}",
            "--format=tar",
            f"--include={','.join(self.packages)}",
            self.suite,
            target,
            *self.sources(),
        ]


def install_script(packages: Sequence[str]) -> str:
    """What a shell runs in a container of an image to add *packages*; apt's lists are absent afterwards, as before."""
    words = shlex.join(packages)
    return (
        "export DEBIAN_FRONTEND=noninteractive; apt-get -qq update "
        f"&& apt-get -qq install --yes --no-install-recommends -- {words} "
        "&& apt-get clean && rm -rf /var/lib/apt/lists/*"
    )


def tag_with(bare: str, suite: str, packages: Sequence[str]) -> str:
    """The name of the image that is *bare* and *packages*, in whichever order they are named."""
    text = json.dumps([bare, sorted(packages)])
    name = "-".join([suite, "with", *sorted(packages)]).replace("+", "p")
    return f"localhost/precog-fleet/{name}:{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def own_image_variable(suite: str) -> str:
    """The environment variable that names the user's own image for *suite*."""
    return f"PRECOG_FLEET_IMAGE_{suite.upper()}"
