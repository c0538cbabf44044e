package hostfs

import (
	"bytes"
	"strings"

	"golang.org/x/sys/unix"

	"rmagent/internal/hostfs/kfile"
	"rmagent/internal/sample"
)

// hierarchy is a mounted cgroup hierarchy.
type hierarchy struct {
	dir   int    // of its mount point, -1 if it isn't mounted
	point string // the mount point
	root  string // path of the cgroup that the mount point shows
}

// The hierarchies of version 1 that are read; unified is version 2, and in a
// hybrid host all of these are there.
type version1 struct {
	memory, cpu, cpuacct, pids, cpuset hierarchy
}

// cgroupMounts are the hierarchies of a host.
type cgroupMounts struct {
	version1
	unified hierarchy
}

// openCgroupMounts opens the first mount of each hierarchy, preferring those
// that show more of it.
func openCgroupMounts(root string, mountinfo []byte) cgroupMounts {
	none := hierarchy{dir: -1}
	c := cgroupMounts{version1{none, none, none, none, none}, none}
	eachMount(mountinfo, func(m mount) {
		switch m.kind {
		case "cgroup2":
			c.unified.mountAt(root, m)
		case "cgroup":
			for option := range bytes.SplitSeq(m.options, []byte{','}) {
				if h := c.controller(string(option)); h != nil {
					h.mountAt(root, m)
				}
			}
		}
	})
	return c
}

func (c *cgroupMounts) controller(name string) *hierarchy {
	switch name {
	case "memory":
		return &c.memory
	case "cpu":
		return &c.cpu
	case "cpuacct":
		return &c.cpuacct
	case "pids":
		return &c.pids
	case "cpuset":
		return &c.cpuset
	}
	return nil
}

// close closes every hierarchy.
func (c *cgroupMounts) close() {
	for _, h := range []*hierarchy{&c.memory, &c.cpu, &c.cpuacct, &c.pids, &c.cpuset, &c.unified} {
		h.close()
	}
}

func (h *hierarchy) mountAt(root string, m mount) {
	if h.dir >= 0 && len(m.root) >= len(h.root) {
		return
	}
	dir, errno := kfile.OpenDir(unix.AT_FDCWD, kfile.MakeName(root+m.point))
	if errno != 0 {
		return
	}
	h.close()
	h.dir, h.point, h.root = dir, m.point, m.root
}

func (h *hierarchy) close() {
	if h.dir >= 0 {
		kfile.Close(h.dir)
		h.dir = -1
	}
}

// below returns a cgroup's path below the mount point, "." for the cgroup that
// is mounted. One outside of what is mounted, or of the cgroup namespace (whose
// path begins with /..), has none.
func (h *hierarchy) below(path string) (string, bool) {
	if h.dir < 0 || !strings.HasPrefix(path, "/") || sample.OutsideCgroups(path) {
		return "", false
	}
	rest := path
	if h.root != "/" && !strings.HasPrefix(h.root, "/..") {
		var ok bool
		if rest, ok = strings.CutPrefix(path, h.root); !ok || rest != "" && rest[0] != '/' {
			return "", false
		}
	}
	if rest = strings.Trim(rest, "/"); rest == "" {
		return ".", true
	}
	return rest, true
}

// open opens the directory of a cgroup; -1 if it is not there.
func (h *hierarchy) open(path string) int {
	rest, ok := h.below(path)
	if !ok {
		return -1
	}
	fd, errno := kfile.OpenDir(h.dir, kfile.MakeName(rest))
	if errno != 0 {
		return -1
	}
	return fd
}

// parseCgroup finds in /proc/PID/cgroup the path in the hierarchy of a version 1
// controller, or in version 2's, which has the number 0 and names none. A
// cgroup's name has no newline (cgroup_mkdir refuses it), but any other byte.
func parseCgroup(b []byte, controller string) (path []byte, ok bool) {
	for len(b) > 0 {
		var line []byte
		line, b = kfile.Line(b)
		number, rest, found := bytes.Cut(line, []byte{':'})
		names, path, found2 := bytes.Cut(rest, []byte{':'})
		if !found || !found2 || len(path) == 0 || path[0] != '/' {
			continue
		}
		if controller == "" && string(number) == "0" && len(names) == 0 || controller != "" && hasName(names, controller) {
			return path, true
		}
	}
	return nil, false
}

// hasName reports whether a comma-separated list has name.
func hasName(list []byte, name string) bool {
	for len(list) > 0 {
		var first []byte
		first, list, _ = bytes.Cut(list, []byte{','})
		if string(first) == name {
			return true
		}
	}
	return false
}
