package headroom

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/clock"
	"rmagent/internal/fallback"
	"rmagent/internal/hostfs"
	"rmagent/internal/hostfs/kfile"
	"rmagent/internal/sample"
	"rmagent/record"
)

// ErrNoProcess is a PID that no process has, or that may not be seen.
var ErrNoProcess = errors.New("no such process")

// Depth is how much of a process is looked at.
type Depth uint8

// The depths.
const (
	// Full looks at everything: at each descriptor and mapping of the process, and at
	// every process of its user.
	Full Depth = iota
	// Own leaves out what takes a look at other processes, descriptor by descriptor
	// or mapping by mapping: limits of the user, filesystems, vm.max_map_count.
	Own
)

// Reader reads facts. Close it after use.
type Reader struct {
	source *fallback.Reader
	cgroup *hostfs.LimitReader
	disks  hostfs.FilesystemAsker
	proc   int // /proc
	userNS string
	// initialPID: the reader sees every process.
	initialPID bool

	snapshot sample.Snapshot
	buf      []byte
	list     kfile.Dir
	name     kfile.Name
}

// Open opens /proc and the cgroup hierarchies.
func Open() (_ *Reader, err error) {
	if err := hostfs.OwnProc(); err != nil {
		return nil, err
	}
	r := &Reader{proc: -1, buf: make([]byte, 16<<10), list: kfile.Dir{Buf: make([]byte, 32<<10)}}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	if r.source, err = fallback.Open(fallback.Options{}); err != nil {
		return nil, err
	}
	if r.cgroup, err = hostfs.OpenLimits(hostfs.Options{}); err != nil {
		return nil, err
	}
	var errno unix.Errno
	if r.proc, errno = kfile.OpenDir(unix.AT_FDCWD, kfile.MakeName("/proc")); errno != 0 {
		return nil, fmt.Errorf("open /proc: %w", errno)
	}
	r.userNS, err = os.Readlink("/proc/self/ns/user")
	if err != nil {
		r.userNS = "" // a kernel without user namespaces: there is only one
	}
	facts, err := hostfs.ReadFacts(hostfs.Options{})
	if err != nil {
		return nil, err
	}
	r.initialPID = facts.InitialPID
	return r, nil
}

// Close closes everything.
func (r *Reader) Close() error {
	var errs []error
	if r.source != nil {
		errs = append(errs, r.source.Close())
	}
	if r.cgroup != nil {
		errs = append(errs, r.cgroup.Close())
	}
	if r.proc >= 0 {
		kfile.Close(r.proc)
	}
	return errors.Join(errs...)
}

const sourceFields = sample.FieldSet(1<<sample.UID | 1<<sample.State | 1<<sample.Threads | 1<<sample.FDOpen |
	1<<sample.Virtual | 1<<sample.CPU | 1<<sample.RSSAnon | 1<<sample.Swap)

// Read reads the facts of one process. The error is [ErrNoProcess] where there is
// none.
func (r *Reader) Read(ctx context.Context, pid int32, depth Depth) (*Facts, error) {
	scope := sample.Scope{PIDs: []int32{pid}, Fields: sourceFields}
	if err := r.source.Read(ctx, scope, &r.snapshot); err != nil {
		return nil, err
	}
	if len(r.snapshot.Processes) == 0 {
		return nil, fmt.Errorf("PID %d: %w", pid, ErrNoProcess)
	}
	r.cgroup.Refresh()
	f := r.factsOf(&r.snapshot, &r.snapshot.Processes[0])
	f.Machine = hostfs.ReadMachine(hostfs.Options{}, &r.buf)

	dir, errno := r.openProcess(pid)
	if errno != 0 {
		return nil, fmt.Errorf("PID %d: %w", pid, ErrNoProcess)
	}
	defer kfile.Close(dir)
	r.readOwn(dir, f)
	if depth == Full {
		r.readDescriptors(dir, f)
		r.readMappings(dir, f)
		r.readUser(ctx, dir, f)
		f.LowTasks = r.countLowTasks()
	}
	if start, ok := hostfs.StartTicks(r.file(dir, statName)); !ok || start != f.ID.StartTicks {
		return nil, fmt.Errorf("PID %d: %w", pid, ErrNoProcess)
	}
	return f, ctx.Err()
}

// ReadMachine reads only what all processes share.
func (r *Reader) ReadMachine() *Facts {
	return &Facts{
		At: clock.Monotonic(), Machine: hostfs.ReadMachine(hostfs.Options{}, &r.buf), LowTasks: r.countLowTasks(),
	}
}

