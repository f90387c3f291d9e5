"""Puts pip into a fresh virtual environment: ansible-test's get-pip, without its download.

ansible-test runs it with the wanted packages and get-pip's own options as arguments (see tools/sanity.py).
"""

from __future__ import annotations

import ensurepip
import os
import subprocess
import sys


def main(arguments: list[str]) -> int:
    """Bootstrap pip, then let it install the wanted packages; returns pip's exit code."""
    environment = dict(os.environ)  # ensurepip changes it, so that pip would no longer find its settings
    ensurepip.bootstrap(default_pip=True)
    wanted = [word for word in arguments if word not in ("--no-setuptools", "--no-wheel")]
    command = [sys.executable, "-m", "pip", "install", "--quiet", *wanted]
    return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
