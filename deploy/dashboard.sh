#!/usr/bin/env bash
# Builds the dashboard into gateway/dashboard/dist/app, which the gateway's build embeds. Skips the build if its sources have
# not changed since the last one.
#
#   deploy/dashboard.sh          build; without Node this only prints a warning, and the gateway's / says what is missing
#   deploy/dashboard.sh check    build, then check formatting, types and lint; without Node this fails
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
cd gateway/dashboard

sources=$(find . ../../proto -type f -not -path './node_modules/*' -not -path './dist/*' -not -path './src/gen/*' \
    -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c1-16)
built() { [ -f dist/app/index.html ] && [ "$(cat node_modules/.built 2>/dev/null || true)" = "$sources" ]; }
if built && [ "${1:-}" != check ]; then exit 0; fi

# shellcheck source=deploy/node.sh
if ! . "$root/deploy/node.sh"; then
    if [ "${1:-}" = check ]; then
        echo "dashboard: Node 20.19 or newer could not be installed, so that nothing was checked" >&2
        exit 1
    fi
    echo "dashboard: Node 20.19 or newer could not be installed; the gateway is built without its pages" >&2
    exit 0
fi
if ! built; then
    echo "dashboard: building" >&2
    # Not `npm ci`: the lock file names no registry, and `ci` then misses the packages of other platforms.
    npm install --no-save --no-audit --no-fund --silent
    npm run --silent build >&2
    printf '%s' "$sources" >node_modules/.built
fi
if [ "${1:-}" = check ]; then npm run --silent check; fi
