package job

import (
	"bytes"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// sharesCost bounds what reading shares may cost: the kernel walks every page for it.
// After a reading that took some CPU time, none begins for so many times as long.
const sharesCost = 10

// sharesReader reads shares from /proc, within its budget.
type sharesReader struct {
	next time.Time
	buf  [4096]byte
}

// within calls f with what reads shares, or with nil where the budget has not recovered.
func (r *sharesReader) within(f func(Sharer)) {
	if time.Now().Before(r.next) {
		f(nil)
		return
	}
	runtime.LockOSThread() // its CPU time is counted
	defer runtime.UnlockOSThread()
	begin, asked := threadCPU(), false
	f(func(pid int32) (Shares, bool) {
		asked = true
		return r.read(pid)
	})
	if asked {
		r.next = time.Now().Add(sharesCost * (threadCPU() - begin))
	}
}

func threadCPU() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		panic(err) // there since 2.6.12
	}
	return time.Duration(ts.Nano())
}

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
