/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * How one process becomes one record. Both scans include this: they reach kernel
 * memory by READ(pointer, field), which each defines for what its kernels allow,
 * and NUMBER(pointer) is the address as a plain number.
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

/* Possible CPUs. */
const volatile u32 nr_cpus = 1;
/* How often each CPU's share is read: 1, except where a benchmark plays a larger
 * machine. */
const volatile u32 cpu_repeat = 1;
/* Where cgroup_id comes from: the v2 hierarchy, or on hosts whose controllers are
 * on v1 the memory or pids controller's. */
enum { CGROUP_V2, CGROUP_MEMORY, CGROUP_PIDS };
const volatile u32 cgroup_from = CGROUP_V2;

#define MAX_CPUS 8192 /* the most that distributions build for */
#define MAX_THREADS (1 << 16)
#define ATTEMPTS 4
#define TABLE_WORDS 512 /* 4 KiB of bitmap, 32,768 descriptors, in one read */
#define MAX_TABLE_READS (1 << 15) /* 2^30 descriptors: more than fs.nr_open allows */

/* What learn finds out. */
u32 ns_level;		   /* how deep the reader's PID namespace is; 0: the initial one */
u64 ns_self;		   /* its address */
u64 cpu_offset[MAX_CPUS];  /* what the kernel adds to a per-CPU address for each CPU */

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

/* What a scan works on. It is in a map because there the verifier does not follow
 * values, so that every loop is one state; and it is one, because one reader runs
 * one scan at a time. */
