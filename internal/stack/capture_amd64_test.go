package stack

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"rmagent/internal/elffile"
	"rmagent/internal/sample"
	"rmagent/internal/stack/cfi"
)

// captured is a stack at the system call that opened the marker, copied by ptrace.
type captured struct {
	raw   sample.RawStack
	g     []byte
	space *Space
	names map[*Module]*symbols
}

// marker is a path that exists and that nobody else opens.
func marker(t testing.TB) string {
	path := filepath.Join(t.TempDir(), "marker")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// capture runs a program under ptrace until a thread has opened the marker, and calls
// while with the stopped process.
func capture(t testing.TB, window int, path string, args ...string) *captured {
	t.Helper()
	runtime.LockOSThread() // ptrace belongs to a thread
	defer runtime.UnlockOSThread()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	defer func() {
		_ = cmd.Process.Kill()
		for { // all threads
			if _, err := unix.Wait4(-1, nil, unix.WALL, nil); err != nil {
				break
			}
		}
	}()
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, unix.WALL, nil); err != nil {
		t.Fatal(err)
	}
	if err := unix.PtraceSetOptions(pid, unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_TRACECLONE|unix.PTRACE_O_EXITKILL); err != nil {
		t.Fatal(err)
	}
	tid, signal := pid, 0
	for {
		if err := unix.PtraceSyscall(tid, signal); err != nil && err != unix.ESRCH {
			t.Fatal(err)
		}
		var err error
		if tid, err = unix.Wait4(-1, &status, unix.WALL, nil); err != nil {
			t.Fatalf("%v ended without opening %s: %v", args, path, err)
		}
		signal = 0
		switch {
		case !status.Stopped():
			continue
		case status.StopSignal() == unix.SIGTRAP|0x80:
			if c := captureStop(t, pid, tid, window, path); c != nil {
				return c
			}
		case status.StopSignal() != unix.SIGTRAP && status.StopSignal() != unix.SIGSTOP:
			signal = int(status.StopSignal())
		}
	}
}

func captureStop(t testing.TB, pid, tid, window int, path string) *captured {
	var regs unix.PtraceRegs
	if err := unix.PtraceGetRegs(tid, &regs); err != nil {
		t.Fatal(err)
	}
	name := regs.Rsi
	switch regs.Orig_rax {
	case unix.SYS_OPEN:
		name = regs.Rdi
	case unix.SYS_OPENAT:
	default:
		return nil
	}
	if int64(regs.Rax) == -int64(unix.ENOSYS) { // before the call
		return nil
	}
	if got := readMemory(pid, name, len(path)+1); string(got) != path+"\x00" {
		return nil
	}
	c := &captured{raw: sample.RawStack{
		Registers: sample.Registers{
			IP: regs.Rip, SP: regs.Rsp, BP: regs.Rbp, BX: regs.Rbx,
			R12: regs.R12, R13: regs.R13, R14: regs.R14, R15: regs.R15,
		},
		Window: readUpTo(pid, regs.Rsp, window),
	}, names: map[*Module]*symbols{}, g: readMemory(pid, regs.R14, 512)}
	for fp := regs.Rbp; len(c.raw.Chain) < 64; {
		pair := readMemory(pid, fp, 16)
		if pair == nil {
			break
		}
		fp = binary.LittleEndian.Uint64(pair)
		c.raw.Chain = append(c.raw.Chain, binary.LittleEndian.Uint64(pair[8:]))
	}
	c.mapSpace(t, pid)
	return c
}

func readMemory(pid int, address uint64, n int) []byte {
	b := make([]byte, n)
	got, err := unix.ProcessVMReadv(pid, []unix.Iovec{{Base: &b[0], Len: uint64(n)}},
		[]unix.RemoteIovec{{Base: uintptr(address), Len: n}}, 0)
	if err != nil || got != n {
		return nil
	}
	return b
}

