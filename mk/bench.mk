# The agent beside its peers: docs/benchmarks.md says what is measured and how.

.PHONY: bench-peers bench-peers-full bench-jobs bench-http bench-day

## bench-peers: the agent beside its peers, in about two minutes; BENCH_ARGS adds
## flags (bin/bench -h)
bench-peers:
	@scripts/setup test bench
	@$(MAKE) --no-print-directory build
	$(GO) build -o bin/bench ./internal/bench
	$(GO) build -ldflags '-s -w' -o bin/bench-run ./internal/bench/programs/run
	$(GO) build -ldflags '-s -w' -o bin/bench-serve ./internal/bench/programs/serve
	bin/bench $(BENCH_ARGS)

## bench-peers-full: the same with long windows and more rounds
bench-peers-full: override BENCH_ARGS += -full
bench-peers-full: bench-peers

## bench-jobs: rmagent exec beside GNU time and cctools' resource_monitor, in turns, in
## about five minutes
bench-jobs: override BENCH_ARGS += -suites jobs
bench-jobs: bench-peers

## bench-http: 200 clients ask an agent beside up to 5,000 processes, in turns with a plain
## server, and what one scrape and one list of processes cost; in about ten minutes
bench-http: override BENCH_ARGS += -suites http
bench-http: bench-peers
	$(GO) test -run '^$$' -bench 'Scrape|Listing|Numbers' -benchmem ./internal/metrics ./internal/server

## bench-day: a day of 1,000 processes, 8.6 million records, through replay: it fails if
## that takes more than 60 s of CPU time or 200 MiB
bench-day:
	$(GO) test -run '^$$' -bench '^BenchmarkDay$$' -benchtime 1x ./internal/replay
