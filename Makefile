# Everything that is done to this repository. `make` alone lists it.
#
# Tools are pinned in tools/go.mod and run from there; nothing is installed in
# the system. What a target fetches or builds for itself lies under .tools/.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

ROOT := $(CURDIR)
TOOL := go tool -modfile=$(ROOT)/tools/go.mod
PLUGINS := $(ROOT)/.tools/bin
BUF := cd proto && PATH="$(PLUGINS):$$PATH" $(TOOL) buf

# What narrows a run: make test PKG=./grains/... RUN=TestCounter
PKG ?= ./...
RUN ?=
# More flags for go test, such as -v or -short.
TESTFLAGS ?=
# More flags for the bench of `make run`.
ARGS ?= --duration 10s
BENCH ?= .
BENCHTIME ?= 1s
COUNT ?= 1
FUZZTIME ?= 20s

##@ Use

.PHONY: help
help: ## List the targets
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-zA-Z0-9_-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: build
build: ## Build bin/quern
	go build -o bin/quern ./cmd/quern

.PHONY: run
run: build ## Start one node in a temporary folder, run the load bench against it, stop it (ARGS=…)
	@scripts/run.sh bin/quern $(ARGS)

##@ Check

.PHONY: test
test: redis consul postgres ## Run every test under the race detector (PKG=… RUN=… TESTFLAGS=…)
	@code=0; $(if $(RUN)$(filter-out ./...,$(PKG)),,$(UNRACED) || code=1;) \
	ALONE='$(if $(RUN)$(filter-out ./...,$(PKG)),,$(ALONE))' \
	scripts/test.sh -race -shuffle=on -timeout=15m $(if $(RUN),-run='$(RUN)') $(TESTFLAGS) \
	$(if $(RUN)$(filter-out ./...,$(PKG)),$(PKG),$$(go list ./... | grep -vF '$(ALONE:./%=%)')) || code=$$?; exit $$code

# Packages whose tests start whole clusters and measure them.
ALONE = ./internal/clusterfault

# Tests whose point the race detector spoils: they count memory or allocations, or
# run code of others that races with itself. One package after the other, since
# what they measure is the machine's.
UNRACED = go test -count=1 -p=1 -timeout=5m $(TESTFLAGS) \
  -run='^(TestStreamAllocatesNothing|TestLeaseCostsNoAllocation|TestIdleCounterIsSmall|TestNoGarbage|TestCounters|TestIdleConnections|TestIdleFrames|TestFloods)$$' \
  . ./actors ./internal/frameconn ./bench/peers ./server

.PHONY: test-unraced
test-unraced: ## Run the tests that skip something under the race detector, without it
	$(UNRACED)

.PHONY: consul
consul: ## Find or fetch consul, which the tests of many nodes need
	@scripts/consul.sh

.PHONY: test-long
test-long: consul postgres ## Run the tests that take minutes
	go test -tags=long -timeout=45m -p=1 -v ./internal/longtest ./internal/clusterfault

.PHONY: lint
lint: lint-go lint-proto ## Check style, layering, formatting and the protocol's style

.PHONY: lint-go
lint-go: ## Check the Go code and the shell scripts
	$(TOOL) golangci-lint run --allow-parallel-runners
	go test ./internal/arch ./internal/docscheck
	for f in scripts/*.sh .ci/run; do bash -n "$$f"; done

.PHONY: lint-proto
lint-proto: ## Check the protocol's style
	$(BUF) lint
	$(BUF) format --diff --exit-code

.PHONY: breaking
breaking: ## Check that the protocol reads what earlier versions wrote (AGAINST=REF)
	@scripts/breaking.sh $(AGAINST)

.PHONY: check-generated
check-generated: plugins ## Check that messages/ is what proto/ generates
	rm -rf .tools/gen && mkdir -p .tools/gen/proto
	$(BUF) generate -o $(ROOT)/.tools/gen/proto
	diff -ru messages .tools/gen/messages

.PHONY: check-tidy
check-tidy: ## Check that go.mod lists what the code needs and nothing else
	go mod tidy -diff
	go mod verify

.PHONY: vuln
vuln: ## Look for known vulnerabilities in what the code calls
	$(TOOL) govulncheck ./...

.PHONY: cover
cover: ## Measure coverage into cover.out
	go test -coverpkg=./... -coverprofile=cover.out $(PKG)
	go tool cover -func=cover.out | tail -1

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME each
	@scripts/fuzz.sh $(FUZZTIME)

##@ Measure

.PHONY: bench
bench: ## Run the Go benchmarks (PKG=… BENCH=… BENCHTIME=… COUNT=…)
	go test -run='^$$' -bench='$(BENCH)' -benchmem -benchtime=$(BENCHTIME) -count=$(COUNT) $(PKG)

.PHONY: bench-peers
bench-peers: build redis etcd consul ## Measure beside the peers in alternating rounds, into bench/results/
	@scripts/bench-peers.sh

.PHONY: redis
redis: ## Find or fetch redis-server, a peer to measure
	@scripts/redis.sh

.PHONY: etcd
etcd: ## Find or fetch etcd, a peer to measure
	@scripts/etcd.sh

.PHONY: postgres
postgres: ## Find or fetch a PostgreSQL server, for the tests
	@scripts/postgres.sh

##@ Change

.PHONY: generate
generate: plugins ## Generate messages/ from proto/
	$(BUF) format --write
	$(BUF) generate

.PHONY: fmt
fmt: ## Format the Go code and the protocol
	$(TOOL) golangci-lint fmt
	$(BUF) format --write

.PHONY: plugins
plugins: $(PLUGINS)/.built

$(PLUGINS)/.built: tools/go.mod tools/go.sum
	mkdir -p $(PLUGINS)
	go build -modfile=tools/go.mod -o $(PLUGINS)/ \
	  google.golang.org/protobuf/cmd/protoc-gen-go \
	  google.golang.org/grpc/cmd/protoc-gen-go-grpc \
	  connectrpc.com/connect/cmd/protoc-gen-connect-go
	touch $@

.PHONY: clean
clean: ## Remove what was built, fetched and measured here
	rm -rf bin .tools bench/results quern cover.out quern-data
