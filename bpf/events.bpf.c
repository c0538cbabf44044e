// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
// What only events can tell: the totals of processes that ended, what they ran,
// the bytes they moved over IP, and the OOM killer's victims. Every program is
// small and attached on its own; Hooks in internal/loader says what each is for.
#include "events_kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>
#include "events_state.h"
#include "syscall.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define RING_SIZE (4 << 20)
#define MAX_STEPS 64 // components and mount points of an exe's path

// Where cgroup_id comes from: the v2 hierarchy, or on hosts whose controllers are
// on v1 the memory or pids controller's. As in the scan.
enum { CGROUP_V2, CGROUP_MEMORY, CGROUP_PIDS };
const volatile u32 cgroup_from = CGROUP_V2;
const volatile u8 fd_class[FD_CALLS] = {}; // by system call number
const volatile u64 overdue_ns = 2000000000;
const volatile u64 wake_every = RING_SIZE / 8; // bytes

struct event_counts counts = {};

// For bpf2go: a type is only known to BTF if something uses it.
const struct exit_record *unused_exit __attribute__((unused));
const struct oom_record *unused_oom __attribute__((unused));

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RING_SIZE);
} ring SEC(".maps");

enum hook {
	HOOK_SEND,
	HOOK_RECEIVE,
	HOOK_FDS,
	HOOKS,
};

// How often each hot hook ran: what its cost is estimated from.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, HOOKS);
	__type(key, u32);
	__type(value, u64);
} runs SEC(".maps");

// Where an exe's path is put together from its end, and records that have no
// entry. Programs on tracepoints are not preempted, but sched_process_free runs in
// the RCU softirq, on top of the others: it has its own.
struct scratch {
	struct exit_record record;
	char exe[2 * EXE_MAX];
};

enum scratch_user {
	SCRATCH_PROCESS,
	SCRATCH_FREE,
	SCRATCHES,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SCRATCHES);
	__type(key, u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

// Every process since its fork or exec, by its signal_struct, which an exec from
// any thread leaves as it is. An insertion here costs a third of a task storage's,
// but only where the memory is there already.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, u64);
	__type(value, struct process_entry);
} processes SEC(".maps");

// What an entry begins as.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct process_entry);
} blank SEC(".maps");

static __always_inline void add(u64 *to, u64 n)
{
	__sync_fetch_and_add(to, n);
}

static __always_inline void ran(u32 hook)
{
	u64 *n = bpf_map_lookup_elem(&runs, &hook);

	if (n)
		*n += 1;
}

static __always_inline struct task_state *state_of(struct task_struct *leader)
{
	struct task_state *st = bpf_task_storage_get(&task_states, leader, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);

	// Of two threads that make it at the same time one gets nothing (kernel/bpf/
	// bpf_local_storage.c, bpf_local_storage_update): the other's is there by now.
	if (!st)
		st = bpf_task_storage_get(&task_states, leader, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!st)
		add(&counts.state_failed, 1);
	return st;
}

static __always_inline struct task_counters *spill_of(struct task_struct *t, bool create)
{
	u64 key = (u64)t->signal;
	struct task_counters *n = bpf_map_lookup_elem(&task_spill, &key);
	struct task_counters zero = {};

	if (n || !create)
		return n;
	bpf_map_update_elem(&task_spill, &key, &zero, BPF_NOEXIST);
	n = bpf_map_lookup_elem(&task_spill, &key);
	if (!n)
		add(&counts.spill_failed, 1);
	return n;
}

static __always_inline void drop_spill(struct task_struct *t)
{
	u64 key = (u64)t->signal;

	bpf_map_delete_elem(&task_spill, &key);
}

// The counters that the current task's events go to.
static __always_inline struct task_counters *counters_of(struct task_struct *t)
{
	struct task_struct *leader = t->group_leader;
	struct task_counters *n;
	struct task_state *st;

	if (leader != t && leader->flags & PF_EXITING) {
		n = spill_of(t, true);
		if (n)
			return n;
	}
	st = state_of(leader);
	return st ? &st->n : 0;
}

