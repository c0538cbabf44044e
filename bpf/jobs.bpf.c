// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
// Jobs: trees of processes that are measured as one. Each task carries the job's tag
// from its fork on, so that no descendant escapes, whatever it does; what a task used
// is added to the job when it ends. docs/jobs.md says what is counted how.
#include "events_kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>
#include "jobs.h"
#include "percpu.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

// For bpf2go: a type is only known to BTF if something uses it.
const struct job_notice *unused_notice __attribute__((unused));
const struct job_task *unused_task __attribute__((unused));

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, JOBS);
	__type(key, u32);
	__type(value, struct job);
} jobs SEC(".maps");

// A task that is in a job is in all that job is in: a job may begin others, beside the
// agent that measures it.
struct tag {
	u64 job[JOBS_OF_TASK]; // ids: a tag of an earlier job in the same place means nothing
	u32 slot[JOBS_OF_TASK];
	u32 flags;
	u32 innermost; // which of these the process is the first of, if it is the first of one
	u64 ended;     // the process's end is counted; on the leader
	u64 hidden;    // pages of the launcher that maxrss may show instead of its own
};

// How many jobs a task may be in. Who has only one job loads these programs faster.
const volatile u32 nested = JOBS_OF_TASK;

#define FOR_JOBS(i) for (u32 i = 0; i < JOBS_OF_TASK && i < nested; i++)

enum tag_flag {
	TAG_FIRST = 1,  // a job's first process, until it calls exec
	TAG_FORKED = 2, // has not called exec since it was forked
	TAG_COPIED = 4, // has forked
};

// On every task that is in a job.
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct tag);
} tags SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, JOBS);
	__type(key, u32); // thread ID
	__type(value, struct job_launcher);
} launchers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 14);
} notices SEC(".maps");

static __always_inline void add(u64 *to, u64 n)
{
	__sync_fetch_and_add(to, n);
}

// Raises *most to n; false if it was as high already.
static __always_inline bool raise(u64 *most, u64 n)
{
#pragma unroll
	for (int i = 0; i < 4; i++) {
		u64 m = *(volatile u64 *)most;

		if (n <= m)
			return false;
		if (__sync_val_compare_and_swap(most, m, n) == m)
			return true;
	}
	return true; // four others did so meanwhile
}

static __always_inline void notify(u64 job, u64 kind)
{
	struct job_notice n = { .job = job, .time = bpf_ktime_get_boot_ns(), .kind = kind };

	bpf_ringbuf_output(&notices, &n, sizeof n, BPF_RB_FORCE_WAKEUP); // user space looks by itself, too
}

static __always_inline struct job *job_at(u32 slot, u64 id)
{
	struct job *j;

	if (!id)
		return 0;
	j = bpf_map_lookup_elem(&jobs, &slot);
	return j && j->id == id ? j : 0;
}

// READ follows a pointer by a call where a load would do. The verifier asks of each
// load of a pointer whether it may be trusted, and looks through all of the kernel's
// types for the answer (btf_nested_type_is_trusted), a millisecond each time: loading
// these programs took three times as long.
#define READ BPF_CORE_READ

static __always_inline struct tag *tag_of(struct task_struct *t)
{
	return bpf_task_storage_get(&tags, t, 0, 0);
}

static __always_inline struct job *job_of(struct tag *tag, u32 i)
{
	return job_at(tag->slot[i], tag->job[i]);
}

static __always_inline bool may_kill(struct job *j, struct task_struct *t)
{
	return !j->uid || j->uid == READ(t, real_cred, uid.val);
}

#define KILL 9 // SIGKILL
#define TICK 10000000 // ns, as field 22 of /proc/PID/stat counts (USER_HZ)

// ---- births

