#!/usr/bin/env bash
# Installs the tools of the tests that this machine lacks: redis-server, the Python clients of the end-to-end tests, a browser,
# buf, cargo-deny. All but Debian's packages and cargo-deny go into .tools/.
#
#   deploy/test-tools.sh          all of them
#   deploy/test-tools.sh python   only the Python client, for the demo
#   deploy/test-tools.sh bench    only the Python packages of the model benchmarks
#   deploy/test-tools.sh load     only the tools of the serving benchmark; WITHOUT_MLSERVER=1 skips MLServer
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p .tools/bin
tools=$PWD/.tools

need_debian() { # command package...
    command -v "$1" >/dev/null && return
    shift
    echo "tools: installing $*" >&2
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then as_root=(sudo); fi
    "${as_root[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}
# Installs into a folder instead of a virtual environment, which would need Debian's python3-venv.
packages() { # folder requirements
    local wanted
    wanted=$(sha256sum "$2" | cut -c1-16)
    if [ "$(cat "$tools/$1/stamp" 2>/dev/null || true)" = "$wanted" ]; then return; fi
    echo "tools: installing the Python packages of $2" >&2
    rm -rf "${tools:?}/$1"
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target "$tools/$1" \
        --requirement "$2" || return
    printf '%s' "$wanted" >"$tools/$1/stamp"
}
if [ "${1:-}" = bench ]; then
    packages bench tests/bench/requirements.txt
    exit 0
fi
packages python tests/python/requirements.txt
if [ "${1:-}" = load ]; then
    need_debian h2load nghttp2-client
    need_debian redis-server redis-server
    if [ -z "${WITHOUT_MLSERVER:-}" ] && ! packages mlserver tests/load/requirements.txt; then
        echo "tools: MLServer could not be installed and will not be measured" >&2
    fi
    exit 0
fi
if [ "${1:-}" = python ]; then exit 0; fi
packages triton tests/python/triton.txt

need_debian redis-server redis-server
need_debian chromium chromium fonts-dejavu-core
need_debian g++ g++
need_debian column bsdextrautils

root=$PWD
# shellcheck source=deploy/node.sh
. deploy/node.sh
npm install --no-save --no-audit --no-fund --silent --prefix tests/dashboard

buf=1.75.0
if [ "$("$tools/bin/buf" --version 2>/dev/null || true)" != "$buf" ]; then
    echo "tools: installing buf $buf" >&2
    npm install --silent --no-audit --no-fund --prefix "$tools/npm" "@bufbuild/buf@$buf" >/dev/null 2>&1
    ln -sf ../npm/node_modules/.bin/buf "$tools/bin/buf"
fi

deny=0.20.2
if [ "$(cargo deny --version 2>/dev/null || true)" != "cargo-deny $deny" ]; then
    echo "tools: compiling cargo-deny $deny (some minutes, once)" >&2
    CARGO_TARGET_DIR=$tools/cargo-deny-build cargo install --quiet --locked --force "cargo-deny@$deny"
    rm -rf "$tools/cargo-deny-build"
fi