struct work {
	struct thread_walk threads;
	struct table_walk table;
	s64 rss[NR_MM_COUNTERS];
	u64 number; /* of as_number */
	u64 weight; /* processes, threads and pieces of tables that this run read */
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

/* A pointer that was stored is a number when it is loaded again. */
static __always_inline u64 as_number(struct work *k, const volatile void *pointer)
{
	*(volatile u64 *)&k->number = (u64)pointer;
	return *(volatile u64 *)&k->number;
}

/* clang has no popcount for BPF. */
static __always_inline u64 popcount(u64 x)
{
	x = x - ((x >> 1) & 0x5555555555555555ULL);
	x = (x & 0x3333333333333333ULL) + ((x >> 2) & 0x3333333333333333ULL);
	x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fULL;
	return (x * 0x0101010101010101ULL) >> 56;
}

/* Descriptors. */

static long count_words(u32 i, void *ctx)
{
	struct work *k = get_work();
	u64 first = (u64)i * TABLE_WORDS;
	u64 n, sum = 0;

	if (!k || first >= k->table.words)
		return 1;
	k->weight += 4;
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

/* count_large counts the bits of a table of max descriptors, or returns -1. It is
 * global so that the verifier looks at it once. */
__attribute__((noinline)) long count_large(u64 open_fds, u32 max)
{
	struct work *k = get_work();

	if (!k)
		return -1;
	k->table.open_fds = open_fds;
	k->table.words = max / 64;
	k->table.count = 0;
	k->table.failed = 0;
	bpf_loop(MAX_TABLE_READS, count_words, 0, 0);
	return k->table.failed ? -1 : (long)k->table.count;
}

/* count_table counts one table, or -1 where its owner let go of it meanwhile. */
static __always_inline long count_table(struct work *k, u64 owner, u64 files)
{
	struct task_struct *t = as_task(owner);
	struct files_struct *f = as_files(files);
	long n = -1;

#pragma unroll
	for (int i = 0; i < 2; i++) {
		struct fdtable *fdt = READ(f, fdt);
		u64 fdt_addr = (u64)fdt;
		u64 open_fds = NUMBER(k, READ(fdt, open_fds));
		u32 max = READ(fdt, max_fds);

		if (max == 64) /* the table that every process begins with */
			n = popcount(READ(as_words(open_fds), rlim_cur));
		else
			n = count_large(open_fds, max);
		if ((u64)READ(t, files) != files)
			return -1;
		if ((u64)READ(f, fdt) == fdt_addr)
			break;
	}
	return n;
}

static __always_inline void fill_files(struct process_record *r, struct work *k)
{
	struct thread_walk *w = &k->threads;

#pragma unroll
	for (int i = 0; i < SCAN_TABLES; i++) {
		long n;

		if (!w->files[i])
			break;
		r->files[i] = w->files[i];
		n = count_table(k, w->owners[i], w->files[i]);
		if (n < 0) {
			r->flags |= REC_FD_TORN;
			break;
		}
		r->flags |= REC_FILES;
		r->fd_open += n;
	}
	if (w->more_tables)
		r->flags |= REC_TABLES_MORE;
}

/* Threads. */

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

static __always_inline void add_task(struct thread_walk *w, struct task_struct *t, u64 addr)
{
	struct task_struct___before62 *old = (void *)t;

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
	}
	if (bpf_core_field_exists(t->ioac.read_bytes)) {
		w->read_bytes += READ(t, ioac.read_bytes);
		w->write_bytes += READ(t, ioac.write_bytes);
	}
	add_table(w, addr, (u64)READ(t, files));
	if (!w->mm_owner && READ(t, mm))
		w->mm_owner = addr;
	if (bpf_core_field_exists(old->rss_stat)) {
#pragma unroll
		for (int i = 0; i < NR_MM_COUNTERS; i++)
			w->cached_rss[i] += (s64)BPF_CORE_READ(old, rss_stat.count[i]);
	}
	w->walked++;
}

static long add_thread(u32 i, void *ctx)
{
	struct work *k = get_work();
	struct thread_walk *w;
	struct list_head *node;
	u64 at, addr;

	if (!k)
		return 1;
	w = &k->threads;
	at = w->at;
	if (!at || at == w->head)
		return 1;
	addr = at - bpf_core_field_offset(struct task_struct, thread_node);
	add_task(w, as_task(addr), addr);
	node = as_list(at);
	w->at = (u64)READ(node, next);
	return 0;
}

/* sum_threads sums the dead threads' totals and the living threads' own. A thread
 * that ends moves its numbers from one to the other inside stats_lock
 * (kernel/exit.c, __exit_signal), so an unchanged even sequence means that none
 * was counted twice or not at all. */
static __always_inline void sum_threads(struct work *k, struct signal_struct *sig, u64 leader)
{
	struct thread_walk *w = &k->threads;
	u32 seq = READ(sig, stats_lock.seqcount.seqcount.sequence);

	w->whole = 0;
	if (seq & 1)
		return;
	w->cpu_ns = READ(sig, sum_sched_runtime);
	w->utime_ns = READ(sig, utime);
	w->stime_ns = READ(sig, stime);
	w->run_delay_ns = 0;
	w->minor_faults = READ(sig, min_flt);
	w->major_faults = READ(sig, maj_flt);
	w->read_chars = w->write_chars = w->read_bytes = w->write_bytes = 0;
	if (bpf_core_field_exists(sig->ioac.rchar)) {
		w->read_chars = READ(sig, ioac.rchar);
		w->write_chars = READ(sig, ioac.wchar);
	}
	if (bpf_core_field_exists(sig->ioac.read_bytes)) {
		w->read_bytes = READ(sig, ioac.read_bytes);
		w->write_bytes = READ(sig, ioac.write_bytes);
	}
	__builtin_memset(w->files, 0, sizeof(w->files));
	__builtin_memset(w->cached_rss, 0, sizeof(w->cached_rss));
	w->mm_owner = 0;
	w->walked = w->more_tables = 0;
	w->at = (u64)READ(sig, thread_head.next);
	if (w->at == leader + bpf_core_field_offset(struct task_struct, thread_node) && READ(sig, nr_threads) == 1) {
		add_task(w, as_task(leader), leader);
	} else {
		w->head = w->signal + bpf_core_field_offset(struct signal_struct, thread_head);
		bpf_loop(MAX_THREADS, add_thread, 0, 0);
	}
	w->whole = READ(sig, stats_lock.seqcount.seqcount.sequence) == seq;
}

static long sum_again(u32 i, void *leader)
{
	struct work *k = get_work();

	if (!k || k->threads.whole)
		return 1;
	sum_threads(k, as_signal(k->threads.signal), *(u64 *)leader);
	return 0;
}

static __always_inline void fill_threads(struct process_record *r, struct work *k, struct signal_struct *sig, u64 leader)
{
	struct thread_walk *w = &k->threads;

	w->signal = (u64)sig;
	sum_threads(k, sig, leader);
	if (!w->whole)
		bpf_loop(ATTEMPTS - 1, sum_again, &leader, 0);
	if (!w->whole)
		r->flags |= REC_CPU_TORN;
	if (w->walked >= MAX_THREADS)
		r->flags |= REC_THREADS_MORE;
	k->weight += w->walked;
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
}

/* Memory. */

/* add_cpus adds every CPU's share of four counters that share one per-CPU
 * allocation. It is global so that the verifier looks at it once. */
__attribute__((noinline)) int add_cpus(u64 counters)
{
	struct work *k = get_work();

	if (!k)
		return 0;
	for (u32 again = 0; again < cpu_repeat; again++) {
		s64 file = 0, anon = 0, swap = 0, shmem = 0;

		for (u32 cpu = 0; cpu < nr_cpus; cpu++) {
			struct rlimit *part = as_words(counters + cpu_offset[cpu & (MAX_CPUS - 1)]);
			u64 low = READ(part, rlim_cur), high = READ(part, rlim_max);

			file += (s32)low;
			anon += (s32)(low >> 32);
			swap += (s32)high;
			shmem += (s32)(high >> 32);
		}
		if (again)
			continue;
		k->rss[MM_FILEPAGES] += file;
		k->rss[MM_ANONPAGES] += anon;
		k->rss[MM_SWAPENTS] += swap;
		k->rss[MM_SHMEMPAGES] += shmem;
	}
	return 0;
}

/* add_cpus_apart does so for one counter that has an allocation of its own. */
__attribute__((noinline)) int add_cpus_apart(u64 counter, u32 which)
{
	struct work *k = get_work();
	s64 sum = 0;

	if (!k)
		return 0;
	for (u32 cpu = 0; cpu < nr_cpus; cpu++)
		sum += (s32)READ(as_words(counter + cpu_offset[cpu & (MAX_CPUS - 1)]), rlim_cur);
	k->rss[which & (NR_MM_COUNTERS - 1)] += sum;
	return 0;
}

/* read_percpu_rss: the four percpu_counters of an mm share one per-CPU allocation
 * (percpu_counter_init_many, since 6.6: 14ef95be6f55), or are four of their own
 * (6.2 to 6.5). Their addresses say which. */
static __always_inline void read_percpu_rss(struct work *k, struct mm_struct *mm, bool exact)
{
	u64 first, last;

	k->rss[0] = READ(mm, rss_stat[0].count);
	k->rss[1] = READ(mm, rss_stat[1].count);
	k->rss[2] = READ(mm, rss_stat[2].count);
	k->rss[3] = READ(mm, rss_stat[3].count);
	if (!exact)
		return;
	first = NUMBER(k, READ(mm, rss_stat[0].counters));
	last = NUMBER(k, READ(mm, rss_stat[3].counters));
	if (last == first + 3 * sizeof(s32)) {
		add_cpus(first);
		return;
	}
	add_cpus_apart(first, 0);
	add_cpus_apart(NUMBER(k, READ(mm, rss_stat[1].counters)), 1);
	add_cpus_apart(NUMBER(k, READ(mm, rss_stat[2].counters)), 2);
	add_cpus_apart(last, 3);
}

/* Before 6.2 the rest is in the threads (SPLIT_RSS_COUNTING). */
static __always_inline void read_split_rss(struct work *k, struct mm_struct___before62 *mm)
{
#pragma unroll
	for (int i = 0; i < NR_MM_COUNTERS; i++)
		k->rss[i] = BPF_CORE_READ(mm, rss_stat.count[i].counter) + (s64)k->threads.cached_rss[i];
}

static __always_inline u64 pages(s64 n)
{
	return n < 0 ? 0 : n; /* counters of one CPU may run ahead of another's */
}

static __always_inline void fill_memory(struct process_record *r, struct work *k, bool exact)
{
	struct task_struct *t = as_task(k->threads.mm_owner);
	struct mm_struct *mm;
	u64 mm_addr, peak, now;

	/* A kernel thread that works for a process borrows its mm (kthread_use_mm). */
	if (!k->threads.mm_owner || r->flags & REC_KTHREAD)
		return;
	mm = READ(t, mm);
	mm_addr = (u64)mm;
	if (!mm_addr)
		return;
	if (bpf_core_field_exists(mm->rss_stat[0].counters))
		read_percpu_rss(k, mm, exact);
	else
		read_split_rss(k, (struct mm_struct___before62 *)mm);
	r->virtual_pages = READ(mm, total_vm);
	peak = READ(mm, hiwater_rss);
	if ((u64)READ(t, mm) != mm_addr)
		return; /* it exited or called exec: no memory to tell of */
	r->flags |= REC_MM;
	r->rss_file_pages = pages(k->rss[MM_FILEPAGES]);
	r->rss_anon_pages = pages(k->rss[MM_ANONPAGES]);
	r->swap_pages = pages(k->rss[MM_SWAPENTS]);
	r->rss_shmem_pages = pages(k->rss[MM_SHMEMPAGES]);
	/* get_mm_hiwater_rss: the mark is set only when pages are given back. */
	now = r->rss_file_pages + r->rss_anon_pages + r->rss_shmem_pages;
	r->peak_pages = peak > now ? peak : now;
}

/* Identity. */

static __always_inline struct upid *pid_at(struct pid *pid, u32 level)
{
	return as_upid((u64)pid + bpf_core_field_offset(struct pid, numbers) +
		       (u64)level * bpf_core_type_size(struct upid));
}

/* visible returns a leader's PID in the reader's namespace, 0 if it has none. */
static __always_inline u32 visible(struct task_struct *t)
{
	struct pid *pid;
	struct upid *u;

	if (ns_level == 0)
		return READ(t, tgid);
	pid = READ(t, thread_pid);
	if (!pid || READ(pid, level) < ns_level)
		return 0;
	u = pid_at(pid, ns_level);
	if ((u64)READ(u, ns) != ns_self)
		return 0;
	return READ(u, nr);
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
			css = subsys_at(set, bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id));
	} else {
		if (bpf_core_enum_value_exists(enum cgroup_subsys_id, pids_cgrp_id))
			css = subsys_at(set, bpf_core_enum_value(enum cgroup_subsys_id, pids_cgrp_id));
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
	struct task_struct *forker = READ(t, real_parent); /* a thread of the parent */
	struct task_struct *parent = READ(forker, group_leader);
	const struct cred *cred = READ(t, real_cred);
	struct pid *pid = READ(t, thread_pid);
	struct rlimit *comm = as_words((u64)t + bpf_core_field_offset(struct task_struct, comm));

	u32 tgid = READ(t, tgid);

	r->tgid = tgid;
	r->task = (u64)t;
	if (parent)
		r->ppid = visible(parent);
	if (pid) {
		u32 level = READ(pid, level);

		r->ns_pid = tgid;
		if (level)
			r->ns_pid = READ(pid_at(pid, level), nr);
		r->flags |= REC_NSPID;
	}
	r->uid = READ(cred, uid.val);
	if (READ(t, flags) & PF_KTHREAD)
		r->flags |= REC_KTHREAD;
	r->state = READ(t, __state) | READ(t, exit_state);
	r->threads = READ(sig, nr_threads);
	r->start_boottime_ns = READ(t, start_boottime);
	r->exec_id = READ(t, self_exec_id);
	r->comm[0] = READ(comm, rlim_cur);
	r->comm[1] = READ(comm, rlim_max);
	r->fd_limit = READ(sig, rlim[RLIMIT_NOFILE].rlim_cur);
	r->fd_hard_limit = READ(sig, rlim[RLIMIT_NOFILE].rlim_max);
	fill_cgroup(r, t);
}