static __always_inline void move_counters(struct task_counters *to, struct task_counters *from)
{
	add(&to->net_received, __sync_lock_test_and_set(&from->net_received, 0));
	add(&to->net_sent, __sync_lock_test_and_set(&from->net_sent, 0));
	add(&to->fd_opened, __sync_lock_test_and_set(&from->fd_opened, 0));
	add(&to->fd_closed, __sync_lock_test_and_set(&from->fd_closed, 0));
	add(&to->fd_unsure, __sync_lock_test_and_set(&from->fd_unsure, 0));
}

static __always_inline bool counted(struct task_counters *n)
{
	return n->net_received | n->net_sent | n->fd_opened | n->fd_closed | n->fd_unsure;
}

// ---- records

// Wakes the reader when this record takes the ring over a multiple of
// wake_every, and leaves it alone otherwise: it drains at each tick anyway.
static __always_inline u64 wake(u64 size)
{
	u64 fill = bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA);

	size = (size + 8 + 7) & ~7ULL; // as it lies in the ring, behind its header
	return fill / wake_every != (fill + size) / wake_every ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP;
}

static __always_inline bool emit(void *record, u64 size, struct event_balance *b)
{
	if (bpf_ringbuf_output(&ring, record, size, wake(size))) {
		add(&b->lost_ring, 1);
		return false;
	}
	add(&b->sent, 1);
	return true;
}

static __always_inline u64 cgroup_id(struct task_struct *t)
{
	struct css_set *set = t->cgroups;
	struct cgroup_subsys_state *css = 0;
	u64 i;

	if (cgroup_from == CGROUP_V2)
		return set->dfl_cgrp->kn->id;
	if (cgroup_from == CGROUP_MEMORY && bpf_core_enum_value_exists(enum cgroup_subsys_id, memory_cgrp_id))
		i = bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id);
	else if (cgroup_from == CGROUP_PIDS && bpf_core_enum_value_exists(enum cgroup_subsys_id, pids_cgrp_id))
		i = bpf_core_enum_value(enum cgroup_subsys_id, pids_cgrp_id);
	else
		return 0;
	if (bpf_probe_read_kernel(&css, sizeof css, (void *)&set->subsys + i * sizeof css))
		return 0;
	return BPF_CORE_READ(css, cgroup, kn, id);
}

static __always_inline void fill_head(struct event_head *h, u32 kind, struct task_struct *leader)
{
	h->kind = kind;
	h->flags = leader->flags & PF_KTHREAD ? FLAG_KERNEL_THREAD : 0;
	h->uid = leader->real_cred->uid.val;
	h->pid = leader->tgid;
	h->ppid = 0;
	h->start = leader->start_boottime;
	h->time = bpf_ktime_get_boot_ns();
	h->cgroup_id = cgroup_id(leader);
	h->exec_id = leader->self_exec_id;
	__builtin_memcpy(h->comm, leader->comm, sizeof h->comm);
}

// ---- entries

static __always_inline void told(struct process_entry *e)
{
	add((u64 *)&counts.untold[(e->r.h.time >> 30) % EPOCHS], -1);
}

// Sends the record of a dead process; false if the ring is full.
static __always_inline bool send_entry(struct process_entry *e)
{
	u64 size = sizeof e->r;
	u32 len = e->r.h.exe_len;

	if (len <= EXE_MAX)
		size += len;
	if (bpf_ringbuf_output(&ring, &e->r, size, wake(size)))
		return false;
	add(&counts.exits.sent, 1);
	told(e);
	return true;
}

// An entry that begins as from. Whoever had the key before is dead, and told of now
// if not before: the kernel did not run sched_process_free, or the ring was full.
static __always_inline struct process_entry *new_entry(struct task_struct *leader, struct process_entry *from)
{
	u64 key = (u64)leader->signal;
	struct process_entry *e = bpf_map_lookup_elem(&processes, &key);
	u32 zero = 0;

	if (e && e->dead == DEAD && !__sync_val_compare_and_swap(&e->sent, 0, 1)) {
		if (e->r.h.flags & FLAG_CPU_FINAL)
			add((u64 *)&counts.kept, -1);
		if (!send_entry(e)) {
			told(e);
			add(&counts.exits.lost_ring, 1);
		}
	}
	if (!from)
		from = bpf_map_lookup_elem(&blank, &zero);
	if (!from)
		return 0;
	if (bpf_map_update_elem(&processes, &key, from, BPF_ANY)) {
		add(&counts.hold_failed, 1);
		return 0;
	}
	e = bpf_map_lookup_elem(&processes, &key);
	if (e)
		e->r.h.start = leader->start_boottime;
	return e;
}

