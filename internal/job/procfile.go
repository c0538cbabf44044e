package job

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/hostfs/kfile"
	"rmagent/internal/sample"
	"rmagent/record"
)

// procStat is what /proc/PID/stat says: of a process, and of those that it waited for.
type procStat struct {
	state        byte
	ppid         int32
	comm         sample.Comm
	minor, major uint64
	user, system time.Duration
	start        uint64
}

var errStat = errors.New("/proc/PID/stat makes no sense")

func readStat(pid int32) (procStat, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(int(pid)) + "/stat")
	if err != nil {
		return procStat{}, err
	}
	return parseStat(b)
}

// parseStat counts fields from behind the name, which may hold any byte.
func parseStat(b []byte) (s procStat, err error) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return s, errStat
	}
	copy(s.comm[:len(s.comm)-1], b[open+1:end])
	words := bytes.Fields(b[end+1:])
	if len(words) < 20 || len(words[0]) != 1 {
		return s, errStat
	}
	number := func(field int) uint64 { // as proc(5) numbers them
		n, e := strconv.ParseUint(string(words[field-3]), 10, 64)
		err = errors.Join(err, e)
		return n
	}
	ticks := func(field int) time.Duration { return time.Duration(number(field)) * (time.Second / 100) }
	s.state = words[0][0]
	s.ppid = int32(number(4))
	s.minor = number(10) + number(11)
	s.major = number(12) + number(13)
	s.user = ticks(14) + ticks(16)
	s.system = ticks(15) + ticks(17)
	s.start = number(22)
	return s, err
}

func (s *procStat) add(t *sample.JobTotals) {
	t.MinorFlt += s.minor
	t.MajorFlt += s.major
	t.User += s.user
	t.System += s.system
	t.CPU += s.user + s.system
}

// procIO is what /proc/PID/io says, of a process and of those that it waited for.
type procIO struct{ read, written, diskRead, diskWritten uint64 }

// readIO reads a process's /proc/PID/io, by its open file if there is one.
func readIO(pid int32, file *os.File) (procIO, bool) {
	if file == nil {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(int(pid)) + "/io")
		if err != nil {
			return procIO{}, false
		}
		return parseIO(b)
	}
	var b [512]byte
	n, _ := file.ReadAt(b[:], 0) // its end is an error of ReadAt
	return parseIO(b[:n])
}

func parseIO(b []byte) (io procIO, ok bool) {
	found := 0
	for name, value := range kfile.Pairs(b) {
		n, _, ok := kfile.NextUint(value)
		if !ok {
			continue
		}
		found++
		switch string(name) {
		case "rchar":
			io.read = n
		case "wchar":
			io.written = n
		case "read_bytes":
			io.diskRead = n
		case "write_bytes":
			io.diskWritten = n
		default:
			found--
		}
	}
	return io, found == 4
}

func (io *procIO) add(t *sample.JobTotals) {
	t.ReadBytes += io.read
	t.WrittenBytes += io.written
	t.DiskRead += io.diskRead
	t.DiskWritten += io.diskWritten
}

// readProcess reads what a process has.
func readProcess(pid int32, s *procStat) (p sample.JobProcess, ok bool) {
	dir := "/proc/" + strconv.Itoa(int(pid))
	b, err := os.ReadFile(dir + "/status")
	if err != nil {
		return p, false
	}
	p.ID, p.Comm = sample.ID{PID: pid, StartTicks: s.start}, s.comm
	field := func(name string) uint64 {
		n, found := rollupField(b, "\n"+name+":")
		p.Memory = p.Memory || found
		return n
	}
	p.Virtual, p.PeakVirtual = field("VmSize"), field("VmPeak")
	p.Anon, p.File, p.Shmem = field("RssAnon"), field("RssFile"), field("RssShmem")
	p.Peak, p.Swap = field("VmHWM"), field("VmSwap")
	p.Family = true // /proc does not say who forked whom without exec
	p.Forked = true
	// Since 6.2 the size of the directory is the number of its entries (f1f1f2569901,
	// proc: report open files as size in stat() for /proc/pid/fd); before, it is 0.
	var st unix.Stat_t
	if unix.Stat(dir+"/fd", &st) == nil && st.Size > 0 {
		p.FDs = record.Some(uint64(st.Size))
	} else if list, err := os.ReadDir(dir + "/fd"); err == nil {
		p.FDs = record.Some(uint64(len(list)))
	}
	if n, ok := limitOfFiles(pid); ok {
		p.FDLimit = record.Some(n)
	}
	return p, true
}

func limitOfFiles(pid int32) (uint64, bool) {
	var l unix.Rlimit
	if err := unix.Prlimit(int(pid), unix.RLIMIT_NOFILE, nil, &l); err != nil {
		return 0, false
	}
	return l.Cur, true
}
