# rmagent-nvml, the agent's child for NVIDIA GPUs: the only program with C in it, so
# `make build` does without.

.PHONY: nvml test-nvml

## nvml: the child for NVIDIA GPUs, in bin/ beside the agent, which finds it there
nvml:
	@scripts/setup nvml
	GO=$(GO) scripts/build-nvml $(CURDIR)/bin/rmagent-nvml

## test-nvml: vet the child, and test what it makes of NVML
test-nvml:
	set -e; . scripts/nvml-env; $(GO) vet ./cmd/rmagent-nvml; $(GO) tool staticcheck ./cmd/rmagent-nvml; \
		$(GO) test -ldflags "$$NVML_LDFLAGS" ./cmd/rmagent-nvml