// The entry of a living process; null if it has none.
static __always_inline struct process_entry *entry_of(struct task_struct *leader)
{
	u64 key = (u64)leader->signal;
	struct process_entry *e = bpf_map_lookup_elem(&processes, &key);

	return e && e->r.h.start == leader->start_boottime ? e : 0;
}

// ---- the path of an exe, as readlink /proc/PID/exe gives it to a reader whose
// root is the root of the file's mount tree (fs/d_path.c, prepend_path)

struct walk {
	struct dentry *dentry;
	struct mount *mnt;
	u32 off; // the path so far is exe[off..EXE_MAX) of the scratch
	u32 known;
};

static __always_inline bool prepend(struct walk *w, struct scratch *s, struct dentry *d)
{
	u32 len = BPF_CORE_READ(d, d_name.len);
	u32 off = w->off;

	if (len > 255 || off < len + 1)
		return false;
	off -= len + 1;
	off &= EXE_MAX - 1;
	s->exe[off] = '/';
	if (bpf_probe_read_kernel(s->exe + off + 1, len, BPF_CORE_READ(d, d_name.name)))
		return false;
	w->off = off;
	return true;
}

static long walk_up(u32 i, struct walk *w)
{
	u32 key = SCRATCH_PROCESS;
	struct scratch *s = bpf_map_lookup_elem(&scratches, &key);
	struct dentry *d = w->dentry, *parent;
	struct mount *mnt = w->mnt, *up;

	if (!s)
		return 1;
	if (d == BPF_CORE_READ(mnt, mnt.mnt_root)) {
		up = BPF_CORE_READ(mnt, mnt_parent);
		if (up == mnt) {
			w->known = 1;
			return 1;
		}
		w->dentry = BPF_CORE_READ(mnt, mnt_mountpoint);
		w->mnt = up;
		return 0;
	}
	parent = BPF_CORE_READ(d, d_parent);
	if (parent == d) // a file without a place, as of memfd_create(2)
		return 1;
	if (!prepend(w, s, d))
		return 1;
	w->dentry = parent;
	return 0;
}

#define DELETED " (deleted)"

// Sets the exe of a process from its address space.
static __always_inline void set_exe(struct process_entry *e, struct mm_struct *mm)
{
	u32 key = SCRATCH_PROCESS, len;
	struct scratch *s = bpf_map_lookup_elem(&scratches, &key);
	struct walk w = { .off = EXE_MAX };
	struct dentry *file;
	struct vfsmount *vfs;

	e->r.h.exe_len = 0;
	if (!s || !mm || !mm->exe_file)
		return;
	file = BPF_CORE_READ(mm, exe_file, f_path.dentry);
	vfs = BPF_CORE_READ(mm, exe_file, f_path.mnt);
	w.dentry = file;
	w.mnt = (void *)vfs - bpf_core_field_offset(struct mount, mnt);

	bool placeless = BPF_CORE_READ(file, d_parent) == file;
	if (placeless || !BPF_CORE_READ(file, d_hash.pprev)) {
		w.off -= sizeof DELETED - 1;
		__builtin_memcpy(s->exe + EXE_MAX - (sizeof DELETED - 1), DELETED, sizeof DELETED - 1);
	}
	if (placeless)
		w.known = prepend(&w, s, file);
	else
		bpf_loop(MAX_STEPS, walk_up, &w, 0);
	len = EXE_MAX - w.off;
	if (!w.known || len == 0 || len > EXE_MAX)
		return;
	if (!bpf_probe_read_kernel(e->exe, len, s->exe + EXE_MAX - len))
		e->r.h.exe_len = len;
}

// ---- processes

