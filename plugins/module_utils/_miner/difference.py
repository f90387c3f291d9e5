# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What differs between two releases, file by file and variable by variable, as --diff shows it; never a secret."""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING, Any

from . import secrecy
from .plan import DIGEST, RELEASE_FILE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .._host.host import Host

MASK = "********"
_PASSWORD = re.compile(r"(://[^/@:\s]*:)[^/@\s]+(?=@)")


def files(host: Host, folder: str) -> dict[str, bytes]:
    """Return the files that say what a release is, by their path in its folder; none for one that is not there."""
    names = [f"instances/{name}/{file}" for name in host.list_dir(f"{folder}/instances") for file in _OF_INSTANCE]
    found = {}
    for name in (RELEASE_FILE, *names):
        try:
            found[name] = host.read_bytes(f"{folder}/{name}")
        except OSError:
            continue
    return found


def between(old: str, before: Mapping[str, bytes], new: str, after: Mapping[str, bytes]) -> list[dict[str, str]]:
    """Return the difference of each file that is not the same in two releases. Pure.

    :param old: the name of the one that `before` has the files of, by path; `new` and `after` alike.
    """
    shown = {
        path: (_shown(path, before.get(path)), _shown(path, after.get(path), before.get(path)))
        for path in {*before, *after}
    }
    return [
        {
            "before_header": f"{path} (release {old})",
            "after_header": f"{path} (release {new})",
            "before": one,
            "after": other,
        }
        for path, (one, other) in sorted(shown.items())
        if one != other
    ]


def secrets(before: Mapping[str, bytes | None], after: Mapping[str, bytes | None]) -> list[dict[str, str]]:
    """Return that secrets differ, without what they are. Pure.

    :param before: contents by path, None for no file; `after` has those that differ.
    """
    told = {True: "a secret\n", False: ""}
    return [
        {
            "before_header": path,
            "after_header": path,
            "before": told[before.get(path) is not None],
            "after": told[data is not None].replace("a secret", "another secret" if before.get(path) else "a secret"),
        }
        for path, data in after.items()
    ]


def _shown(path: str, data: bytes | None, old: bytes | None = None) -> str:
    if data is None:
        return ""
    text, known = (one.decode("utf-8", "replace") for one in (data, data if old is None else old))
    return "".join(f"{line}\n" for line in _OF_INSTANCE.get(path.rpartition("/")[2], _record)(text, known))


def _variables(text: str, old: str) -> Iterable[str]:
    """Return variables, of a secret one whether it is another than before. The digest follows from the rest."""
    known = old.splitlines()
    for line in text.splitlines():
        name, _equals, value = line.partition("=")
        shown = MASK if secrecy.is_secret_variable(name) else _masked(value)
        if name != DIGEST:
            yield f"{name}={shown}{' (another one)' if MASK in shown and line not in known else ''}"


def _command(text: str, _old: str) -> Iterable[str]:
    """Return the words of a command, one a line."""
    words = shlex.split(text, comments=True)
    secret = False
    for word in words:
        option, equals, _value = word.partition("=")
        hidden, secret = secret, secrecy.is_secret_argument(option)
        yield f"{option}={MASK}" if secret and equals else MASK if hidden else _masked(word)
        secret = secret and not equals


def _masked(text: str) -> str:
    """Return a text without the passwords of URLs in it."""
    return _PASSWORD.sub(rf"\1{MASK}", text)


def _record(text: str, _old: str) -> Iterable[str]:
    try:
        content = _without_digests(json.loads(text))
    except ValueError:
        return text.splitlines()
    return json.dumps(content, indent=1, sort_keys=True).splitlines()


def _without_digests(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _without_digests(value) for name, value in content.items() if name != "digest"}
    return [_without_digests(one) for one in content] if isinstance(content, list) else content


# How each file of an instance is shown.
_OF_INSTANCE = {"environment": _variables, "start": _command}
