#!/bin/sh
# Prints the password of this scenario's vault, which is made up at its first use and goes with what the run keeps.
set -eu
file=${ANSIBLE_HOME:-$HOME/.ansible}/miner-service/password
if [ ! -e "$file" ]; then
    umask 077
    mkdir -p "${file%/*}"
    head -c 32 /dev/urandom | base64 >"$file.$$"
    ln "$file.$$" "$file" 2>/dev/null || : # another process was first
    rm "$file.$$"
fi
cat "$file"