SEC("tp_btf/sched_process_fork")
int BPF_PROG(on_fork, struct task_struct *parent, struct task_struct *child)
{
	struct process_entry *from, *e;

	if (child->pid != child->tgid)
		return 0;
	from = entry_of(parent->group_leader);
	e = new_entry(child, from);
	if (e && !from)
		set_exe(e, child->mm);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)
{
	struct process_entry *e = entry_of(p);
	struct task_counters *n;
	struct task_state *st;

	// The old leader is gone, and its storage with it.
	n = old_pid != p->pid ? spill_of(p, false) : 0;
	st = n ? state_of(p) : 0;
	if (n && st) {
		move_counters(&st->n, n);
		drop_spill(p);
	}
	if (!e)
		e = new_entry(p, 0);
	if (e)
		set_exe(e, p->mm);
	return 0;
}

static __always_inline s32 pid_in_own_namespace(struct task_struct *t)
{
	// Read by call: the place is not a constant, which a typed pointer must have.
	struct pid *pid = BPF_CORE_READ(t, thread_pid);
	u32 level = BPF_CORE_READ(pid, level);
	s32 nr = 0;

	bpf_probe_read_kernel(&nr, sizeof nr,
			      (void *)&pid->numbers + level * bpf_core_type_size(struct upid) +
				      bpf_core_field_offset(struct upid, nr));
	return nr;
}

static __always_inline void add_task(struct exit_record *r, struct task_struct *t)
{
	r->cpu += t->se.sum_exec_runtime;
	r->utime += t->utime;
	r->stime += t->stime;
	r->min_flt += t->min_flt;
	r->maj_flt += t->maj_flt;
	r->rchar += t->ioac.rchar;
	r->wchar += t->ioac.wchar;
	r->read_bytes += t->ioac.read_bytes;
	r->write_bytes += t->ioac.write_bytes;
}

// Every thread that was reaped has its totals in the signal_struct.
static __always_inline void fill_totals(struct exit_record *r, struct task_struct *leader)
{
	struct signal_struct *sig = leader->signal;

	r->status = sig->flags & SIGNAL_GROUP_EXIT ? sig->group_exit_code : leader->exit_code;
	r->cpu = sig->sum_sched_runtime;
	r->utime = sig->utime;
	r->stime = sig->stime;
	r->min_flt = sig->min_flt;
	r->maj_flt = sig->maj_flt;
	r->peak_pages = sig->maxrss;
	r->rchar = sig->ioac.rchar;
	r->wchar = sig->ioac.wchar;
	r->read_bytes = sig->ioac.read_bytes;
	r->write_bytes = sig->ioac.write_bytes;
}

// What a process counted, in both places.
static __always_inline void fill_counters(struct exit_record *r, struct task_struct *leader)
{
	struct task_state *st = bpf_task_storage_get(&task_states, leader, 0, 0);
	struct task_counters *n = spill_of(leader, false);

	if (st)
		r->n = st->n;
	else
		__builtin_memset(&r->n, 0, sizeof r->n);
	if (!n)
		return;
	r->n.net_received += n->net_received;
	r->n.net_sent += n->net_sent;
	r->n.fd_opened += n->fd_opened;
	r->n.fd_closed += n->fd_closed;
	r->n.fd_unsure += n->fd_unsure;
	drop_spill(leader);
}

// A leader that exits before its threads.
static __always_inline void spill(struct task_struct *leader)
{
	struct task_state *st = bpf_task_storage_get(&task_states, leader, 0, 0);
	struct task_counters *n;

	if (!st || !counted(&st->n))
		return;
	n = spill_of(leader, true);
	if (n)
		move_counters(n, &st->n);
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_exit, struct task_struct *p)
{
	struct task_struct *leader = p->group_leader;
	struct signal_struct *sig = p->signal;
	struct process_entry *e;

	if (sig->live.counter > 0) {
		// Where all threads are about to end, none will call exec.
		if (p == leader && !(sig->flags & SIGNAL_GROUP_EXIT))
			spill(leader);
		return 0;
	}
	e = entry_of(leader);
	if (!e)
		e = new_entry(leader, 0);
	if (!e) // on_free will see it
		return 0;
	// Two threads that exit at once may both find none alive.
	if (__sync_val_compare_and_swap(&e->dead, 0, DYING))
		return 0;
	fill_head(&e->r.h, EVENT_EXIT, leader);
	e->r.h.ppid = leader->real_parent->tgid;
	e->r.h.flags |= FLAG_PARENT;
	e->r.ns_pid = pid_in_own_namespace(leader);
	fill_totals(&e->r, leader);
	add_task(&e->r, p);
	if (p != leader)
		add_task(&e->r, leader);
	fill_counters(&e->r, leader);
	add(&counts.exits.seen, 1);
	add((u64 *)&counts.untold[(e->r.h.time >> 30) % EPOCHS], 1);
	__sync_lock_test_and_set(&e->dead, DEAD); // in order after what was written
	return 0;
}

