// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * Who opened the descriptors that are still open. Of each process that is suspect,
 * a birth of a descriptor is logged with its caller's stack, and stamped: at its
 * table and number, with the file that the table showed then. A stamp is believed
 * only where the table still shows that file; nothing is ever counted by adding
 * opens and subtracting closes.
 *
 * Births are seen where fd_install() and do_dup2() put them into the table, or,
 * where the kernel takes no fentry programs, at the return of every system call
 * that makes one. There, what the table shows may be what another thread put in
 * its place meanwhile: a stamp that two calls lay claim to names neither.
 */
#include "events_kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>
#include "fdtrace.h"
#include "syscall.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

// For bpf2go: a type is only known to BTF if something uses it.
const struct fd_birth *unused_birth __attribute__((unused));
const struct fd_known *unused_known __attribute__((unused));
const struct fd_walk *unused_walk __attribute__((unused));
const struct fd_deep *unused_deep __attribute__((unused));
const struct fd_record *unused_record __attribute__((unused));

const volatile u8 calls[FD_CALLS] = {};	       // enum fd_call by system call number
const volatile u8 compat_calls[FD_CALLS] = {}; // of 32-bit callers
const volatile u64 concerned[FD_CALLS / 64] = {}; // a bit where either has a class
const volatile u32 log_entries = 2048;	       // powers of two
const volatile u32 deep_entries = 64;

// Deep windows and logged failures of one suspect: so many at once, and then one
// each interval; a shorter one where other windows don't reach who called.
#define DEEP_BURST 64
#define DEEP_INTERVAL 125000000ULL
#define DEEP_NEEDED_INTERVAL 2500000ULL
#define FAILURE_BURST 64
#define FAILURE_INTERVAL 62500000ULL

#define PAGE 4096ULL

// What every program asks first, after the number of the call. A process is looked up by its number: 0 means
// that nobody with it is suspect, else it is the first of those who may be. A traced
// table has a bit, which others may share.
#define BUCKETS 16384
#define MARKS 65536
u16 first_suspect[BUCKETS];
u64 table_marks[MARKS / 64];

// By the place of a suspect: its stacks need deep windows; it runs CPython.
#define PLACES 512
_Static_assert(FD_SUSPECTS < PLACES, "places");
u8 needs_deep[PLACES];
u8 runs_python[PLACES];

struct fd_counts counts = {};
u64 last_seq; // of the log
u64 drained;  // by user space, up to there
u64 last_deep; // how many deep windows were asked for
u64 deep_drained;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, FD_SUSPECTS + 1); // the first is nobody
	__type(key, u32);
	__type(value, struct fd_suspect);
} suspects SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u64); // address of the files_struct
	__type(value, struct fd_table);
} tables SEC(".maps");

// A stamp is where its table and number say, if that is free, else in the map behind it, whose
// look-up takes 17 ns; in place where there is one already: a table uses its numbers again.
#define NEAR 4096
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE); // for each to be a line of memory
	__uint(max_entries, NEAR);
	__type(key, u32);
	__type(value, struct fd_stamp);
} near_stamps SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 61440);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct fd_key);
	__type(value, struct fd_stamp);
} stamps SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2048);
	__type(key, u32);
	__type(value, struct fd_birth);
} births SEC(".maps");

// Its other half: of births whose walks are known. An entry is in one of both.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2048);
	__type(key, u32);
	__type(value, struct fd_known);
} knowns SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, FD_WALKS);
	__type(key, u32);
	__type(value, struct fd_walk);
} walks SEC(".maps");

// The stack that a CPU compares, in memory that nobody else reads: registers, and what is
// from sp upward. Whole pages, for the kernel copies to whole lines faster.
#define STACK_WORDS (FD_REGISTERS + FD_WALK_WINDOW / 8)
_Static_assert(sizeof(struct fd_registers) <= 8 * FD_REGISTERS, "registers");

struct stack_words {
	u64 words[STACK_WORDS];
	u64 busy; // who was interrupted uses it
};
_Static_assert(sizeof(struct stack_words) % PAGE == 0, "stack_words");

// By CPU, as many as there may be: an array, for a look-up in a per-CPU map takes 20 ns.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE); // for its values to begin a page
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct stack_words);
} stack_words SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 64);
	__type(key, u32);
	__type(value, struct fd_deep);
} deeps SEC(".maps");

// Processes that run CPython, by PID.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FD_SUSPECTS);
	__type(key, u32);
	__type(value, struct python);
} pythons SEC(".maps");

// A line of memory for each CPU takes a third of the time that a per-CPU map takes; beyond
// these, CPUs share one, and may lose a run.
struct fd_cpu of_cpu[FD_CPUS] = {};

static __always_inline struct fd_cpu *this_cpu(void)
{
	return &of_cpu[bpf_get_smp_processor_id() & (FD_CPUS - 1)];
}

static __always_inline void count_run(void)
{
	this_cpu()->runs++;
}

// What the clock said when this CPU asked first within the current tick. Reading it takes a
// third of what a birth whose walk is known does.
static __always_inline u64 time_of_tick(void)
{
	struct fd_cpu *c = this_cpu();
	u64 tick = bpf_jiffies64();

	if (c->tick != tick) {
		c->now = bpf_ktime_get_ns();
		c->tick = tick;
	}
	return c->now;
}

static __always_inline void add(u64 *to, u64 n)
{
	__sync_fetch_and_add(to, n);
}

// The address of the current task's table, as a number. To the verifier a pointer is none, but
// the distance of two pointers is, and the task's own address can be had as either.
static __always_inline u64 table_address(struct task_struct *current)
{
	u64 files = (u64)current->files;

	asm volatile("%0 -= %1" : "+r"(files) : "r"(current));
	return files + bpf_get_current_task();
}

// The order of births, closes and forks, for stamps: the number of the last birth.
// What comes after a birth and before the next is as young as that birth.
static __always_inline u64 order(void)
{
	return *(volatile u64 *)&last_seq + 1;
}

// ---- who is suspect

static __always_inline u32 table_mark(u64 files)
{
	return ((files >> 6) * 0x9e3779b97f4a7c15ULL) >> 48;
}

static __always_inline bool is_marked(struct task_struct *t)
{
	u32 i;

	if (first_suspect[t->tgid & (BUCKETS - 1)])
		return true;
	i = table_mark(table_address(t)) & (MARKS - 1);
	return table_marks[i / 64] >> (i & 63) & 1;
}

