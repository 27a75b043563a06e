#!/usr/bin/env bash
# cargo-deny: licences, sources and bans need nothing but the lock file. Advisories need RustSec's database, a git
# repository; where that is out of reach they are left out, and this script says so.
set -euo pipefail
cd "$(dirname "$0")/.."

# It looks at the crates of all platforms; a build has fetched those of this one.
cargo fetch --locked --quiet
cargo deny --locked --offline check --hide-inclusion-graph bans licenses sources
if cargo deny --locked fetch db >/dev/null 2>&1; then
    cargo deny --locked check --hide-inclusion-graph advisories
else
    echo "deny: the advisory database is out of reach; advisories were not checked" >&2
fi
