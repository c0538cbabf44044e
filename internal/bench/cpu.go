package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// userHZ is the unit of times in /proc/PID/stat: 100 on every architecture that
// Go runs on (sysconf(3), _SC_CLK_TCK).
const userHZ = 100

// processClock reads the CPU clock of a process, all its threads, in
// nanoseconds. The clock's id is made as in the kernel's
// include/linux/posix-timers_types.h: the complement of the PID above three
// bits, of which CPUCLOCK_SCHED is 2.
func processClock(pid int) (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil {
		return 0, fmt.Errorf("read CPU clock of %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// descendants returns root and every living process below it.
func descendants(root int) []int {
	pids := []int{root}
	for i := 0; i < len(pids); i++ {
		// One file for each thread that has forked (proc_pid_children(5)).
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pids[i]))
		for _, name := range files {
			b, _ := os.ReadFile(name)
			for _, field := range bytes.Fields(b) {
				if pid, err := strconv.Atoi(string(field)); err == nil {
					pids = append(pids, pid)
				}
			}
		}
	}
	return pids
}

// cpuReading is the CPU time of each process of a tree so far, that of the
// children it has waited for included.
type cpuReading map[int]time.Duration

func readCPU(pids []int) cpuReading {
	r := make(cpuReading, len(pids))
	for _, pid := range pids {
		clock, err := processClock(pid)
		if err != nil {
			continue // ended: its parent has its time
		}
		r[pid] = clock + waitedFor(pid)
	}
	return r
}

// since is what the tree used after earlier. A process that is new since then
// counts whole.
func (r cpuReading) since(earlier cpuReading) time.Duration {
	var used time.Duration
	for pid, now := range r {
		used += now - earlier[pid]
	}
	return used
}

// pidsOf returns the processes of a name.
func pidsOf(comm string) []int {
	var pids []int
	files, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, name := range files {
		b, _ := os.ReadFile(name)
		if string(bytes.TrimSpace(b)) == comm {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// forks is how many processes and threads were started since boot (proc_stat(5)).
func forks() int64 {
	b, _ := os.ReadFile("/proc/stat")
	for line := range bytes.Lines(b) {
		if count, ok := bytes.CutPrefix(line, []byte("processes ")); ok {
			n, _ := strconv.ParseInt(string(bytes.TrimSpace(count)), 10, 64)
			return n
		}
	}
	return 0
}

// waitedFor is cutime + cstime, fields 16 and 17 of /proc/PID/stat.
func waitedFor(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 15 {
		return 0
	}
	user, _ := strconv.ParseInt(string(fields[13]), 10, 64)
	system, _ := strconv.ParseInt(string(fields[14]), 10, 64)
	return time.Duration(user+system) * time.Second / userHZ
}
