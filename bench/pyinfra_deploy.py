"""What pyinfra is asked to do: the same keys, now and at every boot, with its own operation for them."""

from __future__ import annotations

from pyinfra import config, host
from pyinfra.operations import server

config.SUDO = True

for key, value in host.data.sysctl.items():
    server.sysctl(name=key, key=key, value=value, persist=True, persist_file=host.data.persist_file)