/* fill_process makes the record of the process whose leader t is. */
static __always_inline void fill_process(struct process_record *r, struct task_struct *t, u64 addr, u32 pid, bool exact)
{
	struct signal_struct *sig = READ(t, signal);
	struct work *k = get_work();

	__builtin_memset(r, 0, sizeof(*r));
	if (!k)
		return;
	r->pid = pid;
	fill_identity(r, t, sig);
	fill_threads(r, k, sig, addr);
	fill_files(r, k);
	fill_memory(r, k, exact);
}

/* Events. */

/* Whether the maps are those of the event programs. */
const volatile u32 with_events = 0;

/* fill_events adds what event programs counted. The task is needed as the kernel
 * hands it out, not as an address. */
static __always_inline void fill_events(struct process_record *r, struct task_struct *leader)
{
	struct task_state *state = bpf_task_storage_get(&task_states, leader, 0, 0);

	if (!state)
		return;
	r->net_received = state->n.net_received;
	r->net_sent = state->n.net_sent;
	r->fd_opened = state->n.fd_opened;
	r->fd_closed = state->n.fd_closed;
}

/* fill_spill adds what is counted of a process whose leader has ended. */
static __always_inline void fill_spill(struct process_record *r, u64 signal)
{
	struct task_counters *n = bpf_map_lookup_elem(&task_spill, &signal);

	if (!n)
		return;
	r->net_received += n->net_received;
	r->net_sent += n->net_sent;
	r->fd_opened += n->fd_opened;
	r->fd_closed += n->fd_closed;
}

