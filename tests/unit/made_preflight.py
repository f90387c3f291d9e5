"""What preflight sees on a made-up host that is fit."""

from __future__ import annotations

from ansible_collections.precog.fleet.plugins.module_utils._settings import preflight

GOOD = preflight.Facts(
    os_id="debian",
    os_version="12",
    os_name="Debian GNU/Linux 12 (bookworm)",
    python=(3, 11, 2),
    executable="/usr/bin/python3",
    euid=0,
    outer_uid=0,
    container=None,
    systemd=True,
    process_1="systemd",
    writable={"net/ipv4/tcp_rmem": True, "vm/swappiness": True, "fs/file-max": True, "kernel/pid_max": True},
    shared=(),
    rivals=(),
    free_disk={"/etc": 5000, "/tmp": 700, "/var/lib": 5000},
    memory_total=3904,
    memory_available=3000,
    psutil="5.9.4",
    psutil_packaged=True,
)
