package vmtest

import (
	"cmp"
	"debug/elf"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// What the guest needs to know lies in a file: the kernel's command line has room
// for 2 KiB and no way to quote.
const orderFile = "/vmtest.json"

// An order tells [Init] what to run.
type order struct {
	Dir    string
	Args   []string
	Env    []string
	Output string // the serial port that the program writes to
	Marker string // to be written before the exit status
}

// mounts are the file systems of the guest; they hide what the initramfs has there.
var mounts = []struct{ path, fs, options string }{
	{"/dev", "devtmpfs", ""},
	{"/dev/pts", "devpts", ""},
	{"/dev/shm", "tmpfs", "mode=1777"},
	{"/proc", "proc", ""},
	{"/run", "tmpfs", "mode=755"},
	{"/sys", "sysfs", ""},
	{"/sys/fs/bpf", "bpf", ""},
	{"/sys/fs/cgroup", "cgroup2", ""},
	{"/sys/kernel/debug", "debugfs", ""},
	{"/sys/kernel/tracing", "tracefs", ""},
	{"/tmp", "tmpfs", "mode=1777"},
}

func (g *Guest) writeInitrd(name, marker, output string) (err error) {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
	}()
	a := newArchive(f)
	if err := g.addSystem(a, marker, output); err != nil {
		return err
	}
	for _, file := range g.Files {
		if hidden(file.Guest) {
			return fmt.Errorf("%s: hidden by a file system that the guest mounts", file.Guest)
		}
		if err := a.add(file.Guest, file.Host); err != nil {
			return err
		}
	}
	return a.close()
}

// addSystem writes what every guest has.
func (g *Guest) addSystem(a *archive, marker, output string) error {
	program := path.Join("/test", filepath.Base(g.Program))
	command, err := json.Marshal(order{
		Dir:    g.Dir,
		Args:   append([]string{program}, g.Args...),
		Env:    slices.Concat([]string{"HOME=/tmp", "PATH=/bin", KernelVariable + "=" + g.Kernel}, g.Env),
		Output: output,
		Marker: marker,
	})
	if err != nil {
		return err
	}
	for _, err := range []error{
		// The kernel opens it for init before there is a devtmpfs.
		a.charDevice("/dev/console", 0o600, 5, 1),
		addStatic(a, "/init", cmp.Or(g.Init, "/proc/self/exe")),
		addStatic(a, program, g.Program),
		a.file(orderFile, 0o644, command),
		a.file("/etc/hosts", 0o644, []byte("127.0.0.1 localhost\n::1 localhost\n")),
		a.file("/etc/passwd", 0o644, []byte("root:x:0:0::/:/\nnobody:x:65534:65534::/:/\n")),
		a.file("/etc/group", 0o644, []byte("root:x:0:\nnogroup:x:65534:\n")),
		a.dir("/bin"),
		a.dir(g.Dir),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

// addStatic writes an executable that needs nothing else, for the guest has no
// libraries.
func addStatic(a *archive, dst, src string) error {
	f, err := elf.Open(src)
	if err != nil {
		return fmt.Errorf("read %s: %w", src, err)
	}
	defer f.Close()
	for _, segment := range f.Progs {
		if segment.Type == elf.PT_INTERP {
			return fmt.Errorf("%s is not static: build with CGO_ENABLED=0", src)
		}
	}
	content, err := os.ReadFile(src)
	if err != nil {
		return err
	}
	return a.file(dst, 0o755, content)
}

func hidden(name string) bool {
	for _, m := range mounts {
		if name == m.path || strings.HasPrefix(name, m.path+"/") {
			return true
		}
	}
	return false
}
