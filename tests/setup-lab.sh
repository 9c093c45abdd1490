#!/usr/bin/env bash
# Installs what the network lab and the browser tests need, on Debian and its like; as root. What is there already
# is left alone. The Python packages go into a cache folder, where the tests look for them.
set -euo pipefail

# Kept in step with tests/browser/src/guest.rs.
venv="${PEERLOOM_LAB_VENV:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/peerloom-lab/venv}"

missing=()
need() { # PROGRAM PACKAGE
    command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] || missing+=("$2")
}
need ip iproute2
need nft nftables
need turnserver coturn
need chromium chromium
need python3 python3
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)

if [ ${#missing[@]} -gt 0 ]; then
    echo "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

packages=(aiortc==1.16.0 websockets==16.0)
if [ "$(cat "$venv/installed" 2>/dev/null)" != "${packages[*]}" ]; then
    echo "making $venv"
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "${packages[@]}"
    # Only now: a run that was broken off begins anew.
    echo "${packages[*]}" >"$venv/installed"
fi
echo "the lab is ready"
