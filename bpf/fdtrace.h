// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
// What the descriptor tracer shares with internal/loader: the log of births, and
// what a process's table holds. Integers only, no padding that the compiler chooses.
#ifndef RMAGENT_FDTRACE_H
#define RMAGENT_FDTRACE_H

#include "python.h"

#define FD_WINDOW 2048	     // bytes of stack that every birth has
#define FD_DEEP_WINDOW 16384 // and that some have
#define FD_CHAIN 32	     // return addresses by the chain of frame pointers
#define FD_LIST 1024	     // descriptors that one run of the list gives
#define FD_SUSPECTS 256
#define FD_CALLS 512	     // system calls by number
#define FD_CPUS 256	     // CPUs that have a line of memory of their own; a power of two
#define FD_WALKS 512	     // walks that are known, of all suspects; the first is none
#define FD_OWN_WALKS 16	     // and of one; a power of two
#define FD_WALK_WORDS 48     // that a walk read
#define FD_WALK_WINDOW 8056  // bytes of stack that these may be in
#define FD_REGISTERS 16	     // words of a stack that are for registers, the rest is from sp upward
#define FD_ANCESTORS 4	     // tables from which a table came by fork, itself included

// What a system call does to its caller's descriptors.
enum fd_call {
	CALL_NONE,
	CALL_ONE,	 // makes what it returns
	CALL_PIPE,	 // writes two to its first argument
	CALL_SOCKETPAIR, // to its fourth
	CALL_DUP2,	 // makes what it returns, unless both arguments are one
	CALL_FCNTL,	 // makes what it returns, for two of its commands
	CALL_SIGNALFD,	 // makes what it returns, if it was given none
	CALL_CLONE,	 // writes a pidfd to its third argument, if a flag says so
	CALL_CLONE3,
	CALL_MESSAGE,	 // makes what came with a message
	CALL_MESSAGES,
	CALL_BPF,	 // makes what it returns, for some of its commands
	CALL_SECCOMP,	 // makes what it returns, if a flag says so
	CALL_LANDLOCK,	 // makes what it returns, if it has no flags
	CALL_RING,	 // io_uring_setup
	CALL_SOCKETCALL, // of 32-bit callers
	CALL_CLOSE,
	CALL_CLOSE_RANGE,
};

// Why a stamp names no birth: the numbers of sample.Unattributed.
enum fd_why {
	WHY_NONE,
	WHY_BEFORE_TRACING,
	WHY_UNTRACED_CALL,
	WHY_COMPAT,
	WHY_MAP_FULL,
};

struct fd_bucket {
	u64 tokens;
	u64 filled; // CLOCK_MONOTONIC
};

// A process whose births are traced.
struct fd_suspect {
	u64 start;	// of the leader, CLOCK_BOOTTIME
	u64 opened;	// descriptors that it got
	u64 emfile;	// calls that failed for want of one
	u64 enfile;
	u64 unstamped;	// of opened: found the stamps full
	u64 unsure;	// of opened: another call may have made it
	u64 compat;	// of opened: by a 32-bit call
	struct fd_bucket deep;	  // deep windows
	struct fd_bucket failure; // failures that are logged
	u64 files;	// its table, last known
	u64 exec_id;	// since its last exec that was seen; 0: none was
	u32 tgid;	// 0: nobody
	u32 next;	// of those whose first_suspect this is, too
	u32 place;	// its own, among the suspects
	// The walks that are known are of the program with this exec_id, which is never 0; the
	// furthest looks at so many bytes of stack.
	u32 walks_window;
	u64 walks_exec; // 0: none is known
	u32 last_walk;	// where in walks the last one was that fit
	u32 unused;
	u32 walks[FD_OWN_WALKS]; // their places among all; 0: none
};

// A walk that is known, by all that it read: a stack with these words is walked alike.
struct fd_walk {
	u32 count;  // of words
	u32 window; // bytes of stack that they are in
	u32 hits;   // stacks that had them
	u32 absolute; // how many words are what they are; those after these are distances from sp
	u64 value[FD_WALK_WORDS];
	u16 at[FD_WALK_WORDS]; // which word: a register by its number, or FD_REGISTERS and more
};

// Where a descriptor is: its table and number. Twelve bytes, which the kernel's maps hash in one
// round, and sixteen in two.
struct fd_key {
	u64 files;
	u32 fd;
} __attribute__((packed));

// Who made a descriptor.
struct fd_stamp {
	u64 tag;    // whose it is, and whether it is being changed: written last
	u64 seq;    // of the birth; 0: why says why not
	u64 file;   // what the table showed then
	u64 inode;
	u64 how;    // and how it was opened: by whose credentials, with which operations
	u64 order;  // when; since, until and closed count alike
	u64 closed; // when it was seen to be closed; 0: it was not
	u32 tid;
	u32 why;
};

