/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * What need not be read again of a process whose only thread has slept since it
 * was read: docs/decisions/sleeping-processes.md says which facts those are, and
 * why. That it slept is known exactly: it was off every CPU and every run queue
 * then, and has been switched out as often now.
 *
 * Kept is the record itself, where the scan comes to the same process in the same
 * place again: nothing is written then, if nothing changed. For when places moved, because
 * somebody before it has ended, what was read is kept by the PID, too: processes that share
 * a place there take it from each other, which costs a reading and nothing else.
 */
#ifndef RMAGENT_SCAN_KEPT_H
#define RMAGENT_SCAN_KEPT_H

struct kept_process {
	u64 task; /* 0: nothing is kept */
	u64 start_boottime_ns;
	u64 switches; /* how often it was switched out */
	u32 flags;    /* REC_* */
	u32 shared;   /* others have its descriptor table */
	u32 uid;
	u32 ns_pid;
	u64 exec_id;
	u64 comm[2];
	u64 files;
	u64 fd_open;
	u64 minor_faults, major_faults;
	u64 cpu_ns, utime_ns, stime_ns, run_delay_ns;
	u64 read_chars, write_chars, read_bytes, write_bytes;
	u64 net_received, net_sent, fd_opened, fd_closed;
};

_Static_assert(sizeof(struct kept_process) == 3 * 64, "three cache lines");

/* The one process that is always there and never calls exec: its PID in the initial
 * namespace. */
#define KTHREADD 2

/* Places less one, which user space sets with the map's size: a power of two. */
const volatile u32 kept_mask = 0;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct kept_process);
} kept SEC(".maps");

#define barrier() asm volatile("" ::: "memory")

/* fence orders what is read before it and after it. On x86 loads are in order anyway, and
 * an atomic operation would keep those of one process from being under way together; on
 * arm64 it takes one, whose value must be used, or it is an addition that orders nothing. */
static __always_inline void fence(struct work *k)
{
#if defined(__TARGET_ARCH_x86)
	barrier();
#else
	k->number = __sync_fetch_and_add(&k->fence, 1);
#endif
}

/* off_cpu tells whether a task is on no CPU, and how often it was switched out by
 * then. The kernel counts before it clears on_cpu (kernel/sched/core.c, __schedule
 * and finish_task), so that a run that is over is counted. */
static __always_inline bool off_cpu(struct work *k, struct task_struct *t, u64 *switches)
{
	int on_cpu = t->on_cpu;

	fence(k);
	*switches = t->nvcsw + t->nivcsw;
	return !on_cpu;
}

/* asleep tells whether a task waits to be woken. One that was woken and has not
 * run yet is not: it may be moved from queue to queue, which adds to its run
 * delay. */
static __always_inline bool asleep(struct task_struct *t)
{
	u32 state = t->__state;

	return state & (TASK_INTERRUPTIBLE | TASK_UNINTERRUPTIBLE | __TASK_STOPPED | __TASK_TRACED | TASK_PARKED) &&
	       !(state & (TASK_WAKING | TASK_NEW | TASK_DEAD));
}

/* restore fills in what is kept: all that only the process itself changes, and its
 * count of descriptors unless others share the table. */
static __always_inline void restore(struct process_record *r, struct work *k, struct kept_process *p,
				    struct task_struct *t, u64 address)
{
	r->flags = p->flags;
	r->uid = p->uid;
	r->ns_pid = p->ns_pid;
	r->threads = 1;
	r->exec_id = p->exec_id;
	r->comm[0] = p->comm[0];
	r->comm[1] = p->comm[1];
	barrier(); /* or clang makes one load of two kinds of pointer, which is refused */
	if (p->flags & REC_KTHREAD)
		fill_comm(r, address); /* who made it may name it */
	r->files[0] = p->files;
	r->fd_open = p->shared ? 0 : p->fd_open;
	r->minor_faults = p->minor_faults;
	r->major_faults = p->major_faults;
	r->cpu_ns = p->cpu_ns;
	r->utime_ns = p->utime_ns;
	r->stime_ns = p->stime_ns;
	r->run_delay_ns = p->run_delay_ns;
	r->read_chars = p->read_chars;
	r->write_chars = p->write_chars;
	r->read_bytes = p->read_bytes;
	r->write_bytes = p->write_bytes;
	r->net_received = p->net_received;
	r->net_sent = p->net_sent;
	r->fd_opened = p->fd_opened;
	r->fd_closed = p->fd_closed;
	k->threads.mm_owner = as_number(k, t->mm) ? address : 0;
	/* for a table that must be counted again */
	k->threads.files[0] = p->files;
	k->threads.files[1] = 0;
	k->threads.owners[0] = address;
	k->threads.more_tables = 0;
}

/* count_shared counts the descriptors of a sleeping process whose table others have, too. */
static __always_inline void count_shared(struct process_record *now, struct work *k, u64 files)
{
	long n = count_table(k, files);

	now->flags &= ~(REC_FILES | REC_FD_TORN);
	if (n < 0) {
		now->flags |= REC_FD_TORN;
		now->fd_open = 0;
		return;
	}
	now->flags |= REC_FILES;
	now->fd_open = n;
}

