# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Finds Debian's wheel of pip, which is run in place and never installed."""

from __future__ import annotations

import glob
import os
import sysconfig

PIP_WHEELS = "/usr/share/python-wheels"
PIP_PACKAGE = "python3-pip-whl"


def missing() -> list[str]:
    """Return the Debian packages that building takes and the host lacks."""
    return [] if pip_wheel() else [PIP_PACKAGE]


def pip_wheel() -> str:
    """Return the path of the wheel of pip that came with Python, "" if there is none."""
    bundled = os.path.join(sysconfig.get_path("stdlib"), "ensurepip/_bundled")
    wheels = [path for folder in (PIP_WHEELS, bundled) for path in sorted(glob.glob(f"{folder}/pip-*.whl"))]
    return wheels[-1] if wheels else ""
