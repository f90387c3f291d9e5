"""Debian hosts as virtual machines of this machine: a kernel of their own, and reboots. The commands: bin/local-vm."""
