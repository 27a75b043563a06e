#!/usr/bin/env bash
# Builds the dashboard into gateway/dashboard/dist/app, from where the gateway's build takes it. Does nothing where it is built
# already, or where there is no Node: the gateway then says at / what is missing.
set -euo pipefail
cd "$(dirname "$0")/../gateway/dashboard"

major=$(node --version 2>/dev/null | sed -E 's/^v([0-9]+).*/\1/' || true)
if [ "${major:-0}" -lt 20 ] || ! command -v npm >/dev/null; then
    echo "dashboard: Node 20.19 or newer is not here; the gateway is built without its pages" >&2
    exit 0
fi
sources=$(find . ../../proto -type f -not -path './node_modules/*' -not -path './dist/*' -not -path './src/gen/*' \
    -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c1-16)
if [ -f dist/app/index.html ] && [ "$(cat node_modules/.built 2>/dev/null || true)" = "$sources" ]; then exit 0; fi
echo "dashboard: building" >&2
# Not `ci`: the lock names no registry, and `ci` then misses the packages of other platforms.
npm install --no-save --no-audit --no-fund --silent
npm run --silent build >&2
printf '%s' "$sources" >node_modules/.built
