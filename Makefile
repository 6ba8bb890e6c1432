# dfs: see README.md. Every target installs what it needs on Debian or Ubuntu.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := build
DIR ?= $(CURDIR)/mnt
DEMO := $(CURDIR)/.demo
BIN := $(CURDIR)/bin/dfs
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
PKG ?= ./...
# Nothing here is C: a Go toolchain is all that it takes.
export CGO_ENABLED := 0

.PHONY: build demo demo-mount demo-stop demo-clean test lint bench soak repeat spec errcover clean

build: ## build bin/dfs
	@set -e; go=$$(scripts/setup.sh build | tail -n 1); mkdir -p bin; \
	[ -x "$(BIN)" ] || echo "building dfs: the first time this takes a minute or two" >&2; \
	"$$go" build -trimpath -ldflags "-X main.version=$(VERSION)" -o "$(BIN)" ./cmd/dfs

demo: build ## three nodes on this machine and a mount at mnt/ (DIR= overrides)
	@"$(BIN)" dev --background --data "$(DEMO)" "$(DIR)"

demo-mount: build ## one more mount of the demo: make demo-mount DIR=/some/dir
	@[ "$(DIR)" != "$(CURDIR)/mnt" ] || { echo "say where: make demo-mount DIR=/some/dir"; exit 2; }
	@"$(BIN)" dev mount --data "$(DEMO)" "$(DIR)"

demo-stop: ## unmount and stop everything the demo started
	@[ ! -x "$(BIN)" ] || "$(BIN)" dev stop --data "$(DEMO)"

demo-clean: demo-stop ## and remove its data
	@rm -rf "$(DEMO)"; echo "the data is removed: $(DEMO)"

test: ## all the tests that CI runs
	@set -e; go=$$(scripts/setup.sh test "$(PKG)" | tail -n 1); scripts/test.sh "$$go" $(PKG)

lint: ## gofmt, go vet, golangci-lint with the import rules
	@set -e; go=$$(scripts/setup.sh build | tail -n 1); scripts/lint.sh "$$go"

bench: build ## the figures of docs/performance.md
	@set -e; go=$$(scripts/setup.sh test | tail -n 1); "$$go" run ./bench -dfs "$(BIN)"

soak: ## the long forms of the tests (MINUTES=30; WORLDS=1 clusters under faults side by side); counts add up in docs/soak-results.json
	@set -e; go=$$(scripts/setup.sh test | tail -n 1); scripts/soak.sh "$$go" $${MINUTES:-30} $${WORLDS:-1}

repeat: ## the fault and concurrency packages TIMES=20 times in a row, each noted in docs/repeats.txt
	@set -e; go=$$(scripts/setup.sh test | tail -n 1); scripts/repeat.sh "$$go" $${TIMES:-20}

spec: ## the lease and fencing protocol as a model, checked exhaustively (spec/README.md)
	@set -e; scripts/setup.sh spec >/dev/null; spec/check.sh

STORAGE := wal wal/seglog blockstore blockstore/device blockstore/raftstore blockstore/blockrpc
errcover: ## which errors of the storage packages no test has produced
	@set -e; go=$$(scripts/setup.sh build | tail -n 1); out=$$(mktemp); trap 'rm -f "$$out"' EXIT; \
	"$$go" test -count=1 -coverpkg=./wal/...,./blockstore/... -coverprofile="$$out" ./wal/... ./blockstore/... >/dev/null; \
	"$$go" run ./internal/errcover -list "$$out" $(STORAGE)

clean:
	rm -rf bin
