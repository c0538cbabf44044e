package headroom

import (
	"context"
	"strings"

	"golang.org/x/sys/unix"

	"rmagent/internal/fdcheck"
	"rmagent/internal/hostfs"
	"rmagent/internal/hostfs/kfile"
	"rmagent/internal/sample"
	"rmagent/record"
)

// ReadDescriptors reads what package fdcheck judges by, in less than a millisecond
// and without waiting for anything. The error is [ErrNoProcess] where there is no
// such process.
func (r *Reader) ReadDescriptors(ctx context.Context, pid int32) (*fdcheck.Usage, error) {
	f, err := r.Read(ctx, pid, Own)
	if err != nil {
		return nil, err
	}
	none := ""
	switch {
	case f.KernelThread:
		none = "is a kernel thread: it has no descriptors"
	case f.Zombie:
		none = "is a zombie: it has ended, and its descriptors are closed"
	}
	if none != "" {
		return &fdcheck.Usage{PID: f.ID.PID, StartTicks: f.ID.StartTicks, Comm: f.Comm, None: none}, nil
	}
	open := f.FDOpen
	limit := f.Rlimits[nofile]
	if limit.Known && open.Or(0) > limit.Soft { // it was lowered: which numbers are above it?
		open = r.countBelow(pid, limit.Soft)
	}
	u := &fdcheck.Usage{
		PID: f.ID.PID, StartTicks: f.ID.StartTicks, Comm: f.Comm,
		Open: open,
		// An open beyond fs.nr_open fails as one beyond the limit does
		// (expand_files in fs/file.c).
		Limit:     record.SomeIf(min(limit.Soft, f.Machine.NROpen.Or(limit.Soft)), limit.Known),
		Hard:      record.SomeIf(limit.Hard, limit.Known),
		Highest:   f.Machine.NROpen,
		HostOpen:  f.Machine.FilesOpen,
		Container: hostfs.ContainerOf(f.Cgroup),
	}
	if !f.may(capSysAdmin) { // who may is exempt (alloc_empty_file in fs/file_table.c)
		u.HostLimit = f.Machine.FilesLimit
	}
	if unit := hostfs.UnitOf(f.Cgroup); strings.HasSuffix(unit, ".service") && shellQuote(unit) == unit {
		u.Unit = unit
	}
	if !open.Known() {
		f.deny(unix.EACCES)
		u.Why = f.Denied
	}
	return u, nil
}

// countBelow counts the descriptors whose numbers are below a limit.
func (r *Reader) countBelow(pid int32, limit uint64) sample.Opt[uint64] {
	dir, errno := r.openProcess(pid)
	if errno != 0 {
		return sample.Opt[uint64]{}
	}
	defer kfile.Close(dir)
	fds, errno := kfile.OpenDir(dir, fdName)
	if errno != 0 {
		return sample.Opt[uint64]{}
	}
	defer kfile.Close(fds)
	below := uint64(0)
	for errno = r.list.Start(fds); errno == 0; {
		var name []byte
		if name, _, errno = r.list.Next(); name == nil {
			break
		}
		if fd, ok := kfile.Uint(name); ok && fd < limit {
			below++
		}
	}
	return record.SomeIf(below, errno == 0)
}
