package source

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"rmagent/internal/loader"
	"rmagent/internal/sample"
	"rmagent/record"
)

// oldKernelVariable makes the test binary a program that tells what opens where the kernel
// refuses a map.
const oldKernelVariable = "SOURCE_TEST_OLD_KERNEL"

func TestMain(m *testing.M) {
	if os.Getenv(oldKernelVariable) != "" {
		if err := json.NewEncoder(os.Stdout).Encode(openOnOldKernel()); err != nil {
			panic(err)
		}
		return
	}
	os.Exit(m.Run())
}

// opened is what the program on the old kernel tells.
type opened struct {
	Name, Lost  string
	Unsupported bool   // so is Lost
	EBPF        string // the error of asking for it
	Events      string // the error of opening them
	Processes   int
	FDOpen      uint64 // of the program
	FDsKnown    bool
	FDs         int // of the program, counted by itself
	Err         string
}

// openOnOldKernel opens the sources where bpf(2) answers to the creation of a map what a
// kernel answers that lacks its type, as those before 5.11 lack task storage: EINVAL.
func openOnOldKernel() (o opened) {
	if err := refuseMaps(); err != nil {
		o.Err = err.Error()
		return o
	}
	if _, err := Open(EBPF, nil); err != nil {
		o.EBPF = err.Error()
	}
	if _, err := loader.OpenEvents(loader.EventOptions{}); err != nil {
		o.Events = err.Error()
	}
	s, err := Open(Auto, nil)
	if err != nil {
		o.Err = err.Error()
		return o
	}
	defer s.Close()
	o.Name = string(s.Name)
	if s.Lost != nil {
		o.Lost, o.Unsupported = s.Lost.Error(), errors.Is(s.Lost, loader.ErrUnsupported)
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		o.Err = err.Error()
		return o
	}
	o.FDs = len(entries) - 1 // but for the one that it was read by
	var all sample.Snapshot
	if err := s.Read(context.Background(), sample.Scope{}, &all); err != nil {
		o.Err = err.Error()
	}
	o.Processes = len(all.Processes)
	for i := range all.Processes {
		if p := &all.Processes[i]; int(p.ID.PID) == os.Getpid() {
			o.FDOpen, o.FDsKnown = p.FDOpen, p.Known.Has(sample.FDOpen)
		}
	}
	return o
}

// refuseMaps has every thread's bpf(BPF_MAP_CREATE) fail with EINVAL from now on.
func refuseMaps() error {
	const (
		mapCreate                = 0 // BPF_MAP_CREATE
		offsetCall, offsetFirst  = 0, 16
		load, jumpEqual, returns = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	)
	filter := []unix.SockFilter{
		{Code: load, K: offsetCall},
		{Code: jumpEqual, Jf: 3, K: unix.SYS_BPF},
		{Code: load, K: offsetFirst},
		{Code: jumpEqual, Jf: 1, K: mapCreate},
		{Code: returns, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EINVAL)},
		{Code: returns, K: unix.SECCOMP_RET_ALLOW},
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return errno
	}
	return nil
}

// On a kernel that refuses what the scans and the events are made of, auto reads /proc and
// says what refused; ebpf is an error, and so are the events.
func TestAutoIsGracefulOnOldKernels(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), oldKernelVariable+"=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var o opened
	if err := json.Unmarshal(out, &o); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if o.Err != "" {
		t.Fatal(o.Err)
	}
	if o.Name != string(record.SourceProcfs) || o.Lost == "" || !o.Unsupported {
		t.Errorf("auto is %s, and lost (unsupported: %v) %q", o.Name, o.Unsupported, o.Lost)
	}
	if os.Geteuid() == 0 && !(strings.Contains(o.Lost, "syscall scan") && strings.Contains(o.Lost, "task iterator") && strings.Contains(o.Lost, "map create")) {
		t.Errorf("it does not say what the kernel refused: %q", o.Lost)
	}
	if o.EBPF == "" || o.Events == "" {
		t.Errorf("no error: ebpf %q, events %q", o.EBPF, o.Events)
	}
	if o.Processes < 2 || !o.FDsKnown || o.FDOpen < uint64(o.FDs) {
		t.Errorf("read %d processes, and of itself %d descriptors (known: %v), of at least %d", o.Processes, o.FDOpen, o.FDsKnown, o.FDs)
	}
}
