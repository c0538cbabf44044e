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
#define as_task(addr) ((struct task_struct *)(addr))
#define as_signal(addr) ((struct signal_struct *)(addr))
#define as_files(addr) ((struct files_struct *)(addr))
#define as_list(addr) ((struct list_head *)(addr))
#define as_upid(addr) ((struct upid *)(addr))
#define as_css(addr) ((struct cgroup_subsys_state *)(addr))
#define READ(p, field) BPF_CORE_READ(p, field)
#define as_words(addr) ((struct rlimit *)(addr))
#define NUMBER(k, pointer) ((void)(k), (u64)(pointer))

static __always_inline struct cgroup_subsys_state *subsys_at(struct css_set *set, u64 i)
{
	u64 at = (u64)set + bpf_core_field_offset(struct css_set, subsys) + i * 8;

	return as_css(READ(as_words(at), rlim_cur));
}

#include "scan_body.h"

/* Whether to add every CPU's share of the RSS: set before each scan. */
u32 exact;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct process_record);
} scratch SEC(".maps");

__attribute__((noinline)) int fill(u64 addr)
{
	struct task_struct *t = as_task(addr);
	struct process_record *r;
	u32 zero = 0, pid = visible(t);

	if (!pid)
		return 0;
	r = bpf_map_lookup_elem(&scratch, &zero);
	if (!r)
		return 0;
	fill_process(r, t, addr, pid, exact);
	return 1;
}

SEC("iter/task")
int scan_tasks(struct bpf_iter__task *ctx)
{
	struct task_struct *t = ctx->task;
	struct process_record *r;
	u32 zero = 0;

	if (!t || t->pid != t->tgid || t->pid == 0)
		return 0;
	/* a global function takes a number, and a number is what a read by call gives */
	if (!fill((u64)BPF_CORE_READ(t, group_leader)))
		return 0;
	r = bpf_map_lookup_elem(&scratch, &zero);
	if (!r)
		return 0;
	if (with_events) {
		fill_events(r, t);
		if (t->flags & PF_EXITING)
			fill_spill(r, (u64)t->signal);
		r->flags |= REC_EVENTS;
	}
	bpf_seq_write(ctx->meta->seq, r, sizeof(*r));
	return 0;
}