static __always_inline void send_without_entry(struct task_struct *p)
{
	u32 user = SCRATCH_FREE;
	struct scratch *s = bpf_map_lookup_elem(&scratches, &user);

	add(&counts.exits.seen, 1);
	if (!s)
		return;
	s->record.h.exe_len = 0;
	fill_head(&s->record.h, EVENT_EXIT, p);
	s->record.h.flags |= FLAG_CPU_FINAL;
	s->record.ns_pid = 0;
	fill_totals(&s->record, p);
	fill_counters(&s->record, p);
	emit(&s->record, sizeof s->record, &counts.exits);
}

// The last thing that happens to a task: an RCU grace period after it was
// reaped, when all of its accounting is in its signal_struct.
SEC("tp_btf/sched_process_free")
int BPF_PROG(on_free, struct task_struct *p)
{
	u64 key = (u64)p->signal;
	struct process_entry *e;
	struct task_state *st;

	if (p->pid != p->tgid) {
		// Only the old leader of an exec from another thread has a state.
		st = bpf_task_storage_get(&task_states, p, 0, 0);
		if (st && counted(&st->n))
			add(&counts.stranded, 1);
		return 0;
	}
	e = entry_of(p);
	if (!e || e->dead != DEAD) { // it ended before on_exit was attached, or there was no room
		send_without_entry(p);
	} else if (!__sync_val_compare_and_swap(&e->sent, 0, 1)) {
		fill_totals(&e->r, p);
		e->r.h.flags |= FLAG_CPU_FINAL;
		if (!send_entry(e)) { // it waits in its place: frees come in bursts
			add((u64 *)&counts.kept, 1);
			__sync_lock_test_and_set(&e->sent, 0);
			return 0;
		}
	}
	if (e)
		bpf_map_delete_elem(&processes, &key);
	return 0;
}

// Run before send_overdue: a zombie's own CPU time, which its exit did not know
// yet, is complete once it is off its CPU.
SEC("iter/task")
int refresh_unreaped(struct bpf_iter__task *ctx)
{
	struct task_struct *p = ctx->task;
	struct process_entry *e;

	if (!p || p->pid != p->tgid || p->exit_state != EXIT_ZOMBIE)
		return 0;
	e = entry_of(p);
	if (!e || e->dead != DEAD || e->sent)
		return 0;
	fill_totals(&e->r, p);
	add_task(&e->r, p);
	// Reaped meanwhile, its share may have been in both.
	if (BPF_CORE_READ(p, exit_state) != EXIT_ZOMBIE)
		fill_totals(&e->r, p);
	return 0;
}

static long send_if_overdue(void *map, u64 *key, struct process_entry *e, u64 *now)
{
	u64 time = e->r.h.time;
	bool freed;

	if (e->dead != DEAD || e->sent)
		return 0;
	freed = e->r.h.flags & FLAG_CPU_FINAL;
	if (!freed && (*now < time || *now - time < overdue_ns))
		return 0;
	if (__sync_val_compare_and_swap(&e->sent, 0, 1))
		return 0;
	if (!send_entry(e)) {
		__sync_lock_test_and_set(&e->sent, 0);
		return 1;
	}
	if (freed) {
		add((u64 *)&counts.kept, -1);
		bpf_map_delete_elem(&processes, key);
	}
	return 0;
}

// Run by the reader when processes stay untold: the ring was full, nobody reaps
// them, or the kernel kept sched_process_free to itself, as some do while PID 1 is
// current. The records of the latter lack the last accounting. The entry stays until
// the process is freed, or its key has a new user, so that none is told of twice.
SEC("syscall")
int send_overdue(void *ctx)
{
	u64 now = bpf_ktime_get_boot_ns();

	bpf_for_each_map_elem(&processes, send_if_overdue, &now, 0);
	return 0;
}

// ---- network

