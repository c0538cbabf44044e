package footprint

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Exhausted is a directory on a filesystem that had nothing left.
type Exhausted struct {
	Dir    string // empty: none was found so
	Inodes bool   // it had no inode left; else no byte
}

// Exhausted returns the last directory whose filesystem was found without anything left
// for this user, where files are made or grow: ten times a second, and when a measurement
// begins.
func (m *Meter) Exhausted() Exhausted {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.full
}

// maxAsked bounds of how many directories the filesystems are asked: many processes are
// in few.
const maxAsked = 64

func (m *Meter) lookForSpace(dirs []string) {
	for _, dir := range dirs[:min(len(dirs), maxAsked)] {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) != nil {
			continue
		}
		full, inodes := exhausted(&st, os.Geteuid() == 0)
		if !full {
			continue
		}
		if strings.HasPrefix(dir, "/proc/") { // the working directory of a process
			if target, err := os.Readlink(dir); err == nil {
				dir = target
			}
		}
		m.mu.Lock()
		m.full = Exhausted{Dir: dir, Inodes: inodes}
		m.mu.Unlock()
	}
}

// exhausted reports whether a filesystem has no byte or no inode left. Root may use what
// is reserved (statfs(2)). One without blocks, as /proc, has no space at all.
func exhausted(st *unix.Statfs_t, root bool) (full, inodes bool) {
	left := st.Bavail
	if root {
		left = st.Bfree
	}
	switch {
	case st.Blocks > 0 && left == 0:
		return true, false
	case st.Files > 0 && st.Ffree == 0:
		return true, true
	}
	return false, false
}
