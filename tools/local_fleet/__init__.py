"""A fleet of Debian hosts in containers on this machine: systemd as PID 1, reached over SSH like any real host."""
