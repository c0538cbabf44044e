package hostfs

import (
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"rmagent/internal/childtest"
	"rmagent/internal/sample"
)

// helperVariable makes this test binary a process to be looked at.
const helperVariable = "HOSTFS_TEST_HELPER"

func TestMain(m *testing.M) {
	switch os.Getenv(helperVariable) {
	case "":
		os.Exit(m.Run())
	case "touch":
		touch()
	}
}

const touchedBytes = 24 << 20

// touch takes memory once its input has a byte, and holds it until that ends.
func touch() {
	os.Stdin.Read(make([]byte, 1))
	b, err := unix.Mmap(-1, 0, touchedBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		os.Exit(1)
	}
	for i := 0; i < len(b); i += 4096 {
		b[i] = 1
	}
	os.Stdout.WriteString("ready\n")
	io.Copy(io.Discard, os.Stdin)
	runtime.KeepAlive(b)
}

// startTouch starts the helper; the function it returns lets it go on and waits
// until it is done.
func startTouch(t *testing.T) (pid int, goOn func()) {
	t.Helper()
	c := childtest.Start(t, childtest.Itself(helperVariable, "touch"))
	return c.Process.Pid, func() {
		t.Helper()
		c.Say("")
		c.Ready()
	}
}

// inMountNamespace runs the test of that name again in a process with a mount
// namespace of its own, where it may mount, and reports whether this is that
// process.
func inMountNamespace(t *testing.T) bool {
	t.Helper()
	const inside = "HOSTFS_TEST_NAMESPACE"
	if os.Getenv(inside) != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		return true
	}
	if os.Getuid() != 0 {
		t.Skip("needs root, to mount")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
	if _, why, skipped := strings.Cut(string(out), "--- SKIP: "+t.Name()); skipped {
		t.Skip("in its namespace:", strings.TrimSpace(why))
	}
	return false
}

func processOf(t testing.TB, pid int) *sample.Process {
	t.Helper()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	start, ok := parseStart(b)
	if !ok {
		t.Fatalf("stat: %q", b)
	}
	return &sample.Process{ID: sample.ID{PID: int32(pid), StartTicks: start}}
}

func sameString(a, b string) bool { return a == b && unsafe.StringData(a) == unsafe.StringData(b) }