static __always_inline bool is_users_ip(struct sock *sk)
{
	u16 family = sk->__sk_common.skc_family;

	if (family != AF_INET && family != AF_INET6)
		return false;
	// A socket that the kernel made for itself, as NFS does: its bytes are no
	// process's own, whoever's system call moves them.
	return !BPF_CORE_READ_BITFIELD(sk, sk_kern_sock);
}

static __always_inline void count_sent(struct sock *sk, int ret)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct task_counters *n;

	if (ret <= 0 || !is_users_ip(sk) || t->flags & PF_KTHREAD)
		return;
	n = counters_of(t);
	add(n ? &n->net_sent : &counts.uncounted_sent, ret);
}

static __always_inline void count_received(struct sock *sk, int ret, int flags)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct task_counters *n;

	if (ret <= 0 || flags & (MSG_PEEK | MSG_ERRQUEUE) || !is_users_ip(sk) || t->flags & PF_KTHREAD)
		return;
	n = counters_of(t);
	add(n ? &n->net_received : &counts.uncounted_received, ret);
}

// Since 6.3 (6e6eda44b939, sock: add tracepoint for send recv length).
SEC("tp_btf/sock_send_length")
int BPF_PROG(on_send, struct sock *sk, int ret, int flags)
{
	ran(HOOK_SEND);
	count_sent(sk, ret);
	return 0;
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(on_receive, struct sock *sk, int ret, int flags)
{
	ran(HOOK_RECEIVE);
	count_received(sk, ret, flags);
	return 0;
}

// Before 6.3.
SEC("fexit/inet_sendmsg")
int BPF_PROG(on_inet_send, struct socket *sock, struct msghdr *m, size_t size, int ret)
{
	ran(HOOK_SEND);
	count_sent(sock->sk, ret);
	return 0;
}

SEC("fexit/inet6_sendmsg")
int BPF_PROG(on_inet6_send, struct socket *sock, struct msghdr *m, size_t size, int ret)
{
	ran(HOOK_SEND);
	count_sent(sock->sk, ret);
	return 0;
}

SEC("fexit/inet_recvmsg")
int BPF_PROG(on_inet_receive, struct socket *sock, struct msghdr *m, size_t size, int flags, int ret)
{
	ran(HOOK_RECEIVE);
	count_received(sock->sk, ret, flags);
	return 0;
}

SEC("fexit/inet6_recvmsg")
int BPF_PROG(on_inet6_receive, struct socket *sock, struct msghdr *m, size_t size, int flags, int ret)
{
	ran(HOOK_RECEIVE);
	count_received(sock->sk, ret, flags);
	return 0;
}

// sendfile and splice into a socket, up to 6.4; from 6.5 on they are a sendmsg
// (dc97391e6610, sock: Remove ->sendpage*() in favour of sendmsg(MSG_SPLICE_PAGES)).
SEC("fexit/inet_sendpage")
int BPF_PROG(on_inet_sendpage, struct socket *sock, struct page *page, int offset, size_t size, int flags, int ret)
{
	ran(HOOK_SEND);
	count_sent(sock->sk, ret);
	return 0;
}

// ---- the OOM killer

static __always_inline void fill_memory(struct oom_record *r, struct mm_struct *mm)
{
	struct mm_struct___before62 *old = (void *)mm;

	r->total_vm_pages = BPF_CORE_READ(mm, total_vm);
	r->h.flags |= FLAG_RSS;
	if (bpf_core_type_exists(struct mm_rss_stat)) {
		r->file_pages = BPF_CORE_READ(old, rss_stat.count[MM_FILEPAGES].counter);
		r->anon_pages = BPF_CORE_READ(old, rss_stat.count[MM_ANONPAGES].counter);
		r->swap_pages = BPF_CORE_READ(old, rss_stat.count[MM_SWAPENTS].counter);
		r->shmem_pages = BPF_CORE_READ(old, rss_stat.count[MM_SHMEMPAGES].counter);
		return;
	}
	r->file_pages = BPF_CORE_READ(mm, rss_stat[MM_FILEPAGES].count);
	r->anon_pages = BPF_CORE_READ(mm, rss_stat[MM_ANONPAGES].count);
	r->swap_pages = BPF_CORE_READ(mm, rss_stat[MM_SWAPENTS].count);
	r->shmem_pages = BPF_CORE_READ(mm, rss_stat[MM_SHMEMPAGES].count);
}

static __always_inline void emit_oom(struct task_struct *victim, struct mm_struct *mm)
{
	struct task_struct *leader = victim->group_leader;
	struct oom_record r = {};

	add(&counts.ooms.seen, 1);
	fill_head(&r.h, EVENT_OOM, leader);
	r.h.ppid = leader->real_parent->tgid;
	r.h.flags |= FLAG_PARENT;
	r.peak_pages = victim->signal->maxrss;
	if (mm)
		fill_memory(&r, mm);
	if (bpf_ringbuf_output(&ring, &r, sizeof r, BPF_RB_FORCE_WAKEUP))
		add(&counts.ooms.lost_ring, 1);
	else
		add(&counts.ooms.sent, 1);
}

// The victim itself is an argument since 6.8 (72ba14deb40a, mm: update
// mark_victim tracepoints fields), and in stable kernels that took it over.
SEC("tp_btf/mark_victim")
int BPF_PROG(on_oom, struct task_struct *victim)
{
	emit_oom(victim, victim->mm);
	return 0;
}

// Before, only its PID is: the victim is told when it has died.
SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_victim_exit, struct task_struct *p)
{
	if (p->signal->live.counter == 0 && p->signal->oom_mm)
		emit_oom(p, 0);
	return 0;
}

