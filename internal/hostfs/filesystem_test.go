package hostfs

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"rmagent/internal/sample"
)

// TestHungFilesystem mounts a FUSE filesystem that nobody serves: its statfs
// waits forever, as one of a dead NFS server.
func TestHungFilesystem(t *testing.T) {
	point, fuse, ok := mountHung(t)
	if !ok {
		return
	}
	r := OpenHost(Options{})
	defer r.Close()
	var h sample.Host
	for range 3 { // the first asks, the others find that it still hangs
		r.Read(&h)
		if len(h.Filesystems) < 2 {
			t.Fatalf("filesystems: %q", paths(&h))
		}
		for _, f := range h.Filesystems {
			if hangs := f.Path == point; f.TotalBytes.Known() == hangs {
				t.Errorf("%s: known %v", f.Path, !hangs)
			}
		}
	}
	if i := slices.IndexFunc(r.filesystems.list, func(f *filesystem) bool { return f.path == point }); i < 0 || !r.filesystems.list[i].asked {
		t.Error("nobody is asking it")
	}
	unix.Close(fuse) // whoever waits gets ENOTCONN
	if err := unix.Unmount(point, unix.MNT_DETACH); err != nil {
		t.Error(err)
	}
	r.Read(&h)
	if slices.Contains(paths(&h), point) {
		t.Error("still listed after its unmount")
	}
}

// Where as many as there may be hang, others are unknown, and cost no thread more, until
// one comes back.
func TestTooManyHungFilesystems(t *testing.T) {
	device := [2]uint64{0, 7}
	a := FilesystemAsker{known: map[[2]uint64]*filesystem{}, asks: make(chan struct{}, 1)}
	questions := []Question{{Mount: Mount{Device: device, Point: "/", MayHang: true}, Path: "/"}}
	a.asks <- struct{}{} // as a goroutine that does not come back
	if a.Ask(questions)[0].Answered || a.known[device].asked {
		t.Error("one more is asked")
	}
	<-a.asks
	for end := time.Now().Add(time.Minute); !a.Ask(questions)[0].Answered; {
		if time.Now().After(end) {
			t.Fatal("it is not asked when there is room")
		}
	}
}

// mountHung mounts such a filesystem in a mount namespace, and returns what keeps
// it hanging until it is closed; not ok where the test runs again in that namespace.
func mountHung(t *testing.T) (point string, fuse int, ok bool) {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("the kernel lacks FUSE")
	}
	if !inMountNamespace(t) {
		return "", -1, false
	}
	fuse, err := unix.Open("/dev/fuse", unix.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	point = t.TempDir()
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fuse)
	if err := unix.Mount("hung", point, "fuse", 0, options); err != nil {
		t.Fatal(err)
	}
	return point, fuse, true
}

// TestMountsComeAndGo proves that the kernel's word of a change is heard.
func TestMountsComeAndGo(t *testing.T) {
	if !inMountNamespace(t) {
		return
	}
	r := OpenHost(Options{})
	defer r.Close()
	var h sample.Host
	r.Read(&h)
	before := paths(&h)
	if err := unix.Mount("tmpfs", "/tmp", "tmpfs", 0, "size=8m,nr_inodes=100"); err != nil {
		t.Fatal(err)
	}
	r.Read(&h)
	i := slices.Index(paths(&h), "/tmp")
	if i < 0 {
		t.Fatalf("not among %q", paths(&h))
	}
	if f := h.Filesystems[i]; f.TotalBytes != some[uint64](8<<20) || f.InodesTotal != some[uint64](100) {
		t.Errorf("%+v", f)
	}
	if err := os.WriteFile("/tmp/x", make([]byte, 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	r.Read(&h)
	if f := h.Filesystems[i]; f.AvailableBytes != some[uint64](5<<20) || f.InodesAvailable != some[uint64](98) {
		t.Errorf("after 3 MiB: %+v", f)
	}
	if err := unix.Unmount("/tmp", unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	r.Read(&h)
	if d := cmp.Diff(before, paths(&h)); d != "" {
		t.Error(d)
	}
}

// TestBoundFile sees that a file bound over another is no filesystem.
func TestBoundFile(t *testing.T) {
	if !inMountNamespace(t) {
		return
	}
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	for _, f := range []string{a, b} {
		if err := os.WriteFile(f, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount(a, b, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(b, unix.MNT_DETACH)
	for _, p := range paths(readHost(t, "")) {
		if p == b {
			t.Error("a file is listed")
		}
	}
}

// TestHiddenMount sees that a mount below another one's point is not taken for
// what now has its path.
func TestHiddenMount(t *testing.T) {
	if !inMountNamespace(t) {
		return
	}
	if err := unix.Mount("tmpfs", "/dev/shm", "tmpfs", 0, "size=8m"); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(paths(readHost(t, "")), "/dev/shm") {
		t.Fatal("not listed")
	}
	if err := unix.Mount("tmpfs", "/dev", "tmpfs", 0, "size=4m"); err != nil {
		t.Fatal(err)
	}
	for range 2 { // without a directory of that name, and with one
		if slices.Contains(paths(readHost(t, "")), "/dev/shm") {
			t.Error("listed although it is hidden")
		}
		if err := os.MkdirAll("/dev/shm", 0o755); err != nil {
			t.Fatal(err)
		}
	}
}