// factsOf takes what a source's snapshot has.
func (r *Reader) factsOf(s *sample.Snapshot, p *sample.Process) *Facts {
	at := func(f sample.Field) sample.Opt[uint64] {
		if !p.Known.Has(f) {
			return sample.Opt[uint64]{}
		}
		return record.Some(*f.Info().At(p))
	}
	dead := p.Known.Has(sample.State) && (p.State == 'Z' || p.State == 'X')
	return &Facts{
		At:           s.Monotonic,
		StartTime:    record.Some(hostfs.StartTime(p.ID.StartTicks, s.Time, s.Boottime).UTC().Round(time.Second / sample.UserHz)),
		ID:           p.ID,
		Comm:         record.Text(p.Comm.Bytes()),
		KernelThread: p.KernelThread,
		Zombie:       dead && p.Known.Has(sample.Threads) && p.Threads <= 1, // else only its first thread has ended
		HasMemory:    !p.KernelThread && !dead,
		RealUID:      record.SomeIf(p.UID, p.Known.Has(sample.UID)),
		FDOpen:       at(sample.FDOpen),
		FDBelowSoft:  at(sample.FDOpen),
		FDBelowHard:  at(sample.FDOpen),
		VirtualBytes: at(sample.Virtual),
		AnonBytes:    at(sample.RSSAnon),
		SwapBytes:    at(sample.Swap),
		CPUNanos:     at(sample.CPU),
	}
}

func (r *Reader) openProcess(pid int32) (int, unix.Errno) {
	r.name = kfile.AppendPID(r.name[:0], pid)
	return kfile.OpenDir(r.proc, r.name)
}

var (
	statName      = kfile.MakeName("stat")
	statusName    = kfile.MakeName("status")
	limitsName    = kfile.MakeName("limits")
	cgroupName    = kfile.MakeName("cgroup")
	mapsName      = kfile.MakeName("maps")
	mountinfoName = kfile.MakeName("mountinfo")
	userNSName    = kfile.MakeName("ns/user")
	uidMapName    = kfile.MakeName("uid_map")
)

func (r *Reader) file(dir int, name kfile.Name) []byte {
	b, _ := kfile.Read(dir, name, kfile.Whole, &r.buf)
	return b
}

func (r *Reader) link(dir int, name kfile.Name) (string, unix.Errno) {
	var b [4096]byte
	s, errno := kfile.ReadlinkNow(dir, name, b[:])
	return string(s), errno
}

// readOwn reads what the process alone tells, cheaply.
func (r *Reader) readOwn(dir int, f *Facts) {
	s := parseStatus(r.file(dir, statusName))
	f.EffectiveUID = s.effectiveUID
	f.DataBytes, f.StackBytes, f.LockedBytes, f.Signals = s.data, s.stack, s.locked, s.signals
	if r.inInitialUserNS(dir) {
		f.Capabilities = s.capabilities
	}
	parseLimits(r.file(dir, limitsName), &f.Rlimits)
	text := r.file(dir, cgroupName)
	f.Cgroup = record.Text([]byte(hostfs.CgroupOf(text)))
	f.Cgroups = r.cgroup.Chain(text)
}

// initialUserNS is the inode of the initial user namespace on every Linux
// (PROC_USER_INIT_INO in include/linux/proc_ns.h).
const initialUserNS = "user:[4026531837]"

// inInitialUserNS reports whether capabilities of a process count where the kernel
// asks for them. Where its namespace may not be read, it is the reader's if it maps
// users alike.
func (r *Reader) inInitialUserNS(dir int) bool {
	ns, errno := r.link(dir, userNSName)
	switch {
	case errno == 0:
		return ns == initialUserNS
	case r.userNS == "":
		return true
	}
	return r.userNS == initialUserNS && r.mapsUsersAlike(dir)
}

func (r *Reader) mapsUsersAlike(dir int) bool {
	const all = "         0          0 4294967295\n" // the initial namespace's map
	return string(r.file(dir, uidMapName)) == all
}

// readMappings counts the process's mappings.
func (r *Reader) readMappings(dir int, f *Facts) {
	if !f.HasMemory {
		return
	}
	b, errno := kfile.Read(dir, mapsName, kfile.Records, &r.buf)
	if errno != 0 {
		f.deny(errno)
		return
	}
	f.Mappings = record.Some(countMappings(b))
}

// deny says why something of the process is unknown.
func (f *Facts) deny(errno unix.Errno) {
	switch errno {
	case unix.EACCES, unix.EPERM:
		f.Denied = "another user's process: needs root, or CAP_SYS_PTRACE"
	default:
		f.Denied = errno.Error()
	}
}