// Takes the job that a thread's next process is to begin; false: there is none. A tag that
// has no place left is refused before (Jobs.Await).
static __always_inline bool launched(struct tag *from, struct task_struct *parent)
{
	u32 tid = parent->pid;
	struct job_launcher *l = bpf_map_lookup_elem(&launchers, &tid);
	bool taken = false;

	if (!l || l->pid != parent->tgid || l->start_ticks != READ(parent, group_leader, start_boottime) / TICK)
		return false;
	FOR_JOBS(i) {
		if (job_of(from, i))
			continue;
		from->job[i] = l->job;
		from->slot[i] = l->slot;
		from->innermost = i;
		from->flags = TAG_FIRST;
		taken = true;
		break;
	}
	bpf_map_delete_elem(&launchers, &tid); // for one fork
	return taken;
}

static __always_inline void count_process(struct job *j, struct task_struct *parent)
{
	u64 now = __sync_fetch_and_add(&j->now, 1) + 1;
	u64 all = __sync_fetch_and_add(&j->processes, 1) + 1;

	if (raise(&j->most, now))
		j->most_at = bpf_ktime_get_boot_ns();
	if (j->max_at_once && now == j->max_at_once + 1)
		notify(j->id, NOTICE_AT_ONCE);
	if (j->max_processes && all == j->max_processes + 1)
		notify(j->id, NOTICE_PROCESSES);
	if (j->fatal_at_once && now > j->fatal_at_once && may_kill(j, parent))
		bpf_send_signal(KILL);
}

// Every task is told of here, also what the kernel makes for itself inside a process, as
// io_uring's workers, which sched_process_fork leaves out.
SEC("tp_btf/task_newtask")
int BPF_PROG(on_job_fork, struct task_struct *child)
{
	struct task_struct *parent = bpf_get_current_task_btf();
	struct tag from = {}, *tag = tag_of(parent);
	bool process = child->pid == child->tgid, member = false, tagged;
	struct job *j;

	if (tag) {
		from = *tag;
		from.flags &= TAG_FORKED;
		from.ended = 0;
	}
	if (process) {
		bool first = launched(&from, parent);

		from.hidden = 0;
		if (!first && tag) {
			from.flags = READ(child, mm) != READ(parent, mm) ? TAG_FORKED : 0;
			if (from.flags) {
				struct tag *l = tag_of(parent->group_leader);

				if (l)
					l->flags |= TAG_COPIED;
			}
		}
	}
	FOR_JOBS(i)
		member |= !!job_of(&from, i);
	if (!member)
		return 0;
	// A child that has not run yet has nobody who stores with it at the same time, so that
	// one attempt is enough (state_of in events.bpf.c takes two).
	tagged = bpf_task_storage_get(&tags, child, &from, BPF_LOCAL_STORAGE_GET_F_CREATE);
	FOR_JOBS(i) {
		j = job_of(&from, i);
		if (!j)
			continue;
		add(&j->threads, 1);
		add(tagged ? &j->tasks : &j->untagged, 1);
		if (process && tagged)
			count_process(j, parent);
		else if (process)
			add(&j->processes, 1);
	}
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_job_exec, struct task_struct *p)
{
	struct tag *tag = tag_of(p);

	if (!tag)
		return 0;
	// The kernel takes the peak of the address space that a process leaves for the
	// process's own (fs/exec.c, exec_mmap), the launcher's too.
	if (tag->flags & TAG_FIRST)
		tag->hidden = READ(p, signal, maxrss);
	tag->flags = 0;
	return 0;
}

// ---- ends

static long count_word(u32 i, u64 *w) // w: address of the words, sum
{
	u64 x = 0;

	bpf_probe_read_kernel(&x, sizeof x, (void *)(w[0] + i * 8ULL));
	x = x - ((x >> 1) & 0x5555555555555555ULL); // clang has no popcount for BPF
	x = (x & 0x3333333333333333ULL) + ((x >> 2) & 0x3333333333333333ULL);
	x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fULL;
	w[1] += (x * 0x0101010101010101ULL) >> 56;
	return 0;
}

static __always_inline u64 count_fds(struct files_struct *files)
{
	struct fdtable *fdt = READ(files, fdt);
	u64 w[2] = { (u64)READ(fdt, open_fds), 0 };

	bpf_loop(READ(fdt, max_fds) / 64, count_word, w, 0);
	return w[1];
}

static __always_inline u64 most(u64 a, u64 b)
{
	return a > b ? a : b;
}

