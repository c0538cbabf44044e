# make run    set up what is missing and run the agent here, for a person to read
# make test   set up what is missing and run every test, the guests' included
#
# make build, test-long, test-arm64, nvml, generate, check, bench, race, fuzz, clean: as their comments say.

GO      ?= go
PATH    := $(PATH):/usr/local/go/bin
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
COMMIT  ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)

export PATH
export CGO_ENABLED := 0
# Without what urfave/cli makes documents with, every command starts a twentieth faster.
export GOFLAGS := -tags=urfave_cli_no_docs

.PHONY: all build run test test-host test-long test-otelcol replay-hour generate check-generated vet check bench race fuzz clean

all: build

## build: the agent, and its command exec alone, static, in bin/
build:
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/rmagent ./cmd/rmagent-exec

## run: the agent with output for a person; ARGS adds flags. Without root it
## shows what procfs allows.
run:
	@scripts/setup run
	@$(MAKE) --no-print-directory build
	bin/rmagent run --log-format console $(ARGS)

## test: everything
test:
	@scripts/setup test
	@$(MAKE) --no-print-directory test-host test-guests

## test-host: the tests on this kernel, as this user. One package at a time: some
## load this machine on purpose, and others measure it.
test-host: test-nvml
	$(GO) test -p 1 -timeout 30m ./...

## test-long: real servers under load, and what else must not be said to leak; and what
## takes long to build
test-long: test-otelcol
	@scripts/setup test long
	RMAGENT_TEST_LONG=1 $(GO) test -count 1 -v -run '^TestHealthyProgramsDoNotLeak$$' ./cmd/rmagent

## test-otelcol: an OpenTelemetry Collector ships records through rotations; it is built
## for that, which takes six minutes of CPU time the first time
test-otelcol:
	@scripts/setup run
	cd deploy/shipping/otelcol && $(GO) vet . && $(GO) test -count 1 .

## replay-hour: a policy that decides all the time, live and replayed, for RECORD
RECORD ?= 1h
replay-hour:
	@scripts/setup test
	REPLAY_TEST_RECORD=$(RECORD) $(GO) test -count 1 -v -timeout 0 -run '^TestReplayDecidesAsLive$$' ./cmd/rmagent

include mk/install.mk
include mk/guests.mk
include mk/nvml.mk

## generate: the BPF objects and their Go, for amd64 and arm64
generate:
	@scripts/setup generate
	$(GO) generate ./...

## check-generated: fail if generating changes what is committed
check-generated: generate
	git diff --exit-code -- internal/loader

## vet: vet and staticcheck, and the formatting
vet:
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo "make vet: run gofmt on the files above" >&2; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	GOARCH=arm64 $(GO) vet ./...

## check: what CI checks beside the tests
check: vet check-generated

## bench: the benchmarks, and the agent beside its peers
bench:
	@scripts/setup test bench
	$(GO) test -p 1 -run '^$$' -bench . -benchmem ./...
	@$(MAKE) --no-print-directory bench-peers

include mk/bench.mk

## race: the tests of what goroutines share, under the race detector, which needs
## cgo. Of the command, those that run an agent with all its goroutines and ask,
## change, reload and end it: all of them take longer than anybody waits. Skipped is
## what measures the memory of a helper, of which the detector takes more.
RACE_PACKAGES ?= ./internal/engine ./internal/sink ./internal/hostfs ./internal/source ./internal/gpu \
	./internal/stack/worker ./internal/act ./internal/agent ./internal/history .
RACE_SKIP     ?= ^TestLiveCgroup$$
RACE_COMMAND  ?= ^(TestSignalsEndItWell|TestReload|TestChangesOverHTTP|TestRotation|TestExitRecords)$$
race: export CGO_ENABLED := 1
race:
	@scripts/setup test
	$(GO) test -race -p 1 -timeout 15m -skip '$(RACE_SKIP)' $(RACE_PACKAGES)
	$(GO) test -race -timeout 15m -run '$(RACE_COMMAND)' ./cmd/rmagent

## fuzz: every fuzz target for FUZZTIME each
FUZZTIME ?= 10s
fuzz:
	@for p in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz'); do \
			echo "$$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$p || exit 1; \
		done; \
	done

clean:
	rm -rf bin .cache
