package hostfs

import (
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/hostfs/kfile"
	"rmagent/record"
)

// filesystemReader lists the filesystems that store bytes, and how full they
// are.
type filesystemReader struct {
	root      string
	mountinfo file
	list      []*filesystem // by path
	pending   []*filesystem // asked in this reading
	asks      chan struct{} // room for goroutines
}

// maxAsks bounds the goroutines, and so the threads, that ask filesystems: one that hangs
// for ever keeps its own, and may be mounted anew, and hang again, any number of times.
const maxAsks = 1024

// patience is how long a reading waits, in all, for filesystems that may hang.
const patience = 10 * time.Millisecond

type filesystem struct {
	path   string
	name   kfile.Name // path below Options.Root
	device [2]uint64
	remote bool // may hang, so it is asked by a goroutine

	asked bool            // a goroutine is about it; a slow one is asked ahead, for the next reading
	reply chan statfsInfo // of that goroutine, which never blocks on it
	asks  chan struct{}   // room for it
}

// statfsInfo is what a filesystem said.
type statfsInfo struct {
	st   unix.Statfs_t
	ok   bool
	took time.Duration
}

func openFilesystems(root string) filesystemReader {
	return filesystemReader{root: root, mountinfo: openFile(root+"/proc/self/mountinfo", kfile.Records), asks: make(chan struct{}, maxAsks)}
}

func (r *filesystemReader) read(buf *[]byte, dst []record.Filesystem) []record.Filesystem {
	if r.mountsChanged() {
		r.relist(r.mountinfo.read(buf))
	}
	r.ask()
	for _, f := range r.list {
		dst = append(dst, f.describe())
	}
	return dst
}

// mountsChanged asks the kernel whether any mount came or went (proc(5):
// mountinfo is pollable with POLLPRI). The first time it has.
func (r *filesystemReader) mountsChanged() bool {
	if r.list == nil {
		r.list = []*filesystem{}
		return true
	}
	return kfile.Changed(r.mountinfo.fd)
}

// relist makes the list anew and keeps what is known of filesystems that stay:
// one that hangs must not be asked twice.
func (r *filesystemReader) relist(mountinfo []byte) {
	old := r.list
	r.list = make([]*filesystem, 0, len(old))
	for _, m := range storing(mountinfo) {
		f := &filesystem{
			path: m.point, name: kfile.MakeName(r.root + m.point), device: m.device,
			remote: mayHang(m.kind), reply: make(chan statfsInfo, 1), asks: r.asks,
		}
		if i := slices.IndexFunc(old, func(o *filesystem) bool { return o.path == f.path && o.device == f.device }); i >= 0 {
			f = old[i]
		} else if !f.remote && !r.shows(m, f.name) {
			continue
		}
		r.list = append(r.list, f)
	}
}

// shows reports whether a mount point leads to its filesystem: not if another
// mount hides it, and not if it is a file bound over another, as a container's
// /etc/hosts. It is true where that can't be told.
func (r *filesystemReader) shows(m mount, name kfile.Name) bool {
	var st unix.Stat_t
	if errno := kfile.Stat(unix.AT_FDCWD, name, &st); errno != 0 {
		return r.root != "" || errno != unix.ENOENT
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return false
	}
	switch m.kind {
	case "btrfs", "bcachefs", "overlay": // files have device numbers of their own there
		return true
	}
	return r.root != "" || m.device == [2]uint64{uint64(unix.Major(st.Dev)), uint64(unix.Minor(st.Dev))}
}

// ask sends a goroutine to each filesystem that may hang and that none is at,
// and gives them all together a moment. One that takes longer is unknown now,
// and the next reading finds its reply.
func (r *filesystemReader) ask() {
	r.pending = r.pending[:0]
	for _, f := range r.list {
		if f.remote && !f.asked && f.ask() {
			r.pending = append(r.pending, f)
		}
	}
	awaitReplies(r.pending)
}

