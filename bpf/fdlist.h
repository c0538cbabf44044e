// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * What a process's table of descriptors shows now, each with its birth. A run reads
 * up to FD_LIST of them, holding RCU, which keeps a table that is replaced and the
 * files in it readable. The array of records is mapped by user space.
 */
#ifndef RMAGENT_FDLIST_H
#define RMAGENT_FDLIST_H

struct fd_list_args list_args = {};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, FD_LIST);
	__type(key, u32);
	__type(value, struct fd_record);
} listing SEC(".maps");

// What a run works on.
struct list_work {
	u64 fds;      // address of the fdtable's array
	u64 open_fds; // of its bitmap
	u64 max_fds;
	u64 word;  // the next word of the bitmap
	u64 bits;  // what is left of the one before
	u64 levels;
	u64 files[FD_ANCESTORS];
	u64 since[FD_ANCESTORS]; // stamps from then on count,
	u64 until[FD_ANCESTORS]; // up to then
	u64 fence;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct list_work);
} list_work SEC(".maps");

static __always_inline struct list_work *get_list_work(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&list_work, &zero);
}

static __always_inline u64 ones(u64 x)
{
	x = x - ((x >> 1) & 0x5555555555555555ULL);
	x = (x & 0x3333333333333333ULL) + ((x >> 2) & 0x3333333333333333ULL);
	x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fULL;
	return (x * 0x0101010101010101ULL) >> 56;
}

// The table itself, and those that it is a copy of.
static __always_inline void find_ancestors(struct list_work *k, u64 files)
{
	u64 until = ~0ULL;

	k->levels = 0;
	for (u32 i = 0; i < FD_ANCESTORS; i++) {
		struct fd_table *table = bpf_map_lookup_elem(&tables, &files);

		if (!table)
			return;
		k->files[i] = files;
		k->since[i] = table->since ?: ~0ULL;
		k->until[i] = until;
		k->levels = i + 1;
		if (!table->parent)
			return;
		if (table->forked < until)
			until = table->forked;
		files = table->parent;
	}
}

#define S_IFMT 0170000
#define S_IFSOCK 0140000
#define S_IFREG 0100000
#define IPPROTO_TCP 6
#define SOCKFS_MAGIC 0x534F434B

static __always_inline void describe_socket(struct fd_record *r, struct file *file)
{
	struct socket *sock = BPF_CORE_READ(file, private_data);
	struct sock *sk = BPF_CORE_READ(sock, sk);

	if (!sk)
		return;
	r->family = BPF_CORE_READ(sk, __sk_common.skc_family);
	r->protocol = BPF_CORE_READ(sk, sk_protocol);
	r->state = BPF_CORE_READ(sk, __sk_common.skc_state);
	if (r->family == AF_INET || r->family == AF_INET6) {
		// As getsockname(2) tells it: skc_num is no more once a connection is dead.
		r->local_port = BPF_CORE_READ((struct inet_sock *)sk, inet_sport);
		r->remote_port = BPF_CORE_READ(sk, __sk_common.skc_dport);
	}
	if (r->family == AF_INET) {
		BPF_CORE_READ_INTO((u32 *)r->local, sk, __sk_common.skc_rcv_saddr);
		BPF_CORE_READ_INTO((u32 *)r->remote, sk, __sk_common.skc_daddr);
	} else if (r->family == AF_INET6) {
		BPF_CORE_READ_INTO(&r->local, sk, __sk_common.skc_v6_rcv_saddr);
		BPF_CORE_READ_INTO(&r->remote, sk, __sk_common.skc_v6_daddr);
	}
	if ((r->family == AF_INET || r->family == AF_INET6) && r->protocol == IPPROTO_TCP) {
		struct tcp_sock *tcp = (struct tcp_sock *)sk;

		r->used = BPF_CORE_READ(tcp, bytes_received) + BPF_CORE_READ(tcp, bytes_sent);
	}
	if (BPF_CORE_READ(sock, sk) != sk) // closed meanwhile: what was read may be another's
		r->family = 0;
}