func readUpTo(pid int, address uint64, n int) []byte {
	for ; n > 0; n -= 8 {
		if b := readMemory(pid, address, n); b != nil {
			return b
		}
	}
	return nil
}

func (c *captured) mapSpace(t testing.TB, pid int) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	maps, err := ParseMaps(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	modules := map[string]*Module{}
	var regions []Region
	for _, m := range maps {
		r := Region{Start: m.Start, End: m.End, Offset: m.Offset, Path: m.Path}
		var file *elffile.File
		switch {
		case m.Path == "[vdso]":
			file, err = elffile.New(readMemory(pid, m.Start, int(m.End-m.Start)))
		case m.Inode != 0:
			file, err = openPath(t, fmt.Sprintf("/proc/%d/map_files/%x-%x", pid, m.Start, m.End))
		}
		if err != nil {
			t.Fatal(err)
		}
		if file != nil {
			if modules[m.Path] == nil {
				modules[m.Path] = NewModule(file)
				c.names[modules[m.Path]] = readSymbols(t, fmt.Sprintf("/proc/%d/map_files/%x-%x", pid, m.Start, m.End), m.Path)
			}
			r.File = true
			r.SetModule(modules[m.Path], 4096)
		}
		regions = append(regions, r)
	}
	var ok bool
	if c.space, ok = NewSpace(cfi.AMD64, regions); !ok {
		t.Fatal("regions overlap")
	}
}

func openPath(t testing.TB, path string) (*elffile.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	file, err := elffile.Open(f)
	if err == nil {
		t.Cleanup(func() { file.Close() })
	}
	return file, err
}

// symbols are read by the standard library: the truth is not read by what it tests.
type symbols struct{ list []elf.Symbol }

var symbolCache sync.Map

func readSymbols(t testing.TB, path, name string) *symbols {
	if s, ok := symbolCache.Load(name); ok {
		return s.(*symbols)
	}
	s := &symbols{}
	if f, err := elf.Open(path); err == nil {
		defer f.Close()
		s.list, _ = f.Symbols()
		dynamic, _ := f.DynamicSymbols()
		s.list = append(s.list, dynamic...)
	}
	symbolCache.Store(name, s)
	return s
}

func (s *symbols) at(vaddr uint64) string {
	for _, sym := range s.list {
		if elf.ST_TYPE(sym.Info) == elf.STT_FUNC && vaddr >= sym.Value && vaddr < sym.Value+sym.Size {
			return strings.TrimSuffix(sym.Name, ".cold")
		}
	}
	return "?"
}

const guessed, tailCalled = "(guess)", "(tail)"

// functions names a walk's frames, marked where they are a guess.
func (c *captured) functions(w *Walk) (names []string) {
	for _, f := range w.Frames {
		name := "?"
		if f.Known {
			if m := f.Region.Module; m.Go != nil && m.Go.Covers(f.Vaddr) {
				if fn, ok := m.Go.Func(f.Vaddr); ok {
					name = fn.Name()
				}
			} else {
				name = c.names[m].at(f.Vaddr)
			}
		}
		switch f.Guess {
		case "":
		case GuessTailCall:
			name += tailCalled
		default:
			name += guessed
		}
		names = append(names, name)
	}
	return names
}

// hasChain says whether want stands in names, one after the other.
func hasChain(names []string, want string) bool {
	return strings.Contains(" "+strings.Join(names, " ")+" ", " "+want+" ")
}

func build(t testing.TB, compiler string, args ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "program")
	if b, err := exec.Command(compiler, append([]string{"-o", out}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", compiler, args, err, b)
	}
	return out
}

func buildGo(t testing.TB, cgo bool, flags ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "program")
	cmd := exec.Command("go", append(append([]string{"build", "-o", out}, flags...), ".")...)
	cmd.Dir = "testdata/go"
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0")
	if cgo {
		cmd.Env = append(cmd.Env, "CGO_ENABLED=1")
	}
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %v: %v\n%s", flags, err, b)
	}
	return out
}