#define MAX_COLLISIONS 8

static __always_inline struct fd_suspect *suspect_by_id(u32 tgid)
{
	u32 i = first_suspect[tgid & (BUCKETS - 1)];

	for (u32 n = 0; n < MAX_COLLISIONS && i; n++) {
		struct fd_suspect *s = bpf_map_lookup_elem(&suspects, &i);

		if (!s)
			return 0;
		if (s->tgid == tgid)
			return s;
		i = s->next;
	}
	return 0;
}

static __always_inline struct fd_suspect *suspect_itself(struct task_struct *t)
{
	struct fd_suspect *s = suspect_by_id(t->tgid);

	return s && s->start == t->group_leader->start_boottime ? s : 0;
}

// Whose account a task's births are on: its own process's, or of another that it
// shares its table with. Null: nobody traces it.
static __always_inline struct fd_suspect *suspect_of(struct task_struct *t, u64 files)
{
	struct fd_suspect *s = suspect_itself(t);
	struct fd_table *table;

	if (s)
		return s;
	table = bpf_map_lookup_elem(&tables, &files);
	return table && table->since ? suspect_by_id(table->tgid) : 0;
}

// ---- tables

static __always_inline void mark_table(u64 files)
{
	u32 i = table_mark(files) & (MARKS - 1);

	__sync_fetch_and_or(&table_marks[i / 64], 1ULL << (i & 63));
}

// Makes a suspect's table known. One that is new to us came by unshare(2), or by an
// exec of who shared it: a copy of another, whose stamps vouch for what both show.
static __always_inline void know_table(struct task_struct *t, u64 files, struct fd_suspect *s)
{
	struct fd_table new = { .since = order(), .tgid = s->tgid };
	struct fd_table *table;
	long err;

	if (s->files == files)
		return;
	table = bpf_map_lookup_elem(&tables, &files);
	if (table && table->since)
		return;
	if (s->tgid == t->tgid)
		s->files = files;
	if (table) {
		table->since = order();
		mark_table(files);
		return;
	}
	err = bpf_map_update_elem(&tables, &files, &new, BPF_NOEXIST);
	if (err && err != -EEXIST) // another thread's call made it known just now
		add(&counts.tables_full, 1);
	mark_table(files);
}

// ---- what a table shows

// A file is freed and its memory used again. What is of the same inode, and was opened by the same
// process, is told apart by closes, which are seen; a fork child's are not, but it has credentials
// of its own, and what it opened has these.
struct shown {
	u64 file, inode;
	u64 how; // how far its operations are from its credentials
};

// Since 6.2 (a35b9af4ec2c, bpf: Add a kfunc for generic type cast) an address is loaded
// from directly, at a tenth of the cost of a call that reads it.
extern void *bpf_rdonly_cast(const void *obj, u32 btf_id) __ksym __weak;

#define CAST(type, address) ((type *)bpf_rdonly_cast((void *)(address), bpf_core_type_id_kernel(type)))

// The file in a place of a table; 0: none.
static __always_inline u64 file_in(struct file **place)
{
	u64 file = 0;

	if (bpf_rdonly_cast)
		return (u64)CAST(struct list_head, place)->next; // any type that begins with a pointer
	bpf_probe_read_kernel(&file, sizeof file, place);
	return file;
}

static __always_inline void show_file(u64 file, struct shown *s)
{
	struct file *f = (void *)file;

	s->file = file;
	if (bpf_rdonly_cast) {
		u64 op = (u64)CAST(struct file, file)->f_op, cred = (u64)CAST(struct file, file)->f_cred;

		s->inode = (u64)CAST(struct file, file)->f_inode;
		asm volatile("%0 -= %1" : "+r"(op) : "r"(cred)); // as in table_address
		s->how = op;
		return;
	}
	s->inode = (u64)BPF_CORE_READ(f, f_inode);
	s->how = (u64)BPF_CORE_READ(f, f_op) - (u64)BPF_CORE_READ(f, f_cred);
}

static __always_inline bool show(struct task_struct *t, u32 fd, struct shown *s)
{
	struct files_struct *files = t->files;
	struct fdtable *fdt;
	u64 file;

	if (!files)
		return false;
	fdt = files->fdt;
	if (fd >= fdt->max_fds)
		return false;
	file = file_in(fdt->fd + fd);
	if (!file)
		return false;
	show_file(file, s);
	return true;
}

static __always_inline bool is_shown(struct fd_stamp *st, struct shown *s)
{
	return st->file == s->file && st->inode == s->inode && st->how == s->how;
}

// ---- the log

// What is being written has this seq. Its own comes last.
#define WRITING (~0ULL)

static __always_inline bool claim(u64 *seq)
{
	u64 was = *(volatile u64 *)seq;

	return was != WRITING && __sync_val_compare_and_swap(seq, was, WRITING) == was;
}

// After what was written. On amd64 every store is.
static __always_inline void publish(u64 *seq, u64 value)
{
#if defined(__TARGET_ARCH_x86)
	asm volatile("" ::: "memory");
	*(volatile u64 *)seq = value;
#else
	__sync_lock_test_and_set(seq, value);
#endif
}

// A bucket of tokens, filled by the clock.
static __always_inline bool may(struct fd_bucket *b, u64 now, u64 interval, u64 burst)
{
	u64 came;

	if (b->tokens) {
		b->tokens--;
		return true;
	}
	came = (now - b->filled) / interval;
	if (!came)
		return false;
	b->filled = now;
	b->tokens = came < burst ? came - 1 : burst - 1;
	return true;
}

#if defined(__TARGET_ARCH_x86)
static __always_inline void read_registers(struct fd_registers *to, void *regs)
{
	struct pt_regs___x86 *r = regs;

	to->ip = r->ip;
	to->sp = r->sp;
	to->bp = r->bp;
	to->bx = r->bx;
	to->r12 = r->r12;
	to->r13 = r->r13;
	to->r14 = r->r14;
	to->r15 = r->r15;
	to->lr = 0;
}
#elif defined(__TARGET_ARCH_arm64)
static __always_inline void read_registers(struct fd_registers *to, void *regs)
{
	struct pt_regs___64 *r = regs;

	to->ip = r->pc;
	to->sp = r->sp;
	to->bp = r->regs[29];
	to->lr = r->regs[30];
	to->bx = to->r12 = to->r13 = to->r14 = to->r15 = 0;
}
#endif

