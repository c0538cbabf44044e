package sampletest

import (
	"fmt"
	"os"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"rmagent/internal/sample"
)

// A process of one thread that sleeps may be read by what was kept of it. Others
// change it all the same: their descriptors are its own where they share the table,
// and limits, memory, state, cgroup and parent change without it.

const (
	sleeperBytes = 4 << 20 // written into the sleepers' memory by others
	sharedOpens  = 5
)

func init() { helpers["sleepers"] = sleepers }

// sleepers has two sleeping children of one thread each: one shares its table of
// descriptors, the other has a copy. It prints their PIDs and where in their memory
// is room that nobody touched, and opens descriptors when it may go on.
func sleepers([]string) {
	room, err := unix.Mmap(-1, 0, sleeperBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	must(err)
	must(unix.Madvise(room, unix.MADV_NOHUGEPAGE))
	fmt.Println(sleepingChild(unix.CLONE_FILES))
	fmt.Println(sleepingChild(0))
	fmt.Println(uintptr(unsafe.Pointer(&room[0])))
	ready()
	wait()
	openMany(sharedOpens)
	ready()
	wait()
}

// sleepingChild forks a child that outlives its parent.
func sleepingChild(flags uintptr) int {
	pid, errno := forkSleeping(flags)
	if errno != 0 {
		must(errno)
	}
	return int(pid)
}

//go:nosplit
//go:norace
func forkSleeping(flags uintptr) (uintptr, syscall.Errno) {
	pid, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, flags|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	for {
		syscall.RawSyscall6(syscall.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
	}
}

func testSleepers(t *testing.T, s *suite) {
	helper := start(t, "sleepers")
	said := helper.numbers(3)
	sharer, copier, room := int32(said[0]), int32(said[1]), uintptr(said[2])
	for _, pid := range []int32{sharer, copier} {
		t.Cleanup(func() { unix.Kill(int(pid), unix.SIGKILL) })
		awaitState(t, pid, 'S')
	}
	s.read()
	s.read() // from here on a source may know them

	same := func(after string) {
		t.Helper()
		for _, pid := range []int32{sharer, copier} {
			s.both(pid, func(p *sample.Process) {
				t.Helper()
				s.sameAsProc(p, after)
			})
		}
	}
	same("nothing happened")

	helper.Say("")
	helper.Ready()
	same("another opened descriptors")

	for _, pid := range []int32{sharer, copier} {
		var old unix.Rlimit
		if err := unix.Prlimit(int(pid), unix.RLIMIT_NOFILE, nil, &old); err != nil {
			t.Fatal(err)
		}
		if err := unix.Prlimit(int(pid), unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: old.Cur - 7, Max: old.Max}, nil); err != nil {
			t.Fatal(err)
		}
	}
	same("another set the limit")

	before := s.one(copier)
	bytes := make([]byte, sleeperBytes)
	local := []unix.Iovec{{Base: &bytes[0], Len: sleeperBytes}}
	remote := []unix.RemoteIovec{{Base: room, Len: sleeperBytes}}
	if _, err := unix.ProcessVMWritev(int(copier), local, remote, 0); err != nil {
		t.Fatal(err)
	}
	same("another wrote to its memory")
	if s.exact(sample.RSSAnon) {
		if after := s.one(copier); after.RSSAnonBytes-before.RSSAnonBytes != sleeperBytes {
			t.Errorf("another touched %d bytes of it, and its memory grew from %d to %d", sleeperBytes, before.RSSAnonBytes, after.RSSAnonBytes)
		}
	}

	for _, signal := range []unix.Signal{unix.SIGSTOP, unix.SIGCONT} {
		unix.Kill(int(copier), signal)
		awaitState(t, copier, map[unix.Signal]byte{unix.SIGSTOP: 'T', unix.SIGCONT: 'S'}[signal])
		same(signal.String())
	}

	if s.exact(sample.CgroupID) && os.Geteuid() == 0 {
		root := cgroupRoot(t)
		id := moveToOwn(t, root, copier)
		same("another moved it to a cgroup")
		s.both(copier, func(p *sample.Process) {
			if p.CgroupID != id {
				t.Errorf("it was moved to the cgroup %d and is in %d", id, p.CgroupID)
			}
		})
		moveTo(t, root, copier)
	}

	helper.Kill()
	same("its parent died")
	if p := s.one(copier); p.PPID == helper.pid {
		t.Errorf("its parent is still %d, which is dead", p.PPID)
	}
}

// sameAsProc compares a process that sleeps with /proc, in what others can change
// and in what only itself can.
func (s *suite) sameAsProc(p *sample.Process, after string) {
	s.t.Helper()
	want, ok := readTruth(p.ID.PID)
	if !ok {
		s.t.Fatalf("after %s: %v is gone", after, p.ID)
	}
	for _, f := range []sample.Field{sample.FDOpen, sample.FDLimit, sample.FDHardLimit, sample.PPID, sample.Threads,
		sample.MinorFaults, sample.MajorFaults, sample.Virtual, sample.IORead, sample.IOWritten} {
		if w, known := want.value[f]; known && p.Known.Has(f) && fieldOf(p, f) != w {
			s.t.Errorf("after %s: %v of %v is %d, /proc has %d", after, f, p.ID, fieldOf(p, f), w)
		}
	}
	if listed := procFDs(s.t, p.ID.PID); p.Known.Has(sample.FDOpen) && p.FDOpen != listed {
		s.t.Errorf("after %s: %v has %d descriptors, /proc lists %d", after, p.ID, p.FDOpen, listed)
	}
	if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p.ID.PID)); err == nil && string(comm) != string(p.Comm.Bytes())+"\n" {
		s.t.Errorf("after %s: %v is named %q, /proc has %q", after, p.ID, p.Comm.Bytes(), comm)
	}
}
