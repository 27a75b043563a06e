#!/usr/bin/env bash
# Gives made-up bytes to every entrance of the shop: gRPC, JSON, the Open Inference Protocol, the files of models.
#
#   deploy/fuzz.sh MINUTES [TARGET...]
#
# It begins with tests/fuzz/seeds and what earlier runs found worth keeping (tests/fuzz/corpus). Bytes that break something
# end the run and stay in tests/fuzz/artifacts; once it is mended they belong among the seeds, which every test run tries.
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

# The compiler's coverage for fuzzers is there in the stable one; only the flag is not.
export RUSTC_BOOTSTRAP=1 SHOPKEEPER_MODELS=$PWD/$shop/models
for target in $targets; do
    mkdir -p "tests/fuzz/corpus/$target"
    cargo fuzz run --fuzz-dir tests/fuzz --sanitizer none "$target" "tests/fuzz/corpus/$target" "tests/fuzz/seeds/$target" -- \
        -max_total_time=$((60 * minutes)) -max_len=4096 -timeout=20 -print_final_stats=1
done
