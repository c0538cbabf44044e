// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * The scan for kernels from 5.17 on that cannot run scan.bpf.c: a task iterator
 * that user space reads like a file. The kernel walks the tasks and holds RCU
 * around each call.
 */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include "scan.h"
#include "events_state.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* These kernels have no bpf_rdonly_cast: an address is read through a call. */
#define AT(type, address, field) ((u64)BPF_CORE_READ((type *)(address), field))

#include "scan_body.h"

/* Whether to add every CPU's share of the RSS: set before each scan. */
u32 exact;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct process_record);
} scratch SEC(".maps");

SEC("iter/task")
int scan_tasks(struct bpf_iter__task *ctx)
{
	struct task_struct *t = ctx->task;
	struct process_record *r;
	struct work *k = get_work();
	u32 zero = 0, pid;

	if (!t || !k || t->pid != t->tgid || t->pid == 0)
		return 0;
	pid = visible(k, t);
	if (!pid)
		return 0;
	r = bpf_map_lookup_elem(&scratch, &zero);
	if (!r)
		return 0;
	fill_process(r, k, t, pid, exact);
	if (with_events) {
		fill_events(r, t);
		if (t->flags & PF_EXITING)
			fill_spill(r, (u64)t->signal);
		r->flags |= REC_EVENTS;
	}
	bpf_seq_write(ctx->meta->seq, r, sizeof(*r));
	return 0;
}
