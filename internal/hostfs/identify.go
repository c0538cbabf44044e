package hostfs

import (
	"bytes"
	"fmt"

	"golang.org/x/sys/unix"

	"rmagent/internal/hostfs/kfile"
	"rmagent/internal/sample"
)

// Identifier reads who processes are. Equal strings are one string: thousands of
// processes of one program or cgroup share theirs.
type Identifier struct {
	proc    int // /proc
	cgroups *CgroupReader
	cmdline bool

	exes  shared[string]
	paths shared[*labels] // of cgroups that no mount shows
	buf   []byte
	name  kfile.Name
}

// labels are what a cgroup's path says.
type labels struct{ path, container, unit string }

// shared is a table of what strings stand for, which are often the same. A full one starts
// anew, and sharing with it.
type shared[T any] struct {
	known map[string]T
	bytes int
}

// maxSharedBytes bounds the strings of a table: a path may have four kibibytes.
const maxSharedBytes = 2 << 20

func (s *shared[T]) add(text string, is T) {
	const entry = 64 // what else an entry takes, about
	if s.known == nil || s.bytes+len(text)+entry > maxSharedBytes {
		s.known, s.bytes = map[string]T{}, 0
	}
	s.known[text] = is
	s.bytes += len(text) + entry
}

// maxCmdline bounds what is kept of a command line.
const maxCmdline = 64 << 10

// NewIdentifier returns an Identifier that learns cgroups together with c, which
// stays the caller's to close. Command lines are read only if cmdline.
func NewIdentifier(o Options, c *CgroupReader, cmdline bool) (*Identifier, error) {
	proc, errno := kfile.OpenDir(unix.AT_FDCWD, kfile.MakeName(o.Root+"/proc"))
	if errno != 0 {
		return nil, fmt.Errorf("open %s/proc: %w", o.Root, errno)
	}
	return &Identifier{
		proc: proc, cgroups: c, cmdline: cmdline,
		buf: make([]byte, 8<<10), name: make(kfile.Name, 0, 16),
	}, nil
}

// Close closes the Identifier.
func (i *Identifier) Close() error {
	kfile.Close(i.proc)
	return nil
}

// Identify reads who p is. It never returns nil: of a process that has ended, or
// whose PID another one has by now, it says what p alone tells.
func (i *Identifier) Identify(p *sample.Process) *sample.Identity {
	id := &sample.Identity{}
	known := i.cgroupByID(p, id)
	i.name = kfile.AppendPID(i.name[:0], p.ID.PID)
	dir, errno := kfile.OpenDirNow(i.proc, i.name)
	if errno != 0 {
		return id
	}
	defer kfile.Close(dir)
	var read sample.Identity
	if !known {
		i.readCgroup(dir, &read)
	}
	if !p.KernelThread {
		read.Exe = i.readExe(dir)
		if i.cmdline {
			read.Cmdline = i.readCmdline(dir)
		}
	}
	if !i.isStill(dir, p.ID) {
		return id
	}
	if known {
		read.Cgroup, read.ContainerID, read.Unit = id.Cgroup, id.ContainerID, id.Unit
	}
	*id = read
	return id
}

// Ended fills in what can still be said of a process that has ended: its cgroup, if
// another process made that known.
func (i *Identifier) Ended(p *sample.Process, id *sample.Identity) {
	*id = sample.Identity{}
	i.cgroupByID(p, id)
}

// cgroupByID takes the cgroup that p's own id names, if it is known.
func (i *Identifier) cgroupByID(p *sample.Process, id *sample.Identity) bool {
	if !p.Known.Has(sample.CgroupID) {
		return false
	}
	g := i.cgroups.byID[p.CgroupID]
	if g == nil {
		return false
	}
	id.Cgroup, id.ContainerID, id.Unit = g.path, g.container, g.unit
	return true
}

var (
	cgroupName  = kfile.MakeName("cgroup")
	exeName     = kfile.MakeName("exe")
	cmdlineName = kfile.MakeName("cmdline")
	statName    = kfile.MakeName("stat")
)

func (i *Identifier) readCgroup(dir int, id *sample.Identity) {
	b, errno := kfile.Read(dir, cgroupName, kfile.Whole, &i.buf)
	if errno != 0 {
		return
	}
	path, ok := parseCgroup(b, i.cgroups.controller)
	if !ok {
		return
	}
	g := i.cgroups.find(path)
	if g == nil {
		path = bytes.TrimSuffix(path, []byte(deleted))
		g = i.cgroups.find(path)
	}
	if g != nil {
		id.Cgroup, id.ContainerID, id.Unit = g.path, g.container, g.unit
		return
	}
	l := i.label(path)
	id.Cgroup, id.ContainerID, id.Unit = l.path, l.container, l.unit
}

// deleted is what the kernel puts behind the path of a cgroup that was removed
// while a dead process still points to it. A living cgroup may be called so too.
const deleted = " (deleted)"

func (i *Identifier) label(path []byte) *labels {
	if l := i.paths.known[string(path)]; l != nil {
		return l
	}
	own := string(path)
	l := &labels{own, containerOf(own), unitOf(own)}
	i.paths.add(own, l)
	return l
}

// readExe reads the link, which is empty for what may not be looked into.
func (i *Identifier) readExe(dir int) string {
	b, errno := kfile.ReadlinkNow(dir, exeName, i.buf)
	if errno != 0 {
		return ""
	}
	if s, ok := i.exes.known[string(b)]; ok {
		return s
	}
	s := string(b)
	i.exes.add(s, s)
	return s
}

func (i *Identifier) readCmdline(dir int) []string {
	b, errno := kfile.Read(dir, cmdlineName, kfile.Records, &i.buf)
	if errno != 0 {
		return nil
	}
	return parseCmdline(b)
}

// parseCmdline reads arguments that each end in a NUL. A program may have
// overwritten them with anything.
func parseCmdline(b []byte) []string {
	b = bytes.TrimSuffix(b[:min(len(b), maxCmdline)], []byte{0})
	if len(b) == 0 {
		return nil
	}
	args := make([]string, 0, bytes.Count(b, []byte{0})+1)
	for arg := range bytes.SplitSeq(b, []byte{0}) {
		args = append(args, string(arg))
	}
	return args
}

// isStill reports whether the process that dir belongs to is id: it is the last
// thing read, so that it vouches for what was read before.
func (i *Identifier) isStill(dir int, id sample.ID) bool {
	b, errno := kfile.ReadNow(dir, statName, kfile.Whole, &i.buf)
	if errno != 0 {
		return false
	}
	start, ok := parseStart(b)
	return ok && start == id.StartTicks
}

// StartTicks reads a process's start from its /proc/PID/stat.
func StartTicks(stat []byte) (uint64, bool) { return parseStart(stat) }

// parseStart reads field 22 of /proc/PID/stat, counted from behind the name,
// which may hold any byte.
func parseStart(b []byte) (uint64, bool) {
	rest := b[bytes.LastIndexByte(b, ')')+1:]
	const fields = 22 - 2
	var word []byte
	for range fields {
		word, rest = kfile.Word(rest)
	}
	return kfile.Uint(word)
}