static __always_inline void describe(struct fd_record *r, struct file *file, struct inode *inode)
{
	struct super_block *sb = BPF_CORE_READ(inode, i_sb);
	struct dentry *dentry = BPF_CORE_READ(file, f_path.dentry);
	const unsigned char *name = BPF_CORE_READ(dentry, d_name.name);

	r->inode = BPF_CORE_READ(inode, i_ino);
	r->mode = BPF_CORE_READ(inode, i_mode);
	r->device = BPF_CORE_READ(sb, s_dev);
	r->magic = BPF_CORE_READ(sb, s_magic);
	r->placeless = BPF_CORE_READ(dentry, d_parent) == dentry;
	if (bpf_probe_read_kernel_str(r->name, sizeof r->name, name) < 0)
		r->name[0] = 0;
	if ((r->mode & S_IFMT) == S_IFSOCK && r->magic == SOCKFS_MAGIC)
		describe_socket(r, file);
	else if ((r->mode & S_IFMT) == S_IFREG)
		r->used = BPF_CORE_READ(file, f_pos);
}

static __always_inline bool vouches(struct fd_stamp *st, struct shown *f, u64 since, u64 until)
{
	if (!is_shown(st, f) || st->order < since || st->order > until)
		return false;
	// A parent may have closed its own since.
	return !st->closed || (until != ~0ULL && st->closed >= until);
}

// What was read before this is not read after it. On amd64 no load overtakes another.
static __always_inline void fence(struct list_work *k)
{
#if defined(__TARGET_ARCH_x86)
	asm volatile("" ::: "memory");
#else
	__sync_lock_test_and_set(&k->fence, 0);
#endif
}

static __always_inline void attribute(struct fd_record *r, struct list_work *k, struct shown *f)
{
	for (u32 i = 0; i < FD_ANCESTORS; i++) {
		struct fd_stamp *st;
		u64 seq, tag;
		bool believed;
		u32 why;

		if (i >= k->levels)
			return;
		tag = stamp_tag(k->files[i], r->fd);
		st = find_stamp(k->files[i], r->fd);
		if (!st || *(volatile u64 *)&st->tag != tag)
			continue;
		seq = *(volatile u64 *)&st->seq;
		fence(k);
		believed = vouches(st, f, k->since[i], k->until[i]);
		why = *(volatile u32 *)&st->why;
		fence(k);
		// Neither another's by now, nor changed, nor being changed.
		if (!believed || *(volatile u64 *)&st->tag != tag || *(volatile u64 *)&st->seq != seq)
			continue;
		r->why = why;
		r->seq = why ? 0 : seq;
		return;
	}
}

// Writes the record of one descriptor; 0 where there is no file at it.
static __noinline int list_one(u32 fd, u32 slot)
{
	struct fd_record *r = bpf_map_lookup_elem(&listing, &slot);
	struct list_work *k = get_list_work();
	struct file *file = 0, *again = 0;
	struct shown f;

	if (!r || !k)
		return 0;
	if (bpf_probe_read_kernel(&file, sizeof file, (void *)(k->fds + (u64)fd * 8)) || !file)
		return 0; // its number is taken, and the file is not there yet
	__builtin_memset(r, 0, sizeof *r);
	f.file = (u64)file;
	f.inode = (u64)BPF_CORE_READ(file, f_inode);
	f.how = (u64)BPF_CORE_READ(file, f_op) - (u64)BPF_CORE_READ(file, f_cred);
	r->fd = fd;
	r->file = f.file;
	describe(r, file, (void *)f.inode);
	attribute(r, k, &f);
	bpf_probe_read_kernel(&again, sizeof again, (void *)(k->fds + (u64)fd * 8));
	return again == file;
}

#define LIST_STEPS (1 << 17)

