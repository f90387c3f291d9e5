# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which names this collection knows, of variables and tags, and which one a mistyped name is nearest to."""

from __future__ import annotations

import difflib
import multiprocessing
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import yaml
from ansible import context
from ansible.errors import AnsibleFilterError
from ansible.utils.display import Display

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

COLLECTION = Path(__file__).resolve().parents[2]
SURE = 0.8  # how like a name is to be for "is ... meant?"
ALIKE = 0.85  # how like a playbook's variable a name is that is taken for it
SHORT = 5  # letters; of a role's name so short, only the plural is taken for it: snap_ is not swap_
OWN = "precog_known_variables"
# What Ansible itself gives a meaning.
SPECIAL_TAGS = frozenset({"all", "always", "never", "tagged", "untagged"})


@lru_cache(maxsize=1)
def options() -> dict[str, dict[str, Any]]:
    """Return the options of each role, by the role's name, as its argument specification has them."""
    found = {}
    for path in sorted((COLLECTION / "roles").glob("*/meta/argument_specs.yml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        found[path.parents[1].name] = dict(content["argument_specs"]["main"].get("options") or {})
    return found


@lru_cache(maxsize=1)
def of_playbooks() -> frozenset[str]:
    """Return the variables that the playbooks themselves read, such as precog_batches."""
    names = re.compile(r"\b(?:precog|miner_rollout)_[a-z_]*[a-z]\b")
    return frozenset({OWN, *(name for text in _playbooks() for name in names.findall(text))})


@lru_cache(maxsize=1)
def tags() -> frozenset[str]:
    """Return all tags that a task, a role or a play of this collection has."""
    lists = [found for text in _playbooks() for found in re.findall(r"\btags: *\[([^\]]*)\]", text)]
    return frozenset(tag.strip() for found in lists for tag in found.split(",")) | SPECIAL_TAGS


def _playbooks() -> list[str]:
    return [path.read_text(encoding="utf-8") for path in sorted((COLLECTION / "playbooks").glob("*.yml"))]


def unknown(name: str, own: Iterable[str], known: Mapping[str, Mapping[str, Any]], others: Iterable[str]) -> str:
    """Return why a variable's name can only be a mistake, and which one is nearest; "" if it need not be one.

    :param own: names that the operator says are his own; a * at the end stands for any rest.
    :param known: the options of each role.
    :param others: variables that belong to no role.
    """
    if any(name == one or (one.endswith("*") and name.startswith(one[:-1])) for one in own):
        return ""
    for role, names in known.items():
        if name in names or name == f"{role}_result":
            return ""
        if name.startswith(f"{role}_"):
            return f"the role {role} has no such variable; {nearest(name, names)}"
    for role, names in known.items():
        words = name.split("_")
        prefix, rest = "_".join(words[: role.count("_") + 1]), "_".join(words[role.count("_") + 1 :])
        if rest and mistyped(prefix, role):
            return f"this may be meant for the role {role}; {nearest(f'{role}_{rest}', names)}"
    close = difflib.get_close_matches(name, others, n=1, cutoff=ALIKE)
    return f"no playbook reads it; is {close[0]} meant?" if close and close[0] != name else ""


def nearest(name: str, names: Iterable[str]) -> str:
    """Return which of some names is nearest to another."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0)
    if not close:
        return "it has none"
    is_like = difflib.SequenceMatcher(None, name, close[0]).ratio() >= SURE
    return f"is {close[0]} meant?" if is_like else f"the nearest is {close[0]}"


def mistyped(name: str, meant: str) -> bool:
    """Tell whether a name is one slip of the finger away from another."""
    if len(meant) <= SHORT:
        return name == f"{meant}s"
    if name == meant or abs(len(name) - len(meant)) > 1:
        return False
    shorter = min(len(name), len(meant))
    first = next((place for place in range(shorter) if name[place] != meant[place]), shorter)
    rest, right = name[first:], meant[first:]
    swapped = rest[:2] == right[:2][::-1] and rest[2:] == right[2:]
    return swapped or rest[1:] == right or rest == right[1:] or rest[1:] == right[1:]


def is_listing() -> bool:
    """Tell whether nothing is to be run: the inventory need not be the fleet's then."""
    return any(context.CLIARGS.get(option) for option in ("syntax", "listhosts", "listtasks", "listtags"))


def stop(message: str) -> NoReturn:
    """End the run, for a filter that a play's `hosts` asks.

    An error there would end it with 4, as if a host could not be reached: Ansible takes it for one of parsing.

    :raises SystemExit: 2, with the message printed.
    :raises AnsibleFilterError: the filter is asked by a task, in a process of its own.
    """
    if multiprocessing.parent_process() is not None:
        raise AnsibleFilterError(message)
    Display().error(message, wrap_text=False)
    raise SystemExit(2)