// What an address space has, of what somebody vouches for. The marks are set only when
// pages are given back.
static __always_inline u64 peak_pages(struct rss *r, struct mm_struct *mm)
{
	return most(r->pages[MM_FILEPAGES] + r->pages[MM_ANONPAGES] + r->pages[MM_SHMEMPAGES], READ(mm, hiwater_rss));
}

// What a process had at most, at its end.
struct peaks {
	u64 pages;
	u64 own_pages; // of them what is not its launcher's
	u64 own_known;
	u64 vm_pages;
	u64 fds;
	u64 has_fds;
	u64 fds_full;
	u64 oom;
};

static __always_inline void read_peaks(struct peaks *k, struct tag *tag, struct task_struct *p)
{
	struct mm_struct *mm = READ(p, mm);

	k->pages = k->own_pages = READ(p, signal, maxrss);
	k->own_known = true;
	// sched_process_exit is told before exit_mm since 6.16, and after it before.
	if (mm)
		k->vm_pages = most(READ(mm, hiwater_vm), READ(mm, total_vm));
	if (k->pages > tag->hidden)
		return;
	k->own_known = !!mm;
	if (mm) {
		struct rss r = {};

		read_rss(&r, mm);
		k->own_pages = peak_pages(&r, mm);
	}
}

static __always_inline u64 fd_limit(struct task_struct *p)
{
	struct signal_struct *sig = READ(p, signal);

	return READ(sig, rlim[RLIMIT_NOFILE].rlim_cur);
}

static __always_inline void read_fds(struct peaks *k, struct task_struct *p)
{
	struct files_struct *files = READ(p, files);

	if (!files)
		return;
	k->has_fds = true;
	k->fds = count_fds(files);
	k->fds_full = k->fds >= fd_limit(p);
}

static __always_inline void add_peaks(struct job *j, struct peaks *k, bool own)
{
	u64 now = bpf_ktime_get_boot_ns();

	raise(&j->peak_vm_pages, k->vm_pages);
	if (own && !k->own_known)
		add(&j->peak_hidden, 1);
	else if (raise(&j->peak_pages, own ? k->own_pages : k->pages))
		j->peak_at = now;
	if (k->has_fds && raise(&j->peak_fds, k->fds))
		j->peak_fds_at = now;
	if (k->fds_full)
		add(&j->fds_full, 1);
	if (k->oom)
		add(&j->oom_kills, 1);
	add(&j->now, -1);
}

// A process ends here, before its parent can know: a shell's next command is born
// after its last one is counted as gone.
SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_job_exit, struct task_struct *p)
{
	struct peaks k = {};
	struct tag *tag;

	if (READ(p, signal, live.counter) > 0)
		return 0;
	tag = tag_of(p->group_leader);
	// Two threads that exit at once may both find none alive.
	if (!tag || __sync_val_compare_and_swap(&tag->ended, 0, 1))
		return 0;
	if (!(tag->flags & TAG_FIRST)) // which died in its launcher's memory
		read_peaks(&k, tag, p);
	else
		k.own_known = true;
	read_fds(&k, p);
	k.oom = !!READ(p, signal, oom_mm);
	FOR_JOBS(i) {
		bool own = i == tag->innermost;
		struct job *j = job_of(tag, i);

		if (!j)
			continue;
		if (own && !k.own_known)
			raise(&j->hidden_pages, tag->hidden);
		add_peaks(j, &k, own);
	}
	return 0;
}

