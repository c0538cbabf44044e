# Tests in QEMU guests: docs/testing.md says how they run.

GUEST_KERNELS := 6.1 6.12
# Flags of vmexec for every guest: files and variables the tests want there.
GUEST_FLAGS   ?=

.PHONY: guest-kernels guest-tools test-guests

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
