# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How options are declared: once, for the module, its documentation, its role and the audit (tools/generate.py).

An option has the keys of an argument specification, and

- `description`: text, or a list of paragraphs, in the markup of ansible-doc. O() names an option of the same module.
- `role`: how the role differs from the module. None: the role does not give it. Else a dictionary of `variable` (the
  rest of the variable's name; None: there is none), `value` (what the role's call is given instead of the variable),
  `comment` (above that), and `default`, `description`, `type`, `elements`, `no_log` of the variable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

# Preflight loads this on a Python too old for the expression, to say that it is.
if TYPE_CHECKING:
    from collections.abc import Mapping

    Options = dict[str, dict[str, Any]]

STATE: Options = {
    "state": {
        "type": "str",
        "choices": ["present", "absent"],
        "default": "present",
        "description": [
            "V(present) applies what the other options ask for. What an earlier run managed and is no longer asked "
            "for is restored.",
            "V(absent) restores all values and files as they were before the first run.",
        ],
    }
}
ON_UNSUPPORTED: Options = {
    "on_unsupported": {
        "type": "str",
        "choices": ["report", "fail"],
        "default": "report",
        "description": (
            "Whether a setting that this host does not have, or that belongs to a shared kernel, fails the task."
        ),
    }
}
SHARED_KERNEL: Options = {
    "shared_kernel": {
        "type": "str",
        "choices": ["leave", "apply"],
        "default": "leave",
        "description": (
            "In a container, V(leave) leaves alone what belongs to the kernel of the machine underneath; V(apply) "
            "changes it."
        ),
    }
}
# What a row of a report says, for the documentation of what a module returns.
ROW = {
    "name": "The setting.",
    "desired": "The expected value; null where the original is restored.",
    "before": "The value before this run.",
    "after": "The value read again after this run.",
    "persisted_before": "What the next boot would have given before this run; null where no file says.",
    "persisted": "What the next boot gives.",
    "persisted_by": "File and line that decide it.",
    "status": "One of ok, changed, drifted, overridden, unsupported, unknown, refused.",
    "reason": "Why, and what to do.",
}


def specification(options: Mapping[str, Mapping[str, Any]]) -> Options:
    """Return the argument specification of a module, for AnsibleModule."""
    return {
        name: {key: value for key, value in option.items() if key not in ("description", "role")}
        for name, option in options.items()
    }
