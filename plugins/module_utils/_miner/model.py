# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The parts of a plan: files, secrets and instances."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from . import units

if TYPE_CHECKING:
    from collections.abc import Mapping


class File(NamedTuple):
    """A file of a release: its bytes, and its mode."""

    data: bytes
    mode: int


class Secret(NamedTuple):
    """A file with mode 0400, and who owns it: ROOT or MINER; without `data` one that has to go."""

    data: bytes | None
    owner: str


class Instance(NamedTuple):
    """What is to be known of an instance to start, ask and compare it.

    :ivar host, port: where it serves: HTTP, or the axon.
    :ivar http_host, http_port: where /readyz and /predict are.
    :ivar assets: what it answers; empty for the runtime's default.
    :ivar digest: 12 hex digits for all that it runs with, but the secrets.
    """

    name: str
    engine: str
    host: str
    port: int
    http_host: str
    http_port: int
    assets: tuple[str, ...]
    digest: str


class Plan(NamedTuple):
    """All that a release is.

    :ivar release: its ID, 12 hex digits.
    :ivar files: by path below the release's folder.
    :ivar units: by path below /etc/systemd/system.
    :ivar secrets: by absolute path.
    :ivar instances: simulators first.
    """

    release: str
    files: dict[str, File]
    units: dict[str, bytes]
    secrets: dict[str, Secret]
    instances: tuple[Instance, ...]
    warnings: tuple[str, ...]


class Context(NamedTuple):
    """What instances share."""

    places: units.Places
    environment: str
    checkout: str
    upstream: dict[str, Any]
    api_key: str
    hotkeys: Mapping[str, Any]
    shared: dict[str, bytes]


class Made(NamedTuple):
    """What one instance comes to."""

    instance: Instance
    files: dict[str, File]
    units: dict[str, bytes]
    secrets: dict[str, Secret]
