#!/usr/bin/env bash
# Runs the whole system on a sample shop: transactions, training, services, and a call to each of them.
#
#   DATA=FILE   your own transactions instead of the sample shop's
#   ONCE=1      stop after the calls instead of serving on
#   LISTEN=ADDR the address to serve on, default 127.0.0.1:50050
#   CURRENCY=CODE the shop's currency, such as EUR; default GBP for the sample shop
set -euo pipefail
cd "$(dirname "$0")/.."

bin=${CARGO_TARGET_DIR:-target}/release
listen=${LISTEN:-127.0.0.1:50050}
home=demo
mkdir -p "$home"
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

deploy/test-tools.sh python

data=${DATA:-}
currency=${CURRENCY:-}
if [ -z "$data" ]; then
    currency=${currency:-GBP}
    data=$home/transactions.csv
    say "A sample shop"
    "$bin/trainer" synth --output "$data"
fi

say "Training on $data"
"$bin/trainer" run --input "$data" --lake "$home/lake" --models "$home/models"

say "Serving on $listen"
"$bin/standalone" --models "$home/models" --lake "$home/lake" --listen "$listen" --allow-publish \
    ${currency:+--currency "$currency"} &
server=$!
trap 'kill "$server" 2>/dev/null; wait "$server" 2>/dev/null || true' EXIT

ask() { PYTHONPATH=.tools/python python3 tests/python/client.py "$listen" "$@"; }
serving() { ask grpc.health.v1.Health/Check 2>/dev/null | grep -q '"SERVING"'; }
for _ in $(seq 100); do
    if serving; then break; fi
    kill -0 "$server" 2>/dev/null || { echo "demo: the server has exited" >&2; exit 1; }
    sleep 0.2
done
serving || { echo "demo: the server did not become ready" >&2; exit 1; }

first() { "$bin/trainer" sql --lake "$home/lake" --json "$1" | python3 -c 'import json, sys; print(next(iter(json.load(sys.stdin)[0].values())))'; }
customer=$(first "SELECT customer_id FROM customers ORDER BY orders DESC, customer_id LIMIT 1")
product=$(first "SELECT stock_code FROM products ORDER BY customers DESC, stock_code LIMIT 1")

question() { # title method request
    say "$1"
    echo "$2 $3"
    ask "shopkeeper.$2" "$3"
}
question "Segment of customer $customer" \
    segmentation.v1.SegmentationService/GetCustomerSegment "{\"customerId\": \"$customer\"}"
question "Forecast of the next seven days" \
    forecast.v1.ForecastService/ForecastSales '{"level": "LEVEL_TOTAL", "frequency": "FREQUENCY_DAILY", "horizon": 7}'
question "Recommendations for customer $customer" \
    recommendation.v1.RecommendationService/RecommendProducts "{\"customerId\": \"$customer\", \"limit\": 3}"
question "Churn risk of customer $customer" \
    churn.v1.ChurnService/GetChurnRisk "{\"customerId\": \"$customer\"}"
question "Anomaly score of a line with 9,999 units of $product at 0.01" \
    anomaly.v1.AnomalyService/ScoreTransaction \
    "{\"transaction\": {\"stockCode\": \"$product\", \"quantity\": 9999, \"unitPrice\": 0.01, \"customerId\": \"$customer\"}}"
question "Summary of the shop" insights.v1.InsightsService/GetSummary '{}'

if [ -n "${ONCE:-}" ]; then exit 0; fi
say "Serving on $listen until you press Ctrl-C"
wait "$server"
