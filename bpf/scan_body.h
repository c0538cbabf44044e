/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * How one process becomes one record, beginning with its leader's task_struct. What
 * hangs on that by typed pointers is loaded directly. What is only known by its
 * address (other threads, array elements, per-CPU memory) is read by AT(type,
 * address, field), which each scan defines for what its kernels allow.
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
#define TABLE_WORDS 512 /* 4 KiB of bitmap, 32,768 descriptors, in one read */
#define MAX_TABLE_READS (1 << 15) /* 2^30 descriptors: more than fs.nr_open allows */

/* What learn finds out. */
u32 ns_level;		   /* how deep the reader's PID namespace is; 0: the initial one */
u64 ns_self;		   /* its address */
u64 cpu_offset[MAX_CPUS];  /* what the kernel adds to a per-CPU address for each CPU */

/* What is summed over a process's threads. */
struct thread_walk {
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
	struct process_record now; /* of still */
	s64 rss[NR_MM_COUNTERS];
	u64 number; /* of as_number */
	u64 fence;
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
	/* No branch in the body: kernels before 6.4 refuse a loop that clang lays out
	 * so that it falls back into its head (check_cfg: "back-edge"). */
	for (u32 j = 0; j < TABLE_WORDS; j++) {
		if (j >= n)
			break;
		sum += popcount(k->words[j]);
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

/* struct rlimit is two words: it reads memory that has no type of its own. */
static __always_inline long count_bits(u64 open_fds, u32 max)
{
	if (max == 64) /* the table that every process begins with */
		return popcount(AT(struct rlimit, open_fds, rlim_cur));
	return count_large(open_fds, max);
}

/* count_own counts the leader's table, or returns -1 where it let go of it
 * meanwhile. */
static __always_inline long count_own(struct work *k, struct task_struct *leader)
{
	struct files_struct *files = leader->files;
	u64 address = as_number(k, files);
	long n = -1;

#pragma unroll
	for (int i = 0; i < 2; i++) {
		struct fdtable *fdt = files->fdt;
		u64 before = as_number(k, fdt);

		n = count_bits(as_number(k, fdt->open_fds), fdt->max_fds);
		if (as_number(k, leader->files) != address)
			return -1;
		if (as_number(k, files->fdt) == before)
			break;
	}
	return n;
}

/* count_table counts a table that stays while it is counted, or returns -1. */
static __always_inline long count_table(struct work *k, u64 files)
{
	long n = -1;

#pragma unroll
	for (int i = 0; i < 2; i++) {
		u64 fdt = AT(struct files_struct, files, fdt);

		n = count_bits(as_number(k, (void *)AT(struct fdtable, fdt, open_fds)), AT(struct fdtable, fdt, max_fds));
		if (AT(struct files_struct, files, fdt) == fdt)
			break;
	}
	return n;
}

/* count_other does as count_own for the table of any thread. */
static __always_inline long count_other(struct work *k, u64 owner, u64 files)
{
	long n = count_table(k, files);

	return AT(struct task_struct, owner, files) == files ? n : -1;
}

static __always_inline void fill_files(struct process_record *r, struct work *k, struct task_struct *leader, u64 address)
{
	struct thread_walk *w = &k->threads;

#pragma unroll
	for (int i = 0; i < SCAN_TABLES; i++) {
		long n;

		if (!w->files[i])
			break;
		r->files[i] = w->files[i];
		n = i == 0 && w->owners[i] == address ? count_own(k, leader) : count_other(k, w->owners[i], w->files[i]);
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

/* ADD_TASK adds a thread whose fields GET reads. */
#define ADD_TASK(w, GET, t, address) \
	do { \
		(w)->cpu_ns += GET(t, se.sum_exec_runtime); \
		(w)->utime_ns += GET(t, utime); \
		(w)->stime_ns += GET(t, stime); \
		if (bpf_core_field_exists(struct task_struct, sched_info.run_delay)) \
			(w)->run_delay_ns += GET(t, sched_info.run_delay); \
		(w)->minor_faults += GET(t, min_flt); \
		(w)->major_faults += GET(t, maj_flt); \
		if (bpf_core_field_exists(struct task_struct, ioac.rchar)) { \
			(w)->read_chars += GET(t, ioac.rchar); \
			(w)->write_chars += GET(t, ioac.wchar); \
		} \
		if (bpf_core_field_exists(struct task_struct, ioac.read_bytes)) { \
			(w)->read_bytes += GET(t, ioac.read_bytes); \
			(w)->write_bytes += GET(t, ioac.write_bytes); \
		} \
		add_table(w, address, (u64)GET(t, files)); \
		if (!(w)->mm_owner && GET(t, mm)) \
			(w)->mm_owner = address; \
		(w)->walked++; \
	} while (0)

#define GET_OWN(t, field) ((t)->field)
#define GET_OTHER(t, field) AT(struct task_struct, t, field)

/* Before 6.2, pages that a thread touched may not be in its mm's counters yet. */
static __always_inline void add_cached_rss(struct thread_walk *w, u64 address)
{
	struct task_struct___before62 *t = (void *)address;

	if (!bpf_core_field_exists(t->rss_stat))
		return;
#pragma unroll
	for (int i = 0; i < NR_MM_COUNTERS; i++)
		w->cached_rss[i] += (s64)BPF_CORE_READ(t, rss_stat.count[i]);
}

static long add_thread(u32 i, void *ctx)
{
	struct work *k = get_work();
	struct thread_walk *w;
	u64 at, t;

	if (!k)
		return 1;
	w = &k->threads;
	at = w->at;
	if (!at || at == w->head)
		return 1;
	t = at - bpf_core_field_offset(struct task_struct, thread_node);
	ADD_TASK(w, GET_OTHER, t, t);
	add_cached_rss(w, t);
	w->at = AT(struct list_head, at, next);
	return 0;
}

/* sum_threads sums the dead threads' totals and the living threads' own. A thread
 * that ends moves its numbers from one to the other inside stats_lock
 * (kernel/exit.c, __exit_signal), so an unchanged even sequence means that none
 * was counted twice or not at all. */
static __always_inline void sum_threads(struct work *k, struct signal_struct *sig, struct task_struct *leader, u64 address)
{
	struct thread_walk *w = &k->threads;
	u32 seq = sig->stats_lock.seqcount.seqcount.sequence;

	w->whole = 0;
	if (seq & 1)
		return;
	w->cpu_ns = sig->sum_sched_runtime;
	w->utime_ns = sig->utime;
	w->stime_ns = sig->stime;
	w->run_delay_ns = 0;
	w->minor_faults = sig->min_flt;
	w->major_faults = sig->maj_flt;
	w->read_chars = w->write_chars = w->read_bytes = w->write_bytes = 0;
	if (bpf_core_field_exists(sig->ioac.rchar)) {
		w->read_chars = sig->ioac.rchar;
		w->write_chars = sig->ioac.wchar;
	}
	if (bpf_core_field_exists(sig->ioac.read_bytes)) {
		w->read_bytes = sig->ioac.read_bytes;
		w->write_bytes = sig->ioac.write_bytes;
	}
	__builtin_memset(w->files, 0, sizeof(w->files));
	__builtin_memset(w->cached_rss, 0, sizeof(w->cached_rss));
	w->mm_owner = 0;
	w->walked = w->more_tables = 0;
	w->at = as_number(k, sig->thread_head.next);
	if (w->at == address + bpf_core_field_offset(struct task_struct, thread_node) && sig->nr_threads == 1) {
		ADD_TASK(w, GET_OWN, leader, address);
		add_cached_rss(w, address);
	} else {
		w->head = as_number(k, sig) + bpf_core_field_offset(struct signal_struct, thread_head);
		bpf_loop(MAX_THREADS, add_thread, 0, 0);
	}
	w->whole = sig->stats_lock.seqcount.seqcount.sequence == seq;
}

static __always_inline void fill_threads(struct process_record *r, struct work *k, struct signal_struct *sig,
					 struct task_struct *leader, u64 address)
{
	struct thread_walk *w = &k->threads;

	/* Up to four attempts; no loop, for 6.1 takes no call of bpf_loop in one. */
	sum_threads(k, sig, leader, address);
	if (!w->whole)
		sum_threads(k, sig, leader, address);
	if (!w->whole)
		sum_threads(k, sig, leader, address);
	if (!w->whole)
		sum_threads(k, sig, leader, address);
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
			u64 part = counters + cpu_offset[cpu & (MAX_CPUS - 1)];
			u64 low = AT(struct rlimit, part, rlim_cur), high = AT(struct rlimit, part, rlim_max);

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
	for (u32 cpu = 0; cpu < nr_cpus; cpu++) {
		u64 part = counter + cpu_offset[cpu & (MAX_CPUS - 1)];

		sum += (s32)AT(struct rlimit, part, rlim_cur);
	}
	k->rss[which & (NR_MM_COUNTERS - 1)] += sum;
	return 0;
}

/* The four percpu_counters of an mm share one per-CPU allocation
 * (percpu_counter_init_many, since 6.6: 14ef95be6f55), or are four of their own
 * (6.2 to 6.5). Their addresses say which. */
static __always_inline void add_shares(u64 first, u64 second, u64 third, u64 last)
{
	if (last == first + 3 * sizeof(s32)) {
		add_cpus(first);
		return;
	}
	add_cpus_apart(first, 0);
	add_cpus_apart(second, 1);
	add_cpus_apart(third, 2);
	add_cpus_apart(last, 3);
}

/* Before 6.2 the rest is in the threads (SPLIT_RSS_COUNTING). */
static __always_inline void read_split_rss(struct work *k, u64 address)
{
	struct mm_struct___before62 *mm = (void *)address;

#pragma unroll
	for (int i = 0; i < NR_MM_COUNTERS; i++)
		k->rss[i] = BPF_CORE_READ(mm, rss_stat.count[i].counter) + (s64)k->threads.cached_rss[i];
}

#define COUNTER(k, GET, mm, i) as_number(k, (void *)GET(mm, rss_stat[i].counters))

/* READ_MM reads an address space whose fields GET reads. */
#define READ_MM(r, k, GET, mm, address, exact) \
	do { \
		if (bpf_core_field_exists(struct mm_struct, rss_stat[0].counters)) { \
			(k)->rss[0] = GET(mm, rss_stat[0].count); \
			(k)->rss[1] = GET(mm, rss_stat[1].count); \
			(k)->rss[2] = GET(mm, rss_stat[2].count); \
			(k)->rss[3] = GET(mm, rss_stat[3].count); \
			if (exact) \
				add_shares(COUNTER(k, GET, mm, 0), COUNTER(k, GET, mm, 1), COUNTER(k, GET, mm, 2), COUNTER(k, GET, mm, 3)); \
		} else { \
			read_split_rss(k, address); \
		} \
		(r)->virtual_pages = GET(mm, total_vm); \
		(r)->peak_pages = GET(mm, hiwater_rss); \
	} while (0)

#define MM_OTHER(mm, field) AT(struct mm_struct, mm, field)

static __always_inline u64 pages(s64 n)
{
	return n < 0 ? 0 : n; /* counters of one CPU may run ahead of another's */
}

/* tell_memory fills in what was read of an address space. */
static __always_inline void tell_memory(struct process_record *r, struct work *k)
{
	u64 now;

	r->flags |= REC_MM;
	r->rss_file_pages = pages(k->rss[MM_FILEPAGES]);
	r->rss_anon_pages = pages(k->rss[MM_ANONPAGES]);
	r->swap_pages = pages(k->rss[MM_SWAPENTS]);
	r->rss_shmem_pages = pages(k->rss[MM_SHMEMPAGES]);
	/* get_mm_hiwater_rss: the mark is set only when pages are given back. */
	now = r->rss_file_pages + r->rss_anon_pages + r->rss_shmem_pages;
	if (r->peak_pages < now)
		r->peak_pages = now;
}

static __always_inline void fill_memory(struct process_record *r, struct work *k, struct task_struct *leader,
					u64 address, bool exact)
{
	u64 owner = k->threads.mm_owner, mm_address;

	/* A kernel thread that works for a process borrows its mm (kthread_use_mm). */
	if (!owner || r->flags & REC_KTHREAD)
		return;
	if (owner == address) {
		struct mm_struct *mm = leader->mm;

		mm_address = as_number(k, mm);
		if (!mm_address)
			return;
		READ_MM(r, k, GET_OWN, mm, mm_address, exact);
		if (as_number(k, leader->mm) != mm_address)
			return; /* it exited or called exec: no memory to tell of */
	} else {
		mm_address = AT(struct task_struct, owner, mm);
		if (!mm_address)
			return;
		READ_MM(r, k, MM_OTHER, mm_address, mm_address, exact);
		if (AT(struct task_struct, owner, mm) != mm_address)
			return;
	}
	tell_memory(r, k);
}

/* Identity. */

static __always_inline u64 pid_at(struct work *k, struct pid *pid, u32 level)
{
	return as_number(k, pid) + bpf_core_field_offset(struct pid, numbers) +
	       (u64)level * bpf_core_type_size(struct upid);
}

/* visible returns a leader's PID in the reader's namespace, 0 if it has none. */
static __always_inline u32 visible(struct work *k, struct task_struct *t)
{
	struct pid *pid;
	u64 at;

	if (ns_level == 0)
		return t->tgid;
	pid = t->thread_pid;
	if (!pid || pid->level < ns_level)
		return 0;
	at = pid_at(k, pid, ns_level);
	if (AT(struct upid, at, ns) != ns_self)
		return 0;
	return AT(struct upid, at, nr);
}

/* cgroup_at returns the address of a controller's cgroup. */
static __always_inline u64 cgroup_at(struct work *k, struct css_set *set, u64 controller)
{
	u64 at = as_number(k, set) + bpf_core_field_offset(struct css_set, subsys) + controller * sizeof(u64);
	u64 css = AT(struct rlimit, at, rlim_cur);

	return css ? AT(struct cgroup_subsys_state, css, cgroup) : 0;
}

static __always_inline void fill_cgroup(struct process_record *r, struct work *k, struct task_struct *t)
{
	struct css_set *set = t->cgroups;
	u64 cgroup = 0, kn;

	if (!set)
		return;
	if (cgroup_from == CGROUP_V2) {
		cgroup = as_number(k, set->dfl_cgrp);
	} else if (cgroup_from == CGROUP_MEMORY) {
		if (bpf_core_enum_value_exists(enum cgroup_subsys_id, memory_cgrp_id))
			cgroup = cgroup_at(k, set, bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id));
	} else {
		if (bpf_core_enum_value_exists(enum cgroup_subsys_id, pids_cgrp_id))
			cgroup = cgroup_at(k, set, bpf_core_enum_value(enum cgroup_subsys_id, pids_cgrp_id));
	}
	if (!cgroup)
		return;
	kn = AT(struct cgroup, cgroup, kn);
	if (!kn)
		return;
	r->cgroup_id = AT(struct kernfs_node, kn, id);
	r->flags |= REC_CGROUP;
}

static __always_inline void fill_comm(struct process_record *r, u64 address)
{
	u64 comm = address + bpf_core_field_offset(struct task_struct, comm);

	r->comm[0] = AT(struct rlimit, comm, rlim_cur);
	r->comm[1] = AT(struct rlimit, comm, rlim_max);
}

/* fill_own fills in what only the process itself changes. */
static __always_inline void fill_own(struct process_record *r, struct work *k, struct task_struct *t,
				     struct signal_struct *sig, u64 address)
{
	struct pid *pid = t->thread_pid;

	if (pid) {
		u32 level = pid->level;

		r->ns_pid = r->tgid;
		if (level) {
			u64 at = pid_at(k, pid, level);

			r->ns_pid = AT(struct upid, at, nr);
		}
		r->flags |= REC_NSPID;
	}
	r->uid = t->real_cred->uid.val;
	if (t->flags & PF_KTHREAD)
		r->flags |= REC_KTHREAD;
	r->threads = sig->nr_threads;
	r->exec_id = t->self_exec_id;
	fill_comm(r, address);
}

/* fill_outer fills in what others change too, but for parent and state. */
static __always_inline void fill_outer(struct process_record *r, struct work *k, struct task_struct *t,
				       struct signal_struct *sig)
{
	r->fd_limit = sig->rlim[RLIMIT_NOFILE].rlim_cur;
	r->fd_hard_limit = sig->rlim[RLIMIT_NOFILE].rlim_max;
	fill_cgroup(r, k, t);
}

static __always_inline void fill_parent(struct process_record *r, struct work *k, struct task_struct *t)
{
	struct task_struct *forker = t->real_parent; /* a thread of the parent */
	struct task_struct *parent = forker->group_leader;

	if (parent)
		r->ppid = visible(k, parent);
}

static __always_inline void fill_state(struct process_record *r, struct task_struct *t)
{
	r->state = t->__state | t->exit_state;
}

/* begin begins the record of the process whose leader is t, at address. */
static __always_inline void begin(struct process_record *r, struct task_struct *t, u64 address, u32 pid)
{
	__builtin_memset(r, 0, sizeof(*r));
	r->pid = pid;
	r->tgid = t->tgid;
	r->task = address;
	r->start_boottime_ns = t->start_boottime;
}

/* fill_process makes the record of the process whose leader t is. */
static __always_inline void fill_process(struct process_record *r, struct work *k, struct task_struct *t, u32 pid, bool exact)
{
	struct signal_struct *sig = t->signal;
	u64 address = as_number(k, t);

	begin(r, t, address, pid);
	fill_own(r, k, t, sig, address);
	fill_outer(r, k, t, sig);
	fill_parent(r, k, t);
	fill_state(r, t);
	fill_threads(r, k, sig, t, address);
	fill_files(r, k, t, address);
	fill_memory(r, k, t, address, exact);
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
