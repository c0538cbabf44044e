/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * How one process becomes one record. Both scans include this: they reach kernel
 * memory by READ(pointer, field), which each defines for what its kernels allow.
 *
 * Nothing here takes a lock. The caller holds RCU, which keeps tasks, signal
 * structs, descriptor tables that are replaced, credentials and PIDs readable.
 * What RCU does not keep (files_struct, mm_struct) is read between two looks at
 * the task's pointer to it: exit_files() and exit_mm() clear that pointer under
 * task_lock before they let go, so a pointer that is still there vouches for what
 * was read before. A torn read is tried again, then flagged, never passed on.
 */
#ifndef RMAGENT_SCAN_BODY_H
#define RMAGENT_SCAN_BODY_H

/* The PID namespace that PIDs are told in: level 0 is the initial one. */
const volatile u32 ns_level = 0;
const volatile u32 ns_inum = 0;
/* Possible CPUs. */
const volatile u32 nr_cpus = 1;
/* How often each CPU's share is added: 1, except where a benchmark plays a larger
 * machine. */
const volatile u32 cpu_repeat = 1;
/* Where cgroup_id comes from: the v2 hierarchy, or on hosts whose controllers are
 * on v1 the memory or pids controller's. */
enum { CGROUP_V2, CGROUP_MEMORY, CGROUP_PIDS };
const volatile u32 cgroup_from = CGROUP_V2;

#define MAX_CPUS 1024
#define MAX_THREADS (1 << 16)
#define ATTEMPTS 4
#define TABLE_WORDS 512 /* 4 KiB of bitmap, 32,768 descriptors, in one read */
#define MAX_TABLE_READS (1 << 15) /* 2^30 descriptors: more than fs.nr_open allows */

/* cpu_offset[i] is what the kernel adds to a per-CPU address for CPU i. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64[MAX_CPUS]);
} cpu_offset SEC(".maps");

/* clang has no popcount for BPF. */
static __always_inline u64 popcount(u64 x)
{
	x = x - ((x >> 1) & 0x5555555555555555ULL);
	x = (x & 0x3333333333333333ULL) + ((x >> 2) & 0x3333333333333333ULL);
	x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fULL;
	return (x * 0x0101010101010101ULL) >> 56;
}

/* What is summed over a process's threads. */
struct thread_walk {
	u64 signal;
	u64 head;	/* address of signal->thread_head */
	u64 at;		/* address of the next thread's thread_node */
	u64 cpu_ns, utime_ns, stime_ns, run_delay_ns;
	u64 minor_faults, major_faults;
	u64 read_chars, write_chars, read_bytes, write_bytes;
	u64 files[SCAN_TABLES];
	u64 owners[SCAN_TABLES]; /* the task that holds each table */
	u64 mm_owner;		 /* a task that has the mm */
	u64 cached_rss[NR_MM_COUNTERS]; /* before 6.2 */
	u32 walked;
	u32 more_tables;
	u32 whole; /* no thread ended meanwhile */
};

struct table_walk {
	u64 open_fds;
	u64 words;
	u64 count;
	u64 failed;
};

struct rss_walk {
	u64 counters; /* per-CPU address of the four counters */
	s64 pages[NR_MM_COUNTERS];
	u64 failed;
};

/* What a scan works on. It is in a map because there the verifier does not follow
 * values, so that every loop is one state; and it is one, because one reader runs
 * one scan at a time. */
struct work {
	struct thread_walk threads;
	struct table_walk table;
	struct rss_walk rss;
	u64 words[TABLE_WORDS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct work);
} work SEC(".maps");

static __always_inline struct work *get_work(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&work, &zero);
}

