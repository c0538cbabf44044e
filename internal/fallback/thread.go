package fallback

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"rmagent/internal/hostfs/kfile"
	"rmagent/internal/sample"
)

// readThreads adds what the process's other threads have of their own: run
// delay, and descriptor tables that they don't share with task.
func (r *Reader) readThreads(dir int, task int32, want sample.FieldSet, p *sample.Process) {
	tasks, errno := kfile.OpenDir(dir, taskName)
	if errno != 0 {
		return
	}
	defer kfile.Close(tasks)
	r.tables = r.tables[:0]
	delays := r.schedstat && want.Has(sample.RunDelay)
	for errno = r.tasks.Start(tasks); errno == 0; {
		var name []byte
		if name, _, errno = r.tasks.Next(); name == nil {
			break
		}
		tid, ok := kfile.PID(name)
		if !ok || tid == task && tid == p.ID.PID {
			continue
		}
		r.readThread(tasks, tid, task, delays, p)
	}
	if delays && errno == 0 {
		p.Known |= 1 << sample.RunDelay
	}
}

func (r *Reader) readThread(tasks int, tid, task int32, delays bool, p *sample.Process) {
	apart := p.Known.Has(sample.FDOpen) && tid != task && tid != p.ID.PID && r.ownTable(tid, task)
	if !delays && !apart {
		return
	}
	r.name = kfile.AppendPID(r.name[:0], tid)
	d, errno := kfile.OpenDir(tasks, r.name)
	if errno != 0 {
		return
	}
	defer kfile.Close(d)
	if delays && tid != p.ID.PID {
		if b, errno := kfile.Read(d, schedstatName, kfile.Whole, &r.text); errno == 0 {
			_, waited, _ := parseSchedstat(b)
			p.RunDelayNanos += waited
		}
	}
	if apart {
		if n, errno := r.countFDs(d); errno == 0 {
			p.FDOpen += n
		}
	}
}

// ownTable reports whether thread tid has a descriptor table that neither task
// nor a thread before it has, and remembers it.
func (r *Reader) ownTable(tid, task int32) bool {
	if !r.kcmp || sharesFiles(tid, task) {
		return false
	}
	for _, t := range r.tables {
		if sharesFiles(tid, t) {
			return false
		}
	}
	r.tables = append(r.tables, tid)
	return true
}

// livingThread opens the first thread that has memory; -1 if there is none.
func (r *Reader) livingThread(dir int, leader int32) (fd int, tid int32) {
	tasks, errno := kfile.OpenDir(dir, taskName)
	if errno != 0 {
		return -1, 0
	}
	defer kfile.Close(tasks)
	for errno = r.tasks.Start(tasks); errno == 0; {
		var name []byte
		if name, _, errno = r.tasks.Next(); name == nil {
			break
		}
		tid, ok := kfile.PID(name)
		if !ok || tid == leader {
			continue
		}
		r.name = kfile.AppendPID(r.name[:0], tid)
		d, errno := kfile.OpenDir(tasks, r.name)
		if errno != 0 {
			continue
		}
		var p sample.Process
		if b, errno := kfile.Read(d, statName, kfile.Whole, &r.text); errno == 0 && parseStat(b, &p) && p.VirtualBytes != 0 {
			return d, tid
		}
		kfile.Close(d)
	}
	return -1, 0
}

// sharesFiles reports whether two tasks have one descriptor table, or one of
// them is gone.
func sharesFiles(a, b int32) bool {
	order, errno := kcmpFiles(a, b)
	return errno != 0 || order == 0
}

// kcmpFiles is kcmp(2) of two tasks' descriptor tables: 0 where they are one.
func kcmpFiles(a, b int32) (int, unix.Errno) {
	const kcmpFiles = 2
	order, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(a), uintptr(b), kcmpFiles, 0, 0, 0)
	return int(order), errno
}

// prlimit reads a limit of process pid: prlimit(2).
func prlimit(pid int32, resource int, old *unix.Rlimit) unix.Errno {
	_, _, errno := unix.Syscall6(unix.SYS_PRLIMIT64, uintptr(pid), uintptr(resource), 0, uintptr(unsafe.Pointer(old)), 0, 0)
	return errno
}
