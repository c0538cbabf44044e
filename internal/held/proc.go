package held

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"rmagent/internal/sample"
)

// ErrGone is a process that is not there, or is another one by now.
var ErrGone = errors.New("no such process")

// Lister lists the descriptors of a process. An error that is no such process wraps
// ErrGone or fs.ErrNotExist.
type Lister interface {
	List(id sample.ID, dst *sample.FDList) error
}

// FD is a descriptor and what it refers to.
type FD struct {
	sample.FD
	// Target is a path or an address; empty where there is none, or it can't be
	// told for certain.
	Target string
}

// maxListed bounds what procfs is asked for, a few microseconds each; the rest of a
// process's descriptors is counted as missed.
const maxListed = 1 << 16

// Proc reads descriptors from procfs.
type Proc struct {
	root string
	name []byte
}

// OpenProc returns a Proc over the procfs at root, mostly /proc.
func OpenProc(root string) *Proc { return &Proc{root: root, name: make([]byte, unix.PathMax)} }

// process opens a process's directory, which stays its own: where the PID is used
// again, reading answers ESRCH.
func (p *Proc) process(id sample.ID) (dir int, err error) {
	dir, err = unix.Open(p.root+"/"+strconv.Itoa(int(id.PID)), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("pid %d: %w", id.PID, ErrGone)
	}
	stat, err := readAt(dir, "stat", 4096)
	if err == nil && startOf(stat) != id.StartTicks {
		err = ErrGone
	}
	if err != nil {
		unix.Close(dir)
		return -1, fmt.Errorf("pid %d: %w", id.PID, ErrGone)
	}
	return dir, nil
}

// startOf is field 22 of a process's stat: the 20th behind the name.
func startOf(stat []byte) uint64 {
	text := string(stat)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 20 {
		return 0
	}
	start, _ := strconv.ParseUint(fields[19], 10, 64)
	return start
}

// readAt reads at most limit bytes of a file in a directory.
func readAt(dir int, name string, limit int) ([]byte, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	buf := make([]byte, 0, 4096)
	for len(buf) < limit {
		buf = slices.Grow(buf, 4096)
		n, err := unix.Read(fd, buf[len(buf):min(cap(buf), limit)])
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return buf, err
		}
		buf = buf[:len(buf)+n]
	}
	return buf, nil
}

// List replaces dst with the open descriptors of a process, with kinds, inodes and
// the addresses of sockets. Who opened them procfs can't know. Where the list may
// not be read the error is fs.ErrPermission's.
func (p *Proc) List(id sample.ID, dst *sample.FDList) error {
	*dst = sample.FDList{ID: id, FDs: dst.FDs[:0]}
	dir, err := p.process(id)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	numbers, missed, err := p.numbers(dir)
	if err != nil {
		return fmt.Errorf("list descriptors of pid %d: %w", id.PID, err)
	}
	dst.Missed = missed
	var sockets socketTable
	for _, n := range numbers {
		fd := sample.FD{Number: n, Why: sample.BeforeTracing}
		link, err := p.readlink(dir, n)
		var st unix.Statx_t
		if err == nil { // what a file system in user space or across the network is not asked for
			err = unix.Statx(dir, "fd/"+strconv.Itoa(int(n)), unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE|unix.STATX_INO, &st)
		}
		switch {
		case err == unix.ENOENT || err == unix.ESRCH: // it is closed by now
			continue
		case errors.Is(err, fs.ErrPermission):
			dst.Denied++
			continue
		case err != nil:
			dst.Missed++
			continue
		}
		fd.Inode, fd.Device = st.Ino, unix.Mkdev(st.Dev_major, st.Dev_minor)
		fd.Kind = kindOf(link, uint32(st.Mode))
		if fd.Kind == sample.FDSocket {
			if sockets == nil {
				sockets = readSockets(dir)
			}
			s := sockets[fd.Inode]
			if s.kind != sample.FDUnknown {
				fd.Kind, fd.Local, fd.Remote, fd.Listening = s.kind, s.local, s.remote, s.listening
			}
		}
		dst.FDs = append(dst.FDs, fd)
	}
	return nil
}

// numbers lists a process's descriptors in order.
func (p *Proc) numbers(dir int) (list []int32, missed uint64, err error) {
	fd, err := unix.Openat(dir, "fd", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, 0, err
	}
	f := os.NewFile(uintptr(fd), "fd")
	defer f.Close()
	names, err := f.Readdirnames(maxListed)
	for _, name := range names {
		if n, err := strconv.ParseInt(name, 10, 32); err == nil {
			list = append(list, int32(n))
		}
	}
	for err == nil && len(names) > 0 {
		names, err = f.Readdirnames(maxListed)
		missed += uint64(len(names))
	}
	slices.Sort(list)
	return list, missed, nil
}

