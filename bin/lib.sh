# shellcheck shell=bash
# What bin/demo, bin/test and the other commands share: where things are, what has to be installed, and how.
# Sourced, never run.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${PRECOG_FLEET_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/precog-fleet}
export PRECOG_FLEET_CACHE=$cache
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive
# Bytecode below the cache, so that the work tree stays as it was. Where none is written, as some images ask for, each
# process compiles all it loads, which takes three times as long.
unset PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX=$cache/pycache

# What each part wants from Debian, by name.
packages_control=(python3 python3-venv openssh-client git)
packages_fleet=(podman runc netavark aardvark-dns mmdebstrap iptables iproute2)
packages_vm=(qemu-system-x86 qemu-utils mmdebstrap e2fsprogs openssh-client)

say() { if [[ -t 1 ]]; then printf '\n\033[1m== %s\033[0m\n' "$*"; else printf '\n== %s\n' "$*"; fi; }
die() { printf 'Error: %s\n' "$*" >&2; exit 1; }

# ensure_packages NAME...: installs what is missing; where it can't, says what to install.
ensure_packages() {
    local missing=() package
    if ! command -v dpkg-query >/dev/null; then
        die "this system is not Debian. Install the equivalents of: $*; or run on Debian 12 or 13."
    fi
    for package in "$@"; do
        [[ $(dpkg-query -W -f='${Status}' "$package" 2>/dev/null) == *' installed' ]] || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    ((EUID == 0)) || die "run this as root, or first: sudo apt-get install --no-install-recommends ${missing[*]}"
    say "Installing ${missing[*]}"
    apt-get -qq update
    apt-get -qq install -y --no-install-recommends "${missing[@]}" </dev/null
}

# ensure_venv NAME: a virtual environment with exactly requirements/NAME.txt, hashes checked; prepended to PATH.
# Its folder carries the lock's checksum, so another lock makes another environment and a broken build is never used.
ensure_venv() {
    local name=$1 python=/usr/bin/python3 sum venv
    [[ -x $python ]] || python=$(command -v python3)
    sum=$( { cat "$root/requirements/$name.txt" "$root/requirements/uv.txt"; "$python" --version; } | sha256sum | cut -c1-12)
    venv=$cache/venv/$name-$sum
    mkdir -p "$cache/venv"
    # Two commands may want it at once: the second waits for the first.
    if [[ ! -e $venv/.complete ]]; then
        (flock 9; make_venv "$name" "$venv" "$python") 9>"$venv.lock"
    fi
    export VIRTUAL_ENV=$venv PATH=$venv/bin:$PATH
}

make_venv() {
    local name=$1 venv=$2 python=$3
    [[ ! -e $venv/.complete ]] || return 0
    say "Making the Python environment '$name' (requirements/$name.txt)"
    rm -rf "$venv"
    "$python" -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r "$root/requirements/uv.txt"
    "$venv/bin/uv" pip sync --quiet --python "$venv/bin/python" --require-hashes \
        "$root/requirements/$name.txt" "$root/requirements/uv.txt"
    touch "$venv/.complete"
}
