"""The computed winner of every case that molecule/kernel_tuning also puts to the real loaders."""

import pytest
import yaml
from ansible_collections.precog.fleet.plugins.module_utils._host.host import Host
from ansible_collections.precog.fleet.plugins.module_utils._settings.sysctl import files, keys
from ansible_collections.precog.fleet.tests.places import ROOT

CASES = yaml.safe_load((ROOT / "tests/loader_cases.yml").read_text())
LOADERS = {"systemd": files.SYSTEMD, "procps": files.PROCPS}


def lay_out(root, tree):
    for path, text in tree.items():
        place = root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("-> "):
            place.symlink_to(text[3:])
        else:
            place.write_text(text)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
@pytest.mark.parametrize("loader", LOADERS)
def test_the_winner_is_computed(tmp_path, case, loader):
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/null").write_text("")
    lay_out(tmp_path, case["files"])
    boot = files.Boot(files.read_fragments(Host(str(tmp_path))), LOADERS[loader])
    for name, expected in case["expect"].items():
        path = keys.path_of(name)
        line = boot.deciding(path)
        found = None if line is None else keys.canonical(path, line.value)
        assert found == expected[loader], name
