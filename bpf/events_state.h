// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
// The two maps that hold what events counted of a process. The event programs
// write them; the scan reads them, by giving its collection the same maps.
#ifndef RMAGENT_EVENTS_STATE_H
#define RMAGENT_EVENTS_STATE_H

#include "events.h"

// On the group leader, and only there: it lives as long as the process does
// (a leader that exits first stays a zombie until its last thread has gone).
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct task_state);
} task_states SEC(".maps");

// What a leader that exited before its threads had counted, and what they count
// from then on, by signal_struct: that survives an exec from another thread,
// which discards the old leader (fs/exec.c, de_thread). A process's counters are
// the sum of both maps.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u64);
	__type(value, struct task_counters);
} task_spill SEC(".maps");

#endif
