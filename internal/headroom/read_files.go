package headroom

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"rmagent/internal/hostfs"
	"rmagent/internal/hostfs/kfile"
	"rmagent/record"
)

// mostDescriptors bounds how many descriptors are looked at one by one: it takes
// about 5 µs each.
const mostDescriptors = 1 << 17

var (
	fdName     = kfile.MakeName("fd")
	fdinfoName = kfile.MakeName("fdinfo")
)

// openFile is a descriptor of a file that the process writes to.
type openFile struct {
	fd    string
	path  string
	mount int32
}

// readDescriptors looks at each descriptor: which places below the soft limit are
// taken, and which filesystems and files are written to.
func (r *Reader) readDescriptors(dir int, f *Facts) {
	if n, ok := f.FDOpen.Get(); ok && n > mostDescriptors {
		f.FDBelowSoft, f.FDBelowHard = record.Opt[uint64]{}, record.Opt[uint64]{}
		f.Filesystems = []Filesystem{{Why: fmt.Sprintf("more than %d descriptors: not looked at one by one", mostDescriptors)}}
		return
	}
	var belowSoft, belowHard uint64
	var written []openFile
	errno := r.eachDescriptor(dir, func(fd uint64, name, target string, info func() (descriptor, bool)) {
		if fd < f.Rlimits[nofile].Soft {
			belowSoft++
		}
		if fd < f.Rlimits[nofile].Hard {
			belowHard++
		}
		if !strings.HasPrefix(target, "/") {
			return
		}
		if d, ok := info(); ok && d.writing {
			written = append(written, openFile{name, target, d.mount})
		}
	})
	if errno != 0 {
		f.deny(errno)
		return
	}
	f.FDBelowSoft, f.FDBelowHard = record.Some(belowSoft), record.Some(belowHard)
	r.readWritten(dir, f, written)
}

// eachDescriptor calls visit for every descriptor; info reads more of it.
func (r *Reader) eachDescriptor(dir int, visit func(fd uint64, name, target string, info func() (descriptor, bool))) unix.Errno {
	fds, errno := kfile.OpenDir(dir, fdName)
	if errno != 0 {
		return errno
	}
	defer kfile.Close(fds)
	infos, errno := kfile.OpenDir(dir, fdinfoName)
	if errno != 0 {
		return errno
	}
	defer kfile.Close(infos)
	list := kfile.Dir{Buf: make([]byte, 32<<10)}
	for errno = list.Start(fds); errno == 0; {
		var entry []byte
		if entry, _, errno = list.Next(); entry == nil {
			break
		}
		fd, ok := kfile.Uint(entry)
		if !ok {
			continue
		}
		name := string(entry)
		target, errno := r.link(fds, kfile.MakeName(name))
		if errno != 0 {
			continue // closed meanwhile
		}
		visit(fd, name, target, func() (descriptor, bool) {
			b, errno := kfile.Read(infos, kfile.MakeName(name), kfile.Records, &r.buf)
			if errno != 0 {
				return descriptor{}, false
			}
			return parseDescriptor(b)
		})
	}
	return errno
}

// readWritten asks the filesystems of files that are written to, each once, and
// finds the largest of the files. Nothing is asked of a file whose filesystem may
// hang but how full that is, and that by a goroutine.
func (r *Reader) readWritten(dir int, f *Facts, written []openFile) {
	mountinfo, errno := kfile.Read(dir, mountinfoName, kfile.Records, &r.buf)
	if errno != 0 {
		f.deny(errno)
		return
	}
	mounts := hostfs.Mounts(mountinfo)
	seen := map[[2]uint64]bool{}
	var questions []hostfs.Question
	for _, w := range written {
		m, ok := mounts[w.mount]
		if !ok || m.Pseudo { // a mount of the kernel's own, as memfd's
			continue
		}
		path := "/proc/" + strconv.Itoa(int(f.ID.PID)) + "/fd/" + w.fd
		if !m.MayHang {
			size, regular := hostfs.FileSize(path)
			if !regular {
				continue
			}
			if f.Written == nil || size > f.Written.SizeBytes {
				f.Written = &WrittenFile{record.Text([]byte(w.path)), size}
			}
		}
		if !seen[m.Device] {
			seen[m.Device] = true
			questions = append(questions, hostfs.Question{Mount: m, Path: path})
		}
	}
	slices.SortFunc(questions, func(a, b hostfs.Question) int { return cmp.Compare(a.Mount.Point, b.Mount.Point) })
	for i, use := range r.disks.Ask(questions) {
		switch {
		case !use.Answered && questions[i].Mount.MayHang:
			f.Filesystems = append(f.Filesystems, Filesystem{use, "the filesystem does not answer"})
		case !use.Answered:
			f.Filesystems = append(f.Filesystems, Filesystem{use, "the filesystem can't be asked"})
		case use.TotalBytes.Known(): // else it has no size
			f.Filesystems = append(f.Filesystems, Filesystem{use, ""})
		}
	}
}