// The last that a task does is to leave its CPU, and only then is its accounting
// complete: at sched_process_exit four fifths of a short process are still missing.
// For all other switches this looks at one word.
static __always_inline void add_use(struct job *j, struct task_struct *prev)
{
	add(&j->cpu, prev->se.sum_exec_runtime);
	add(&j->utime, prev->utime);
	add(&j->stime, prev->stime);
	if (bpf_core_field_exists(prev->sched_info.run_delay))
		add(&j->run_delay, prev->sched_info.run_delay);
	add(&j->min_flt, prev->min_flt);
	add(&j->maj_flt, prev->maj_flt);
	add(&j->voluntary, prev->nvcsw);
	add(&j->involuntary, prev->nivcsw);
	if (bpf_core_field_exists(prev->ioac.rchar)) {
		add(&j->rchar, prev->ioac.rchar);
		add(&j->wchar, prev->ioac.wchar);
	}
	if (bpf_core_field_exists(prev->ioac.read_bytes)) {
		add(&j->read_bytes, prev->ioac.read_bytes);
		add(&j->write_bytes, prev->ioac.write_bytes);
	}
	if (__sync_fetch_and_add(&j->tasks, -1) == 1)
		notify(j->id, NOTICE_EMPTY);
}

SEC("tp_btf/sched_switch")
int BPF_PROG(on_job_switch, bool preempt, struct task_struct *prev)
{
	struct tag *tag;

	if (!(prev->__state & TASK_DEAD))
		return 0;
	tag = tag_of(prev);
	if (!tag)
		return 0;
	FOR_JOBS(i) {
		struct job *j = job_of(tag, i);

		if (j)
			add_use(j, prev);
	}
	return 0;
}

// ---- bytes of the network, as the hook net counts them (docs/events.md)

static __always_inline bool is_users_ip(struct sock *sk)
{
	u16 family = sk->__sk_common.skc_family;

	return (family == AF_INET || family == AF_INET6) && !BPF_CORE_READ_BITFIELD(sk, sk_kern_sock);
}

static __always_inline void count_bytes(struct sock *sk, u64 received, u64 sent)
{
	struct tag *tag = tag_of(bpf_get_current_task_btf());

	if (!tag || !is_users_ip(sk))
		return;
	FOR_JOBS(i) {
		struct job *j = job_of(tag, i);

		if (j && received)
			add(&j->net_received, received);
		if (j && sent)
			add(&j->net_sent, sent);
	}
}

static __always_inline void count_sent(struct sock *sk, int ret)
{
	if (ret > 0)
		count_bytes(sk, 0, ret);
}

static __always_inline void count_received(struct sock *sk, int ret, int flags)
{
	if (ret > 0 && !(flags & (MSG_PEEK | MSG_ERRQUEUE)))
		count_bytes(sk, ret, 0);
}

SEC("tp_btf/sock_send_length")
int BPF_PROG(on_job_send, struct sock *sk, int ret, int flags)
{
	count_sent(sk, ret);
	return 0;
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(on_job_receive, struct sock *sk, int ret, int flags)
{
	count_received(sk, ret, flags);
	return 0;
}

// Before 6.3.
SEC("fexit/inet_sendmsg")
int BPF_PROG(on_job_inet_send, struct socket *sock, struct msghdr *m, size_t size, int ret)
{
	count_sent(sock->sk, ret);
	return 0;
}

SEC("fexit/inet6_sendmsg")
int BPF_PROG(on_job_inet6_send, struct socket *sock, struct msghdr *m, size_t size, int ret)
{
	count_sent(sock->sk, ret);
	return 0;
}

SEC("fexit/inet_recvmsg")
int BPF_PROG(on_job_inet_receive, struct socket *sock, struct msghdr *m, size_t size, int flags, int ret)
{
	count_received(sock->sk, ret, flags);
	return 0;
}

SEC("fexit/inet6_recvmsg")
int BPF_PROG(on_job_inet6_receive, struct socket *sock, struct msghdr *m, size_t size, int flags, int ret)
{
	count_received(sock->sk, ret, flags);
	return 0;
}

// Up to 6.4.
SEC("fexit/inet_sendpage")
int BPF_PROG(on_job_inet_sendpage, struct socket *sock, struct page *page, int offset, size_t size, int flags, int ret)
{
	count_sent(sock->sk, ret);
	return 0;
}

// ---- death

// Attached only while a job is killed: whoever belongs to it dies before its next
// system call begins, fork(2) too. Killing one by one does not end a job whose
// processes fork and exit faster than they can be listed.
SEC("tp_btf/sys_enter")
int BPF_PROG(on_job_call)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct tag *tag = tag_of(t);

	if (!tag || t->flags & PF_EXITING)
		return 0;
	FOR_JOBS(i) {
		struct job *j = job_of(tag, i);

		if (j && j->dying && may_kill(j, t)) {
			bpf_send_signal(KILL);
			break;
		}
	}
	return 0;
}