/* stands says in a standing that the process slept, which was switched out so often. */
static __always_inline u64 stands(u64 switches)
{
	return (switches + 1) << 1;
}

/* still brings the record of a process up to now, in place, that slept since it was written,
 * as s says. What it has by pointers it can't have let go of, and they are not read again:
 * its memory, limits and table, its PIDs, and that it has not exited. It returns false, and
 * leaves all as it was, where the process runs by now, or ran: then what it had may be gone. */
static __always_inline bool still(struct process_record *r, struct standing *s, struct work *k, struct task_struct *t,
				  u64 address, u64 switches, bool exact)
{
	struct process_record *now = &k->now;
	u64 changed, again;

	now->flags = r->flags & ~(REC_MM | REC_CGROUP);
	now->fd_open = r->fd_open;
	now->cgroup_id = 0;
	now->rss_file_pages = now->rss_anon_pages = now->rss_shmem_pages = 0;
	now->swap_pages = now->peak_pages = now->virtual_pages = 0;
	now->state = t->__state;
	fill_outer(now, k, t, CAST(struct signal_struct, s->signal));
	if (s->files)
		count_shared(now, k, s->files);
	if (s->mm) {
		READ_MM(now, k, MM_OTHER, s->mm, s->mm, exact);
		tell_memory(now, k);
	}
	now->ppid = r->ppid;
	if (r->ppid != KTHREADD || ns_level) { /* which stays the parent of its children */
		now->ppid = 0;
		fill_parent(now, k, t);
	}
	changed = 0;
	if (r->flags & REC_KTHREAD) {
		fill_comm(now, address); /* who made it may name it */
		changed = (now->comm[0] ^ r->comm[0]) | (now->comm[1] ^ r->comm[1]);
	}
	fence(k);
	if (!off_cpu(k, t, &again) || again != switches)
		return false;
	changed |= (now->flags ^ r->flags) | (now->ppid ^ r->ppid) | (now->state ^ r->state) |
		   (now->cgroup_id ^ r->cgroup_id) | (now->fd_open ^ r->fd_open) | (now->fd_limit ^ r->fd_limit) |
		   (now->fd_hard_limit ^ r->fd_hard_limit) | (now->rss_file_pages ^ r->rss_file_pages) |
		   (now->rss_anon_pages ^ r->rss_anon_pages) | (now->rss_shmem_pages ^ r->rss_shmem_pages) |
		   (now->swap_pages ^ r->swap_pages) | (now->peak_pages ^ r->peak_pages) |
		   (now->virtual_pages ^ r->virtual_pages);
	s->slept = stands(switches) | !changed;
	if (!changed)
		return true;
	r->flags = now->flags;
	r->ppid = now->ppid;
	r->state = now->state;
	r->cgroup_id = now->cgroup_id;
	if (r->flags & REC_KTHREAD) {
		r->comm[0] = now->comm[0];
		r->comm[1] = now->comm[1];
	}
	r->fd_open = now->fd_open;
	r->fd_limit = now->fd_limit;
	r->fd_hard_limit = now->fd_hard_limit;
	r->rss_file_pages = now->rss_file_pages;
	r->rss_anon_pages = now->rss_anon_pages;
	r->rss_shmem_pages = now->rss_shmem_pages;
	r->swap_pages = now->swap_pages;
	r->peak_pages = now->peak_pages;
	r->virtual_pages = now->virtual_pages;
	return true;
}

/* keep keeps a record that was read while its process slept, and tells whether it did.
 * switches and shared are from before: while its only thread sleeps, a table that nobody
 * else has gets no second owner. */
static __always_inline bool keep(struct kept_process *p, struct process_record *r, struct work *k,
				 struct task_struct *t, u64 switches, bool shared)
{
	u64 now;

	p->task = 0;
	if (r->threads != 1 || k->threads.walked != 1 ||
	    r->flags & (REC_CPU_TORN | REC_FD_TORN | REC_TABLES_MORE | REC_THREADS_MORE) ||
	    t->on_rq || !asleep(t) || t->flags & PF_EXITING)
		return false;
	fence(k);
	if (!off_cpu(k, t, &now) || now != switches)
		return false;
	p->task = r->task;
	p->start_boottime_ns = r->start_boottime_ns;
	p->switches = switches;
	p->flags = r->flags & (REC_KTHREAD | REC_FILES | REC_NSPID | REC_EVENTS);
	p->shared = shared;
	p->uid = r->uid;
	p->ns_pid = r->ns_pid;
	p->exec_id = r->exec_id;
	p->comm[0] = r->comm[0];
	p->comm[1] = r->comm[1];
	p->files = r->files[0];
	p->fd_open = r->fd_open;
	p->minor_faults = r->minor_faults;
	p->major_faults = r->major_faults;
	p->cpu_ns = r->cpu_ns;
	p->utime_ns = r->utime_ns;
	p->stime_ns = r->stime_ns;
	p->run_delay_ns = r->run_delay_ns;
	p->read_chars = r->read_chars;
	p->write_chars = r->write_chars;
	p->read_bytes = r->read_bytes;
	p->write_bytes = r->write_bytes;
	p->net_received = r->net_received;
	p->net_sent = r->net_sent;
	p->fd_opened = r->fd_opened;
	p->fd_closed = r->fd_closed;
	return true;
}

#endif