static long count_words(u32 i, void *ctx)
{
	struct work *k = get_work();
	u64 first = (u64)i * TABLE_WORDS;
	u64 n, sum = 0;

	if (!k || first >= k->table.words)
		return 1;
	n = k->table.words - first;
	if (n >= TABLE_WORDS) {
		n = TABLE_WORDS;
		if (bpf_probe_read_kernel(k->words, sizeof(k->words), (void *)(k->table.open_fds + first * 8)))
			goto failed;
	} else {
		u32 size = (n & (TABLE_WORDS - 1)) * 8;

		if (bpf_probe_read_kernel(k->words, size, (void *)(k->table.open_fds + first * 8)))
			goto failed;
	}
	for (u32 j = 0; j < TABLE_WORDS; j++) {
		if (j >= n)
			break;
		u64 word = k->words[j];

		if (word == ~0ULL)
			sum += 64;
		else if (word)
			sum += popcount(word);
	}
	k->table.count += sum;
	return 0;
failed:
	k->table.failed = 1;
	return 1;
}

/* count_fds counts the bits of a table of max descriptors, or returns -1. It is
 * global so that the verifier looks at it once. */
__attribute__((noinline)) long count_fds(u64 open_fds, u32 max)
{
	struct work *k = get_work();

	if (max == 64) { /* the table that every process begins with */
		u64 word = 0;

		if (bpf_probe_read_kernel(&word, sizeof(word), (void *)open_fds))
			return -1;
		return popcount(word);
	}
	if (!k)
		return -1;
	k->table.open_fds = open_fds;
	k->table.words = max / 64;
	k->table.count = 0;
	k->table.failed = 0;
	bpf_loop(MAX_TABLE_READS, count_words, 0, 0);
	return k->table.failed ? -1 : (long)k->table.count;
}

static __always_inline void add_table(struct thread_walk *w, u64 task, u64 files)
{
	if (!files)
		return;
#pragma unroll
	for (int i = 0; i < SCAN_TABLES; i++) {
		if (w->files[i] == files)
			return;
		if (!w->files[i]) {
			w->files[i] = files;
			w->owners[i] = task;
			return;
		}
	}
	w->more_tables = 1;
}

static long add_thread(u32 i, void *ctx)
{
	struct work *k = get_work();
	struct thread_walk *w;
	struct list_head *node;
	struct task_struct *t;
	u64 addr;

	if (!k)
		return 1;
	w = &k->threads;
	if (!w->at || w->at == w->head)
		return 1;
	node = as_list(w->at);
	addr = w->at - bpf_core_field_offset(struct task_struct, thread_node);
	t = as_task(addr);
	w->cpu_ns += READ(t, se.sum_exec_runtime);
	w->utime_ns += READ(t, utime);
	w->stime_ns += READ(t, stime);
	if (bpf_core_field_exists(t->sched_info.run_delay))
		w->run_delay_ns += READ(t, sched_info.run_delay);
	w->minor_faults += READ(t, min_flt);
	w->major_faults += READ(t, maj_flt);
	if (bpf_core_field_exists(t->ioac.rchar)) {
		w->read_chars += READ(t, ioac.rchar);
		w->write_chars += READ(t, ioac.wchar);
		w->read_bytes += READ(t, ioac.read_bytes);
		w->write_bytes += READ(t, ioac.write_bytes);
	}
	add_table(w, addr, (u64)READ(t, files));
	if (!w->mm_owner && READ(t, mm))
		w->mm_owner = addr;
#ifdef SPLIT_RSS
	struct task_struct___before62 *old = (void *)t;

	if (bpf_core_field_exists(old->rss_stat)) {
#pragma unroll
		for (int k = 0; k < NR_MM_COUNTERS; k++)
			w->cached_rss[k] += (s64)BPF_CORE_READ(old, rss_stat.count[k]);
	}
#endif
	w->walked++;
	w->at = (u64)READ(node, next);
	return 0;
}

/* One attempt to sum the dead threads' totals and the living threads' own. A
 * thread that ends moves its numbers from one to the other inside stats_lock
 * (kernel/exit.c, __exit_signal), so an unchanged even sequence means that none
 * was counted twice or not at all. */