// ---- readings

static __always_inline void read_memory(struct job_task *r, struct task_struct *t)
{
	struct mm_struct *mm = READ(t, mm);
	struct rss rss = {};

	r->mm = (u64)mm;
	if (!mm)
		return;
	read_rss(&rss, mm);
	r->vm_pages = READ(mm, total_vm);
	r->peak_vm_pages = most(READ(mm, hiwater_vm), r->vm_pages);
	r->peak_pages = peak_pages(&rss, mm);
	r->file_pages = rss.pages[MM_FILEPAGES];
	r->anon_pages = rss.pages[MM_ANONPAGES];
	r->swap_pages = rss.pages[MM_SWAPENTS];
	r->shmem_pages = rss.pages[MM_SHMEMPAGES];
	// exit_mm clears the pointer before it lets go: this vouches for what was read.
	if (READ(t, mm) == mm)
		r->flags |= JOB_MM;
}

static __always_inline void read_files(struct job_task *r, struct task_struct *t)
{
	struct files_struct *files = READ(t, files);

	r->files = (u64)files;
	if (!files)
		return;
	r->fds = count_fds(files);
	r->fd_limit = fd_limit(t);
	if (READ(t, files) == files)
		r->flags |= JOB_FILES;
}

static __always_inline void read_usage(struct job_task *r, struct task_struct *t)
{
	r->cpu = t->se.sum_exec_runtime;
	r->utime = t->utime;
	r->stime = t->stime;
	if (bpf_core_field_exists(t->sched_info.run_delay))
		r->run_delay = t->sched_info.run_delay;
	r->min_flt = t->min_flt;
	r->maj_flt = t->maj_flt;
	r->voluntary = t->nvcsw;
	r->involuntary = t->nivcsw;
	if (bpf_core_field_exists(t->ioac.rchar)) {
		r->rchar = t->ioac.rchar;
		r->wchar = t->ioac.wchar;
	}
	if (bpf_core_field_exists(t->ioac.read_bytes)) {
		r->read_bytes = t->ioac.read_bytes;
		r->write_bytes = t->ioac.write_bytes;
	}
}

// Writes down every living task that is in a job.
SEC("iter/task")
int job_tasks(struct bpf_iter__task *ctx)
{
	struct task_struct *t = ctx->task;
	struct job_task r = {};
	bool member = false;
	struct tag *tag;

	if (!t)
		return 0;
	tag = tag_of(t);
	if (!tag || t->exit_state)
		return 0;
	FOR_JOBS(i) {
		struct job *j = job_of(tag, i);

		if (j) {
			r.job[i] = j->id;
			member = true;
		}
	}
	if (!member)
		return 0;
	r.pid = t->tgid;
	r.tid = t->pid;
	r.uid = READ(t, real_cred, uid.val);
	r.start = READ(t, group_leader, start_boottime);
	__builtin_memcpy(r.comm, t->comm, sizeof r.comm);
	if (tag->flags & TAG_FIRST)
		r.flags |= JOB_FIRST;
	if (tag->flags & TAG_FORKED)
		r.flags |= JOB_FORKED;
	if (tag->flags & TAG_COPIED)
		r.flags |= JOB_COPIED;
	read_usage(&r, t);
	// A leader that ended before its threads has let go of everything.
	if (t->pid == t->tgid || READ(t, group_leader, flags) & PF_EXITING) {
		r.flags |= JOB_LEADER;
		read_memory(&r, t);
		read_files(&r, t);
	}
	bpf_seq_write(ctx->meta->seq, &r, sizeof r);
	return 0;
}

// Runs once, before anything is attached.
SEC("syscall")
int learn_jobs(void *ctx)
{
	struct percpu_counter *counter = 0;

	if (bpf_core_field_exists(counter->counters))
		learn_cpus();
	return 0;
}
