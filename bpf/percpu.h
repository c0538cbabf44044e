// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
// The resident pages of an address space as they are, not as its counters lag
// behind: since 6.2 each CPU holds back a share (percpu_counter).
#ifndef RMAGENT_PERCPU_H
#define RMAGENT_PERCPU_H

const volatile u32 nr_cpus = 1; // possible

#define MAX_CPUS 8192 // the most that distributions build for

// What the kernel adds to a per-CPU address for each CPU. learn_cpus finds it out.
u64 cpu_offset[MAX_CPUS];

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} cpu_probe SEC(".maps");

// A pointer that was stored is a number when it is loaded again, in a map.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} cpu_number SEC(".maps");

static long learn_cpu(u32 cpu, u64 *base)
{
	u32 zero = 0;
	volatile u64 *number = bpf_map_lookup_elem(&cpu_number, &zero);
	void *value = bpf_map_lookup_percpu_elem(&cpu_probe, &zero, cpu);

	if (!number || !value)
		return 1;
	*number = (u64)value;
	cpu_offset[cpu & (MAX_CPUS - 1)] = *number - *base;
	return 0;
}

// An element of a per-CPU map is told both as it is stored and as each CPU sees it;
// the difference holds for every per-CPU address.
static __always_inline void learn_cpus(void)
{
	u32 zero = 0;
	volatile u64 *number = bpf_map_lookup_elem(&cpu_number, &zero);
	u64 base = 0;

	if (!number)
		return;
	*number = (u64)&cpu_probe;
	if (!bpf_probe_read_kernel(&base, sizeof base, (void *)(*number + bpf_core_field_offset(struct bpf_array, pptrs))))
		bpf_loop(nr_cpus, learn_cpu, &base, 0);
}

struct rss {
	u64 counters[NR_MM_COUNTERS];
	s64 pages[NR_MM_COUNTERS];
};

static long add_cpu(u32 cpu, struct rss *r)
{
	u64 offset = cpu_offset[cpu & (MAX_CPUS - 1)];

#pragma unroll
	for (int i = 0; i < NR_MM_COUNTERS; i++) {
		s32 part = 0;

		bpf_probe_read_kernel(&part, sizeof part, (void *)(r->counters[i] + offset));
		r->pages[i] += part;
	}
	return 0;
}

#define READ_COUNTER(r, mm, i) \
	do { \
		(r)->pages[i] = BPF_CORE_READ(mm, rss_stat[i].count); \
		(r)->counters[i] = (u64)BPF_CORE_READ(mm, rss_stat[i].counters); \
	} while (0)

// Reads the pages of an address space that somebody vouches for. Before 6.2 pages
// that a thread touched may still be in the thread (SPLIT_RSS_COUNTING): at most 64
// of each kind for each.
static __always_inline void read_rss(struct rss *r, struct mm_struct *mm)
{
	struct mm_struct___before62 *old = (void *)mm;

	// Each index is a constant: of another, the compiler knows only our own size of an
	// element, and the kernel's is another.
	if (!bpf_core_field_exists(mm->rss_stat[0].counters)) {
		r->pages[0] = BPF_CORE_READ(old, rss_stat.count[0].counter);
		r->pages[1] = BPF_CORE_READ(old, rss_stat.count[1].counter);
		r->pages[2] = BPF_CORE_READ(old, rss_stat.count[2].counter);
		r->pages[3] = BPF_CORE_READ(old, rss_stat.count[3].counter);
	} else {
		READ_COUNTER(r, mm, 0);
		READ_COUNTER(r, mm, 1);
		READ_COUNTER(r, mm, 2);
		READ_COUNTER(r, mm, 3);
		bpf_loop(nr_cpus, add_cpu, r, 0);
	}
#pragma unroll
	for (int i = 0; i < NR_MM_COUNTERS; i++)
		if (r->pages[i] < 0) // one CPU's share may run ahead of another's
			r->pages[i] = 0;
}

#endif