// ---- descriptors opened and closed, off by default

// The message that recvmsg(2) filled in, in user memory (include/linux/socket.h).
struct user_message {
	u64 name, name_len, iov, iov_len;
	u64 control;
	u64 control_len;
};

struct user_control {
	u64 len;
	s32 level;
	s32 type;
};

// Counts the descriptors that came with a message; -1 where that is not plain.
static __always_inline s64 passed(u64 message)
{
	struct user_message m;
	struct user_control c;

	if (bpf_probe_read_user(&m, sizeof m, (void *)message))
		return -1;
	if (m.control_len < sizeof c)
		return 0;
	if (bpf_probe_read_user(&c, sizeof c, (void *)m.control) || c.len < sizeof c || c.len > m.control_len)
		return -1;
	if (((c.len + 7) & ~7ULL) + sizeof c <= m.control_len) // more than one
		return -1;
	return c.level == SOL_SOCKET && c.type == SCM_RIGHTS ? (c.len - sizeof c) / 4 : 0;
}

static __always_inline void count_fds(struct task_struct *t, u64 opened, u64 closed, u64 unsure)
{
	struct task_counters *n = counters_of(t);

	if (!n) {
		add(&counts.uncounted_fds, opened + closed + unsure);
		return;
	}
	if (opened)
		add(&n->fd_opened, opened);
	if (closed)
		add(&n->fd_closed, closed);
	if (unsure)
		add(&n->fd_unsure, unsure);
}

SEC("tp_btf/sys_exit")
int BPF_PROG(on_syscall, struct pt_regs *regs, long ret)
{
	struct task_struct *t = bpf_get_current_task_btf();
	u64 opened = 0, closed = 0, unsure = 0;
	u64 nr = call_number(regs), command;
	s64 came;

	ran(HOOK_FDS);
	if (is_compat(t)) // its numbers mean other calls
		unsure = 1;
	else if (nr >= FD_CALLS)
		return 0;
	else
		switch (fd_class[nr]) {
		case FD_NONE:
			return 0;
		case FD_ONE:
			opened = ret >= 0;
			break;
		case FD_PAIR:
			opened = ret == 0 ? 2 : 0;
			break;
		case FD_FCNTL:
			command = second_argument(regs);
			opened = ret >= 0 && (command == F_DUPFD || command == F_DUPFD_CLOEXEC);
			break;
		case FD_CLOSE:
			closed = ret != -EBADF;
			break;
		case FD_SIGNALFD:
			opened = ret >= 0 && (s32)first_argument(regs) == -1;
			break;
		case FD_CLONE:
			opened = ret > 0 && first_argument(regs) & CLONE_PIDFD;
			break;
		case FD_CLONE3: // the flags come first in struct clone_args
			if (bpf_probe_read_user(&command, sizeof command, (void *)first_argument(regs)))
				unsure = ret > 0;
			else
				opened = ret > 0 && command & CLONE_PIDFD;
			break;
		case FD_MAYBE:
			unsure = ret > 0;
			break;
		case FD_MESSAGES:
			unsure = ret > 0 && passed(second_argument(regs)) != 0;
			break;
		case FD_MESSAGE:
			came = ret >= 0 ? passed(second_argument(regs)) : 0;
			opened = came < 0 ? 0 : came;
			unsure = came < 0;
			break;
		default:
			unsure = ret >= 0;
		}
	if (opened || closed || unsure)
		count_fds(t, opened, closed, unsure);
	return 0;
}

