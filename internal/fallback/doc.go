// Package fallback is the [sample.Reader] over procfs: the same facts as the
// kernel's own tables give, for kernels and privileges that don't allow eBPF,
// at 50 to 100 times the cost. It owns its directory descriptors and buffers,
// allocates nothing per process, and leaves unknown what /proc doesn't say:
// network bytes, exec and cgroup ids, descriptor tables, opens and closes.
package fallback
