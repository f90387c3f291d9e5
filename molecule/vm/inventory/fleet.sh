#!/usr/bin/env bash
# Tells Ansible how to reach the machines. A script, for before `molecule create` there are none to tell of.
source "$(dirname "${BASH_SOURCE[0]}")/../../../bin/lib.sh"
fleet=$cache/fleets/vm/inventory.json
if [[ -e $fleet ]]; then cat "$fleet"; else echo '{}'; fi
