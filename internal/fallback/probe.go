package fallback

import (
	"bytes"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"rmagent/internal/hostfs/kfile"
	"rmagent/internal/sample"
)

// kernel is what a procfs was found to be able to.
type kernel struct {
	release       string // uname -r; empty for a copy of a procfs
	sameNamespace bool   // its PIDs are ours: prlimit and kcmp mean the same processes
	schedstat     bool   // run times and delays are counted
	fdSize        bool   // the size of a process's fd directory is its number of descriptors
	kcmp          bool
	others        access // what is allowed of processes of other users
}

type access uint8

const (
	everything  access = iota // io and fd too
	someRefused               // PID 1's io is refused in spite of CAP_SYS_PTRACE
	publicOnly                // what anybody may read
	namesOnly                 // hidepid=1: that they are there
	invisible                 // hidepid=2, 4: not even that
)

func (r *Reader) probe() (k kernel) {
	self := r.openSelf()
	if self < 0 || !r.isProcfs() {
		return kernel{schedstat: true} // a copy says by its files what it has
	}
	defer kfile.Close(self)
	if b, errno := kfile.Read(self, schedstatName, kfile.Whole, &r.text); errno == 0 {
		// Without accounting it prints 0 0 0, but who reads this has run.
		ran, _, ok := parseSchedstat(b)
		k.schedstat = ok && ran > 0
	}
	k.release = release()
	k.sameNamespace = r.isOwn(self)
	// The size is 0 before f1f1f2569901 ("proc: report open files as size in
	// stat() for /proc/pid/fd", 6.2), and we have at least self and root open.
	var st unix.Stat_t
	k.fdSize = kfile.Stat(self, fdName, &st) == 0 && st.Size > 0
	if k.sameNamespace {
		pid := int32(os.Getpid())
		order, errno := kcmpFiles(pid, pid)
		k.kcmp = errno == 0 && order == 0
	}
	k.others = r.probeOthers(self)
	return k
}

// probeOthers tries what is allowed of PID 1.
func (r *Reader) probeOthers(self int) access {
	r.name = kfile.AppendPID(r.name[:0], 1)
	init, errno := kfile.OpenDir(r.root, r.name)
	switch errno {
	case 0:
	case unix.ENOENT:
		return invisible
	default:
		return namesOnly
	}
	defer kfile.Close(init)
	if !r.mayTrace(self) {
		return publicOnly
	}
	if _, errno := kfile.Read(init, ioName, kfile.Whole, &r.text); errno != 0 {
		return someRefused
	}
	return everything
}

// mayTrace reports whether CAP_SYS_PTRACE is effective.
func (r *Reader) mayTrace(self int) bool {
	b, errno := kfile.Read(self, statusName, kfile.Whole, &r.text)
	if errno != 0 {
		return false
	}
	_, after, _ := bytes.Cut(b, []byte("\nCapEff:"))
	word, _ := kfile.Word(after)
	caps, err := strconv.ParseUint(string(word), 16, 64)
	return err == nil && caps>>unix.CAP_SYS_PTRACE&1 != 0
}

func (r *Reader) openSelf() int {
	fd, errno := kfile.OpenDir(r.root, kfile.MakeName("self"))
	if errno != 0 {
		return -1
	}
	return fd
}

func (r *Reader) isProcfs() bool {
	var st unix.Statfs_t
	return unix.Fstatfs(r.root, &st) == nil && st.Type == unix.PROC_SUPER_MAGIC
}

// isOwn reports whether this procfs is of our own PID namespace: then self has
// one PID, the one that we know.
func (r *Reader) isOwn(self int) bool {
	b, errno := kfile.Read(self, statusName, kfile.Whole, &r.text)
	if errno != 0 {
		return false
	}
	_, after, found := bytes.Cut(b, []byte("\nNSpid:"))
	if !found {
		return false
	}
	line, _ := kfile.Line(after)
	first, rest := kfile.Word(line)
	second, _ := kfile.Word(rest)
	pid, ok := kfile.PID(first)
	return ok && len(second) == 0 && int(pid) == os.Getpid()
}

func release() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// capabilities says what follows for each field.
func (k *kernel) capabilities() (c sample.Capabilities) {
	for f := range sample.NumFields {
		c[f] = sample.Capability{Level: sample.Exact}
	}
	absent := func(why string, fs ...sample.Field) {
		for _, f := range fs {
			c[f] = sample.Capability{Level: sample.Absent, Why: why}
		}
	}
	approximate := func(why string, fs ...sample.Field) {
		for _, f := range fs {
			if c[f].Level != sample.Absent {
				c[f] = sample.Capability{Level: sample.Approximate, Why: why}
			}
		}
	}
	absent("not in /proc", sample.ExecID, sample.FDTable, sample.FDOpened, sample.FDClosed,
		sample.NetReceived, sample.NetSent)
	absent("read with a process's identity, not with its numbers", sample.CgroupID)
	approximate("up to 20 ms behind, in ticks of 10 ms, once a process has had a second thread", sample.CPU)
	approximate("the split is sampled by the tick", sample.CPUUser, sample.CPUSystem)
	approximate("without what threads waited that ended before, or between two readings", sample.RunDelay)
	if !k.schedstat {
		approximate("up to 20 ms behind, in ticks of 10 ms", sample.CPU)
		absent("the kernel has no /proc/PID/schedstat (CONFIG_SCHED_INFO)", sample.RunDelay)
	}
	approximate("the kernel notes the peak from counters that lag behind by some pages per CPU", sample.RSSPeak)
	if lagging(k.release) {
		approximate("Linux before 6.16 shows counters that lag behind by some pages per CPU or thread",
			sample.RSSAnon, sample.RSSFile, sample.RSSShmem, sample.Swap)
	}
	if !k.kcmp {
		approximate("kcmp is refused: tables that threads have of their own are not counted", sample.FDOpen)
	}
	k.limitByAccess(approximate)
	return c
}

func (k *kernel) limitByAccess(approximate func(string, ...sample.Field)) {
	private := []sample.Field{sample.DiskRead, sample.DiskWritten, sample.IORead, sample.IOWritten}
	switch k.others {
	case someRefused:
		approximate("not of processes that refuse it, as PID 1 here", private...)
	case publicOnly:
		if !k.fdSize {
			private = append(private, sample.FDOpen)
		}
		approximate("only of this user's processes: CAP_SYS_PTRACE is missing", private...)
	case namesOnly, invisible:
		for f := range sample.NumFields {
			approximate("only of this user's processes: /proc is mounted with hidepid, and CAP_SYS_PTRACE is missing", f)
		}
	}
}

// lagging reports whether status shows RSS that is behind: until 82241a83cd15
// ("mm: fix the inaccurate memory statistics issue for users", 6.16) it summed
// neither the threads' caches (before 6.2) nor the CPUs' (since). A fix that a
// distribution took into an older kernel goes unnoticed.
func lagging(release string) bool {
	major, rest := leadingNumber(release)
	if len(rest) == 0 || rest[0] != '.' {
		return true
	}
	minor, _ := leadingNumber(rest[1:])
	return major < 6 || major == 6 && minor < 16
}

func leadingNumber(s string) (n int, rest string) {
	i := 0
	for i < len(s) && i < 6 && '0' <= s[i] && s[i] <= '9' {
		n = n*10 + int(s[i]-'0')
		i++
	}
	return n, s[i:]
}