static long list_step(u32 i, void *ctx)
{
	struct list_work *k = get_list_work();
	u64 low;
	u32 fd;

	if (!k || list_args.count >= list_args.max)
		return 1;
	if (!k->bits) {
		if (k->word * 64 >= k->max_fds) {
			list_args.done = 1;
			return 1;
		}
		if (bpf_probe_read_kernel(&k->bits, 8, (void *)(k->open_fds + k->word * 8))) {
			list_args.torn = 1;
			return 1;
		}
		k->word++;
		list_args.next = k->word * 64;
		return 0;
	}
	low = k->bits & -k->bits;
	fd = (k->word - 1) * 64 + ones(low - 1);
	k->bits ^= low;
	list_args.next = fd + 1;
	if (list_one(fd, list_args.count))
		list_args.count++;
	return 0;
}

// The table of a process: its leader's, or, where that has ended, another thread's.
static __always_inline struct files_struct *table_of(struct task_struct *leader)
{
	struct files_struct *files = BPF_CORE_READ(leader, files);
	struct signal_struct *sig = BPF_CORE_READ(leader, signal);
	struct list_head *at = BPF_CORE_READ(sig, thread_head.next);

	for (u32 i = 0; i < 64 && !files; i++) {
		struct task_struct *t = (void *)at - bpf_core_field_offset(struct task_struct, thread_node);

		files = BPF_CORE_READ(t, files);
		at = BPF_CORE_READ(at, next);
		if ((void *)at == (void *)sig + bpf_core_field_offset(struct signal_struct, thread_head))
			break;
	}
	return files;
}

// Answers list_args for the process whose leader this is.
static __always_inline void list_process(struct task_struct *leader)
{
	struct list_work *k = get_list_work();
	struct files_struct *files = table_of(leader);
	u64 address = (u64)files;
	struct fdtable *fdt;
	struct fd_table *known;

	list_args.found = 1;
	list_args.start = BPF_CORE_READ(leader, start_boottime);
	list_args.files = address;
	if (!k || !files)
		return;
	known = bpf_map_lookup_elem(&tables, &address);
	if (known)
		list_args.since = known->since;
	fdt = BPF_CORE_READ(files, fdt);
	k->fds = (u64)BPF_CORE_READ(fdt, fd);
	k->open_fds = (u64)BPF_CORE_READ(fdt, open_fds);
	k->max_fds = BPF_CORE_READ(fdt, max_fds);
	k->word = list_args.from / 64;
	k->bits = 0;
	find_ancestors(k, address);
	if (list_args.from & 63) { // go on within a word
		bpf_probe_read_kernel(&k->bits, 8, (void *)(k->open_fds + k->word * 8));
		k->bits &= ~0ULL << (list_args.from & 63);
		k->word++;
	}
	list_args.next = list_args.from;
	bpf_loop(LIST_STEPS, list_step, 0, 0);
	if (BPF_CORE_READ(files, fdt) != fdt)
		list_args.torn = 1;
}

extern struct task_struct *bpf_task_from_pid(s32 pid) __ksym;
extern void bpf_task_release(struct task_struct *p) __ksym;
extern void bpf_rcu_read_lock(void) __ksym;
extern void bpf_rcu_read_unlock(void) __ksym;

// Since 6.10 syscall programs may call these kfuncs.
SEC("syscall")
int list_fds(void *ctx)
{
	struct task_struct *t = bpf_task_from_pid(list_args.tgid);

	if (!t)
		return 0;
	bpf_rcu_read_lock();
	if (t->pid == t->tgid)
		list_process(t);
	bpf_rcu_read_unlock();
	bpf_task_release(t);
	return 0;
}

// Before, the kernel's walk over all tasks meets it.
SEC("iter/task")
int list_fds_by_walk(struct bpf_iter__task *ctx)
{
	struct task_struct *t = ctx->task;

	if (t && t->pid == list_args.tgid && t->pid == t->tgid)
		list_process(t);
	return 0;
}

#endif