// A table of descriptors that is traced, or came by fork from one that is.
struct fd_table {
	u64 since;  // when tracing began; 0: it is not traced
	u64 parent; // the table that it is a copy of; 0: none that is known
	u64 forked; // when it was copied
	u32 tgid;   // whose it is
	u32 copied; // other tables have this one as their parent
};

struct fd_registers {
	u64 ip, sp, bp, bx, r12, r13, r14, r15, lr;
};

// One entry of the log: a call that made a descriptor, or found none left.
struct fd_birth {
	u64 seq; // written last, the rest before
	u64 start;
	u64 exec_id; // changes with exec
	u64 time;
	s32 tgid;
	s32 tid;
	s32 fd;
	s32 call;  // number of the system call, or -1 - opcode
	u32 error; // EMFILE or ENFILE
	u32 window; // bytes of stack
	u32 chained;
	u32 deep; // 1 + its place among the deep windows; 0: it has none
	u32 python_read; // python is of this birth
	u32 unused;
	struct fd_registers regs;
	char comm[16];
	u64 stack[FD_WINDOW / 8];
	u64 chain[FD_CHAIN];
	struct python_frames python;
};

// And one of a call whose stack's walk is known: a line of memory, not forty.
struct fd_known {
	u64 seq; // as above
	u64 time; // the last tick's, or later
	u32 walk; // its place, and with it whose it is
	s32 tid;
	s32 fd;
	s32 call;
	char comm[16];
	u64 unused[2];
};

struct fd_deep {
	u64 seq; // of the birth
	u64 size;
	u64 stack[FD_DEEP_WINDOW / 8];
};

// What one run of the list is asked, and what it answers.
struct fd_list_args {
	s32 tgid; // in
	u32 from; // in: the first descriptor
	u32 max;  // in: at most so many, up to FD_LIST
	u32 found;  // out: the process is there
	u32 count;  // out: records
	u32 next;   // out: where to go on
	u32 done;   // out: the table is at its end
	u32 torn;   // out: the table was replaced meanwhile
	u64 start;  // out: of the leader, CLOCK_BOOTTIME
	u64 files;  // out: address of the table; 0: it has none any more
	u64 since; // out: tracing of this table began then; 0: it is not traced
};

// A descriptor as the table shows it.
struct fd_record {
	u64 file;
	u64 inode; // its number
	u64 seq;   // of its birth; 0: why says why not
	u64 magic; // of the file system
	u32 fd;
	u32 mode;
	u32 device;
	u32 why;	// 0 with seq 0: it has no stamp
	u16 family;	// of a socket
	u16 protocol;
	u16 local_port; // both in network order
	u16 remote_port;
	u32 state;
	u32 placeless;	// a file without a directory
	u8 local[16];
	u8 remote[16];
	char name[24];	// the beginning of the dentry's
	u64 used;	// changes while it is used: bytes over TCP, a file's position
};

// What is of one CPU: a line of memory.
struct fd_cpu {
	u64 runs;   // of hooks, for whomever: the cost is estimated from them
	u64 copied; // stacks
	u64 known;  // stacks that were compared instead
	u64 tick;   // when the clock was read last
	u64 now;    // and what it said
	u64 unused[3];
} __attribute__((aligned(64)));

// What was counted since the tracer was opened.
struct fd_counts {
	u64 failures;	// EMFILE and ENFILE
	u64 quiet;	// failures that were counted only, to spare the log
	u64 unstamped;	// births that found the stamps full
	u64 unsure;	// births that another call may have made
	u64 compat;	// births by 32-bit calls
	u64 gone;	// births that the table did not show any more
	u64 tables_full;
	u64 near_stamps; // in use, where they are found first
	u64 stamps;	// in use, behind them
};

_Static_assert(sizeof(struct fd_birth) == 72 + 72 + 16 + FD_WINDOW + 8 * FD_CHAIN + 40 + 16 * PYTHON_FRAMES, "fd_birth");
_Static_assert(sizeof(struct fd_known) == 64, "fd_known");
_Static_assert(sizeof(struct fd_walk) == 16 + 10 * FD_WALK_WORDS, "fd_walk");
_Static_assert(sizeof(struct fd_stamp) == 64, "fd_stamp");
_Static_assert(sizeof(struct fd_record) == 48 + 16 + 32 + 24 + 8, "fd_record");
_Static_assert(sizeof(struct fd_list_args) == 56, "fd_list_args");

#endif
