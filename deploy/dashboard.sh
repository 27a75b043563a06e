#!/usr/bin/env bash
# Builds the dashboard into gateway/dashboard/dist/app, from where the gateway's build takes it. Does nothing where it is built
# already, or where no Node can be had: the gateway then says at / what is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
cd gateway/dashboard

sources=$(find . ../../proto -type f -not -path './node_modules/*' -not -path './dist/*' -not -path './src/gen/*' \
    -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c1-16)
if [ -f dist/app/index.html ] && [ "$(cat node_modules/.built 2>/dev/null || true)" = "$sources" ]; then exit 0; fi
# shellcheck source=deploy/node.sh
if ! . "$root/deploy/node.sh"; then
    echo "dashboard: Node 20.19 or newer is not to be had; the gateway is built without its pages" >&2
    exit 0
fi
echo "dashboard: building" >&2
# Not `ci`: the lock names no registry, and `ci` then misses the packages of other platforms.
npm install --no-save --no-audit --no-fund --silent
npm run --silent build >&2
printf '%s' "$sources" >node_modules/.built
