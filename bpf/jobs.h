// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
// What the programs of bpf/jobs.bpf.c share with Go: the totals of a job, what one
// task of it uses now, and notices. Integers only, no padding that the compiler
// chooses. Times are CLOCK_BOOTTIME in nanoseconds.
#ifndef RMAGENT_JOBS_H
#define RMAGENT_JOBS_H

#define JOBS 64 // at once, but for what user space makes of it
#define JOBS_OF_TASK 4 // a job may run in another

// A job. What its tasks used is added when each ends; what they use while they live
// is theirs, and read by job_tasks. Bytes of the network are added as they move.
struct job {
	u64 id; // 0: the place is free. No two jobs have the same
	// What user space asks for.
	u64 uid;           // whose processes may be killed; 0: everybody's
	u64 max_at_once;   // processes; 0: no limit
	u64 fatal_at_once; // processes: at more, who forks is killed; 0: never
	u64 max_processes; // in all; 0: no limit
	u64 dying;         // 1: whoever makes a system call is killed, while on_job_call is attached
	// Processes and tasks (threads).
	u64 processes; // in all
	u64 now;       // that have not ended
	u64 most;      // at once
	u64 most_at;
	u64 tasks;     // whose totals are still to come
	u64 threads;   // in all
	u64 untagged;  // tasks that there was no memory to tag
	// Sums over the tasks that ended.
	u64 cpu; // ns, exact
	u64 utime;
	u64 stime;
	u64 run_delay;
	u64 min_flt;
	u64 maj_flt;
	u64 voluntary;
	u64 involuntary;
	u64 rchar;
	u64 wchar;
	u64 read_bytes;
	u64 write_bytes;
	u64 net_received;
	u64 net_sent;
	// Of the one process that had most of it.
	u64 peak_pages;
	u64 peak_at;         // when that process ended
	u64 peak_vm_pages;
	u64 peak_fds;        // at its end
	u64 peak_fds_at;
	u64 peak_hidden;     // processes whose peak may be up to hidden_pages, and is not known
	u64 hidden_pages;
	u64 fds_full;        // processes that ended with as many descriptors as they may have
	u64 oom_kills;
};

enum job_notice_kind {
	NOTICE_EMPTY = 1, // all tasks have ended, and all totals are there
	NOTICE_AT_ONCE,   // more processes at once than max_at_once
	NOTICE_PROCESSES, // more in all than max_processes
};

struct job_notice {
	u64 job; // its id
	u64 time;
	u64 kind;
};

enum job_task_flag {
	JOB_LEADER = 1,   // speaks for the process: the fields from mm on mean something
	JOB_MM = 2,       // the memory fields mean something
	JOB_FILES = 4,    // the descriptor fields mean something
	JOB_COPIED = 8,   // its memory may be shared with a process that it forked, or that forked it
	JOB_FORKED = 16,  // has not called exec since it was forked
	JOB_FIRST = 32,   // a job's first process, in the launcher's memory until it calls exec
};

// A living task of a job, or of several, one in the other.
struct job_task {
	u64 job[JOBS_OF_TASK]; // their ids; 0: none
	u32 flags;
	u32 pid;
	u32 tid;
	u32 uid; // real
	u64 start;
	u64 cpu;
	u64 utime;
	u64 stime;
	u64 run_delay;
	u64 min_flt;
	u64 maj_flt;
	u64 voluntary;
	u64 involuntary;
	u64 rchar;
	u64 wchar;
	u64 read_bytes;
	u64 write_bytes;
	u64 mm;    // address: equal ones are one
	u64 files; // the same
	u64 file_pages;
	u64 anon_pages;
	u64 swap_pages;
	u64 shmem_pages;
	u64 peak_pages; // of this address space
	u64 vm_pages;
	u64 peak_vm_pages;
	u64 fds;
	u64 fd_limit;
	char comm[16];
};

// Who is about to fork a job's first process: by the ID of the thread.
struct job_launcher {
	u64 job;
	u32 slot;
	u32 pid;
	u64 start_ticks; // of its process, in hundredths of a second: another that got the same ID is another
};

_Static_assert(sizeof(struct job) == 8 * 36, "job");
_Static_assert(sizeof(struct job_notice) == 24, "job_notice");
_Static_assert(sizeof(struct job_task) == 8 * JOBS_OF_TASK + 16 + 8 * 24 + 16, "job_task");
_Static_assert(sizeof(struct job_launcher) == 24, "job_launcher");

#endif
