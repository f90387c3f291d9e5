#!/usr/bin/env bash
# Tells Ansible how to reach the machine. A script, for before `molecule create` there is none to tell of.
source "$(dirname "${BASH_SOURCE[0]}")/../../../bin/lib.sh"
fleet=$cache/fleets/vm-faults/inventory.json
if [[ -e $fleet ]]; then cat "$fleet"; else echo '{}'; fi
