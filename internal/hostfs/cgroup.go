package hostfs

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"rmagent/internal/hostfs/kfile"
	"rmagent/internal/sample"
)

// CgroupReader reads cgroups of version 1, 2, or both (hybrid). Its cgroups are
// those of one hierarchy, the one that Process.CgroupID belongs to: version 1's of
// the memory controller, or else of the pids controller, or version 2. Of version 1's other hierarchies it reads the cgroup of the same
// path, as systemd and the container runtimes lay them out; where they have none
// the values stay unknown.
type CgroupReader struct {
	cgroupMounts
	controller string // "memory" or "pids" for version 1, "" for version 2
	self       string // own cgroup's path

	byID   map[uint64]*cgroup
	byPath map[string]*cgroup
	round  uint64 // of listing
	open   int    // directories kept open
	most   int    // of those
	files  int    // files kept open
	keep   bool   // those that are opened now
	buf    []byte
	names  kfile.Dir
}

// cgroup is one that is known to exist. Its directories stay open while there
// are descriptors to spare: a file below an open directory costs one look-up. Of
// those that are wanted again and again, the files stay open too: reading one again
// costs half.
type cgroup struct {
	id        uint64
	path      string
	container string
	unit      string
	dirs      cgroupDirs
	opened    bool // dirs are open
	round     uint64
	files     []cgroupFile // that stay open
}

type cgroupFile struct {
	name *byte // where its kfile.Name is
	fd   int
}

// mostFiles bounds the files that are kept open. The kernel keeps a page for each.
const mostFiles = 512

// cgroupDirs are a cgroup's directories, -1 where it has none: main is that of
// the hierarchy it was found in, and one of the others is the same.
type cgroupDirs struct {
	main, memory, cpu, cpuacct, pids, unified int

	// Which are roots of their hierarchies: what those lack or can't have set is not
	// asked for.
	rootMemory, rootCPU, rootPIDs, rootUnified bool
}

func (d *cgroupDirs) findRoots() {
	d.rootMemory, d.rootCPU, d.rootPIDs, d.rootUnified = isRoot(d.memory), isRoot(d.cpu), isRoot(d.pids), isRoot(d.unified)
}

// isRoot tells whether a directory is the root of a hierarchy, and not what a container
// sees as one. Other filesystems may have such an inode, too (a captured tree).
func isRoot(dir int) bool {
	var st unix.Stat_t
	var fs unix.Statfs_t
	return dir >= 0 && unix.Fstat(dir, &st) == nil && st.Ino == rootID && unix.Fstatfs(dir, &fs) == nil &&
		(fs.Type == unix.CGROUP_SUPER_MAGIC || fs.Type == unix.CGROUP2_SUPER_MAGIC)
}

// OpenCgroups finds the hierarchies and lists their cgroups. A host without
// cgroups has none to read, which is no error.
func OpenCgroups(o Options) (*CgroupReader, error) {
	c := &CgroupReader{
		byID: map[uint64]*cgroup{}, byPath: map[string]*cgroup{},
		buf: make([]byte, 16<<10), names: kfile.Dir{Buf: make([]byte, 16<<10)},
		most: spareDescriptors(),
	}
	own, errno := kfile.Read(unix.AT_FDCWD, kfile.MakeName(o.Root+"/proc/self/cgroup"), kfile.Whole, &c.buf)
	if errno != 0 && errno != unix.ENOENT {
		return nil, fmt.Errorf("read own cgroup: %w", errno)
	}
	for _, controller := range []string{"pids", "memory"} {
		if _, ok := parseCgroup(own, controller); ok {
			c.controller = controller
		}
	}
	path, _ := parseCgroup(own, c.controller)
	c.self = string(path)
	mountinfo, errno := kfile.Read(unix.AT_FDCWD, kfile.MakeName(o.Root+"/proc/self/mountinfo"), kfile.Records, &c.buf)
	if errno != 0 {
		return nil, fmt.Errorf("read mounts: %w", errno)
	}
	c.cgroupMounts = openCgroupMounts(o.Root, mountinfo)
	c.list()
	return c, nil
}

// spareDescriptors returns how many directories may stay open: a part of what
// the process may have.
func spareDescriptors() int {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0
	}
	return int(min(l.Cur/4, 4096))
}

// Close closes everything.
func (c *CgroupReader) Close() error {
	for _, g := range c.byID {
		c.release(g)
	}
	c.cgroupMounts.close()
	return nil
}

// Mode is how the host's cgroups are mounted.
func (c *CgroupReader) Mode() string {
	switch {
	case c.controller == "" && c.unified.dir >= 0:
		return "v2"
	case c.controller != "" && c.unified.dir >= 0:
		return "hybrid"
	case c.controller != "" && c.main().dir >= 0:
		return "v1"
	}
	return "none"
}

func (c *CgroupReader) main() *hierarchy {
	switch c.controller {
	case "":
		return &c.unified
	case "pids":
		return &c.pids
	}
	return &c.memory
}

