"""An instance may be broken into, but what is left in its folder is no code of the next start's."""

from __future__ import annotations

import shlex

import pytest

MODULES = ("json.py", "multiprocessing.py", "sitecustomize.py", "usercustomize.py", "precog_runtime/__init__.py")
MARK = "/var/lib/precog-miner/{}/loaded"


@pytest.fixture
def planted(host, miners):
    """In each miner's folder modules that tell that they were loaded."""
    for one in miners:
        code = shlex.quote(f"open({MARK.format(one.name)!r}, 'a').write(__name__)")
        write = (
            f"mkdir -p precog_runtime && echo {code} | tee {' '.join(MODULES)} && chown -R precog-miner-{one.name} ."
        )
        host.check_output(f"cd /var/lib/precog-miner/{one.name} && {write}")
    yield
    for one in miners:
        host.check_output(f"cd /var/lib/precog-miner/{one.name} && rm -rf {' '.join(MODULES)} precog_runtime loaded")


@pytest.mark.usefixtures("planted")
@pytest.mark.full
def test_no_start_loads_what_lies_in_the_instances_folder(host, miners, back):
    for one in miners:
        mark = MARK.format(one.name)
        # What is planted is found by a Python that looks there.
        host.check_output(f"cd /var/lib/precog-miner/{one.name} && python3 -c 'import json' && rm {mark}")
        back("SIGKILL", one)
        assert not host.file(mark).exists, one.name