// awaitReplies gives filesystems that were asked a moment, all of them together.
func awaitReplies(asked []*filesystem) {
	if len(asked) == 0 {
		return
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	for _, f := range asked {
		select {
		case info := <-f.reply:
			f.reply <- info // describe takes it
		case <-late.C:
			return
		}
	}
}

// ask has a goroutine ask; false where too many don't come back.
func (f *filesystem) ask() bool {
	select {
	case f.asks <- struct{}{}:
	default:
		return false
	}
	f.asked = true
	go func() {
		began := time.Now()
		info := statfs(f.name)
		info.took = time.Since(began)
		<-f.asks
		f.reply <- info
	}()
	return true
}

func (f *filesystem) describe() record.Filesystem { return describe(f.path, f.info()) }

// info asks a filesystem that answers, and takes the reply of one that may hang.
func (f *filesystem) info() statfsInfo {
	if !f.remote {
		var i statfsInfo
		i.ok = kfile.StatfsNow(f.name, &i.st) == 0
		return i
	}
	select {
	case info := <-f.reply:
		f.asked = false
		if info.took > patience {
			f.ask()
		}
		return info
	default: // it hangs
		return statfsInfo{}
	}
}

func statfs(name kfile.Name) (i statfsInfo) {
	i.ok = kfile.Statfs(name, &i.st) == 0
	return i
}

func describe(path string, i statfsInfo) record.Filesystem {
	fs := record.Filesystem{Path: path}
	if !i.ok {
		return fs
	}
	size := blockSize(&i.st)
	if i.st.Blocks > 0 {
		fs.TotalBytes, fs.FreeBytes, fs.AvailableBytes = some(i.st.Blocks*size), some(i.st.Bfree*size), some(i.st.Bavail*size)
	}
	if i.st.Files > 0 { // btrfs and vfat have no number of inodes
		fs.InodesTotal, fs.InodesAvailable = some(i.st.Files), some(i.st.Ffree)
	}
	return fs
}

func blockSize(st *unix.Statfs_t) uint64 {
	if st.Frsize == 0 {
		return uint64(st.Bsize)
	}
	return uint64(st.Frsize)
}

// storing returns the mounts to report, by path: those of filesystems that store
// bytes, each filesystem once. A mount of the whole goes before a bind of a
// part, then the shortest path.
func storing(mountinfo []byte) []mount {
	visible := map[string]mount{} // by point
	eachMount(mountinfo, func(m mount) {
		m.options = nil
		visible[m.point] = m
	})
	all := slices.Collect(maps.Values(visible))
	all = slices.DeleteFunc(all, func(m mount) bool { return !stores(m) })
	slices.SortFunc(all, func(a, b mount) int {
		if a.device != b.device {
			return slices.Compare(a.device[:], b.device[:])
		}
		if (a.root == "/") != (b.root == "/") {
			if a.root == "/" {
				return -1
			}
			return 1
		}
		if len(a.point) != len(b.point) {
			return len(a.point) - len(b.point)
		}
		return strings.Compare(a.point, b.point)
	})
	all = slices.CompactFunc(all, func(a, b mount) bool { return a.device == b.device })
	slices.SortFunc(all, func(a, b mount) int { return strings.Compare(a.point, b.point) })
	return all
}

// stores reports whether a mount is of a filesystem that stores bytes and can
// fill up. Anonymous devices have major number 0: most are the kernel's own
// views; those that store are named here.
func stores(m mount) bool {
	switch m.kind {
	case "squashfs", "iso9660", "erofs", "cramfs", "romfs", "udf": // images: always full
		return false
	case "btrfs", "bcachefs", "ubifs":
		return true
	case "overlay":
		return m.point == "/"
	case "tmpfs", "ramfs":
		// The many others hold secrets, sockets and a few bytes of state.
		return slices.Contains([]string{"/", "/tmp", "/run", "/dev/shm"}, m.point) && m.kind == "tmpfs"
	}
	return m.device[0] != 0 || mayHang(m.kind)
}

// mayHang tells the kinds whose statfs asks someone else: a server, a process,
// or a pool that has suspended I/O.
func mayHang(kind string) bool {
	switch kind {
	case "nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "virtiofs", "afs", "lustre", "gpfs", "beegfs", "glusterfs",
		"orangefs", "vboxsf", "zfs", "fuse", "fuseblk":
		return true
	case "fuse.lxcfs", "fuse.gvfsd-fuse", "fuse.portal", "fuse.snapfuse", "fuse.jetbrains-toolbox":
		return false // views, images
	}
	return strings.HasPrefix(kind, "fuse.")
}
