package vmtest

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// IsInit reports whether this process is the first of a guest.
func IsInit() bool { return os.Getpid() == 1 && os.Args[0] == "/init" }

// Init is the guest's first process: it makes the system ready, runs the program,
// writes its exit status behind the marker and ends the machine. It does not
// return.
func Init() {
	err := serve()
	// Without a marker the host reports a failure, with this from the console.
	fmt.Fprintln(os.Stderr, "init:", err)
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func serve() error {
	if err := mountAll(); err != nil {
		return err
	}
	if err := raiseLoopback(); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	var o order
	content, err := os.ReadFile(orderFile)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(content, &o); err != nil {
		return fmt.Errorf("read %s: %w", orderFile, err)
	}
	output, err := openSerial(o.Output)
	if err != nil {
		return fmt.Errorf("open output: %w", err)
	}
	status, err := run(o, output)
	if err != nil {
		return fmt.Errorf("run %q: %w", o.Args, err)
	}
	if _, err := fmt.Fprintf(output, "%s%d\n", o.Marker, status); err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	// tcdrain: the port still holds what was written last.
	if err := unix.IoctlSetInt(int(output.Fd()), unix.TCSBRK, 1); err != nil {
		return fmt.Errorf("drain output: %w", err)
	}
	return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func mountAll() error {
	for _, m := range mounts {
		// debugfs and tracefs have their mount points in sysfs already.
		if err := os.MkdirAll(m.path, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.fs, m.path, m.fs, 0, m.options); err != nil {
			return fmt.Errorf("mount %s: %w", m.path, err)
		}
	}
	return os.Symlink("/proc/self/fd", "/dev/fd")
}

func raiseLoopback() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, request)
}

// openSerial opens a serial port that changes no byte on its way.
func openSerial(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	settings, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return nil, err
	}
	settings.Oflag &^= unix.OPOST
	settings.Lflag &^= unix.ECHO | unix.ICANON | unix.ISIG
	return f, unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, settings)
}

// run starts the program, reaps every process until it ends, as the first process
// has to, and returns its status as a shell would.
func run(o order, output *os.File) (int, error) {
	cmd := exec.Command(o.Args[0], o.Args[1:]...)
	cmd.Dir, cmd.Env = o.Dir, o.Env
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, err
		case pid != cmd.Process.Pid:
		case status.Signaled():
			return 128 + int(status.Signal()), nil
		default:
			return status.ExitStatus(), nil
		}
	}
}
