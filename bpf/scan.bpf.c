// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * The scan for kernels whose syscall programs may call kfuncs (6.10): it walks the
 * list of processes and writes records into an array that user space maps, one place
 * after the other, so that each scan finds those of the one before. A run
 * is at most SCAN_CHUNK processes, and about a millisecond, because it holds RCU;
 * the next one goes on behind the last process, found again by its PID. That must
 * still be there: a task that left the list points to what may long be gone.
 */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include "scan.h"
#include "events_state.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

extern void *bpf_rdonly_cast(const void *obj, u32 btf_id) __ksym;
extern struct task_struct *bpf_task_from_pid(s32 pid) __ksym;
extern void bpf_task_release(struct task_struct *p) __ksym;
extern void bpf_rcu_read_lock(void) __ksym;
extern void bpf_rcu_read_unlock(void) __ksym;

/* A cast pointer is loaded from directly: the JIT makes each load fault-safe, at a
 * tenth of the cost of a bpf_probe_read_kernel call. */
#define CAST(type, address) ((type *)bpf_rdonly_cast((void *)(address), bpf_core_type_id_kernel(type)))
#define AT(type, address, field) ((u64)CAST(type, address)->field)

#include "scan_body.h"
#include "scan_kept.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, SCAN_CHUNK + 1);
	__type(key, u32);
	__type(value, struct process_record);
} records SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, SCAN_CHUNK + 1);
	__type(key, u32);
	__type(value, struct standing);
} standings SEC(".maps");

/* Places less one, which user space sets with the maps' size: a power of two. One more
 * is for a process that is read by itself. */
const volatile u32 place_mask = SCAN_CHUNK - 1;

/* add_events adds what events counted. Most tasks have nothing stored; of the
 * others, one that can't be found by its PID is not known. */
static __always_inline void add_events(struct process_record *r, struct task_struct *t)
{
	struct task_struct *found;

	if (t->bpf_storage) {
		found = bpf_task_from_pid(t->pid);
		if (!found)
			return;
		fill_events(r, found);
		bpf_task_release(found);
	}
	if (t->flags & PF_EXITING)
		fill_spill(r, (u64)t->signal);
	r->flags |= REC_EVENTS;
}

/* read_anew makes the record of the process whose leader t is from what was kept of it,
 * or keeps it where it sleeps. It says what stands of it. */
static __always_inline void read_anew(struct process_record *r, struct standing *s, struct work *k, struct task_struct *t,
				      u32 pid, u64 switches, bool off, bool exact)
{
	struct signal_struct *sig = t->signal;
	u64 address = as_number(k, t);
	struct kept_process *p;
	bool slept, shared;
	u32 slot;

	s->slept = 0;
	begin(r, t, address, pid);
	slot = r->tgid & kept_mask;
	p = bpf_map_lookup_elem(&kept, &slot);
	if (!p)
		return;
	slept = off && p->task == address && p->start_boottime_ns == r->start_boottime_ns &&
		p->switches == switches && asleep(t);
	if (slept) {
		restore(r, k, p, t, address);
		shared = p->shared;
	} else {
		fence(k);
		shared = t->files->count.counter != 1;
		fence(k);
		fill_own(r, k, t, sig, address);
		fill_threads(r, k, sig, t, address);
	}
	fill_outer(r, k, t, sig);
	fill_parent(r, k, t);
	fill_state(r, t);
	if (!slept || shared)
		fill_files(r, k, t, address);
	fill_memory(r, k, t, address, exact);
	if (!slept && with_events)
		add_events(r, t);
	s->signal = as_number(k, sig);
	s->mm = r->flags & REC_KTHREAD ? 0 : as_number(k, t->mm);
	s->files = shared ? r->files[0] : 0;
	if (slept || (off && keep(p, r, k, t, switches, shared)))
		s->slept = stands(switches);
}

/* fill writes the record of the leader at addr into a place; 1 if there is one. It
 * is global so that the verifier looks at it once, not once per way to reach it. */
