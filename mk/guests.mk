# Tests in QEMU guests: docs/testing.md says how they run.

GUEST_KERNELS := 6.1 6.12
# Flags of vmexec for every guest: files and variables the tests want there.
GUEST_FLAGS   ?=

.PHONY: guest-kernels guest-tools test-guests test-arm64

## guest-kernels: Debian's kernels for the guests, in .cache/kernels/
guest-kernels: $(GUEST_KERNELS:%=.cache/kernels/vmlinuz-%)

.cache/kernels/vmlinuz-%:
	@scripts/guest-kernel $* $@
# The tests of the guests themselves want a kernel before the host's tests begin.
test: guest-kernels
.PRECIOUS: .cache/kernels/vmlinuz-%

guest-tools:
	@$(GO) build -o bin/ ./internal/vmtest/vmexec ./internal/vmtest/matrixcheck

## test-guests: what testdata/matrix.txt names for each guest kernel, run there
test-guests: guest-kernels guest-tools
	@status=0; for kernel in $(GUEST_KERNELS); do \
		for package in $$(bin/matrixcheck -kernel $$kernel -packages); do \
			$(GO) test -json -vet=off -timeout 10m -exec "$(CURDIR)/bin/vmexec -timeout 10m -kernel $$kernel $(GUEST_FLAGS)" \
				-skip "$$(bin/matrixcheck -kernel $$kernel -skip $$package)" $$package; \
		done | bin/matrixcheck -kernel $$kernel || status=1; \
	done; exit $$status

# What tells an architecture's kernel, registers, calls and stacks from another's. Left out
# is what emulation is too slow for: what the matrix leaves out, and two tests more.
ARM64_KERNELS  := 6.1 6.12
ARM64_PACKAGES := ./internal/vmtest ./internal/hostfs ./internal/kerneltypes ./internal/loader
ARM64_SKIP     := TestPIDReuseConfusesNobody|TestAForkStormIsToldOf

## test-arm64: the agent on emulated arm64 machines, in about twenty minutes
test-arm64: guest-tools $(ARM64_KERNELS:%=.cache/kernels/vmlinuz-%-arm64)
	@scripts/setup arm64
	GOARCH=arm64 $(GO) build -o bin/vmexec-arm64 ./internal/vmtest/vmexec
	@set -e; for kernel in $(ARM64_KERNELS); do \
		for package in $(ARM64_PACKAGES); do \
			skip=$$(bin/matrixcheck -kernel $$kernel -skip $$package); \
			GOARCH=arm64 $(GO) test -count 1 -vet=off -timeout 20m -exec "$(CURDIR)/bin/vmexec -timeout 20m -kernel $$kernel-arm64" \
				-skip "$(ARM64_SKIP)$${skip:+|$$skip}" $$package; \
		done; \
		RMAGENT_TEST_ARM64=$$kernel-arm64 $(GO) test -count 1 -run '^TestLeaksOnARM64$$' ./cmd/rmagent; \
	done
