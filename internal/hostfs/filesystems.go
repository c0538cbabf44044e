package hostfs

import (
	"golang.org/x/sys/unix"

	"rmagent/internal/hostfs/kfile"
	"rmagent/record"
)

// FilesystemAsker asks filesystems by any path into them, also such as a process
// alone can see (/proc/PID/fd/N), and never waits long for one that hangs. One
// goroutine uses it at a time.
type FilesystemAsker struct {
	known map[[2]uint64]*filesystem // those that may hang, by device
	asks  chan struct{}             // room for goroutines that ask them
}

// Mount is a mount as a process sees it.
type Mount struct {
	Device [2]uint64 // major, minor
	Point  string
	// MayHang: asking it asks a server, a program or a pool, which may not answer.
	MayHang bool
	// Pseudo: it stores no bytes on anything that could fill up.
	Pseudo bool
}

// Mounts reads a /proc/PID/mountinfo text, by mount id.
func Mounts(mountinfo []byte) map[int32]Mount {
	mounts := map[int32]Mount{}
	for len(mountinfo) > 0 {
		var line []byte
		line, mountinfo = kfile.Line(mountinfo)
		word, _ := kfile.Word(line)
		id, okID := kfile.PID(word)
		if m, ok := parseMount(line); ok && okID {
			mounts[id] = Mount{m.device, m.point, mayHang(m.kind), isPseudo(m.kind)}
		}
	}
	return mounts
}

// isPseudo tells the kinds whose files are the kernel's own views.
func isPseudo(kind string) bool {
	switch kind {
	case "proc", "sysfs", "devpts", "devtmpfs", "cgroup", "cgroup2", "debugfs", "tracefs", "bpf", "mqueue",
		"securityfs", "pstore", "efivarfs", "configfs", "fusectl", "binfmt_misc", "nsfs", "autofs":
		return true
	}
	return false
}

// Question is a filesystem to ask.
type Question struct {
	Mount Mount
	Path  string // leads into it
}

// FilesystemUse is how full a filesystem is; unknown while it does not answer.
type FilesystemUse struct {
	record.Filesystem
	Answered bool
}

// Ask asks all of them, and returns the answers in their order. One that does not
// answer within a moment is unknown; it is not asked again while it hangs.
func (a *FilesystemAsker) Ask(questions []Question) []FilesystemUse {
	if a.known == nil {
		a.known, a.asks = map[[2]uint64]*filesystem{}, make(chan struct{}, maxAsks)
	}
	all := make([]*filesystem, len(questions))
	var asked []*filesystem
	for i, q := range questions {
		f := a.filesystem(q)
		if f.remote && !f.asked && f.ask() {
			asked = append(asked, f)
		}
		all[i] = f
	}
	awaitReplies(asked)
	answers := make([]FilesystemUse, len(all))
	for i, f := range all {
		info := f.info()
		answers[i] = FilesystemUse{Filesystem: describe(questions[i].Mount.Point, info), Answered: info.ok}
	}
	return answers
}

func (a *FilesystemAsker) filesystem(q Question) *filesystem {
	name := kfile.MakeName(q.Path)
	if !q.Mount.MayHang {
		return &filesystem{name: name}
	}
	f := a.known[q.Mount.Device]
	if f == nil {
		f = &filesystem{remote: true, reply: make(chan statfsInfo, 1), asks: a.asks}
		a.known[q.Mount.Device] = f
	}
	if !f.asked {
		f.name = name
	}
	return f
}

// FileSize returns the size of the regular file that a path leads to; it may only
// be called for a filesystem that answers.
func FileSize(path string) (size uint64, ok bool) {
	var st unix.Stat_t
	if kfile.Stat(unix.AT_FDCWD, kfile.MakeName(path), &st) != 0 || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return 0, false
	}
	return uint64(st.Size), true
}