func (p *Proc) readlink(dir int, n int32) (string, error) {
	got, err := unix.Readlinkat(dir, "fd/"+strconv.Itoa(int(n)), p.name)
	if err == nil && got == len(p.name) {
		err = unix.ENAMETOOLONG
	}
	if err != nil {
		return "", err
	}
	return string(p.name[:got]), nil
}

// anonymous is what the kernel calls its anonymous inodes, as readlink shows them
// (anon_inode_getfile's callers in the kernel).
var anonymous = map[string]sample.FDKind{
	"[eventfd]": sample.FDEventfd, "[eventpoll]": sample.FDEpoll, "inotify": sample.FDInotify,
	"[fanotify]": sample.FDFanotify, "[timerfd]": sample.FDTimerfd, "[signalfd]": sample.FDSignalfd,
	"[pidfd]": sample.FDPidfd, "[io_uring]": sample.FDIOUring, "[userfaultfd]": sample.FDUserfaultfd,
	"[perf_event]": sample.FDPerfEvent, "bpf-map": sample.FDBPF, "bpf-prog": sample.FDBPF,
	"bpf_link": sample.FDBPF, "bpf_iter": sample.FDBPF, "btf": sample.FDBPF,
}

// kindOf tells the kind of a descriptor by what readlink and stat show.
func kindOf(link string, mode uint32) sample.FDKind {
	if name, ok := strings.CutPrefix(link, "anon_inode:"); ok {
		if k, ok := anonymous[name]; ok {
			return k
		}
		return sample.FDAnon
	}
	switch mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		return sample.FDSocket
	case unix.S_IFDIR:
		return sample.FDDirectory
	case unix.S_IFCHR:
		return sample.FDCharDevice
	case unix.S_IFBLK:
		return sample.FDBlockDevice
	case unix.S_IFIFO:
		if strings.HasPrefix(link, "pipe:") {
			return sample.FDPipe
		}
		return sample.FDFIFO
	case unix.S_IFREG:
		switch {
		case strings.HasPrefix(link, "/memfd:"):
			return sample.FDMemfd
		case strings.HasPrefix(link, "pidfd:"): // a file system of its own since 6.9
			return sample.FDPidfd
		case !strings.HasPrefix(link, "/") && strings.Contains(link, ":["):
			return sample.FDNamespace
		}
		return sample.FDFile
	}
	return sample.FDUnknown
}

// named is the kinds whose target is what readlink shows.
func named(k sample.FDKind) bool {
	switch k {
	case sample.FDFile, sample.FDDirectory, sample.FDCharDevice, sample.FDBlockDevice,
		sample.FDFIFO, sample.FDMemfd, sample.FDNamespace:
		return true
	}
	return false
}

// Targets returns what a process's descriptors refer to, in the order of list. Paths
// are read of the first limit files, and stand only where the descriptor is still the
// same one afterwards, by a second list. Another descriptor of a file that was read
// has its path, too.
func (p *Proc) Targets(list *sample.FDList, again Lister, limit int) []FD {
	fds := make([]FD, len(list.FDs))
	for i := range list.FDs {
		fds[i].FD = list.FDs[i]
	}
	dir, err := p.process(list.ID)
	if err != nil {
		return fds
	}
	defer unix.Close(dir)
	var sockets socketTable
	read := map[file]string{}
	for i := range fds {
		f := &fds[i]
		switch {
		case f.Kind == sample.FDUnix:
			if sockets == nil {
				sockets = readSockets(dir)
			}
			f.Target = sockets[f.Inode].path
		case named(f.Kind) && len(read) < limit && i < 8*limit:
			if f.Target, _ = p.readlink(dir, f.Number); f.Target != "" {
				read[fileOf(f)] = f.Target
			}
		case named(f.Kind):
			f.Target = read[fileOf(f)]
		}
	}
	p.verify(fds, list.ID, again)
	return fds
}

// file tells files apart.
type file struct{ device, inode uint64 }

func fileOf(f *FD) file { return file{f.Device, f.Inode} }

// verify drops the paths of descriptors that are others by now.
func (p *Proc) verify(fds []FD, id sample.ID, again Lister) {
	var now sample.FDList
	if err := again.List(id, &now); err != nil {
		now.FDs = nil
	}
	j := 0
	for i := range fds {
		f := &fds[i]
		if f.Target == "" {
			continue
		}
		for j < len(now.FDs) && now.FDs[j].Number < f.Number {
			j++
		}
		same := j < len(now.FDs) && now.FDs[j].Number == f.Number && now.FDs[j].File == f.File &&
			now.FDs[j].Inode == f.Inode && now.FDs[j].Device == f.Device
		if !same {
			f.Target = ""
		}
	}
}