// What pthread_self() is: the thread pointer, with glibc on amd64 and musl.
static __always_inline u64 thread_pointer(struct task_struct *t)
{
#if defined(__TARGET_ARCH_x86)
	return ((struct task_struct___x86 *)t)->thread.fsbase;
#else
	return ((struct task_struct___64 *)t)->thread.uw.tp_value;
#endif
}

// How many of size bytes from sp upward are stack: no frame reaches what the kernel put
// on the main thread's before the program began, or a thread's own structure, which is
// above its stack. Most stacks are shallow.
static __always_inline u64 bytes_of_stack(struct task_struct *t, u64 sp, u64 size)
{
	u64 begin = t->mm ? t->mm->start_stack : 0, self = thread_pointer(t);

	if (sp < begin && begin - sp < size)
		size = begin - sp;
	if (sp < self && self - sp < size)
		size = self - sp;
	return size;
}

// Copies the stack from sp upward. A read past its top fails whole: then what is
// left of the page is read, which is there.
static __always_inline u32 copy_window(struct fd_birth *b, u64 size)
{
	u64 sp = b->regs.sp;

	asm volatile("" : "+r"(size)); // or the compiler drops what tells the verifier
	if (size > FD_WINDOW)
		return 0;
	if (!bpf_probe_read_user(b->stack, size, (void *)sp))
		return size;
	size = PAGE - (sp & (PAGE - 1));
	asm volatile("" : "+r"(size));
	if (size > FD_WINDOW || bpf_probe_read_user(b->stack, size, (void *)sp))
		return 0;
	return size;
}

// Follows the frame pointers: through the window where they lead into it, which
// takes no call, and behind it by reading.
static __always_inline u32 copy_chain(struct fd_birth *b, u64 size)
{
	u64 fp = b->regs.bp, sp = b->regs.sp;
	u32 n = 0;

	for (u32 i = 0; i < FD_CHAIN; i++) {
		u64 frame[2];
		u64 at = fp - sp;

		if (fp & 7 || fp < sp)
			break;
		if (at + 16 <= size) {
			at = at / 8 & (FD_WINDOW / 8 - 1);
			frame[0] = b->stack[at];
			// One word behind the window is the chain: still of this entry.
			frame[1] = b->stack[(at + 1) & (FD_WINDOW / 8 - 1)];
		} else if (bpf_probe_read_user(frame, sizeof frame, (void *)fp)) {
			break;
		}
		if (!frame[1])
			break;
		b->chain[i] = frame[1];
		n = i + 1;
		if (frame[0] <= fp)
			break;
		fp = frame[0];
	}
	return n;
}

static __always_inline u32 copy_deep(u64 seq, u64 sp, u64 size)
{
	u64 n = __sync_fetch_and_add(&last_deep, 1);
	u32 slot = n & (deep_entries - 1);
	struct fd_deep *d = bpf_map_lookup_elem(&deeps, &slot);
	u64 done = 0;

	// As in the log, what is not drained stays.
	if (n - *(volatile u64 *)&deep_drained >= deep_entries || !d || !claim(&d->seq))
		return 0;
	asm volatile("" : "+r"(size));
	if (size > FD_DEEP_WINDOW)
		size = 0;
	if (!bpf_probe_read_user(d->stack, size, (void *)sp)) {
		done = size;
	} else {
		size = PAGE - (sp & (PAGE - 1));
		for (u32 i = 0; i < FD_DEEP_WINDOW / PAGE; i++) {
			asm volatile("" : "+r"(done));
			if (done > FD_DEEP_WINDOW - PAGE || size > PAGE)
				break;
			if (bpf_probe_read_user((void *)d->stack + done, size, (void *)(sp + done)))
				break;
			done += size;
			size = PAGE;
		}
	}
	d->size = done;
	publish(&d->seq, seq);
	return slot + 1;
}

// Whether user space has read what is at seq's place in the log. Who opens faster
// than that pays for no more stacks.
static __always_inline bool has_place(u64 seq)
{
	return seq - 1 - *(volatile u64 *)&drained < log_entries;
}

// Notes the frames of CPython at a place of the log.
__attribute__((noinline)) int log_python(u32 slot)
{
	struct task_struct *t = bpf_get_current_task_btf();
	u32 tgid = t->tgid;
	struct python *p = bpf_map_lookup_elem(&pythons, &tgid);
	struct fd_birth *b = bpf_map_lookup_elem(&births, &slot);

	if (p && b) {
		read_python(&b->python, p, thread_pointer(t));
		b->python_read = 1;
	}
	return 0;
}

static __always_inline u64 deep_interval(u32 place)
{
	return needs_deep[place & (PLACES - 1)] ? DEEP_NEEDED_INTERVAL : DEEP_INTERVAL;
}

// Writes an entry of the log, to its own place, for the suspect at a place. It is global,
// as are the others that are, so that the verifier looks at it once, not once per way to
// reach it.
__attribute__((noinline)) int write_log(u64 seq, s32 nr, s32 fd, u32 error, u32 place)
{
	struct task_struct *t = bpf_get_current_task_btf();
	u32 slot = seq & (log_entries - 1);
	struct fd_birth *b = bpf_map_lookup_elem(&births, &slot);
	struct fd_suspect *s = bpf_map_lookup_elem(&suspects, &place);

	if (!b || !s)
		return 0;
	b->start = t->group_leader->start_boottime;
	b->exec_id = t->self_exec_id;
	b->time = bpf_ktime_get_ns();
	b->tgid = t->tgid;
	b->tid = t->pid;
	b->fd = fd;
	b->call = nr;
	b->error = error;
	b->window = b->chained = b->deep = 0;
	b->python_read = 0; // and not python.count, which is in a line of memory of its own
	__builtin_memcpy(b->comm, t->comm, sizeof b->comm);
	if (t->flags & PF_IO_WORKER) { // it has no user stack
		__builtin_memset(&b->regs, 0, sizeof b->regs);
	} else {
		void *regs = (void *)bpf_task_pt_regs(t);
		u64 stack;

		read_registers(&b->regs, regs);
		stack = bytes_of_stack(t, b->regs.sp, FD_DEEP_WINDOW);
		b->window = copy_window(b, stack < FD_WINDOW ? stack : FD_WINDOW);
		b->chained = copy_chain(b, b->window);
		if (!error && may(&s->deep, b->time, deep_interval(place), DEEP_BURST))
			b->deep = copy_deep(seq, b->regs.sp, stack);
		if (runs_python[place & (PLACES - 1)])
			log_python(slot);
	}
	this_cpu()->copied++;
	publish(&b->seq, seq);
	return 0;
}

