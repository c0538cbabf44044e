/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/* What the scan says of one process: shared with internal/loader, integers only. */
#ifndef RMAGENT_SCAN_H
#define RMAGENT_SCAN_H

/* How many records one run of the scan can hand over. */
#define SCAN_CHUNK 1024

/* How many descriptor tables of one process are told apart. */
#define SCAN_TABLES 4

/* Bits of process_record.flags. */
enum {
	REC_KTHREAD = 1 << 0,	/* a kernel thread */
	REC_MM = 1 << 1,	/* has an address space: the memory fields mean something */
	REC_FILES = 1 << 2,	/* has a descriptor table: fd_open means something */
	REC_CPU_TORN = 1 << 3,	/* threads ended during every attempt to sum them */
	REC_FD_TORN = 1 << 4,	/* the descriptor table went away during every attempt */
	REC_TABLES_MORE = 1 << 5, /* more than SCAN_TABLES tables: fd_open lacks some */
	REC_THREADS_MORE = 1 << 6, /* more threads than one run may walk */
	REC_CGROUP = 1 << 7,	/* cgroup_id means something */
	REC_NSPID = 1 << 8,
	REC_EVENTS = 1 << 9,	/* what events count means something */
};

/* What a process that sleeps may be told anew comes first, on two cache lines: of most
 * processes no other is touched. */
struct process_record {
	u64 task;	/* address of the leader: its place in the kernel's list */
	u64 start_boottime_ns;
	u32 pid;	/* in the reader's PID namespace */
	u32 tgid;	/* the same in the initial PID namespace */
	u32 ppid;	/* 0: none, or outside the reader's PID namespace */
	u32 flags;
	u32 state;	/* task.__state | task.exit_state */
	u32 fd_open;	/* summed over the tables, of at most 2^28 each (kvmalloc_node takes INT_MAX bytes) */
	u64 fd_limit;
	u64 fd_hard_limit;
	u64 cgroup_id;

	u64 comm[2]; /* its 16 bytes */
	u64 rss_file_pages;
	u64 rss_anon_pages;
	u64 rss_shmem_pages;
	u64 swap_pages;
	u64 peak_pages;
	u64 virtual_pages;

	u32 ns_pid; /* in its own PID namespace */
	u32 uid;
	u64 threads;
	u64 exec_id;
	u64 files[SCAN_TABLES]; /* addresses: equal ones are one table */

	u64 minor_faults;
	u64 major_faults;
	u64 cpu_ns;
	u64 utime_ns;
	u64 stime_ns;
	u64 run_delay_ns;

	u64 read_chars;
	u64 write_chars;
	u64 read_bytes;
	u64 write_bytes;

	u64 net_received; /* counted by event programs, where they run */
	u64 net_sent;
	u64 fd_opened;
	u64 fd_closed;

	u64 padding[3]; /* to whole cache lines */
};

/* What stands of the record in a place, for the next scan that reads into it. */
struct standing {
	u64 slept;  /* 2 * (1 + how often its process was switched out), where that slept, and 1 more
		     * where the record is what it was after the scan before; 0: read it anew */
	u64 signal; /* addresses of what its process had then, and has as long as it sleeps; */
	u64 mm;	    /* 0: no memory of its own */
	u64 files;  /* its descriptor table, where others have it, too, else 0 */
};

/* What a run of the scan is asked, and what it answers: in place, in the
 * program's context. */
struct scan_args {
	u64 after_task;	 /* in: go on behind this process (its task's address and */
	u64 after_start; /* start_boottime, so that nobody else is taken for it); 0: from the first */
	u64 last_task;	 /* out: the process to go on behind */
	u64 last_start;	 /* out */
	u32 after;    /* in: its PID */
	u32 only;     /* in: this process alone; 0: all */
	u32 max;      /* in: at most this many records, up to SCAN_CHUNK */
	u32 exact;    /* in: add every CPU's share of the RSS */
	u32 first;    /* in: the place of the first record; those behind the last go on at the first */
	u32 padding;
	u32 count;    /* out: records written */
	u32 last;     /* out */
	u32 done;     /* out: the list is at its end */
	u32 lost_place; /* out: the process to go on behind is gone */
};

_Static_assert(sizeof(struct process_record) == 5 * 64, "five cache lines");
_Static_assert(__builtin_offsetof(struct process_record, ns_pid) == 2 * 64, "what may be told anew is on two of them");
_Static_assert(sizeof(struct scan_args) == 72, "no padding");
_Static_assert(sizeof(struct standing) == 32, "no padding");

#endif