// Read appends to dst the cgroups that want says yes to, as they are now, by path; with a
// nil want it first looks which there are, and reads all. Between those, cgroups
// become known as an [Identifier] meets them. One that was removed is left out. What host
// says, which was read just before, is not read again.
func (c *CgroupReader) Read(dst []sample.Cgroup, host *sample.Host, want func(id uint64, path string) bool) []sample.Cgroup {
	if want == nil {
		c.list()
	}
	c.keep = want != nil
	first := len(dst)
	for _, g := range c.byID {
		if want != nil && !want(g.id, g.path) {
			c.closeFiles(g)
			continue
		}
		dst = append(dst, sample.Cgroup{})
		if !c.read(g, host, &dst[len(dst)-1]) {
			dst = dst[:len(dst)-1]
			c.forget(g)
		}
	}
	slices.SortFunc(dst[first:], func(a, b sample.Cgroup) int { return strings.Compare(a.Path, b.Path) })
	return dst
}

func (c *CgroupReader) read(g *cgroup, host *sample.Host, dst *sample.Cgroup) (alive bool) {
	c.hold(g)
	dst.ID, dst.Path, dst.ContainerID, dst.Unit = g.id, g.path, g.container, g.unit
	if c.controller == "" {
		alive = c.readV2(g, host, dst)
	} else {
		alive = c.readV1(g, host, dst)
	}
	alive = alive || c.exists(g.dirs.main)
	if c.open > c.most {
		c.release(g)
	}
	return alive
}

// rootID is the id of a hierarchy's root, the first that kernfs gives out.
const rootID = 1

var procsName = kfile.MakeName("cgroup.procs")

// exists reports whether the cgroup of a directory still is: one that was
// removed has no files.
func (c *CgroupReader) exists(dir int) bool {
	var st unix.Stat_t
	return dir >= 0 && kfile.Stat(dir, procsName, &st) == 0
}

// hold opens a cgroup's directories.
func (c *CgroupReader) hold(g *cgroup) {
	if g.opened {
		return
	}
	g.opened = true
	main := c.main().open(g.path)
	g.dirs = cgroupDirs{main: main, memory: -1, cpu: -1, cpuacct: -1, pids: -1, unified: main}
	if c.controller != "" {
		open := func(h *hierarchy) int {
			if h == c.main() {
				return main
			}
			return h.open(g.path)
		}
		g.dirs = cgroupDirs{
			main: main, memory: open(&c.memory), cpu: open(&c.cpu), cpuacct: open(&c.cpuacct), pids: open(&c.pids), unified: open(&c.unified),
		}
	}
	g.dirs.findRoots()
	g.dirs.each(func(int) { c.open++ })
}

func (c *CgroupReader) release(g *cgroup) {
	if !g.opened {
		return
	}
	g.opened = false
	c.closeFiles(g)
	g.dirs.each(func(fd int) {
		kfile.Close(fd)
		c.open--
	})
}

// each calls f for every directory, once.
func (d *cgroupDirs) each(f func(fd int)) {
	if d.main >= 0 {
		f(d.main)
	}
	for _, fd := range [...]int{d.memory, d.cpu, d.cpuacct, d.pids, d.unified} {
		if fd >= 0 && fd != d.main {
			f(fd)
		}
	}
}

func (c *CgroupReader) forget(g *cgroup) {
	c.release(g)
	delete(c.byID, g.id)
	if c.byPath[g.path] == g {
		delete(c.byPath, g.path)
	}
}

// list walks the main hierarchy and makes the known cgroups those that exist.
func (c *CgroupReader) list() {
	h := c.main()
	if h.dir < 0 {
		return
	}
	c.round++
	top := h.root
	if strings.HasPrefix(top, "/..") {
		top = "/"
	}
	for queue := []string{top}; len(queue) > 0; {
		path := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		fd := h.open(path)
		if fd < 0 {
			continue // it was removed meanwhile
		}
		c.meet(path, fd)
		queue = c.children(queue, path, fd)
		kfile.Close(fd)
	}
	for _, g := range slices.Collect(maps.Values(c.byID)) {
		if g.round != c.round {
			c.forget(g)
		}
	}
}

func (c *CgroupReader) children(queue []string, path string, fd int) []string {
	for errno := c.names.Start(fd); errno == 0; {
		var name []byte
		var typ byte
		if name, typ, errno = c.names.Next(); name == nil {
			break
		}
		if typ == unix.DT_DIR {
			queue = append(queue, strings.TrimSuffix(path, "/")+"/"+string(name))
		}
	}
	return queue
}

// meet takes note of the cgroup whose directory fd has open.
func (c *CgroupReader) meet(path string, fd int) *cgroup {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil
	}
	g := c.byID[st.Ino]
	if g != nil && g.path != path { // renamed, as version 1 allows
		c.forget(g)
		g = nil
	}
	if g == nil {
		g = &cgroup{id: st.Ino, path: path, container: containerOf(path), unit: unitOf(path)}
		c.byID[g.id], c.byPath[g.path] = g, g
	}
	g.round = c.round
	return g
}

// find returns the cgroup of a path as /proc/PID/cgroup gives it; nil if it is
// not there. Those above a new one are new, too, where its limit may be theirs.
func (c *CgroupReader) find(name []byte) *cgroup {
	if g := c.byPath[string(name)]; g != nil {
		return g
	}
	own := string(name)
	fd := c.main().open(own)
	if fd < 0 {
		return nil
	}
	defer kfile.Close(fd)
	g := c.meet(own, fd)
	if parent := path.Dir(own); g != nil && parent != own {
		c.find([]byte(parent))
	}
	return g
}