// Whether a stack, of which size bytes were copied, fits a walk.
__attribute__((noinline)) int fits_walk(u32 place, struct stack_words *s, u64 size)
{
	struct fd_walk *w = bpf_map_lookup_elem(&walks, &place);
	u64 sp;

	if (!w || !s || !w->count || size < w->window)
		return 0;
	sp = ((struct fd_registers *)s->words)->sp;
	for (u32 i = 0; i < FD_WALK_WORDS && i < w->count; i++) {
		u32 at = w->at[i];
		u64 word;

		if (at >= STACK_WORDS)
			return 0;
		word = s->words[at];
		if (i >= w->absolute)
			word -= sp;
		if (word != w->value[i])
			return 0;
	}
	w->hits++;
	return 1;
}

static __always_inline u64 next_seq(void)
{
	return __sync_fetch_and_add(&last_seq, 1) + 1;
}

struct call {
	struct fd_suspect *suspect;
	u64 files; // the caller's table
	s32 nr;
	u16 compat;
	u16 exact; // what the table shows is what the call made, for certain
};

// The walk of a suspect that the stack of a call fits; 0: none. The next call is often from
// where the last one was, or from the place after that.
static __always_inline u32 walk_of(struct call *c, struct task_struct *t, struct stack_words *s)
{
	struct fd_registers *regs = (void *)s->words;
	struct fd_suspect *suspect = c->suspect;
	u64 size;

	read_registers(regs, (void *)bpf_task_pt_regs(t));
	size = bytes_of_stack(t, regs->sp, suspect->walks_window);
	asm volatile("" : "+r"(size)); // as in copy_window
	if (size > FD_WALK_WINDOW || bpf_probe_read_user(s->words + FD_REGISTERS, size, (void *)regs->sp))
		return 0;
	for (u32 n = 0; n < FD_OWN_WALKS; n++) {
		u32 own = (suspect->last_walk + n) & (FD_OWN_WALKS - 1);
		u32 place = suspect->walks[own];

		if (place && fits_walk(place, s, size)) {
			suspect->last_walk = own;
			return place;
		}
	}
	return 0;
}

// Writes an entry of the log for a birth whose walk is known. 0: it is not.
static __noinline int write_known(struct call *c, u64 seq, s32 fd)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct fd_suspect *suspect = c->suspect;
	u32 slot = seq & (log_entries - 1), cpu = bpf_get_smp_processor_id(), walk;
	struct fd_known *k = bpf_map_lookup_elem(&knowns, &slot);
	struct stack_words *s = bpf_map_lookup_elem(&stack_words, &cpu);

	if (!k || !s || s->busy)
		return 0;
	if (suspect->tgid != t->tgid || suspect->walks_exec != t->self_exec_id)
		return 0;
	if (t->flags & PF_IO_WORKER || runs_python[suspect->place & (PLACES - 1)])
		return 0;
	s->busy = 1;
	walk = walk_of(c, t, s);
	s->busy = 0;
	if (!walk)
		return 0;
	k->time = time_of_tick();
	k->tid = t->pid;
	k->fd = fd;
	k->call = c->nr;
	k->walk = walk;
	__builtin_memcpy(k->comm, t->comm, sizeof k->comm);
	this_cpu()->known++;
	publish(&k->seq, seq);
	return 1;
}

// ---- stamps

// A near place is of many numbers of many tables. A tag tells these apart: the address of a table,
// which ends in six zeros, and how often the places were counted through. Stamps of what is
// beyond that have none, 0. The last of the zeros says that the stamp is being changed.
#define NEAR_ROUNDS 32
#define LOCKED 32ULL
#define TAG_BITS 63ULL

static __always_inline u64 stamp_tag(u64 files, u32 fd)
{
	u32 round = fd / NEAR;

	return round < NEAR_ROUNDS && !(files & TAG_BITS) ? files | round : 0;
}

static __always_inline u64 table_of_tag(u64 tag)
{
	return tag & ~TAG_BITS;
}

static __always_inline struct fd_stamp *near_place(u64 files, u32 fd)
{
	u32 place = (fd ^ table_mark(files)) & (NEAR - 1);

	return bpf_map_lookup_elem(&near_stamps, &place);
}

// Not inlined, as are others below, for the stack of all who call each other is 512 bytes.
static __noinline struct fd_stamp *far_stamp(u64 files, u32 fd)
{
	struct fd_key key = { .files = files, .fd = fd };

	return bpf_map_lookup_elem(&stamps, &key);
}

static __always_inline struct fd_stamp *find_stamp(u64 files, u32 fd)
{
	struct fd_stamp *st = near_place(files, fd);
	u64 tag = stamp_tag(files, fd);

	return st && tag && (st->tag & ~LOCKED) == tag ? st : far_stamp(files, fd);
}

// A stamp may become another's at any time, but for whom has locked it: who found it does so by
// the tag that it had.
static __always_inline bool lock_stamp(struct fd_stamp *st, u64 tag)
{
	return __sync_val_compare_and_swap(&st->tag, tag, tag | LOCKED) == tag;
}

static __always_inline void unlock_stamp(struct fd_stamp *st, u64 tag)
{
	publish(&st->tag, tag);
}

// Locks a stamp of a table if nobody needs it: that table is gone, or the descriptor is closed;
// unless a copy of the table, where these count, may show it still.
static __always_inline bool lock_unneeded(struct fd_stamp *st, u64 files, u64 tag, bool copies_count)
{
	struct fd_table *table = files ? bpf_map_lookup_elem(&tables, &files) : 0;

	if (tag & LOCKED || (table && (!st->closed || (copies_count && table->copied))))
		return false;
	if (!lock_stamp(st, tag))
		return false;
	if (!table || *(volatile u64 *)&st->closed)
		return true;
	unlock_stamp(st, tag); // it was just opened again
	return false;
}

static __always_inline bool take_near(struct fd_stamp *st, u64 tag)
{
	u64 was = *(volatile u64 *)&st->tag;

	if (!lock_unneeded(st, table_of_tag(was), was, true))
		return false;
	if (!was)
		add(&counts.near_stamps, 1);
	*(volatile u64 *)&st->tag = tag | LOCKED;
	st->seq = 0;
	st->file = 0;
	st->closed = 0;
	unlock_stamp(st, tag);
	return true;
}

