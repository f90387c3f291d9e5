# Copyright: the precog-fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Packs code of this collection into one archive, which a module without AnsibleModule imports from memory.

Only the audit does so, because every run of site.yml begins with it: it takes 1.14 times as long as Ansible's ping, one
ordinary module of ours 1.20 times, the four tuning roles 3.30 times (bin/bench, docs/speed.md). On the host, loading an
AnsibleModule takes longer than the audit itself.
"""

from __future__ import annotations

import base64
import io
import zipfile
from pathlib import Path

CODE = Path(__file__).parents[1] / "module_utils"
# Only the control node reads these.
DECLARATIONS = ("options.py", "parts.py")
PACKAGE = "ansible_collections.precog.fleet.plugins.module_utils"


def payload(packages: tuple[str, ...]) -> str:
    """Return packages of module_utils: a ZIP file that Python can import from, in base64.

    :param packages: all that its code imports, by their folders.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        parents = PACKAGE.split(".")
        for depth in range(1, len(parents) + 1):
            file.writestr("/".join([*parents[:depth], "__init__.py"]), "")
        found = sorted(path for package in packages for path in (CODE / package).rglob("*.py"))
        for path in (path for path in found if not path.name.endswith(DECLARATIONS)):
            file.writestr("/".join([*parents, path.relative_to(CODE).as_posix()]), path.read_bytes())
    return base64.b64encode(buffer.getvalue()).decode()
