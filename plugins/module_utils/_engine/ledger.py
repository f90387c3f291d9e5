# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The ledger of originals: what every managed setting and file was before this collection touched it.

One JSON file on the host, written atomically, mode 0600. An original is recorded, durably, before anything is changed,
and forgotten once it has been given back. The ledger never tells whether something is applied: that is always read
from the host, so that what survives a reboot in it can't suppress tuning.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from .._host.host import HostError, Meta

if TYPE_CHECKING:
    from .._host.host import Host, StagedFile

FOLDER = "/var/lib/precog-fleet"
PATH = f"{FOLDER}/ledger.json"
# Of another folder: who clears one away by mistake leaves the other.
COPY = "/var/backups/precog-fleet/ledger.json"
LOCK = f"{FOLDER}/lock"
VERSION = 1
DAMAGE = (ValueError, KeyError, TypeError, AttributeError, binascii.Error)


@dataclass
class Original:
    """A setting before its first change.

    :ivar value: its value at run time.
    :ivar configured: what the files of others gave it at boot then, or None.
    :ivar boot: the boot in which it was recorded.
    :ivar desired: the value last applied, or None while no run has finished with it.
    :ivar companions: the values of what the kernel rewrites together with this one (its counterpart, the same
        setting of each interface), by path.
    :ivar moved: whether a run has given it another value, and so may have moved its companions.
    """

    value: str
    configured: str | None
    boot: str
    desired: str | None = None
    companions: dict[str, str] = field(default_factory=dict)
    moved: bool = False

    def is_void(self, boot_now: str, *, lasted: bool) -> bool:
        """Tell whether this is the note of a run in an earlier boot that was cut off before anything of it could last.

        :param lasted: whether the managed file has the setting.
        """
        return self.desired is None and self.boot != boot_now and not lasted

    def give_back(self, configured_now: str | None, boot_now: str) -> str:
        """Return the value to go back to.

        In the boot in which it was recorded, and while the rest of the configuration is as it was, the exact value;
        otherwise what the rest of the configuration says now, and else the recorded one.
        """
        if boot_now == self.boot and configured_now == self.configured:
            return self.value
        return self.value if configured_now is None else configured_now


@dataclass
class OriginalFile:
    """A managed file before its first change: `content` is None where there was none.

    :ivar written: what this collection wrote there last, so that lines of others are told apart; None if not known.
    """

    content: bytes | None
    meta: Meta | None
    written: bytes | None = None


class Ledger:
    """The originals of one host, by owner (the managed file that makes a setting persistent).

    :ivar warning: "" or that the ledger was lost, and is read from its copy.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self.settings: dict[str, dict[str, Original]] = {}
        self.files: dict[str, OriginalFile] = {}
        self._saved = b""
        self.warning = ""

    @classmethod
    def load(cls, host: Host) -> Ledger:
        """Read the host's ledger, or its copy; one that is not there is empty.

        :raises HostError: it can't be read or parsed, and its copy can't either.
        """
        try:
            return cls._read(host, PATH)
        except FileNotFoundError:
            what, cause = "is missing", None
        except OSError as error:
            raise HostError(f"cannot read the ledger of originals {PATH}: {error.strerror}") from error
        except DAMAGE as error:
            what, cause = f"is damaged ({error})", error
        try:
            ledger = cls._read(host, COPY)
        except (OSError, *DAMAGE):
            if cause is None:
                return cls(host)
            raise HostError(
                f"the ledger of originals {PATH} {what}. Nothing was changed. Restore it from a backup; "
                f"or move it aside, and {COPY}, and the values of now become the originals that a rollback returns to."
            ) from cause
        if ledger.settings or ledger.files:
            ledger.warning = f"the ledger of originals {PATH} {what}; its copy {COPY} is used instead. Find out why"
        ledger._saved = b""
        return ledger

    @classmethod
    def _read(cls, host: Host, path: str) -> Ledger:
        ledger = cls(host)
        ledger._saved = host.read_bytes(path)
        ledger._decode(json.loads(ledger._saved))
        return ledger

    def of(self, owner: str) -> dict[str, Original]:
        """Return the originals of one owner, to be read and changed."""
        return self.settings.setdefault(owner, {})

    def save(self, *, always: bool = False) -> None:
        """Write the ledger if it differs from what is on disk.

        :param always: write it in any case.
        :raises OSError: it could not be written; the old one stands.
        """
        data = self._encode()
        if data == (self._saved or Ledger(self._host)._encode()) and not always:
            return
        staged: list[StagedFile] = []
        try:
            for path in (PATH, COPY):
                staged.append(self._host.stage(path, data, Meta(0o600, os.geteuid(), os.getegid())))
        except OSError:
            for file in staged:
                file.discard()
            raise
        for file in staged:
            file.commit()
        self._saved = data

    def _encode(self) -> bytes:
        document = {
            "version": VERSION,
            "settings": {
                owner: {name: asdict(original) for name, original in sorted(originals.items())}
                for owner, originals in sorted(self.settings.items())
                if originals
            },
            "files": {
                path: {
                    "content": None if file.content is None else base64.b64encode(file.content).decode(),
                    "meta": list(file.meta) if file.meta else None,
                    **({} if file.written is None else {"written": base64.b64encode(file.written).decode()}),
                }
                for path, file in sorted(self.files.items())
            },
        }
        return (json.dumps(document, indent=1) + "\n").encode()

    def _decode(self, document: Any) -> None:
        if document["version"] != VERSION:
            raise ValueError(f"version {document['version']!r}, where {VERSION} is known")
        for owner, originals in document["settings"].items():
            self.settings[owner] = {name: _original(original) for name, original in originals.items()}
        for path, file in document["files"].items():
            content = None if file["content"] is None else base64.b64decode(file["content"], validate=True)
            written = base64.b64decode(file["written"], validate=True) if "written" in file else None
            self.files[path] = OriginalFile(content, _meta(file["meta"]), written)


def _original(fields: Any) -> Original:
    original = Original(**fields)
    texts = [original.value, original.boot, *original.companions, *original.companions.values()]
    texts += [text for text in (original.configured, original.desired) if text is not None]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a recorded value is not text")
    if not isinstance(original.moved, bool):
        raise ValueError("a recorded mark is not true or false")
    return original


def _meta(fields: Any) -> Meta | None:
    if fields is None:
        return None
    meta = Meta(*fields)
    if not all(isinstance(number, int) for number in meta):
        raise ValueError("a recorded mode or owner is not a number")
    return meta
