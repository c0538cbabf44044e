package footprint

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	"rmagent/internal/hostfs/kfile"
)

// Size is what directories hold together.
type Size struct {
	// Bytes is the sum over regular files of what each takes: its length, or less where
	// it has holes. A file with several names counts once.
	Bytes uint64
	Files uint64 // files of every type and directories, the measured ones included
	// Partial says that not all of it could be read.
	Partial bool
	// FreeNodes is how many inodes the filesystem of the first directory has left, and
	// Nodes whether it tells.
	FreeNodes uint64
	Nodes     bool
}

// Bounds of a walk, far above what a job's directories have: beyond them a Size is
// partial.
const (
	maxDepth = 256     // directories below each other, one descriptor each
	maxLinks = 1 << 20 // inodes with several names that are remembered
)

// inode identifies a file.
type inode struct{ dev, ino uint64 }

// walker sums up directories.
type walker struct {
	ctx     context.Context
	size    Size
	links   map[inode]struct{} // files with several names that have been counted
	roots   map[inode]bool     // the directories to measure; true: counted
	entries kfile.Dir
	turn    int
}

// Measure walks directories, each on its own filesystem only. One that lies inside
// another counts once; one that is gone counts nothing. It stops with ctx.
func Measure(ctx context.Context, dirs []string) (Size, error) {
	w := &walker{ctx: ctx, links: map[inode]struct{}{}, roots: map[inode]bool{}}
	w.entries.Buf = make([]byte, 32<<10)
	var fds []int
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	var ids []inode
	for _, dir := range dirs {
		fd, id, err := openRoot(dir)
		if err != nil {
			w.failed(err)
			continue
		}
		if _, twice := w.roots[id]; twice {
			unix.Close(fd)
			continue
		}
		w.roots[id] = false
		fds, ids = append(fds, fd), append(ids, id)
	}
	for i, fd := range fds {
		if i == 0 {
			w.nodes(fd)
		}
		if w.roots[ids[i]] {
			continue // inside one before
		}
		w.roots[ids[i]] = true
		w.size.Files++
		w.directory(fd, ids[i].dev, 0)
	}
	return w.size, ctx.Err()
}

func openRoot(dir string) (int, inode, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, inode{}, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, inode{}, err
	}
	return fd, inode{st.Dev, st.Ino}, nil
}

func (w *walker) nodes(fd int) {
	var st unix.Statfs_t
	if unix.Fstatfs(fd, &st) == nil && st.Files > 0 {
		w.size.FreeNodes, w.size.Nodes = st.Ffree, true
	}
}

// failed notes what could not be read. What went away meanwhile holds nothing.
func (w *walker) failed(err error) {
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ESRCH) {
		w.size.Partial = true
	}
}

// directory sums up what an open directory has, which was counted itself.
func (w *walker) directory(fd int, dev uint64, depth int) {
	if errno := w.entries.Start(fd); errno != 0 {
		w.failed(errno)
		return
	}
	var below []string
	for w.goesOn() {
		name, _, errno := w.entries.Next()
		if name == nil {
			if errno != 0 {
				w.failed(errno)
			}
			break
		}
		var st unix.Stat_t
		if err := unix.Fstatat(fd, string(name), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			w.failed(err)
			continue
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			w.file(&st)
			continue
		}
		id := inode{st.Dev, st.Ino}
		counted, root := w.roots[id]
		if counted || root && st.Dev != dev { // it is, or will be, counted as itself
			continue
		}
		if root {
			w.roots[id] = true
		}
		w.size.Files++
		if st.Dev == dev {
			below = append(below, string(name))
		}
	}
	for _, name := range below {
		if !w.goesOn() {
			return
		}
		w.descend(fd, name, dev, depth+1)
	}
}

func (w *walker) descend(parent int, name string, dev uint64, depth int) {
	if depth > maxDepth {
		w.size.Partial = true
		return
	}
	// NOFOLLOW: it may be another thing by now than when it was looked at.
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		w.failed(err)
		return
	}
	defer unix.Close(fd)
	w.directory(fd, dev, depth)
}

// goesOn reports whether there is time left.
func (w *walker) goesOn() bool {
	w.turn++
	if w.turn%256 == 0 && w.ctx.Err() != nil || w.size.Partial && w.ctx.Err() != nil {
		w.size.Partial = true
		return false
	}
	return true
}

// statBlock is the unit of st_blocks, whatever the filesystem's own is (stat(2)).
const statBlock = 512

func (w *walker) file(st *unix.Stat_t) {
	if st.Nlink > 1 {
		id := inode{st.Dev, st.Ino}
		if _, counted := w.links[id]; counted {
			w.size.Files++ // the name is one more
			return
		}
		if len(w.links) < maxLinks {
			w.links[id] = struct{}{}
		} else {
			w.size.Partial = true
		}
	}
	w.size.Files++
	if st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size > 0 {
		w.size.Bytes += min(uint64(st.Size), uint64(st.Blocks)*statBlock)
	}
}