static long try_sum(u32 i, void *ctx)
{
	struct work *k = get_work();
	struct signal_struct *sig;
	struct thread_walk *w;
	u64 signal;
	u32 seq;

	if (!k)
		return 1;
	w = &k->threads;
	signal = w->signal;
	sig = as_signal(signal);
	seq = READ(sig, stats_lock.seqcount.seqcount.sequence);
	if (seq & 1)
		return 0;
	__builtin_memset(w, 0, sizeof(*w));
	w->signal = signal;
	w->head = signal + bpf_core_field_offset(struct signal_struct, thread_head);
	w->at = (u64)READ(sig, thread_head.next);
	w->cpu_ns = READ(sig, sum_sched_runtime);
	w->utime_ns = READ(sig, utime);
	w->stime_ns = READ(sig, stime);
	w->minor_faults = READ(sig, min_flt);
	w->major_faults = READ(sig, maj_flt);
	if (bpf_core_field_exists(sig->ioac.rchar)) {
		w->read_chars = READ(sig, ioac.rchar);
		w->write_chars = READ(sig, ioac.wchar);
		w->read_bytes = READ(sig, ioac.read_bytes);
		w->write_bytes = READ(sig, ioac.write_bytes);
	}
	bpf_loop(MAX_THREADS, add_thread, 0, 0);
	if (READ(sig, stats_lock.seqcount.seqcount.sequence) != seq)
		return 0;
	w->whole = 1;
	return 1;
}

/* count_table counts one table, or -1 where its owner let go of it meanwhile. */
static __always_inline long count_table(u64 owner, u64 files)
{
	struct task_struct *t = as_task(owner);
	struct files_struct *f = as_files(files);
	long n = -1;

#pragma unroll
	for (int i = 0; i < 2; i++) {
		struct fdtable *fdt = READ(f, fdt);
		u64 fdt_addr = (u64)fdt;

		n = count_fds((u64)BPF_CORE_READ(fdt, open_fds), READ(fdt, max_fds));
		if ((u64)READ(t, files) != files)
			return -1;
		if ((u64)READ(f, fdt) == fdt_addr)
			break;
	}
	return n;
}

static __always_inline void fill_files(struct process_record *r, struct thread_walk *w)
{
	r->fd_open = 0;
#pragma unroll
	for (int i = 0; i < SCAN_TABLES; i++) {
		long n;

		r->files[i] = w->files[i];
		if (!w->files[i])
			continue;
		n = count_table(w->owners[i], w->files[i]);
		if (n < 0) {
			r->flags |= REC_FD_TORN;
			continue;
		}
		r->flags |= REC_FILES;
		r->fd_open += n;
	}
	if (w->more_tables)
		r->flags |= REC_TABLES_MORE;
}

#ifndef SPLIT_RSS
static long add_cpu(u32 i, void *ctx)
{
	struct work *k = get_work();
	u32 zero = 0;
	u64 *offsets = bpf_map_lookup_elem(&cpu_offset, &zero);
	s32 part[NR_MM_COUNTERS];
	u64 cpu = (u64)(i % nr_cpus) & (MAX_CPUS - 1);

	if (!k || !offsets)
		return 1;
	if (bpf_probe_read_kernel(part, sizeof(part), (void *)(k->rss.counters + offsets[cpu]))) {
		k->rss.failed = 1;
		return 1;
	}
	if (i >= nr_cpus)
		return 0;
	k->rss.pages[0] += part[0];
	k->rss.pages[1] += part[1];
	k->rss.pages[2] += part[2];
	k->rss.pages[3] += part[3];
	return 0;
}

/* The four percpu_counters of an mm share one per-CPU allocation
 * (percpu_counter_init_many, since 6.6) or are four of their own (6.2 to 6.5):
 * exact reads them as one where their addresses say so. */
static __always_inline void read_rss(struct mm_struct *mm, struct thread_walk *threads,
				     struct rss_walk *w, bool exact, u32 *flags)
{
	u64 base = (u64)BPF_CORE_READ(mm, rss_stat[0].counters);

