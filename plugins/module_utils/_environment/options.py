# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options of python_env."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._engine.options import STATE

if TYPE_CHECKING:
    from .._engine.options import Options

OPTIONS: Options = {
    "state": {
        **STATE["state"],
        "description": [
            "V(present) brings the environment into place.",
            "V(absent) removes all environments of this name, and what only they needed. It is refused while one is "
            "in use, but not in check mode, as what uses it may be removed first.",
        ],
    },
    "name": {
        "type": "str",
        "default": "miner",
        "description": "The name of the link below O(root) that leads to the environment in use.",
    },
    "root": {"type": "path", "default": "/opt/precog/env", "description": "The folder of the environments."},
    "interpreter": {
        "type": "str",
        "default": "python3",
        "description": [
            "The interpreter, by its name or path. Another build of it makes another environment.",
            "V(python3), V(python3.N) and V(pypy3) are installed from Debian where they are missing.",
        ],
    },
    "installer": {
        "type": "str",
        "choices": ["uv", "pip"],
        "default": "uv",
        "description": "What installs packages. With V(uv), uv itself is fetched by its own lock first.",
    },
    "lock": {
        "type": "str",
        "default": "",
        "description": [
            "V(runtime), V(upstream) (with bittensor and what upstream's miner needs), or a file on the control node. "
            "Without it, V(runtime).",
            "Every requirement in it must have its hashes.",
        ],
        "role": {"default": "runtime"},
    },
    "uv_lock": {
        "type": "str",
        "default": "",
        "description": "The lock of uv itself: V(uv), also without it, or a file on the control node.",
        "role": {"default": "uv"},
    },
    # The action takes paths, and gives the module what it has to know of them.
    "packages": {
        "type": "list",
        "elements": "raw",
        "default": [],
        "description": [
            "Wheels on the control node that are installed besides the lock's requirements, or folders of projects, "
            "whose wheels are built by hatchling.",
            "V(runtime), also without it, is the project in this repository's folder of that name, or the wheel that "
            "an installed collection brings.",
        ],
        "role": {"default": ["runtime"], "elements": "str"},
    },
    "optimize": {
        "type": "list",
        "elements": "int",
        "default": [0, 1],
        "description": "The levels of E(PYTHONOPTIMIZE) for which bytecode is compiled.",
    },
    "verify": {
        "type": "str",
        "choices": ["quick", "full"],
        "default": "quick",
        "description": "Whether a finished environment is checked by the sizes of its files, or by their content.",
    },
    "keep": {
        "type": "int",
        "default": 2,
        "description": "How many environments of this name are kept, the one in use included.",
    },
    "in_use": {
        "type": "list",
        "elements": "str",
        "default": ["/opt/precog/releases/*/environment"],
        "description": [
            "Patterns of links. An environment that one of them leads to is never removed, nor one that a process "
            "runs from.",
            "By default they are the links of the miner's releases.",
        ],
        "role": {"default": ["{{ miner_service_root | default('/opt/precog') }}/releases/*/environment"]},
    },
    "index_url": {
        "type": "str",
        "default": "",
        "no_log": True,
        "description": [
            "The package index, such as a mirror. It takes the place of what pip or uv are configured to use on the "
            "host.",
            "It may contain a name and a password (keep it in Ansible Vault); it is kept out of arguments, output and "
            "logs.",
            "Without it pip uses the host's C(/etc/pip.conf), and uv C(/etc/uv/uv.toml).",
        ],
    },
    "system_packages": {
        "type": "list",
        "elements": "str",
        "default": [],
        "description": "Debian packages that must be installed as well, such as C(git).",
    },
}
ROWS = {
    "settings": "One row, named V(python_env:) and O(name).",
    "name": "V(python_env:) and the name.",
    "desired": "The folder of the expected environment; null where it is removed.",
    "before": "The folder that the link led to before this run.",
    "after": "The folder that the link leads to now.",
    "persisted_before": "The same as V(before).",
    "persisted": "The same as V(after).",
    "persisted_by": "The link.",
    "status": "V(ok) or V(changed).",
    "reason": "What was found damaged, missing or left over.",
}
