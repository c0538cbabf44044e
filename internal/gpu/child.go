package gpu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/gpu/wire"
)

// child is one life of rmagent-nvml.
type child struct {
	cmd      *exec.Cmd
	requests *os.File
	readings *os.File
	said     head // on standard error; the library may chatter on standard output

	exited chan struct{}
	err    error // how it ended, once exited is closed
}

// start starts the program. Its environment is empty but for where the driver's
// library may be.
func start(path string) (*child, error) {
	theirRequests, requests, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer theirRequests.Close()
	readings, theirReadings, err := os.Pipe()
	if err != nil {
		requests.Close()
		return nil, err
	}
	defer theirReadings.Close()
	c := &child{cmd: exec.Command(path), requests: requests, readings: readings, exited: make(chan struct{})}
	c.cmd.Env = []string{"GOTRACEBACK=none"}
	if dirs, ok := os.LookupEnv("LD_LIBRARY_PATH"); ok {
		c.cmd.Env = append(c.cmd.Env, "LD_LIBRARY_PATH="+dirs)
	}
	c.cmd.Dir = "/"
	c.cmd.Stderr = &c.said
	c.cmd.ExtraFiles = []*os.File{theirRequests, theirReadings} // wire.RequestFD, wire.ReadingFD
	c.cmd.WaitDelay = time.Second                               // for who inherited its standard error
	// A signal for the terminal's foreground is the agent's to act on.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	started := make(chan error, 1)
	go aside(func() { c.keep(started) })
	if err := <-started; err != nil {
		c.closePipes()
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	return c, nil
}

// aside calls f on a thread that nobody else uses before or after, and that is not
// the main one, by whose capabilities a process is known (/proc/PID/status).
func aside(f func()) {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	if unix.Gettid() != unix.Getpid() {
		f()
		return
	}
	locked := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		close(locked)
		f()
	}()
	<-locked
	runtime.UnlockOSThread()
}

// keep starts the program and waits for its end. Its thread has no capabilities to
// hand on, and must live as long as the child: Pdeathsig comes when the thread ends
// that made it, prctl(2).
func (c *child) keep(started chan<- error) {
	defer close(c.exited)
	err := dropPrivileges()
	if err == nil {
		err = c.cmd.Start()
	}
	started <- err
	if err == nil {
		c.err = c.cmd.Wait()
	}
}

// dropPrivileges takes from the calling thread, and so from what it executes, all
// capabilities, for good. Under no_new_privs a program that root executes gets no
// capability that its thread lacks (capabilities(7), cap_bprm_creds_from_file in
// security/commoncap.c), also where the bounding set can't be emptied for want of
// CAP_SETPCAP.
func dropPrivileges() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	for n := uintptr(0); unix.Prctl(unix.PR_CAPBSET_DROP, n, 0, 0, 0) == nil; n++ {
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	return nil
}

var errSilent = errors.New("it did not answer")

// ask has the child read the cards, and waits no longer than timeout.
func (c *child) ask(ctx context.Context, timeout time.Duration) (*wire.Reading, error) {
	end := time.Now().Add(timeout)
	c.requests.SetDeadline(end)
	c.readings.SetDeadline(end)
	stop := context.AfterFunc(ctx, func() {
		c.requests.SetDeadline(time.Unix(0, 0))
		c.readings.SetDeadline(time.Unix(0, 0))
	})
	defer stop()
	r := &wire.Reading{}
	err := wire.Write(c.requests, wire.Request{Version: wire.Version})
	if err == nil {
		err = wire.Read(c.readings, r)
	}
	switch {
	case err == nil:
		return r, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, fmt.Errorf("%w for %v, a call of the driver hangs", errSilent, timeout)
	case errors.Is(err, wire.ErrFrame):
		return nil, fmt.Errorf("%w: %w", errNonsense, err)
	}
	return nil, io.EOF // it has closed its ends: how it ended says more
}

// end kills the child and waits for its end, no longer than patience: in a call of
// the driver that hangs within the kernel it can't be killed. It returns why.
func (c *child) end(cause error, patience time.Duration) (why error, gone bool) {
	if errors.Is(cause, io.EOF) { // it ends by itself: let it say how
		select {
		case <-c.exited:
		case <-time.After(patience):
		}
	}
	c.cmd.Process.Kill() // fails only where it has ended
	c.closePipes()
	select {
	case <-c.exited:
	case <-time.After(patience):
		return fmt.Errorf("%w, and %s can't be killed", cause, HelperName), false
	}
	if !errors.Is(cause, io.EOF) {
		return cause, true
	}
	why = fmt.Errorf("%s ended: %s", HelperName, c.cmd.ProcessState)
	if line := firstLine(c.said.String()); line != "" {
		why = fmt.Errorf("%w: %s", why, line)
	}
	return why, true
}

// cpu is what the child used in all its life, after its end.
func (c *child) cpu() time.Duration {
	return c.cmd.ProcessState.UserTime() + c.cmd.ProcessState.SystemTime()
}

func (c *child) closePipes() {
	c.requests.Close()
	c.readings.Close()
}

// head keeps the beginning of what is written to it.
type head struct {
	mu   sync.Mutex
	text []byte
}

// maxSaid is enough for the line that says why.
const maxSaid = 4096

func (h *head) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.text = append(h.text, p[:min(len(p), maxSaid-len(h.text))]...)
	return len(p), nil
}

func (h *head) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return string(h.text)
}