	w->pages[0] = READ(mm, rss_stat[0].count);
	w->pages[1] = READ(mm, rss_stat[1].count);
	w->pages[2] = READ(mm, rss_stat[2].count);
	w->pages[3] = READ(mm, rss_stat[3].count);
	if (!exact)
		return;
	if ((u64)BPF_CORE_READ(mm, rss_stat[3].counters) != base + 3 * sizeof(s32))
		return;
	w->counters = base;
	bpf_loop(nr_cpus * cpu_repeat, add_cpu, 0, 0);
	if (!w->failed)
		*flags |= REC_RSS_EXACT;
}
#else
static __always_inline void read_rss(struct mm_struct *mm, struct thread_walk *threads,
				     struct rss_walk *w, bool exact, u32 *flags)
{
	struct mm_struct___before62 *old = (void *)mm;

	if (bpf_core_field_exists(mm->rss_stat[0].counters)) {
		/* 6.2 and later without the other scan: the batches that CPUs hold
		 * back are not seen. */
		w->pages[0] = READ(mm, rss_stat[0].count);
		w->pages[1] = READ(mm, rss_stat[1].count);
		w->pages[2] = READ(mm, rss_stat[2].count);
		w->pages[3] = READ(mm, rss_stat[3].count);
		return;
	}
	w->pages[0] = READ(old, rss_stat.count[0].counter) + (s64)threads->cached_rss[0];
	w->pages[1] = READ(old, rss_stat.count[1].counter) + (s64)threads->cached_rss[1];
	w->pages[2] = READ(old, rss_stat.count[2].counter) + (s64)threads->cached_rss[2];
	w->pages[3] = READ(old, rss_stat.count[3].counter) + (s64)threads->cached_rss[3];
	*flags |= REC_RSS_EXACT;
}
#endif

static __always_inline u64 pages(s64 n)
{
	return n < 0 ? 0 : n; /* counters of one CPU may run ahead of another's */
}

static __always_inline void fill_memory(struct process_record *r, struct work *k, bool exact)
{
	struct thread_walk *w = &k->threads;
	struct task_struct *t = as_task(w->mm_owner);
	struct rss_walk *rss = &k->rss;
	struct mm_struct *mm;
	u64 mm_addr, peak, now;
	u32 flags = 0;

	if (!w->mm_owner)
		return;
	mm = READ(t, mm);
	mm_addr = (u64)mm;
	if (!mm_addr)
		return;
	rss->failed = 0;
	read_rss(mm, w, rss, exact, &flags);
	r->virtual_pages = READ(mm, total_vm);
	peak = READ(mm, hiwater_rss);
	if ((u64)READ(t, mm) != mm_addr)
		return; /* it exited or called exec: no memory to tell of */
	r->flags |= REC_MM | flags;
	r->rss_file_pages = pages(rss->pages[MM_FILEPAGES]);
	r->rss_anon_pages = pages(rss->pages[MM_ANONPAGES]);
	r->swap_pages = pages(rss->pages[MM_SWAPENTS]);
	r->rss_shmem_pages = pages(rss->pages[MM_SHMEMPAGES]);
	/* get_mm_hiwater_rss: the mark is set only when pages are given back. */
	now = r->rss_file_pages + r->rss_anon_pages + r->rss_shmem_pages;
	r->peak_pages = peak > now ? peak : now;
}

/* pid_in returns the task's PID at a level of its namespaces, or 0 if that level's
 * namespace is not the one wanted (0: any). */
static __always_inline u32 pid_in(struct pid *pid, u32 level, u32 inum)
{
	u64 at = (u64)pid + bpf_core_field_offset(struct pid, numbers) +
		 (u64)level * bpf_core_type_size(struct upid);
	struct upid *u = as_upid(at);
	struct pid_namespace *ns;

	if (level > READ(pid, level))
		return 0;
	if (inum) {
		ns = READ(u, ns);
		if (READ(ns, ns.inum) != inum)
			return 0;
	}
	return READ(u, nr);
}

