package act

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/record"
)

// signal sends a job's signal to the first of its processes that is still there and may
// get it.
func (r *Runner) signal(j *job) {
	if len(j.event.who) == 0 {
		r.emit(j, result{outcome: record.OutcomeRefused, detail: "it is about no process", attempt: 1})
		return
	}
	for i := range j.event.who {
		p := &j.event.who[i]
		begin := time.Now()
		outcome, detail := sendSignal(p, j.action.Number(), j.dryRun)
		r.emit(j, result{outcome: outcome, detail: detail, attempt: uint64(i) + 1, took: time.Since(begin), who: p})
		if outcome != record.OutcomeRefused {
			return
		}
	}
}

// sendSignal sends a signal to exactly the process that is meant, or to nobody.
//
// The pidfd is taken first. Whoever has the PID then is held by it, so a start time
// that is equal afterwards is that of the process behind the pidfd, or of one that came
// later, and then the pidfd's is dead and the signal gets nowhere
// (pidfd_send_signal(2)).
func sendSignal(p *Process, signal unix.Signal, dryRun bool) (record.Outcome, string) {
	pid := int(p.ID.PID)
	switch {
	case pid <= 1:
		return record.OutcomeRefused, "PID 1 gets no signals"
	case pid == os.Getpid():
		return record.OutcomeRefused, "it is the agent itself"
	case p.Protected:
		return record.OutcomeRefused, "it is protected"
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return record.OutcomeRefused, "it has ended"
	}
	if err != nil {
		return record.OutcomeFailed, fmt.Sprintf("pidfd_open: %v", err)
	}
	defer unix.Close(fd)
	now, err := readStat(pid)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ESRCH):
		return record.OutcomeRefused, "it has ended"
	case err != nil:
		return record.OutcomeFailed, err.Error()
	case now.startTicks != p.ID.StartTicks:
		return record.OutcomeRefused, fmt.Sprintf("it has ended; another process has its PID, started at tick %d", now.startTicks)
	case now.flags&kernelThread != 0:
		return record.OutcomeRefused, "it is a kernel thread"
	case now.parent == os.Getpid():
		return record.OutcomeRefused, "it is a child of the agent"
	case dryRun:
		return record.OutcomeDryRun, ""
	}
	err = unix.PidfdSendSignal(fd, signal, nil, 0)
	switch {
	case errors.Is(err, unix.ESRCH):
		return record.OutcomeRefused, "it has ended"
	case err != nil:
		return record.OutcomeFailed, fmt.Sprintf("pidfd_send_signal: %v", err)
	}
	return record.OutcomeDone, ""
}

// kernelThread is PF_KTHREAD of include/linux/sched.h.
const kernelThread = 0x00200000

// stat is what /proc/PID/stat says of who a process is.
type stat struct {
	parent     int
	flags      uint64
	startTicks uint64
}

func readStat(pid int) (stat, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	return parseStat(b)
}

// parseStat reads fields by their numbers in proc_pid_stat(5): the name, which may hold
// anything, ends with the last parenthesis.
func parseStat(b []byte) (s stat, err error) {
	const afterName, parentAt, flagsAt, startAt = 3, 4, 9, 22
	end := bytes.LastIndexByte(b, ')')
	fields := bytes.Fields(b[end+1:])
	if end < 0 || len(fields) <= startAt-afterName {
		return s, errors.New("/proc/PID/stat is cut off")
	}
	number := func(at int) uint64 {
		n, e := strconv.ParseUint(string(fields[at-afterName]), 10, 64)
		err = errors.Join(err, e)
		return n
	}
	s = stat{parent: int(number(parentAt)), flags: number(flagsAt), startTicks: number(startAt)}
	return s, err
}
