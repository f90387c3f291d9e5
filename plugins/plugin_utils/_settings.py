# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether a role's variable has a value that its role can take, said in an operator's words. Pure."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ansible.module_utils.common import validation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Option = Mapping[str, Any]

try:
    from ansible._internal._datatag._tags import Origin
except ImportError:  # before ansible-core 2.19 values don't carry with them where they come from
    Origin = None

EXPECTED = {
    "dict": "a dictionary",
    "list": "a list",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "path": "a path",
}
CHECKS: dict[str, Callable[[Any], Any]] = {
    "dict": validation.check_type_dict,
    "list": validation.check_type_list,
    "int": validation.check_type_int,
    "float": validation.check_type_float,
    "bool": validation.check_type_bool,
}
MOST = 60  # characters of a value


def origin(value: object) -> str:
    """Return the file and line that a value comes from, such as group_vars/all.yml:3; "" if that is not known."""
    tag = Origin.get_tag(value) if Origin else None
    if not tag or not tag.path:
        return ""
    here = os.path.join(os.getcwd(), "")
    path = tag.path[len(here) :] if tag.path.startswith(here) else tag.path
    return f"{path}:{tag.line_num}" if tag.line_num else str(path)


def problem(name: str, value: object, option: Option) -> str:
    """Return what is wrong with the value of a variable; "" for nothing.

    :param name: the variable, as the operator wrote it.
    :param option: its entry in an argument specification.
    """
    kind = str(option.get("type") or "str")
    if value is None:
        return ""
    if isinstance(value, (dict, list)) and not isinstance(value, _fitting(kind)):
        return _told(name, value, f"{EXPECTED.get(kind, kind)} is expected", option)
    try:
        CHECKS.get(kind, str)(value)
    except (TypeError, ValueError):
        return _told(name, value, f"{EXPECTED.get(kind, kind)} is expected", option)
    choices = [str(choice) for choice in option.get("choices") or ()]
    given = value if kind == "list" and isinstance(value, list) else [value]
    wrong = [one for one in given if choices and not isinstance(one, (dict, list)) and str(one) not in choices]
    return _told(name, wrong[0], f"one of {', '.join(choices)} is expected", option) if wrong else ""


def _fitting(kind: str) -> tuple[type, ...]:
    return {"dict": (dict,), "list": (list,), "raw": (dict, list)}.get(kind, ())


def _told(name: str, value: object, expected: str, option: Option) -> str:
    place = origin(value)
    return f"{name} is {_shown(value, option)}, but {expected}{f' ({place})' if place else ''}"


def _shown(value: object, option: Option) -> str:
    """Return a value as far as it may be shown: of what is secret, or may hold a secret, its kind."""
    if isinstance(value, (dict, list)):
        return "a dictionary" if isinstance(value, dict) else "a list"
    if option.get("no_log"):
        return "another kind of value"
    text = " ".join(repr(str(value) if isinstance(value, str) else value).split())
    return text if len(text) <= MOST else f"{text[: MOST - 3]}..."
