package loader

import (
	"encoding/binary"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"rmagent/internal/sample"
)

// oldBirths are calls that newer architectures do without.
func oldBirths() map[string]func(w *worker) []truth {
	return map[string]func(w *worker) []truth{
		"open":         one(unix.SYS_OPEN, devNull, unix.O_RDONLY),
		"creat":        one(unix.SYS_CREAT, creatAt, 0o600),
		"dup2":         func(w *worker) []truth { return w.call(unix.SYS_DUP2, 2, uintptr(w.high+w.rng.IntN(50))) },
		"eventfd":      one(unix.SYS_EVENTFD, 0),
		"epoll_create": one(unix.SYS_EPOLL_CREATE, 1),
		"inotify_init": one(unix.SYS_INOTIFY_INIT),
		"pipe": func(w *worker) []truth {
			var fds [2]int32
			from := now()
			if _, _, errno := unix.RawSyscall(unix.SYS_PIPE, uintptr(unsafe.Pointer(&fds)), 0, 0); errno != 0 {
				check(errno)
			}
			return w.made(from, unix.SYS_PIPE, int(fds[0]), int(fds[1]))
		},
	}
}

// compatCall is a 32-bit call with up to three arguments.
type compatCall [4]uint32

// What compatProgram does, and how many descriptors come of it: 3 and on, but for
// dup2 and F_DUPFD, which name their numbers. The last is openat as 64-bit callers
// number it, which is remap_file_pages(2) here, and fails.
var compatBirths = []compatCall{
	{5, compatPath, 0, 0},                    // open
	{295, ^uint32(99), compatPath, 0},        // openat
	{41, 2},                                  // dup
	{63, 2, 900},                             // dup2
	{221, 2, unix.F_DUPFD, 901},              // fcntl64
	{359, unix.AF_UNIX, unix.SOCK_STREAM, 0}, // socket
	{102, 1, compatSocket},                   // socketcall
	{328, 0, 0},                              // eventfd2
	{42, compatPair},                         // pipe
	{257, 0, 0, 0},
}

const (
	compatBase   = 0x400000
	compatPath   = compatBase + 0xf00
	compatSocket = compatBase + 0xf10
	compatDone   = compatBase + 0xf20
	compatPair   = compatBase + 0xf30
	compatOpened = 10
)

// compatProgram writes a 64-bit program that waits for a byte on stdin, makes
// compatBirths by int $0x80, says "done" and waits to be killed.
func compatProgram(t testing.TB) string {
	t.Helper()
	var text []byte
	call := func(c compatCall) {
		for i, op := range []byte{0xb8, 0xbb, 0xb9, 0xba} { // mov to eax, ebx, ecx, edx
			text = binary.LittleEndian.AppendUint32(append(text, op), c[i])
		}
		text = append(text, 0xcd, 0x80)
	}
	call(compatCall{3, 0, compatPair, 1}) // read
	for _, c := range compatBirths {
		call(c)
	}
	call(compatCall{4, 1, compatDone, 5}) // write
	call(compatCall{29})                  // pause
	image := make([]byte, 0x1000)
	header := append([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 15: 0}, 2, 0, 62, 0, 1, 0, 0, 0)
	for _, v := range []uint64{compatBase + 0x100, 64, 0} {
		header = binary.LittleEndian.AppendUint64(header, v)
	}
	header = append(header, 0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0)
	header = append(header, 1, 0, 0, 0, 7, 0, 0, 0) // PT_LOAD, all permissions
	for _, v := range []uint64{0, compatBase, compatBase, uint64(len(image)), uint64(len(image)), 0x1000} {
		header = binary.LittleEndian.AppendUint64(header, v)
	}
	copy(image, header)
	copy(image[0x100:], text)
	copy(image[compatPath-compatBase:], "/dev/null\x00")
	for i, v := range []uint32{unix.AF_UNIX, unix.SOCK_STREAM, 0} {
		binary.LittleEndian.PutUint32(image[compatSocket-compatBase+4*i:], v)
	}
	copy(image[compatDone-compatBase:], "done\n")
	path := filepath.Join(t.TempDir(), "compat")
	if err := os.WriteFile(path, image, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// Descriptors by 32-bit calls name no call, and say that.
func TestCompatCallsAreToldApart(t *testing.T) {
	eachPath(t, func(t *testing.T, tr *FDTracer) {
		cmd := exec.Command(compatProgram(t))
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer cmd.Wait()
		defer cmd.Process.Kill()
		id := idOf(t, tr, cmd.Process.Pid)
		if err := tr.Start([]sample.ID{id}); err != nil {
			t.Fatal(err)
		}
		var list sample.FDList
		if err := tr.List(id, &list); err != nil {
			t.Fatal(err)
		}
		inherited := map[int32]bool{} // who runs the test may have left more open than three
		for _, fd := range list.FDs {
			inherited[fd.Number] = true
		}
		said := make([]byte, 5)
		in.Write([]byte{1})
		if _, err := io.ReadFull(out, said); err != nil {
			cmd.Wait()
			t.Skipf("the kernel takes no 32-bit calls (CONFIG_IA32_EMULATION): %v", cmd.ProcessState)
		}
		if err := tr.List(id, &list); err != nil {
			t.Fatal(err)
		}
		compat := 0
		for _, fd := range list.FDs {
			switch {
			case inherited[fd.Number] && fd.Why == sample.BeforeTracing:
			case !inherited[fd.Number] && fd.Why == sample.CompatCall && fd.Birth == 0:
				compat++
			default:
				t.Errorf("descriptor %d: birth %d, %v", fd.Number, fd.Birth, fd.Why)
			}
		}
		if compat != compatOpened {
			t.Errorf("%d by 32-bit calls, want %d", compat, compatOpened)
		}
		if c, err := tr.Counts(id); err != nil || c.Compat != compatOpened || c.Opened != compatOpened {
			t.Errorf("counted %+v, %v", c, err)
		}
	})
}
