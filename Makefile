# Shopkeeper. `make help` lists the targets.
#
# Everything is built in one profile, release, so that tests, demo and benchmarks share every compiled crate.

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
RECORD ?=
WHAT ?=
WITHOUT_MLSERVER ?=
FLAGS ?=
SEED ?= 1
PARTS ?= kmeans forest als fold-in
export TORCH DATA ONCE WITHOUT_MLSERVER

CARGO ?= cargo
export PATH := $(CURDIR)/.tools/bin:$(HOME)/.cargo/bin:$(PATH)

.PHONY: help demo build dashboard libtorch test tools fmt lint dashboard-lint doc proto-lint words deny golden unit fuzz \
	bench-models bench-learners bench-serving clean

help: ## List the targets
	@echo 'make TARGET [TORCH=cpu|cuda] [DATA=FILE] [ONCE=1]'
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1|/' | column -t -s '|'

demo: build ## Train on a sample shop (or DATA=FILE), serve, call each service; ONCE=1 stops after the calls
	@deploy/demo.sh

build: libtorch dashboard ## Compile all binaries; the first time, download libtorch (TORCH=cuda for GPUs)
	$(CARGO) build --release --locked --workspace --bins

dashboard: ## Build the dashboard; without Node the gateway has no pages
	@deploy/dashboard.sh

libtorch: ## Download libtorch into .libtorch
	@deploy/libtorch.sh

test: tools libtorch dashboard fmt words lint dashboard-lint doc proto-lint deny unit golden ## Install the tools of the tests and run all checks and tests, as CI does

tools: ## Install the tools of the tests: Redis, Chromium, a Python gRPC client, buf, cargo-deny
	@deploy/test-tools.sh

fmt: ## Check the formatting of Rust
	$(CARGO) fmt --all --check

lint: libtorch ## Run clippy; warnings are errors
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings

dashboard-lint: ## Check the dashboard and its browser tests: Prettier, TypeScript, Oxlint
	@deploy/dashboard.sh check

doc: libtorch ## Build the API documentation; warnings are errors
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --release --locked --workspace --no-deps --lib --quiet

proto-lint: ## Lint the .proto files
	buf lint

words: ## Count what makes the code hard to read for a stranger: private words, wide lines, circles of imports
	@python3 tests/words.py

deny: ## Check the licences, sources and bans of dependencies, and advisories if their database is reachable
	deploy/deny.sh

golden: ## Compare built binaries with recorded behaviour; RECORD=1 records, WHAT=PARTS, DATA=FILE trains on that too
	@deploy/test-tools.sh python
	python3 tests/golden/golden.py $${CARGO_TARGET_DIR:-target}/release $(if $(RECORD),--record) $(if $(WHAT),--only $(WHAT)) \
		$(if $(DATA),--data $(DATA))

unit: libtorch dashboard ## Run all Rust tests: unit, property (SEED=N for other cases), integration, end to end
	# One build of all targets, so that binaries and tests share every dependency. The end-to-end tests start the binaries.
	$(CARGO) build --release --locked --workspace --all-targets
	# A fixed seed, so that the property tests of a commit have the same cases in every run. All failures are listed at the
	# end, not only those of the first crate.
	PROPTEST_RNG_SEED=$(SEED) $(CARGO) test --release --locked --workspace --no-fail-fast

fuzz: build ## Fuzz gRPC, JSON, the inference protocol and model files, MINUTES each
	@deploy/fuzz.sh $(MINUTES)

bench-models: build ## Train as of every date of the protocols in BENCH=FOLDER and score them; ONLY=MODEL... for some
	@deploy/test-tools.sh bench
	PYTHONPATH=$(CURDIR)/.tools/bench python3 tests/bench/models.py target/release/trainer $(BENCH) --only $(ONLY)

bench-learners: libtorch ## Time k-means, forest and ALS against scikit-learn and implicit; PARTS=... for some
	@deploy/test-tools.sh bench
	$(CARGO) build --release --locked --workspace --bench learners
	PYTHONPATH=$(CURDIR)/.tools/bench python3 tests/bench/learners.py \
		"$$(ls -t target/release/deps/learners-* | grep -v '\.d$$' | head -1)" $(BENCH)/../data/online_retail.csv \
		--only $(PARTS)

bench-serving: build ## Measure services and gateway on MODELS=FOLDER or a sample shop; WITHOUT_MLSERVER=1
	@deploy/test-tools.sh load
	$(CARGO) build --release --locked --workspace --example echo
	python3 tests/load/serving.py target/release $(if $(MODELS),--models $(MODELS)) \
		$(if $(WITHOUT_MLSERVER),--without-mlserver) $(FLAGS)

clean: ## Remove everything that was built or installed in the checkout
	rm -rf target .libtorch .tools demo