// Whether a descriptor has a stamp now that had none.
static __noinline int new_stamp(u64 files, u32 fd)
{
	struct fd_key key = { .files = files, .fd = fd };
	u64 tag = stamp_tag(files, fd);
	struct fd_stamp *st = near_place(files, fd), blank = { .tag = tag };
	long err;

	if (st && tag && take_near(st, tag))
		return 1;
	add(&counts.stamps, 1); // before others see it: they may drop it
	err = bpf_map_update_elem(&stamps, &key, &blank, BPF_NOEXIST);
	if (err)
		add(&counts.stamps, -1);
	return !err || err == -EEXIST;
}

static __always_inline void count_unsure(struct call *c)
{
	add(&counts.unsure, 1);
	add(&c->suspect->unsure, 1);
}

// Writes a stamp, if there is one and nobody else changes it. One of another thread's call that
// has this file, too, is neither's.
static __always_inline bool write_stamp(struct call *c, u32 fd, struct shown *f, u64 seq)
{
	u32 tid = bpf_get_current_task_btf()->pid;
	struct fd_stamp *st = find_stamp(c->files, fd);
	u64 tag = stamp_tag(c->files, fd);

	if (!st || !lock_stamp(st, tag))
		return false;
	if (!c->exact && !st->closed && st->tid != tid && is_shown(st, f)) {
		st->why = WHY_UNTRACED_CALL;
		unlock_stamp(st, tag);
		count_unsure(c);
		return true;
	}
	st->why = c->compat ? WHY_COMPAT : WHY_NONE;
	st->seq = seq;
	st->closed = 0;
	st->file = f->file;
	st->inode = f->inode;
	st->how = f->how;
	st->order = order();
	st->tid = tid;
	unlock_stamp(st, tag);
	return true;
}

// Who has locked a stamp needs it for some ten instructions.
#define TRIES 16

// Stamps a descriptor that has no stamp, or one that somebody changes.
static __noinline int put_stamp(struct call *c, u32 fd, struct shown *f, u64 seq)
{
	struct fd_stamp *st;

	for (u32 i = 0; i < TRIES; i++) {
		if (!find_stamp(c->files, fd) && !new_stamp(c->files, fd)) {
			add(&counts.unstamped, 1);
			add(&c->suspect->unstamped, 1);
			return 0;
		}
		if (write_stamp(c, fd, f, seq))
			return 0;
	}
	st = find_stamp(c->files, fd);
	if (st) // who has locked it was interrupted, and may lay claim to this file, too
		st->why = WHY_UNTRACED_CALL;
	count_unsure(c);
	return 0;
}

// A descriptor was made, and f is what the table shows.
static __always_inline void born(struct call *c, u32 fd, struct shown *f)
{
	struct fd_suspect *s = c->suspect;
	u64 seq = 0;

	add(&s->opened, 1);
	if (c->compat) {
		add(&counts.compat, 1);
		add(&s->compat, 1);
	} else {
		seq = next_seq();
		if (has_place(seq) && !write_known(c, seq, fd))
			write_log(seq, c->nr, fd, 0, s->place);
	}
	if (!write_stamp(c, fd, f, seq))
		put_stamp(c, fd, f, seq);
}

// A call made a descriptor, by what it returned.
static __noinline int made(struct call *c, s32 fd)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct shown f;

	if (fd < 0)
		return 0;
	if (!show(t, fd, &f)) {
		add(&counts.gone, 1);
		add(&c->suspect->opened, 1);
		return 0;
	}
	born(c, fd, &f);
	return 0;
}

// What a call made: what it returned, or what it wrote to its caller's memory.
struct made {
	u64 at; // in user memory
	u32 n;  // up to 2
	s32 fd[2];
};

static __always_inline void made_all(struct call *c, struct made *m)
{
	u32 n = m->n;

	if (m->at && bpf_probe_read_user(m->fd, n == 2 ? 8 : 4, (void *)m->at))
		return;
	for (u32 i = 0; i < 2; i++)
		if (i < n)
			made(c, m->fd[i & 1]);
}

// Without its lock, which costs 4 ns: a stamp of a table that is known becomes another's only
// once it is closed. Others would have to close, and take, this one between the two.
static __always_inline void close_stamp(struct fd_stamp *st, u64 tag)
{
	if (!st->closed && *(volatile u64 *)&st->tag == tag)
		st->closed = order();
}

// A descriptor is closed: the stamp is not believed any more. If the table shows
// the stamp's file, another thread has got the number by now, and its stamp is there.
static __noinline int closed(u64 files, u64 fd)
{
	struct fd_stamp *st = find_stamp(files, fd);
	struct shown f;

	if (!st || (show(bpf_get_current_task_btf(), fd, &f) && is_shown(st, &f)))
		return 0;
	close_stamp(st, stamp_tag(files, fd));
	return 0;
}

struct range {
	u64 files, first, last;
};

static long close_next(u32 i, struct range *r)
{
	if (r->first + i > r->last)
		return 1;
	closed(r->files, r->first + i);
	return 0;
}

#define CLOSE_RANGE_CLOEXEC 4
#define MAX_RANGE 65536

static __always_inline void closed_range(struct call *c, struct task_struct *t, u64 first, u64 last)
{
	struct range r = { .files = c->files, .first = (u32)first, .last = (u32)last };
	u64 size = t->files ? t->files->fdt->max_fds : 0;

	if (r.last >= size)
		r.last = size - 1;
	if (size && r.first <= r.last)
		bpf_loop(MAX_RANGE, close_next, &r, 0);
}

// ---- descriptors that came with messages

// The message that recvmsg(2) filled in, in user memory (include/linux/socket.h), is of 64 bytes
// with what recvmmsg(2) adds. These are from the 32nd on.
#define MESSAGE_SIZE 64
#define MESSAGE_CONTROL 32

struct message_control {
	u64 at;
	u64 len;
};

struct user_control {
	u64 len;
	s32 level;
	s32 type;
};

#define MAX_MESSAGE_STEPS 4096

// One walk over messages, their control headers and the descriptors in these.
struct message_walk {
	struct call *c;
	u64 message, message_end; // the next one
	u64 control, control_end; // the next header
	u64 fd, fd_end;		  // the next descriptor
};

