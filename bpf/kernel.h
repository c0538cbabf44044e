/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * The kernel fields that rmagent reads, and no others: this header documents what
 * it depends on. CO-RE finds each field by name in the running kernel's BTF, so
 * order and size mean nothing here. A type whose name ends in ___suffix is the
 * same type on other kernels.
 */
#ifndef RMAGENT_KERNEL_H
#define RMAGENT_KERNEL_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s32 s32;
typedef __s64 s64;
typedef _Bool bool;
typedef int pid_t;
typedef unsigned int uid_t;
typedef unsigned long size_t;

enum { false = 0, true = 1 };

/* include/uapi/linux/bpf.h */
enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_RINGBUF = 27,
	BPF_MAP_TYPE_TASK_STORAGE = 29,
};
enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
	BPF_EXIST = 2,
	BPF_F_NO_PREALLOC = 1,
	BPF_F_MMAPABLE = 1024,
	BPF_RB_NO_WAKEUP = 1,
	BPF_RB_FORCE_WAKEUP = 2,
	BPF_RB_AVAIL_DATA = 0,
	BPF_LOCAL_STORAGE_GET_F_CREATE = 1,
};

/* include/linux/sched.h */
#define TASK_INTERRUPTIBLE 0x00000001
#define TASK_UNINTERRUPTIBLE 0x00000002
#define __TASK_STOPPED 0x00000004
#define __TASK_TRACED 0x00000008
#define TASK_PARKED 0x00000040
#define TASK_DEAD 0x00000080
#define TASK_WAKING 0x00000200
#define TASK_NEW 0x00000800
#define PF_EXITING 0x00000004
#define PF_KTHREAD 0x00200000

/* include/uapi/asm-generic/resource.h */
#define RLIMIT_NOFILE 7

#define TASK_COMM_LEN 16

/* include/linux/mm_types_task.h */
enum { MM_FILEPAGES, MM_ANONPAGES, MM_SWAPENTS, MM_SHMEMPAGES, NR_MM_COUNTERS };

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	int counter;
} atomic_t;
typedef struct {
	s64 counter;
} atomic64_t;
typedef struct {
	long counter;
} atomic_long_t;

struct list_head {
	struct list_head *next, *prev;
};

/* include/linux/seqlock.h */
struct seqcount {
	unsigned int sequence;
};
typedef struct seqcount seqcount_t;
struct seqcount_spinlock {
	seqcount_t seqcount;
};
typedef struct {
	struct seqcount_spinlock seqcount;
} seqlock_t;

/* Files. */
struct file;
struct fdtable {
	unsigned int max_fds;
	struct file **fd;
	unsigned long *open_fds;
	unsigned long *close_on_exec;
};
struct files_struct {
	atomic_t count;
	struct fdtable *fdt;
};

/* Memory. */
struct percpu_counter {
	s64 count;
	s32 *counters;
};
struct mm_struct {
	struct file *exe_file;
	unsigned long total_vm;
	unsigned long hiwater_rss, hiwater_vm;
	unsigned long start_stack;
	struct percpu_counter rss_stat[NR_MM_COUNTERS];
};
/* Before 6.2 (f1a7941243c1, "mm: convert mm's rss stats into percpu_counter"). */
struct mm_rss_stat {
	atomic_long_t count[NR_MM_COUNTERS];
};
struct mm_struct___before62 {
	struct mm_rss_stat rss_stat;
};
struct task_rss_stat {
	int count[NR_MM_COUNTERS];
};

/* Identity. */
typedef struct {
	uid_t val;
} kuid_t;
struct cred {
	kuid_t uid;
};
struct ns_common {
	unsigned int inum;
};
struct pid_namespace {
	unsigned int level;
	struct ns_common ns;
};
struct upid {
	int nr;
	struct pid_namespace *ns;
};
struct pid {
	unsigned int level;
	struct upid numbers[1];
};

/* cgroups. */
struct kernfs_node {
	u64 id;
};
struct cgroup {
	struct kernfs_node *kn;
};
struct cgroup_subsys_state {
	struct cgroup *cgroup;
};
enum cgroup_subsys_id {
	memory_cgrp_id = 0x7ffffff0,
	pids_cgrp_id = 0x7ffffff1,
};
struct css_set {
	struct cgroup_subsys_state *subsys[16];
	struct cgroup *dfl_cgrp;
};

/* Accounting. */
struct task_io_accounting {
	u64 rchar;
	u64 wchar;
	u64 read_bytes;
	u64 write_bytes;
};
struct rlimit {
	unsigned long rlim_cur;
	unsigned long rlim_max;
};
struct sched_entity {
	u64 sum_exec_runtime;
};
struct sched_info {
	unsigned long long run_delay;
};
struct signal_struct {
	atomic_t live;
	int nr_threads;
	struct list_head thread_head;
	seqlock_t stats_lock;
	u64 utime, stime;
	unsigned long min_flt, maj_flt;
	unsigned long maxrss;
	unsigned long long sum_sched_runtime;
	struct task_io_accounting ioac;
	struct rlimit rlim[16];
	int group_exit_code;
	unsigned int flags;
	struct mm_struct *oom_mm;
	short oom_score_adj;
};
struct bpf_local_storage;
struct task_struct {
	unsigned int __state;
	unsigned int flags;
	int on_cpu; /* with CONFIG_SMP */
	int on_rq;
	int exit_state;
	int exit_code;
	struct mm_struct *mm;
	struct files_struct *files;
	struct signal_struct *signal;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	struct list_head tasks;
	struct list_head thread_node;
	struct pid *thread_pid;
	pid_t pid;
	pid_t tgid;
	u64 start_boottime;
	unsigned long nvcsw, nivcsw;
	u64 utime, stime;
	u64 self_exec_id;
	struct sched_entity se;
	struct sched_info sched_info;
	unsigned long min_flt, maj_flt;
	const struct cred *cred;
	const struct cred *real_cred;
	struct css_set *cgroups;
	struct task_io_accounting ioac;
	struct bpf_local_storage *bpf_storage; /* null: no program ever kept anything here */
	char comm[TASK_COMM_LEN];
};
/* Before 6.2: pages counted in the task and not yet in its mm. */
struct task_struct___before62 {
	struct task_rss_stat rss_stat;
};

/* BPF's own. */
struct seq_file;
struct bpf_iter_meta {
	union {
		struct seq_file *seq;
	};
	u64 session_id;
	u64 seq_num;
};
struct bpf_iter__task {
	union {
		struct bpf_iter_meta *meta;
	};
	union {
		struct task_struct *task;
	};
};
struct bpf_map {
	u32 id;
};
struct bpf_array {
	struct bpf_map map;
	union {
		void *pptrs[0];
	};
};

#pragma clang attribute pop

#endif
