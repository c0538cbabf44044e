package headroom

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"rmagent/internal/hostfs/kfile"
	"rmagent/record"
)

// userCount is what a walk over all processes finds of one user in one user
// namespace.
type userCount struct {
	r         *Reader
	namespace string // of the process
	users     string // its map of users, where a namespace may not be read
	real      uint32
	effective uint32

	owners map[string]uint32 // of namespaces below the process's, in it; see owner
	below  map[string]bool   // which namespaces those are

	tasks, watches, instances uint64
	inotify                   []inotify // seen, as the kernel orders them
	why, inotifyWhy           string
}

// inotify is a descriptor of an inotify instance.
type inotify struct {
	pid int32
	fd  uint64
}

// readUser counts what a process's real and effective user have, over all
// processes that the reader can see.
func (r *Reader) readUser(ctx context.Context, dir int, f *Facts) {
	real, okReal := f.RealUID.Get()
	effective, okEffective := f.EffectiveUID.Get()
	f.User.Read = okReal && okEffective
	if !f.User.Read || f.KernelThread {
		return
	}
	c := userCount{r: r, real: real, effective: effective, owners: map[string]uint32{}, below: map[string]bool{}}
	c.namespace, _ = r.link(dir, userNSName)
	c.users = string(r.file(dir, uidMapName))
	c.count(ctx)
	if !r.initialPID {
		const hidden = "processes outside of this PID namespace can't be seen"
		c.why, c.inotifyWhy = hidden, hidden
	}
	if c.namespace != r.userNS && c.namespace != "" {
		c.inotifyWhy = "it is counted in another user namespace"
	}
	f.User.Why, f.User.InotifyWhy = c.why, c.inotifyWhy
	f.User.Tasks = record.SomeIf(c.tasks, c.why == "")
	f.User.InotifyWatches = record.SomeIf(c.watches, c.inotifyWhy == "")
	f.User.InotifyInstances = record.SomeIf(c.instances, c.inotifyWhy == "")
}

func (c *userCount) count(ctx context.Context) {
	errno := c.r.list.Start(c.r.proc)
	for errno == 0 && ctx.Err() == nil {
		var name []byte
		if name, _, errno = c.r.list.Next(); name == nil {
			break
		}
		if pid, ok := kfile.PID(name); ok {
			c.process(pid)
		}
	}
}

func (c *userCount) process(pid int32) {
	dir, errno := c.r.openProcess(pid)
	if errno != 0 {
		return
	}
	defer kfile.Close(dir)
	s := parseStatus(c.r.file(dir, statusName))
	real, ok := s.realUID.Get()
	effective, _ := s.effectiveUID.Get()
	threads, okThreads := s.threads.Get()
	if !ok || !okThreads {
		return
	}
	if c.charged(dir, real) {
		c.tasks += threads
	}
	if effective == c.effective {
		c.countInotify(dir, pid)
	}
}

// charged reports whether the tasks of a process count for the user: in a user
// namespace its own tasks, and those of namespaces below it that the user made
// (inc_rlimit_ucounts in kernel/ucount.c, since 5.14).
func (c *userCount) charged(dir int, real uint32) bool {
	ns, errno := c.r.link(dir, userNSName)
	if errno != 0 || c.namespace == "" { // it may not be looked into: by its map of users
		return real == c.real && string(c.r.file(dir, uidMapName)) == c.users
	}
	if ns == c.namespace {
		return real == c.real
	}
	if _, looked := c.below[ns]; !looked {
		c.owners[ns], c.below[ns] = c.owner(dir)
	}
	return c.below[ns] && c.owners[ns] == c.real
}

// ioctls of namespaces (ioctl_ns(2)).
const (
	nsGetParent   = 0xb702 // NS_GET_PARENT
	nsGetOwnerUID = 0xb704 // NS_GET_OWNER_UID
)

// owner finds who made the namespace above a process's that lies directly in the
// counted one; below is false if there is none.
func (c *userCount) owner(dir int) (uid uint32, below bool) {
	fd, errno := kfile.Open(dir, userNSName)
	if errno != 0 {
		return 0, false
	}
	defer func() { kfile.Close(fd) }()
	for range 32 { // they nest no deeper (user_namespaces(7))
		parent, err := unix.IoctlRetInt(fd, nsGetParent)
		if err != nil {
			return 0, false
		}
		uid, err = unix.IoctlGetUint32(fd, nsGetOwnerUID)
		kfile.Close(fd)
		fd = parent
		if err != nil {
			return 0, false
		}
		if c.isNamespace(parent) {
			return uid, true
		}
	}
	return 0, false
}

func (c *userCount) isNamespace(fd int) bool {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false
	}
	return namespaceName(st.Ino) == c.namespace
}

func (c *userCount) countInotify(dir int, pid int32) {
	errno := c.r.eachDescriptor(dir, func(fd uint64, _, target string, info func() (descriptor, bool)) {
		if target != "anon_inode:inotify" {
			return
		}
		d, ok := info()
		if !ok || !c.meet(inotify{pid, fd}) {
			return
		}
		c.instances++
		c.watches += d.watches
	})
	if errno == unix.EACCES || errno == unix.EPERM {
		c.inotifyWhy = fmt.Sprintf("process %d of its user may not be looked into", pid)
	}
}

// meet takes note of an inotify instance, and reports whether it is a new one:
// processes share what they inherit. The kernel gives files an order (kcmp(2)),
// by which it is looked up; without kcmp each counts.
func (c *userCount) meet(n inotify) bool {
	lo, hi := 0, len(c.inotify)
	for lo < hi {
		mid := (lo + hi) / 2
		switch order, errno := compareFiles(c.inotify[mid], n); {
		case errno != 0:
			return true
		case order == 0:
			return false
		case order == 1: // the one in the middle is less
			lo = mid + 1
		default:
			hi = mid
		}
	}
	c.inotify = append(c.inotify, inotify{})
	copy(c.inotify[lo+1:], c.inotify[lo:])
	c.inotify[lo] = n
	return true
}

func compareFiles(a, b inotify) (order int, errno unix.Errno) {
	const kcmpFile = 0
	v, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(a.pid), uintptr(b.pid), kcmpFile, uintptr(a.fd), uintptr(b.fd), 0)
	return int(v), errno
}

// countLowTasks counts the tasks that have a number which is not given out again.
// Every thread can be looked up by its number, though only processes are listed.
func (r *Reader) countLowTasks() record.Opt[uint64] {
	if !r.initialPID {
		return record.Opt[uint64]{}
	}
	n := uint64(0)
	for tid := int32(1); tid < reservedPIDs; tid++ {
		var st unix.Stat_t
		r.name = kfile.AppendPID(r.name[:0], tid)
		if kfile.Stat(r.proc, r.name, &st) == 0 {
			n++
		}
	}
	return record.Some(n)
}

func namespaceName(inode uint64) string { return fmt.Sprintf("user:[%d]", inode) }