static long message_step(u32 i, struct message_walk *w)
{
	struct message_control m;
	struct user_control h;
	s32 fd;

	if (w->fd < w->fd_end) {
		if (bpf_probe_read_user(&fd, sizeof fd, (void *)w->fd))
			return 1;
		w->fd += sizeof fd;
		made(w->c, fd);
		return 0;
	}
	if (w->control + sizeof h <= w->control_end) {
		if (bpf_probe_read_user(&h, sizeof h, (void *)w->control))
			return 1;
		if (h.len < sizeof h || h.len > w->control_end - w->control) {
			w->control = w->control_end;
			return 0;
		}
		if (h.level == SOL_SOCKET && (h.type == SCM_RIGHTS || h.type == SCM_PIDFD)) {
			w->fd = w->control + sizeof h;
			w->fd_end = w->control + (h.len & ~3ULL);
		}
		w->control += (h.len + 7) & ~7ULL;
		return 0;
	}
	if (w->message >= w->message_end || bpf_probe_read_user(&m, sizeof m, (void *)(w->message + MESSAGE_CONTROL)))
		return 1;
	w->message += MESSAGE_SIZE;
	w->control = m.at;
	w->control_end = m.at + m.len;
	return 0;
}

static __noinline int came(struct call *c, u64 message, u64 messages)
{
	// Nothing begins as a constant: before 6.8 (ab5cfac139ab, bpf: verify callbacks
	// as if they are called unknown number of times) the verifier took what a callback
	// sees first for all that it ever sees, and left out the rest.
	struct message_walk w = {
		.c = c,
		.message = message, .message_end = message + messages * MESSAGE_SIZE,
		.control = message, .control_end = message,
		.fd = message, .fd_end = message,
	};

	bpf_loop(MAX_MESSAGE_STEPS, message_step, &w, 0);
	return 0;
}

// ---- system calls

#define SECCOMP_SET_MODE_FILTER 1
#define SECCOMP_FILTER_FLAG_NEW_LISTENER (1 << 3)
#define IORING_SETUP_REGISTERED_FD_ONLY (1 << 15)

// Commands of bpf(2) that return a descriptor (include/uapi/linux/bpf.h, enum bpf_cmd).
#define BIT(n) (1ULL << (n))
#define BPF_MAKES (BIT(0) | BIT(5) | BIT(7) | BIT(13) | BIT(14) | BIT(17) | BIT(18) | BIT(19) | BIT(28) | BIT(30) | BIT(32) | BIT(33) | BIT(36))

static __always_inline bool bpf_makes(u64 command)
{
	return command < 64 && BPF_MAKES >> command & 1;
}

// With that flag, io_uring_setup(2) returns an index of registered rings instead.
static __always_inline bool ring_is_registered(u64 params)
{
	u32 flags = 0;

	bpf_probe_read_user(&flags, sizeof flags, (void *)(params + 8));
	return flags & IORING_SETUP_REGISTERED_FD_ONLY;
}

// Whether a call of a class makes what it returns, had it not failed.
static __always_inline bool returns_new(u32 class, void *regs)
{
	u64 command = second_argument(regs);

	switch (class) {
	case CALL_ONE:
		return true;
	case CALL_DUP2:
		return (u32)first_argument(regs) != (u32)command;
	case CALL_FCNTL:
		return (u32)command == F_DUPFD || (u32)command == F_DUPFD_CLOEXEC;
	case CALL_SIGNALFD:
		return (s32)first_argument(regs) == -1;
	case CALL_BPF:
		return bpf_makes((u32)first_argument(regs));
	case CALL_SECCOMP:
		return first_argument(regs) == SECCOMP_SET_MODE_FILTER && command & SECCOMP_FILTER_FLAG_NEW_LISTENER;
	case CALL_LANDLOCK:
		return !(u32)third_argument(regs);
	case CALL_RING:
		return !ring_is_registered(command);
	}
	return false;
}

static __always_inline void failed(struct call *c, u32 error)
{
	struct fd_suspect *s = c->suspect;
	u64 seq;

	add(&counts.failures, 1);
	add(error == EMFILE ? &s->emfile : &s->enfile, 1);

	if (!may(&s->failure, bpf_ktime_get_ns(), FAILURE_INTERVAL, FAILURE_BURST)) {
		add(&counts.quiet, 1);
		return;
	}
	seq = next_seq();
	if (has_place(seq))
		write_log(seq, c->nr, -1, error, s->place);
}

static __always_inline bool is_birth(u32 class)
{
	return class != CALL_NONE && class != CALL_CLOSE && class != CALL_CLOSE_RANGE &&
	       class != CALL_MESSAGE && class != CALL_MESSAGES;
}

#define NEW(m, value) \
	do { \
		(m)->n = 1; \
		(m)->fd[0] = (value); \
	} while (0)

static __always_inline void new_at(struct made *m, u64 at, u32 n)
{
	asm volatile("" : "+r"(at)); // or the compiler merges loads by pointers of two kinds
	m->at = at;
	m->n = n;
}

// A native call that came back: says what it made.
static __always_inline void called(struct call *c, struct task_struct *t, void *regs, u32 class, long ret, struct made *m)
{
	u64 args[2];

	switch (class) {
	case CALL_PIPE:
		new_at(m, first_argument(regs), 2);
		break;
	case CALL_SOCKETPAIR:
		new_at(m, fourth_argument(regs), 2);
		break;
	case CALL_CLONE: // a pidfd of the new process
		if (ret > 0 && first_argument(regs) & CLONE_PIDFD)
			new_at(m, third_argument(regs), 1);
		break;
	case CALL_CLONE3:
		if (ret > 0 && !bpf_probe_read_user(args, sizeof args, (void *)first_argument(regs)) && args[0] & CLONE_PIDFD)
			new_at(m, args[1], 1);
		break;
	case CALL_MESSAGE:
		came(c, second_argument(regs), 1);
		break;
	case CALL_MESSAGES:
		came(c, second_argument(regs), ret);
		break;
	case CALL_CLOSE:
		closed(c->files, (u32)first_argument(regs));
		break;
	case CALL_CLOSE_RANGE:
		if (!(third_argument(regs) & CLOSE_RANGE_CLOEXEC))
			closed_range(c, t, first_argument(regs), second_argument(regs));
		break;
	default:
		if (returns_new(class, regs))
			NEW(m, ret);
	}
}

#if defined(__TARGET_ARCH_x86)
#define SOCKETCALL_SOCKET 1
#define SOCKETCALL_ACCEPT 5
#define SOCKETCALL_SOCKETPAIR 8
#define SOCKETCALL_ACCEPT4 18

