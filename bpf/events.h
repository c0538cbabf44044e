// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
// What the event programs share: with the scan, the state of a process
// (struct task_state); with Go, the records of the ring and the counts of the
// balance. Integers only, largest first, no padding that the compiler chooses.
#ifndef RMAGENT_EVENTS_H
#define RMAGENT_EVENTS_H

#define EXE_MAX 256 // the longest exe that is kept
#define EPOCHS 8    // of 2^30 ns each

// Counters of a process that only events can count. They are what the spill
// saves when the task that they hang on is discarded.
struct task_counters {
	u64 net_received;
	u64 net_sent;
	u64 fd_opened;
	u64 fd_closed;
	u64 fd_unsure; // calls whose descriptors could not be counted
};

// What a process counts, in task storage on its group leader. There is one only
// where something was counted.
struct task_state {
	struct task_counters n;
};

// What a system call does to its caller's descriptors.
enum fd_class {
	FD_NONE,
	FD_ONE,      // opens what it returns
	FD_PAIR,     // opens two
	FD_FCNTL,    // opens what it returns, for two of its commands
	FD_CLOSE,
	FD_SIGNALFD, // opens what it returns, if it was given none
	FD_CLONE,    // opens a pidfd, if a flag says so
	FD_CLONE3,
	FD_MESSAGE,  // opens what came with a message
	FD_MESSAGES,
	FD_MAYBE,    // opens something, perhaps, if it returns more than 0
	FD_UNSURE,   // does something that its result does not tell
	FD_CALLS = 512,
};

enum event_kind {
	EVENT_EXIT = 1,
	EVENT_OOM,
};

enum event_flag {
	FLAG_CPU_FINAL = 1,    // every thread's accounting is complete
	FLAG_PARENT = 2,       // ppid, ns_pid and exit_time are known
	FLAG_KERNEL_THREAD = 8,
	FLAG_RSS = 16,         // an OOM record's RSS parts are known
};

// The head of every record.
struct event_head {
	u32 kind;
	u32 exe_len; // bytes of exe after the record; 0 where it is unknown
	u32 flags;
	u32 uid; // real
	s32 pid;
	s32 ppid;
	u64 start; // CLOCK_BOOTTIME
	u64 time;  // CLOCK_BOOTTIME
	u64 cgroup_id;
	u64 exec_id;
	char comm[16];
};

struct exit_record {
	struct event_head h;
	s32 ns_pid;
	u32 status; // as wait(2) gives it
	u64 cpu;    // ns
	u64 utime;  // ns, sampled by the tick
	u64 stime;
	u64 min_flt;
	u64 maj_flt;
	u64 peak_pages;
	u64 rchar;
	u64 wchar;
	u64 read_bytes;
	u64 write_bytes;
	struct task_counters n;
};

enum { DYING = 1, DEAD };

// A process from its birth to the record of its end.
struct process_entry {
	u64 dead; // 0, DYING while the record is written, DEAD once it is
	u64 sent; // 1 once the record belongs to somebody
	struct exit_record r; // until it is dead, only r.h.start and r.h.exe_len
	char exe[EXE_MAX];    // r.h.exe_len bytes
};

struct oom_record {
	struct event_head h;
	u64 file_pages;
	u64 anon_pages;
	u64 swap_pages;
	u64 shmem_pages;
	u64 peak_pages;
	u64 total_vm_pages;
};

// The balance of one kind of event.
struct event_balance {
	u64 seen;
	u64 sent;
	u64 lost_ring;
};

// Everything that was counted, or could not be.
struct event_counts {
	struct event_balance exits;
	struct event_balance ooms;
	s64 untold[EPOCHS];        // processes that ended and were not told of, by when
	s64 kept;                  // of those, freed while the ring was full
	u64 state_failed;        // no memory for a process's state
	u64 spill_failed;        // the spill was full
	u64 hold_failed;         // processes was full: told only when they are reaped
	u64 uncounted_received;  // bytes that found no state
	u64 uncounted_sent;
	u64 uncounted_fds;
	u64 stranded;            // processes whose old leader went with counters
};

_Static_assert(sizeof(struct task_counters) == 40, "task_counters");
_Static_assert(sizeof(struct process_entry) == 16 + 200 + EXE_MAX, "process_entry");
_Static_assert(sizeof(struct event_head) == 72, "event_head");
_Static_assert(sizeof(struct exit_record) == 72 + 88 + 40, "exit_record");
_Static_assert(sizeof(struct oom_record) == 72 + 48, "oom_record");

#endif