// Where the kernel takes fentry programs, they are counted where the table changes:
// whoever asks for it, and however. What copies a table (fork, unshare) or drops it
// (exit) opens and closes nothing.

static __always_inline void count_change(u64 opened, u64 closed)
{
	struct task_struct *t = bpf_get_current_task_btf();

	ran(HOOK_FDS);
	if (opened + closed && !(t->flags & PF_KTHREAD))
		count_fds(t, opened, closed, 0);
}

// Called with the table locked, as all that follow: what it shows will not change.
static __always_inline bool shows_file(struct files_struct *files, u32 fd)
{
	struct fdtable *fdt = files->fdt;
	struct file *file = 0;

	return fd < fdt->max_fds && !bpf_probe_read_kernel(&file, sizeof file, fdt->fd + fd) && file;
}

// A number that is taken but shows no file is about to be another's.
static __always_inline bool is_taken(struct files_struct *files, u32 fd)
{
	struct fdtable *fdt = files->fdt;
	u64 word = 0;

	return fd < fdt->max_fds && !bpf_probe_read_kernel(&word, sizeof word, fdt->open_fds + fd / 64) &&
	       word >> (fd & 63) & 1;
}

SEC("fentry/fd_install")
int BPF_PROG(on_fd_install, unsigned int fd, struct file *file)
{
	count_change(1, 0);
	return 0;
}

// dup2(2) and dup3(2), and what replaces a descriptor by one that came.
SEC("fentry/do_dup2")
int BPF_PROG(on_fd_replace, struct files_struct *files, struct file *file, unsigned int fd, unsigned int flags)
{
	if (shows_file(files, fd))
		count_change(1, 1);
	else if (!is_taken(files, fd)) // else it fails: EBUSY
		count_change(1, 0);
	return 0;
}

// Since 6.7 (a88c955fcfb4, file: s/close_fd_get_file()/file_close_fd()/g).
SEC("fentry/file_close_fd_locked")
int BPF_PROG(on_fd_close, struct files_struct *files, unsigned int fd)
{
	count_change(0, shows_file(files, fd));
	return 0;
}

SEC("fentry/pick_file")
int BPF_PROG(on_fd_close_before67, struct files_struct *files, unsigned int fd)
{
	count_change(0, shows_file(files, fd));
	return 0;
}

struct cloexec_walk {
	u64 open, cloexec; // addresses of the bitmaps
	u64 found;
};

static __always_inline u64 popcount(u64 x)
{
	x -= x >> 1 & 0x5555555555555555ULL;
	x = (x & 0x3333333333333333ULL) + (x >> 2 & 0x3333333333333333ULL);
	x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fULL;
	return x * 0x0101010101010101ULL >> 56;
}

static long count_cloexec(u32 i, struct cloexec_walk *w)
{
	u64 open, cloexec;

	if (bpf_probe_read_kernel(&open, sizeof open, (void *)(w->open + i * 8ULL)) ||
	    bpf_probe_read_kernel(&cloexec, sizeof cloexec, (void *)(w->cloexec + i * 8ULL)))
		return 1;
	w->found += popcount(open & cloexec);
	return 0;
}

// By now the process has one thread, and a table of its own.
SEC("fentry/do_close_on_exec")
int BPF_PROG(on_fd_cloexec, struct files_struct *files)
{
	struct fdtable *fdt = files->fdt;
	struct cloexec_walk w = {
		.open = (u64)BPF_CORE_READ(fdt, open_fds),
		.cloexec = (u64)BPF_CORE_READ(fdt, close_on_exec),
	};

	bpf_loop(fdt->max_fds / 64, count_cloexec, &w, 0);
	count_change(0, w.found);
	return 0;
}
