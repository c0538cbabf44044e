// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * The scan for kernels with bpf_rdonly_cast and bpf_task_from_pid (6.2): a syscall
 * program that walks the kernel's list of processes and writes records into an
 * array that user space maps. A run is at most SCAN_CHUNK processes, because it
 * holds RCU and cannot be preempted by a grace period; the next run goes on
 * behind the last process, found again by its PID. That process must still be
 * hashed: a task that left the list points to what may long be gone.
 */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include "scan.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

extern void *bpf_rdonly_cast(const void *obj, u32 btf_id) __ksym;
extern struct task_struct *bpf_task_from_pid(s32 pid) __ksym;
extern void bpf_task_release(struct task_struct *p) __ksym;
extern void bpf_rcu_read_lock(void) __ksym;
extern void bpf_rcu_read_unlock(void) __ksym;

/* A cast pointer is loaded from directly: the JIT makes each load fault-safe, at a
 * tenth of the cost of a bpf_probe_read_kernel call. */
#define CAST(type, addr) ((type *)bpf_rdonly_cast((void *)(addr), bpf_core_type_id_kernel(type)))
#define as_task(addr) CAST(struct task_struct, addr)
#define as_signal(addr) CAST(struct signal_struct, addr)
#define as_files(addr) CAST(struct files_struct, addr)
#define as_list(addr) CAST(struct list_head, addr)
#define as_upid(addr) CAST(struct upid, addr)
#define as_css(addr) CAST(struct cgroup_subsys_state, addr)
#define READ(p, field) ((p)->field)
#define COMM(t) ((t)->comm)

static __always_inline u64 subsys_at(void *set, u64 i)
{
	u64 css = 0;

	bpf_probe_read_kernel(&css, sizeof(css),
			      (void *)((u64)set + bpf_core_field_offset(struct css_set, subsys) + i * 8));
	return css;
}

#include "scan_body.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, SCAN_CHUNK);
	__type(key, u32);
	__type(value, struct process_record);
} records SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} cpu_probe SEC(".maps");

/* fill writes the record of the leader at addr into a slot; 1 if there is one. It
 * is global so that the verifier looks at it once, not once per way to reach it. */
__attribute__((noinline)) int fill(u64 addr, u32 slot, u32 exact)
{
	struct task_struct *t = as_task(addr);
	struct process_record *r;
	u32 pid = visible(t);

	if (!pid)
		return 0;
	r = bpf_map_lookup_elem(&records, &slot);
	if (!r)
		return 0;
	fill_process(r, t, pid, exact);
	return 1;
}

/* The one process that is always there and never calls exec. */
#define KTHREADD 2

struct list_walk {
	u64 at; /* the next leader's task_struct */
	u64 last_task;
	u64 last_start;
	u32 last;
	u32 exact;
	u32 count;
	u32 max;
	u32 done;
	u32 weight; /* processes and threads of this run */
};

/* Global functions take numbers, not pointers, and a number is what a read by call
 * gives. */
static __always_inline u64 next_leader(struct task_struct *t)
{
	return (u64)BPF_CORE_READ(t, tasks.next) - bpf_core_field_offset(struct task_struct, tasks);
}

static long visit(u32 i, struct list_walk *w)
{
	struct task_struct *t = as_task(w->at);
	struct signal_struct *sig = t->signal;

	if (t->pid == 0) { /* the list's head is the idle task */
		w->done = 1;
		return 1;
	}
	if (w->count >= w->max || w->weight > 4 * SCAN_CHUNK)
		return 1;
	w->weight += sig->nr_threads;
	w->last = t->pid;
	w->last_task = w->at;
	w->last_start = t->start_boottime;
	w->count += fill(w->at, w->count, w->exact);
	w->at = next_leader(t);
	return 0;
}

/* place finds where the walk begins, or 0 where the last process is not there any
 * more. The task must be the one that was met: while a thread that is not the
 * leader calls exec, it has the PID before it has a place in the list
 * (fs/exec.c, de_thread), and its own ->tasks is stale. */
static __always_inline u64 place(struct scan_args *args, struct task_struct *found)
{
	if (!args->after) /* kthreadd's parent is the idle task, the head of the list */
		return next_leader(found->real_parent);
	if ((u64)BPF_CORE_READ(found, group_leader) != args->after_task || found->start_boottime != args->after_start)
		return 0;
	return next_leader(found);
}

SEC("syscall")
int scan(struct scan_args *args)
{
	struct list_walk w = { .exact = args->exact, .max = args->max };
	struct task_struct *from = bpf_task_from_pid(args->only ?: args->after ?: KTHREADD);

	args->count = 0;
	args->done = 0;
	args->lost_place = 1;
	if (!from)
		return 0;
	bpf_rcu_read_lock();
	if (args->only) {
		if (from->pid == from->tgid)
			args->count = fill((u64)BPF_CORE_READ(from, group_leader), 0, args->exact);
	} else {
		w.at = place(args, from);
		if (w.at) {
			bpf_loop(2 * SCAN_CHUNK, visit, &w, 0);
			args->count = w.count;
			args->last = w.last;
			args->last_task = w.last_task;
			args->last_start = w.last_start;
			args->done = w.done;
			args->lost_place = 0;
		}
	}
	bpf_rcu_read_unlock();
	bpf_task_release(from);
	return 0;
}

struct offset_walk {
	u64 base;
	u64 failed;
};

static long learn_cpu(u32 i, struct offset_walk *w)
{
	u32 zero = 0;
	u64 *offsets = bpf_map_lookup_elem(&cpu_offset, &zero);
	void *value = bpf_map_lookup_percpu_elem(&cpu_probe, &zero, i);

	if (!offsets || !value || i >= MAX_CPUS) {
		w->failed = 1;
		return 1;
	}
	/* A pointer that was stored is a number when it is loaded again. */
	*(volatile u64 *)&offsets[i] = (u64)value;
	*(volatile u64 *)&offsets[i] = *(volatile u64 *)&offsets[i] - w->base;
	return 0;
}

/* learn_offsets finds what the kernel adds to a per-CPU address for each CPU: an
 * element of a per-CPU map is told both as it is stored and as each CPU sees it. */
SEC("syscall")
int learn_offsets(void *ctx)
{
	struct bpf_array *array = CAST(struct bpf_array, &cpu_probe);
	struct offset_walk w = {};

	if (bpf_probe_read_kernel(&w.base, sizeof(w.base),
				  (void *)array + bpf_core_field_offset(struct bpf_array, pptrs)))
		return 1;
	bpf_loop(nr_cpus, learn_cpu, &w, 0);
	return w.failed;
}