/* Learning. */

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} cpu_probe SEC(".maps");

/* learn_offsets: an element of a per-CPU map is told both as it is stored and as
 * each CPU sees it; the difference holds for every per-CPU address. */
static __always_inline void learn_offsets(struct work *k)
{
	u64 map = as_number(k, &cpu_probe);
	u64 base = 0;
	u32 zero = 0;

	if (bpf_probe_read_kernel(&base, sizeof(base), (void *)(map + bpf_core_field_offset(struct bpf_array, pptrs))))
		return;
	for (u32 cpu = 0; cpu < nr_cpus; cpu++) {
		void *value = bpf_map_lookup_percpu_elem(&cpu_probe, &zero, cpu);

		if (!value)
			return;
		cpu_offset[cpu & (MAX_CPUS - 1)] = as_number(k, value) - base;
	}
}

/* learn runs once, before the first scan, in the process that reads. */
SEC("syscall")
int learn(void *ctx)
{
	struct task_struct *self = (void *)bpf_get_current_task();
	struct percpu_counter *counter = 0;
	struct work *k = get_work();
	struct pid *pid;

	if (!k)
		return 1;
	pid = BPF_CORE_READ(self, thread_pid);
	ns_level = BPF_CORE_READ(pid, level);
	bpf_probe_read_kernel(&ns_self, sizeof(ns_self),
			      (void *)((u64)pid + bpf_core_field_offset(struct pid, numbers) +
				       (u64)ns_level * bpf_core_type_size(struct upid) +
				       bpf_core_field_offset(struct upid, ns)));
	if (bpf_core_field_exists(counter->counters))
		learn_offsets(k);
	return 0;
}

#endif
