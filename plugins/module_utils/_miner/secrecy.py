# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Tells which variables and arguments are secret, by name and by value. Pure."""

from __future__ import annotations

import re
from typing import Any

_SECRET_VARIABLE = re.compile(
    r"API_?KEY|SECRET|PASSW(OR)?D|PASSPHRASE|MNEMONIC|TOKEN|(?<!HASH)SEED|PRIVATE_?KEY|ACCESS_?KEY|CREDENTIAL|^AWS_|"
    r"DATABASE_URL|(^|_)DSN$|COOKIE",
    re.IGNORECASE,
)
_SECRET_ARGUMENT = re.compile(
    r"--?[a-z._-]*(api[._-]?key|secret|passw(or)?d|passphrase|mnemonic|token|seed|private[._-]?key|access[._-]?key|"
    r"credential|database[._-]?url|dsn)",
    re.IGNORECASE,
)
# A password or a key in an address.
_SECRET_VALUE = re.compile(
    r"[a-z+]+://[^/@\s]*:[^/@\s]+@|[?&][a-z._-]*(api[._-]?key|token|secret|passw(or)?d)=", re.IGNORECASE
)


def is_secret_variable(name: str) -> bool:
    """Tell whether a variable's name says that its value is a secret."""
    return bool(_SECRET_VARIABLE.search(name))


def is_secret_value(value: Any) -> bool:
    """Tell whether a value is an address that holds a password or a key."""
    return isinstance(value, str) and bool(_SECRET_VALUE.search(value))


def is_secret_argument(option: str) -> bool:
    """Tell whether an option's name says that its value is a secret."""
    return bool(_SECRET_ARGUMENT.match(option))
