#!/usr/bin/env bash
# Tells Ansible how to reach the scenario's machine. A script, for before `molecule create` there is none to tell of.
# Other scenarios link to it; the fleet has the name of the scenario whose folder it is called in.
inventory=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$inventory/../../../bin/lib.sh"
scenario=$(basename "$(dirname "$inventory")")
fleet=$cache/fleets/${scenario//_/-}/inventory.json
if [[ -e $fleet ]]; then cat "$fleet"; else echo '{}'; fi
