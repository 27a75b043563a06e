# Shopkeeper. `make help` lists what there is to make.
#
# Everything is built in one profile, release: the tests, the demo and the benchmarks then share every compiled crate.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

TORCH ?= cpu
DATA ?=
ONCE ?=
BENCH ?= ../shared/bench
ONLY ?= segmentation churn anomaly recommendation forecast
MINUTES ?= 10
MODELS ?=
WITHOUT_MLSERVER ?=
FLAGS ?=
SEED ?= 1
PARTS ?= kmeans forest als fold-in
export TORCH DATA ONCE WITHOUT_MLSERVER

CARGO ?= cargo
export PATH := $(CURDIR)/.tools/bin:$(HOME)/.cargo/bin:$(PATH)

.PHONY: help demo build dashboard libtorch test tools fmt lint dashboard-lint doc proto-lint words deny unit fuzz bench-models bench-learners \
	bench-serving clean

help: ## Say what can be made
	@echo 'make TARGET [TORCH=cpu|cuda] [DATA=FILE] [ONCE=1]'
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1|/' | column -t -s '|'

demo: build ## Train on a sample shop (or DATA=FILE), serve, ask each service a question; ONCE=1 stops after the answers
	@deploy/demo.sh

build: libtorch dashboard ## Compile everything; fetches libtorch (TORCH=cuda for GPUs) the first time
	$(CARGO) build --release --locked --workspace --bins

dashboard: ## Build the dashboard's pages, where there is Node
	@deploy/dashboard.sh

libtorch: ## Put libtorch into .libtorch
	@deploy/libtorch.sh

test: tools libtorch dashboard fmt lint dashboard-lint doc proto-lint deny unit ## Install what tests need and run all that CI runs

tools: ## Install what tests need: Redis, a Python gRPC client, buf, cargo-deny
	@deploy/test-tools.sh

fmt: ## Check the formatting
	$(CARGO) fmt --all --check

lint: libtorch ## Run clippy, warnings are errors
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings

dashboard-lint: ## Check the dashboard and its browser tests: Prettier, TypeScript, Oxlint
	@deploy/dashboard.sh check

doc: libtorch ## Build the API documentation, warnings are errors
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --release --locked --workspace --no-deps --lib --quiet

proto-lint: ## Lint the .proto files
	buf lint

words: ## Count what makes the code hard to read for a stranger: private words, wide lines, circles of imports
	@python3 tests/words.py

deny: ## Check licences, sources and bans of dependencies; advisories too where their database can be had
	deploy/deny.sh

unit: libtorch dashboard ## Run all Rust tests: unit, property (SEED=N for other cases), integration, end to end
	# All targets at once, so that binaries and tests share every dependency; the end-to-end tests start the binaries.
	$(CARGO) build --release --locked --workspace --all-targets
	# The same made-up cases each time, so that a commit passes or fails for good; other seeds are for those who look for more.
	PROPTEST_RNG_SEED=$(SEED) $(CARGO) test --release --locked --workspace

fuzz: build ## Give made-up bytes to every entrance of the shop, MINUTES each
	@deploy/fuzz.sh $(MINUTES)

bench-models: build ## Train as of every protocol date and score with the protocols of BENCH=FOLDER; ONLY=MODEL... for some
	@deploy/test-tools.sh bench
	PYTHONPATH=$(CURDIR)/.tools/bench python3 tests/bench/models.py target/release/trainer $(BENCH) --only $(ONLY)

bench-learners: libtorch ## Time k-means, forest and ALS beside scikit-learn and implicit on the same points; PARTS=... for some
	@deploy/test-tools.sh bench
	$(CARGO) build --release --locked --workspace --bench learners
	PYTHONPATH=$(CURDIR)/.tools/bench python3 tests/bench/learners.py \
		"$$(ls -t target/release/deps/learners-* | grep -v '\.d$$' | head -1)" $(BENCH)/../data/online_retail.csv \
		--only $(PARTS)

bench-serving: build ## Measure the services' and the gateway's speed, on MODELS=FOLDER or a sample shop; WITHOUT_MLSERVER=1
	@deploy/test-tools.sh load
	$(CARGO) build --release --locked --workspace --example echo
	python3 tests/load/serving.py target/release $(if $(MODELS),--models $(MODELS)) \
		$(if $(WITHOUT_MLSERVER),--without-mlserver) $(FLAGS)

clean: ## Remove what was built and installed here
	rm -rf target .libtorch .tools demo