/* visible returns the leader's PID in the reader's namespace, 0 if it has none. */
static __always_inline u32 visible(struct task_struct *t)
{
	struct pid *pid;

	if (ns_level == 0)
		return READ(t, tgid);
	pid = READ(t, thread_pid);
	if (!pid)
		return 0;
	return pid_in(pid, ns_level, ns_inum);
}

static __always_inline void fill_cgroup(struct process_record *r, struct task_struct *t)
{
	struct css_set *set = READ(t, cgroups);
	struct cgroup_subsys_state *css = 0;
	struct cgroup *cg = 0;
	struct kernfs_node *kn;

	if (!set)
		return;
	if (cgroup_from == CGROUP_V2) {
		cg = READ(set, dfl_cgrp);
	} else if (cgroup_from == CGROUP_MEMORY) {
		if (bpf_core_enum_value_exists(enum cgroup_subsys_id, memory_cgrp_id))
			css = as_css(subsys_at(set, bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id)));
	} else {
		if (bpf_core_enum_value_exists(enum cgroup_subsys_id, pids_cgrp_id))
			css = as_css(subsys_at(set, bpf_core_enum_value(enum cgroup_subsys_id, pids_cgrp_id)));
	}
	if (css)
		cg = READ(css, cgroup);
	if (!cg)
		return;
	kn = READ(cg, kn);
	if (!kn)
		return;
	r->cgroup_id = READ(kn, id);
	r->flags |= REC_CGROUP;
}

static __always_inline void fill_identity(struct process_record *r, struct task_struct *t, struct signal_struct *sig)
{
	struct task_struct *parent = READ(t, real_parent);
	const struct cred *cred = READ(t, real_cred);
	struct pid *pid = READ(t, thread_pid);

	r->tgid = READ(t, tgid);
	r->task = (u64)t;
	if (parent)
		r->ppid = visible(parent);
	if (pid) {
		r->ns_pid = pid_in(pid, READ(pid, level), 0);
		r->flags |= REC_NSPID;
	}
	r->uid = READ(cred, uid.val);
	if (READ(t, flags) & PF_KTHREAD)
		r->flags |= REC_KTHREAD;
	r->state = READ(t, __state) | READ(t, exit_state);
	r->threads = READ(sig, nr_threads);
	r->start_boottime_ns = READ(t, start_boottime);
	r->exec_id = READ(t, self_exec_id);
	bpf_probe_read_kernel(r->comm, sizeof(r->comm), COMM(t));
	r->fd_limit = READ(sig, rlim[RLIMIT_NOFILE].rlim_cur);
	r->fd_hard_limit = READ(sig, rlim[RLIMIT_NOFILE].rlim_max);
	fill_cgroup(r, t);
}

/* fill_process makes the record of the process whose leader t is. */
static __always_inline void fill_process(struct process_record *r, struct task_struct *t, u32 pid, bool exact)
{
	struct signal_struct *sig = READ(t, signal);
	struct work *k = get_work();
	struct thread_walk *w;

	__builtin_memset(r, 0, sizeof(*r));
	if (!k)
		return;
	w = &k->threads;
	w->signal = (u64)sig;
	w->whole = 0;
	r->pid = pid;
	fill_identity(r, t, sig);
	bpf_loop(ATTEMPTS, try_sum, 0, 0);
	if (!w->whole)
		r->flags |= REC_CPU_TORN;
	if (w->walked >= MAX_THREADS)
		r->flags |= REC_THREADS_MORE;
	r->cpu_ns = w->cpu_ns;
	r->utime_ns = w->utime_ns;
	r->stime_ns = w->stime_ns;
	r->run_delay_ns = w->run_delay_ns;
	r->minor_faults = w->minor_faults;
	r->major_faults = w->major_faults;
	r->read_chars = w->read_chars;
	r->write_chars = w->write_chars;
	r->read_bytes = w->read_bytes;
	r->write_bytes = w->write_bytes;
	fill_files(r, w);
	fill_memory(r, k, exact);
}

#endif
