#!/usr/bin/env bash
# Runs cargo-deny. Licences, sources and bans need only the lock file. Advisories need RustSec's database, a git repository;
# if it is not reachable, they are skipped with a warning.
set -euo pipefail
cd "$(dirname "$0")/.."

# cargo-deny reads the crates of all platforms, but a build downloads only those of this one.
cargo fetch --locked --quiet
cargo deny --locked --offline check --hide-inclusion-graph bans licenses sources
if cargo deny --locked fetch db >/dev/null 2>&1; then
    cargo deny --locked check --hide-inclusion-graph advisories
else
    echo "deny: the advisory database is not reachable; advisories were not checked" >&2
fi