__attribute__((noinline)) int fill(u64 addr, u32 place, u32 exact)
{
	struct task_struct *t = CAST(struct task_struct, addr);
	struct process_record *r = bpf_map_lookup_elem(&records, &place);
	struct standing *s = bpf_map_lookup_elem(&standings, &place);
	struct work *k = get_work();
	u64 switches = 0;
	bool off;
	u32 pid;

	if (!r || !s || !k)
		return 0;
	off = bpf_core_field_exists(t->on_cpu) && off_cpu(k, t, &switches);
	if (off && (s->slept & ~1ULL) == stands(switches) && r->task == addr &&
	    r->start_boottime_ns == t->start_boottime && asleep(t)) {
		if (still(r, s, k, t, addr, switches, exact))
			return 1;
		off = off_cpu(k, t, &switches);
	}
	pid = visible(k, t);
	if (!pid)
		return 0;
	read_anew(r, s, k, t, pid, switches, off, exact);
	return 1;
}

/* How much one run reads: about a millisecond's worth of processes, threads and
 * pieces of descriptor tables. */
#define MAX_WEIGHT (4 * SCAN_CHUNK)

/* The idle task, which is the list's head. */
u64 list_head = 0;

struct list_walk {
	u64 at; /* the next leader's task_struct */
	u64 last_task;
	u32 exact;
	u32 first;
	u32 count;
	u32 max;
	u32 done;
};

static __always_inline u64 next_leader(struct work *k, struct task_struct *t)
{
	return as_number(k, t->tasks.next) - bpf_core_field_offset(struct task_struct, tasks);
}

static long visit(u32 i, struct list_walk *w)
{
	struct work *k = get_work();
	struct task_struct *t;

	if (!k || w->count >= w->max || k->weight > MAX_WEIGHT)
		return 1;
	if (w->at == list_head) {
		w->done = 1;
		return 1;
	}
	t = CAST(struct task_struct, w->at);
	w->last_task = w->at;
	w->count += fill(w->at, (w->first + w->count) & place_mask, w->exact);
	k->weight++;
	w->at = next_leader(k, t);
	return 0;
}

/* place finds where the walk begins, or 0 where the last process is not there any
 * more. The task must be the one that was met, and still the leader: while another
 * thread calls exec, that has the PID before it has a place in the list, and the
 * old leader has no place any more before it is gone; the ->tasks of both are stale
 * (fs/exec.c, de_thread). */
static __always_inline u64 place(struct work *k, struct scan_args *args, struct task_struct *found)
{
	u64 task = as_number(k, found);

	if (!args->after) /* kthreadd's parent is the idle task */
		task = list_head = as_number(k, found->real_parent);
	else if (task != args->after_task || found->start_boottime != args->after_start || found->pid != found->tgid)
		return 0;
	return next_leader(k, CAST(struct task_struct, task));
}

SEC("syscall")
int scan(struct scan_args *args)
{
	struct list_walk w = { .exact = args->exact, .first = args->first, .max = args->max };
	struct work *k = get_work();
	struct task_struct *from, *last;

	args->count = 0;
	args->done = 0;
	args->lost_place = 1;
	if (!k)
		return 0;
	from = bpf_task_from_pid(args->only ?: args->after ?: KTHREADD);
	if (!from)
		return 0;
	k->weight = 0;
	bpf_rcu_read_lock();
	if (args->only) {
		args->lost_place = 0;
		if (from->pid == from->tgid)
			args->count = fill(as_number(k, from), place_mask + 1, args->exact);
	} else {
		w.at = place(k, args, from);
		if (w.at) {
			bpf_loop(2 * SCAN_CHUNK, visit, &w, 0);
			args->count = w.count;
			last = CAST(struct task_struct, w.last_task);
			args->last = last->pid;
			args->last_task = w.last_task;
			args->last_start = last->start_boottime;
			args->done = w.done;
			args->lost_place = 0;
		}
	}
	bpf_rcu_read_unlock();
	bpf_task_release(from);
	return 0;
}
