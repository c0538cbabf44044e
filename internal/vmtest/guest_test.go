package vmtest

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// inGuest skips the test outside guests and returns the kernel's name.
func inGuest(t *testing.T) string {
	t.Helper()
	kernel := os.Getenv(KernelVariable)
	if kernel == "" {
		t.Skip("this is no guest")
	}
	return kernel
}

func TestGuestKernel(t *testing.T) {
	kernel := inGuest(t)
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	if release := unix.ByteSliceToString(name.Release[:]); !strings.HasPrefix(release, strings.TrimSuffix(kernel, "-"+runtime.GOARCH)+".") {
		t.Errorf("this kernel is %s, want %s", release, kernel)
	}
}

func TestGuestFileSystems(t *testing.T) {
	inGuest(t)
	for name, magic := range map[string]int64{
		"/proc":               unix.PROC_SUPER_MAGIC,
		"/sys":                unix.SYSFS_MAGIC,
		"/sys/fs/bpf":         unix.BPF_FS_MAGIC,
		"/sys/fs/cgroup":      unix.CGROUP2_SUPER_MAGIC,
		"/sys/kernel/debug":   unix.DEBUGFS_MAGIC,
		"/sys/kernel/tracing": unix.TRACEFS_MAGIC,
		"/dev/pts":            unix.DEVPTS_SUPER_MAGIC,
		"/dev/shm":            unix.TMPFS_MAGIC,
		"/run":                unix.TMPFS_MAGIC,
		"/tmp":                unix.TMPFS_MAGIC,
	} {
		var fs unix.Statfs_t
		if err := unix.Statfs(name, &fs); err != nil {
			t.Errorf("statfs %s: %v", name, err)
		} else if fs.Type != magic {
			t.Errorf("%s is of type %#x, want %#x", name, fs.Type, magic)
		}
	}
	group := "/sys/fs/cgroup/guest-test"
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(group); err != nil {
		t.Error(err)
	}
}

func TestGuestTestdata(t *testing.T) {
	inGuest(t)
	content, err := os.ReadFile("testdata/guest.txt")
	if err != nil {
		t.Fatal(err)
	}
	if want := "This file is read inside the guests.\n"; string(content) != want {
		t.Errorf("testdata/guest.txt holds %q, want %q", content, want)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if want := "internal/vmtest"; !strings.HasSuffix(here, "/"+want) {
		t.Errorf("working directory is %s, want one that ends in %s", here, want)
	}
}

func TestGuestFentry(t *testing.T) {
	inGuest(t)
	attach(t, ebpf.AttachTraceFEntry, "vfs_read")
}

func TestGuestRawTracepoint(t *testing.T) {
	inGuest(t)
	attach(t, ebpf.AttachTraceRawTp, "sys_enter")
}

// attach loads a program that adds one to a counter, attaches it and expects it to
// have run after this process has read a file.
func attach(t *testing.T, kind ebpf.AttachType, target string) {
	t.Helper()
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	if _, err := btf.LoadKernelSpec(); err != nil {
		t.Fatal(err)
	}
	counter, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer counter.Close()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.Tracing, AttachType: kind, AttachTo: target, License: "GPL",
		Instructions: asm.Instructions{
			asm.LoadMapValue(asm.R1, counter.FD(), 0),
			asm.Mov.Imm(asm.R2, 1),
			asm.AddAtomic.Mem(asm.R1, asm.R2, asm.DWord, 0),
			asm.Mov.Imm(asm.R0, 0),
			asm.Return(),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	attached, err := link.AttachTracing(link.TracingOptions{Program: program, AttachType: kind})
	if err != nil {
		t.Fatal(err)
	}
	defer attached.Close()
	if _, err := os.ReadFile(filepath.Join("testdata", "guest.txt")); err != nil {
		t.Fatal(err)
	}
	var runs uint64
	if err := counter.Lookup(uint32(0), &runs); err != nil {
		t.Fatal(err)
	}
	if runs == 0 {
		t.Errorf("program at %s did not run", target)
	}
}
