#!/usr/bin/env bash
# Tells Ansible how to reach the hosts. A script, for before `molecule create` there is no fleet to tell of.
source "$(dirname "${BASH_SOURCE[0]}")/../../../bin/lib.sh"
fleet=$cache/fleets/rollout/inventory.json
if [[ -e $fleet ]]; then cat "$fleet"; else echo '{}'; fi
