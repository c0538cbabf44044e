package vmtest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
)

// KernelVariable holds in the guest's environment what [Guest.Kernel] is, for
// tests that ask whether and where they run in a guest.
const KernelVariable = "RMAGENT_GUEST"

// A Guest is one run of one program in a machine of its own.
type Guest struct {
	Kernel    string   // name told to the program
	Image     string   // vmlinuz
	MemoryMiB int      // of the guest
	CPUs      int      // of the guest
	Dir       string   // working directory in the guest, created if missing
	Program   string   // static executable that the guest runs, here; it decides what machine the guest is
	Init      string   // static executable for such a machine that calls Init; "": the running one
	Args      []string // its arguments
	Env       []string // NAME=VALUE, added to the guest's few own variables
	Files     []File
}

// A File is a file or a directory that the guest gets a copy of.
type File struct {
	Guest string // absolute path in the guest
	Host  string
}

// ErrNoStatus means that the guest ended without saying how its program ended:
// the kernel panicked, the machine went down, or the time was up.
var ErrNoStatus = errors.New("guest gave no exit status")

// Run boots the guest, copies the program's output to out as it comes and returns
// the program's exit status, 128 plus the signal where a signal ended it, and what
// the kernel wrote to its console. When ctx ends the guest is killed.
func (g *Guest) Run(ctx context.Context, out io.Writer) (status int, console []byte, err error) {
	m, err := machineOf(g.Program)
	if err != nil {
		return 0, nil, err
	}
	work, err := os.MkdirTemp("", "vmtest-")
	if err != nil {
		return 0, nil, err
	}
	defer os.RemoveAll(work)

	marker := "\x00vmtest status " + rand.Text() + " " // unknown to the program
	if err := g.writeInitrd(filepath.Join(work, "initrd"), marker, m.output); err != nil {
		return 0, nil, fmt.Errorf("make initramfs: %w", err)
	}
	status, err = boot(ctx, g.qemu(ctx, m, work), marker, out)
	console, readErr := os.ReadFile(filepath.Join(work, "console"))
	if errors.Is(readErr, os.ErrNotExist) { // QEMU did not start
		readErr = nil
	}
	return status, console, errors.Join(err, readErr)
}

func boot(ctx context.Context, qemu *exec.Cmd, marker string, out io.Writer) (int, error) {
	// QEMU dies with the thread that started it, should this process be killed.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var complaints bytes.Buffer
	qemu.Stderr = &complaints
	stdout, err := qemu.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := qemu.Start(); err != nil {
		return 0, fmt.Errorf("start QEMU: %w", err)
	}
	status, copyErr := copyOutput(out, stdout, marker)
	if copyErr != nil {
		qemu.Process.Kill() // out may be gone while the guest lives on
	}
	waitErr := qemu.Wait()
	switch {
	case ctx.Err() != nil:
		return 0, fmt.Errorf("%w: %w", ErrNoStatus, context.Cause(ctx))
	case copyErr != nil && complaints.Len() > 0:
		return 0, fmt.Errorf("%w: QEMU: %s", copyErr, bytes.TrimSpace(complaints.Bytes()))
	case copyErr != nil:
		return 0, copyErr
	case waitErr != nil:
		return 0, fmt.Errorf("QEMU: %w: %s", waitErr, bytes.TrimSpace(complaints.Bytes()))
	}
	return status, nil
}

// A machine is how QEMU makes a guest of an architecture.
type machine struct {
	elf     elf.Machine
	arch    string // as Go says it
	qemu    string
	options []string // what the machine is, and where chardev "output" is in it
	console string   // the first serial port, the kernel's
	output  string   // the other
}

var machines = []machine{
	{elf.EM_X86_64, "amd64", "qemu-system-x86_64", []string{"-machine", "q35", "-serial", "chardev:output"}, "ttyS0", "/dev/ttyS1"},
	{elf.EM_AARCH64, "arm64", "qemu-system-aarch64", []string{"-machine", "virt", "-device", "pci-serial,chardev=output"}, "ttyAMA0", "/dev/ttyS0"},
}

// machineOf returns the machine that a program is for.
func machineOf(program string) (*machine, error) {
	f, err := elf.Open(program)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", program, err)
	}
	defer f.Close()
	for i := range machines {
		if machines[i].elf == f.Machine {
			return &machines[i], nil
		}
	}
	return nil, fmt.Errorf("%s is for %s: there are no such guests", program, f.Machine)
}

// Architecture returns what a program is for, as Go says it (GOARCH).
func Architecture(program string) (string, error) {
	m, err := machineOf(program)
	if err != nil {
		return "", err
	}
	return m.arch, nil
}

// qemu gives all processors of the guest one thread (thread=single). With one each,
// QEMU 7.2 sometimes runs a breakpoint that the kernel had already patched away,
// which is an oops ("int3") wherever static keys or probes change; and it was slower.
func (g *Guest) qemu(ctx context.Context, m *machine, work string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, m.qemu, slices.Concat([]string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-accel", "tcg,thread=single", "-cpu", "max",
		"-smp", strconv.Itoa(g.CPUs), "-m", strconv.Itoa(g.MemoryMiB),
		"-serial", "file:" + filepath.Join(work, "console"),
		"-chardev", "stdio,id=output,signal=off",
		"-kernel", g.Image, "-initrd", filepath.Join(work, "initrd"),
		// panic=-1 with -no-reboot: a panic ends QEMU at once. On a tmpfs the pages
		// of an executable would count as shared memory.
		"-append", "console=" + m.console + " loglevel=5 panic=-1 oops=panic rootfstype=ramfs",
	}, m.options)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// copyOutput copies lines from in to out until the marker, and returns the status
// behind it. The marker may follow a last line without an end.
func copyOutput(out io.Writer, in io.Reader, marker string) (int, error) {
	r := bufio.NewReader(in)
	for {
		line, readErr := r.ReadBytes('\n')
		text, status, found := bytes.Cut(line, []byte(marker))
		if _, err := out.Write(text); err != nil {
			return 0, fmt.Errorf("write output: %w", err)
		}
		if found {
			io.Copy(io.Discard, r) // QEMU is about to end; let it
			return strconv.Atoi(string(bytes.TrimSuffix(status, []byte("\n"))))
		}
		if readErr == io.EOF {
			return 0, ErrNoStatus
		}
		if readErr != nil {
			return 0, fmt.Errorf("read output: %w", readErr)
		}
	}
}
