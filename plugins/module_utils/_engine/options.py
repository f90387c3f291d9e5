# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options that several modules have, and the type of an argument specification."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

# Preflight loads this on a Python too old for the expression, to say that it is.
if TYPE_CHECKING:
    Options = dict[str, dict[str, Any]]

STATE: Options = {"state": {"type": "str", "choices": ["present", "absent"], "default": "present"}}
ON_UNSUPPORTED: Options = {"on_unsupported": {"type": "str", "choices": ["report", "fail"], "default": "report"}}
SHARED_KERNEL: Options = {"shared_kernel": {"type": "str", "choices": ["leave", "apply"], "default": "leave"}}
