package job

import (
	"bytes"
	"os"
	"strconv"
	"time"
)

// sharesCost bounds what reading shares may cost: the kernel walks every page for it.
// After a reading that took a time, none begins for so many times as long.
const sharesCost = 20

// sharesReader reads shares from /proc, within its budget.
type sharesReader struct {
	next time.Time
	buf  [4096]byte
}

// allowed reports whether the budget has recovered from the last reading.
func (r *sharesReader) allowed(now time.Time) bool { return !now.Before(r.next) }

// spent notes what a reading took.
func (r *sharesReader) spent(begin, end time.Time) { r.next = end.Add(sharesCost * end.Sub(begin)) }

// read reads what a process shares (/proc/PID/smaps_rollup, since 5.4 with the parts
// of Pss).
func (r *sharesReader) read(pid int32) (Shares, bool) {
	f, err := os.Open("/proc/" + strconv.Itoa(int(pid)) + "/smaps_rollup")
	if err != nil {
		return Shares{}, false
	}
	defer f.Close()
	n, err := f.Read(r.buf[:])
	if err != nil {
		return Shares{}, false
	}
	return parseShares(r.buf[:n])
}

func parseShares(b []byte) (s Shares, ok bool) {
	anon, ok1 := rollupField(b, "\nPss_Anon:")
	shmem, ok2 := rollupField(b, "\nPss_Shmem:")
	return Shares{Anon: anon, Shmem: shmem}, ok1 && ok2
}

// rollupField returns a field in bytes: "Pss_Anon:     1208 kB".
func rollupField(b []byte, name string) (uint64, bool) {
	_, rest, found := bytes.Cut(b, []byte(name))
	line, _, _ := bytes.Cut(rest, []byte{'\n'})
	words := bytes.Fields(line)
	if !found || len(words) != 2 {
		return 0, false
	}
	n, err := strconv.ParseUint(string(words[0]), 10, 54)
	return n << 10, err == nil
}