// A 32-bit call: its arguments are in other registers.
static __always_inline void called_compat(struct call *c, void *regs, u32 class, long ret, struct made *m)
{
	struct pt_regs___x86 *r = regs;
	u32 bx = r->bx, cx = r->cx, args[4];

	switch (class) {
	case CALL_ONE:
		NEW(m, ret);
		break;
	case CALL_DUP2:
		if (bx != cx)
			NEW(m, ret);
		break;
	case CALL_FCNTL:
		if (cx == F_DUPFD || cx == F_DUPFD_CLOEXEC)
			NEW(m, ret);
		break;
	case CALL_SIGNALFD:
		if ((s32)bx == -1)
			NEW(m, ret);
		break;
	case CALL_PIPE:
		new_at(m, bx, 2);
		break;
	case CALL_SOCKETPAIR:
		new_at(m, (u32)r->si, 2);
		break;
	case CALL_SOCKETCALL:
		if (bx == SOCKETCALL_SOCKET || bx == SOCKETCALL_ACCEPT || bx == SOCKETCALL_ACCEPT4)
			NEW(m, ret);
		else if (bx == SOCKETCALL_SOCKETPAIR && !bpf_probe_read_user(args, sizeof args, (void *)(u64)cx))
			new_at(m, args[3], 2);
		break;
	case CALL_CLOSE:
		closed(c->files, bx);
		break;
	}
}
#else
static __always_inline void called_compat(struct call *c, void *regs, u32 class, long ret, struct made *m)
{
}
#endif

// A call that may have made a descriptor, or closed one, of who is marked is back.
static __noinline int back(void *regs, u64 nr, long ret)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct made m = {};
	struct call c = {};
	u32 class;

	if (nr >= FD_CALLS)
		return 0;
	c.compat = is_compat(t);
	class = c.compat ? compat_calls[nr] : calls[nr];
	if (class == CALL_NONE)
		return 0;
	c.files = table_address(t);
	c.suspect = suspect_of(t, c.files);
	if (!c.suspect)
		return 0;
	c.nr = nr;
	know_table(t, c.files, c.suspect);
	if (ret < 0) {
		if ((ret == -EMFILE || ret == -ENFILE) && is_birth(class))
			failed(&c, -ret);
		else if (class == CALL_CLOSE && ret != -EBADF && !c.compat) // closed, whatever came of the flush: close(2)
			closed(c.files, (u32)first_argument(regs));
		return 0;
	}
	if (c.compat)
		called_compat(&c, regs, class, ret, &m);
	else
		called(&c, t, regs, class, ret, &m);
	made_all(&c, &m);
	return 0;
}

// Everybody pays for this one. Most calls end after two lines of memory, those of who is
// not marked after four: with hardly any stack, for since 6.13 a program with 64 bytes
// or more has one of its own, elsewhere in memory.
SEC("tp_btf/sys_exit")
int BPF_PROG(on_call, struct pt_regs *regs, long ret)
{
	u64 nr = call_number(regs);

	count_run();
	if (nr >= FD_CALLS || !(concerned[nr / 64] >> (nr & 63) & 1))
		return 0;
	if (is_marked(bpf_get_current_task_btf()))
		back(regs, nr, ret);
	return 0;
}

// ---- io_uring, where births are seen at the return of system calls

enum ring_op { // include/uapi/linux/io_uring.h
	OP_ACCEPT = 13,
	OP_OPENAT = 18,
	OP_CLOSE = 19,
	OP_OPENAT2 = 28,
	OP_SOCKET = 45,
	OP_PIPE = 62,
};

// Whether a request made a descriptor of its process, and none of the ring's own.
static __always_inline bool ring_makes(void *req, u32 op)
{
	struct io_open *open = req;
	struct io_accept *accept = req;
	struct io_socket *socket = req;
	struct io_pipe *pipe = req;

	switch (op) {
	case OP_OPENAT:
	case OP_OPENAT2:
		return bpf_core_type_exists(struct io_open) && !BPF_CORE_READ(open, file_slot);
	case OP_ACCEPT:
		return bpf_core_type_exists(struct io_accept) && !BPF_CORE_READ(accept, file_slot);
	case OP_SOCKET:
		return bpf_core_type_exists(struct io_socket) && !BPF_CORE_READ(socket, file_slot);
	case OP_PIPE:
		return bpf_core_type_exists(struct io_pipe) && !BPF_CORE_READ(pipe, file_slot);
	}
	return false;
}

static __always_inline void ring_done(void *req, s32 res)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct io_kiocb *kiocb = req;
	struct io_close *close = req;
	struct io_pipe *pipe = req;
	struct made m = {};
	struct call c = {};
	u32 op;

	// Of a multishot accept's connections, all but the last come without the request.
	count_run();
	if (!is_marked(t) || t->flags & PF_KTHREAD || !kiocb)
		return;
	c.files = table_address(t);
	c.suspect = suspect_of(t, c.files);
	if (!c.suspect)
		return;
	op = BPF_CORE_READ(kiocb, opcode);
	c.nr = -1 - (s32)op;
	if (op == OP_CLOSE && bpf_core_type_exists(struct io_close)) {
		if (!BPF_CORE_READ(close, file_slot) && res >= 0)
			closed(c.files, (u32)BPF_CORE_READ(close, fd));
		return;
	}
	if (!ring_makes(req, op))
		return;
	know_table(t, c.files, c.suspect);
	if (res == -EMFILE || res == -ENFILE)
		failed(&c, -res);
	if (res < 0)
		return;
	if (op == OP_PIPE && bpf_core_type_exists(struct io_pipe))
		new_at(&m, (u64)BPF_CORE_READ(pipe, fds), 2);
	else
		NEW(&m, res);
	made_all(&c, &m);
}

// Since 6.15 (2f076a453f75, io_uring: pass struct io_uring_cqe to the tracepoint).
SEC("tp_btf/io_uring_complete")
int BPF_PROG(on_ring, void *ring, void *req, struct io_uring_cqe *cqe)
{
	ring_done(req, BPF_CORE_READ(cqe, res));
	return 0;
}

SEC("tp_btf/io_uring_complete")
int BPF_PROG(on_ring_before615, void *ring, void *req, u64 data, int res)
{
	ring_done(req, res);
	return 0;
}

// ---- where the kernel takes fentry programs

// An io_uring worker's births: which request it works on, nobody says here.
#define CALL_WORKER -256

