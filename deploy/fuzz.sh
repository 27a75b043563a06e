#!/usr/bin/env bash
# Fuzzes every input of the system: gRPC, JSON, the Open Inference Protocol, model files.
#
#   deploy/fuzz.sh MINUTES [TARGET...]
#
# A run starts from tests/fuzz/seeds and the corpus of earlier runs (tests/fuzz/corpus). An input that causes a failure ends the
# run and is kept in tests/fuzz/artifacts. After the fix it belongs among the seeds, which every test run replays.
set -euo pipefail
cd "$(dirname "$0")/.."

minutes=$1
shift
targets=${*:-grpc json inference model}
if ! cargo fuzz --version >/dev/null 2>&1; then
    echo "fuzz: compiling cargo-fuzz (a minute, once)" >&2
    cargo install --quiet --locked cargo-fuzz@0.13.2
fi

bin=${CARGO_TARGET_DIR:-target}/release
shop=tests/fuzz/shop
if [ ! -e "$shop/models/insights/current.json" ]; then
    echo "fuzz: training the models of the sample shop" >&2
    mkdir -p "$shop"
    "$bin/trainer" synth --output "$shop/transactions.csv"
    "$bin/trainer" run --input "$shop/transactions.csv" --lake "$shop/lake" --models "$shop/models"
fi

# Stable rustc has the coverage instrumentation, but accepts its flag only with RUSTC_BOOTSTRAP.
export RUSTC_BOOTSTRAP=1 SHOPKEEPER_MODELS=$PWD/$shop/models
for target in $targets; do
    mkdir -p "tests/fuzz/corpus/$target"
    cargo fuzz run --fuzz-dir tests/fuzz --sanitizer none "$target" "tests/fuzz/corpus/$target" "tests/fuzz/seeds/$target" -- \
        -max_total_time=$((60 * minutes)) -max_len=4096 -timeout=20 -print_final_stats=1
done