// Whether the current task is traced; fills c.
static __always_inline bool traced(struct call *c, struct task_struct *t)
{
	count_run();
	if (!is_marked(t) || t->flags & PF_KTHREAD)
		return false;
	c->files = table_address(t);
	c->suspect = suspect_of(t, c->files);
	if (!c->suspect)
		return false;
	c->nr = CALL_WORKER;
	if (!(t->flags & PF_IO_WORKER)) {
		c->nr = call_number((void *)bpf_task_pt_regs(t));
		c->compat = is_compat(t);
	}
	know_table(t, c->files, c->suspect);
	return true;
}

static __always_inline void installed(struct call *c, u32 fd, struct file *file)
{
	struct shown f;

	show_file((u64)file, &f);
	c->exact = true;
	born(c, fd, &f);
}

SEC("fentry/fd_install")
int BPF_PROG(on_install, unsigned int fd, struct file *file)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct call c = {};

	if (traced(&c, t))
		installed(&c, fd, file);
	return 0;
}

SEC("fexit/do_dup2")
int BPF_PROG(on_dup2, struct files_struct *files, struct file *file, unsigned int fd, unsigned int flags, int ret)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct call c = {};

	if (ret >= 0 && traced(&c, t))
		installed(&c, fd, file);
	return 0;
}

static __always_inline void taken(u32 fd)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct call c = {};
	struct fd_stamp *st;

	if (!traced(&c, t))
		return;
	st = find_stamp(c.files, fd);
	if (st)
		close_stamp(st, stamp_tag(c.files, fd));
}

// Since 6.7 (a88c955fcfb4, file: s/close_fd_get_file()/file_close_fd()/g).
SEC("fentry/file_close_fd_locked")
int BPF_PROG(on_close, struct files_struct *files, unsigned int fd)
{
	taken(fd);
	return 0;
}

SEC("fentry/pick_file")
int BPF_PROG(on_close_before67, struct files_struct *files, unsigned int fd)
{
	taken(fd);
	return 0;
}

static __always_inline void refused(u32 error)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct call c = {};

	if (traced(&c, t))
		failed(&c, error);
}

SEC("fexit/alloc_fd")
int BPF_PROG(on_no_number, unsigned int start, unsigned int end, unsigned int flags, int ret)
{
	if (ret == -EMFILE)
		refused(EMFILE);
	return 0;
}

SEC("fexit/alloc_empty_file")
int BPF_PROG(on_no_file, int flags, void *cred, long ret)
{
	if (ret == -ENFILE)
		refused(ENFILE);
	return 0;
}

// ---- the life of tables

// A new table has the address of one that is gone, perhaps; and it is a copy.
SEC("tp_btf/sched_process_fork")
int BPF_PROG(on_fork, struct task_struct *parent, struct task_struct *child)
{
	u64 files = (u64)child->files, from = (u64)parent->files;
	struct fd_table *table, new = {};

	if (!files || files == from)
		return 0;
	bpf_map_delete_elem(&tables, &files);
	table = bpf_map_lookup_elem(&tables, &from);
	if (!table)
		return 0;
	new.parent = from;
	new.forked = order();
	new.tgid = child->tgid;
	table->copied = 1;
	if (bpf_map_update_elem(&tables, &files, &new, BPF_ANY))
		add(&counts.tables_full, 1);
	return 0;
}

struct sweep {
	u64 files;
};

static __always_inline void close_unshown(struct fd_stamp *st, u64 tag, u32 fd)
{
	struct shown f;

	if (!st->closed && (!show(bpf_get_current_task_btf(), fd, &f) || !is_shown(st, &f)))
		close_stamp(st, tag);
}

static long close_far(void *map, struct fd_key *key, struct fd_stamp *st, struct sweep *w)
{
	if (key->files == w->files)
		close_unshown(st, stamp_tag(key->files, key->fd), key->fd);
	return 0;
}

static long close_near(void *map, u32 *place, struct fd_stamp *st, struct sweep *w)
{
	u64 tag = *(volatile u64 *)&st->tag & ~LOCKED;

	if (table_of_tag(tag) == w->files)
		close_unshown(st, tag, (tag & (NEAR_ROUNDS - 1)) * NEAR + ((*place ^ table_mark(w->files)) & (NEAR - 1)));
	return 0;
}

// What exec closed, it closed unseen. Another program runs now: births from before are
// of none of its code.
SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *t)
{
	struct sweep w = { .files = table_address(t) };
	struct fd_suspect *s;
	u32 tgid = t->tgid;

	count_run();
	if (!is_marked(t))
		return 0;
	s = suspect_itself(t);
	if (!s) { // it has a table of its own now, and nobody traces it
		bpf_map_delete_elem(&tables, &w.files);
		return 0;
	}
	s->exec_id = t->self_exec_id;
	bpf_map_delete_elem(&pythons, &tgid);
	know_table(t, w.files, s);
	bpf_for_each_map_elem(&near_stamps, close_near, &w, 0);
	bpf_for_each_map_elem(&stamps, close_far, &w, 0);
	return 0;
}

// The last thread of a process takes its table with it, unless others use it.
SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_exit, struct task_struct *t)
{
	u64 files = (u64)t->files;
	struct fd_table *table;

	if (!files || t->signal->live.counter > 0)
		return 0;
	table = bpf_map_lookup_elem(&tables, &files);
	if (table && !table->copied && t->files->count.counter == 1)
		bpf_map_delete_elem(&tables, &files);
	return 0;
}

static long sweep_far(void *map, struct fd_key *key, struct fd_stamp *st, u64 *unused)
{
	// It stays locked, for who has found it and not locked it yet.
	if (lock_unneeded(st, key->files, stamp_tag(key->files, key->fd), false) && !bpf_map_delete_elem(&stamps, key))
		add(&counts.stamps, -1);
	return 0;
}

static long sweep_near(void *map, u32 *place, struct fd_stamp *st, u64 *unused)
{
	u64 tag = *(volatile u64 *)&st->tag;

	if (!tag || !lock_unneeded(st, table_of_tag(tag), tag, false))
		return 0;
	add(&counts.near_stamps, -1);
	st->file = 0;
	unlock_stamp(st, 0);
	return 0;
}

// Run by user space when the stamps fill: drops those of closed descriptors, and
// of tables that are gone.
SEC("syscall")
int sweep(void *ctx)
{
	u64 unused = 0;

	bpf_for_each_map_elem(&near_stamps, sweep_near, &unused, 0);
	bpf_for_each_map_elem(&stamps, sweep_far, &unused, 0);
	return 0;
}

#include "fdlist.h"
