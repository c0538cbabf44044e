package execcmd

import (
	"os"
	"os/signal"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"rmagent/internal/job"
)

// relayed are the signals that a job gets when exec does.
var relayed = []os.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM, unix.SIGTSTP, unix.SIGCONT,
}

// signalRelay passes on to the job what is sent to exec. The command is in exec's
// process group, so that it reads the terminal, belongs to its pipeline and stops with
// it; then what the terminal sends reaches both, and the job is told so.
type signalRelay struct {
	job  chan job.Signal
	in   chan os.Signal
	done chan struct{}
	wait sync.WaitGroup
}

func relaySignals() *signalRelay {
	r := &signalRelay{job: make(chan job.Signal, 16), in: make(chan os.Signal, 16), done: make(chan struct{})}
	for _, s := range relayed {
		if !signal.Ignored(s) { // nohup(1): the command inherits that
			signal.Notify(r.in, s)
		}
	}
	// Caught, a broken pipe is an error of the write, and the command gets the signal's
	// default all the same, which it would not if it were ignored.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	r.wait.Go(r.run)
	return r
}

func (r *signalRelay) run() {
	for {
		select {
		case s := <-r.in:
			r.relay(s)
		case <-r.done:
			return
		}
	}
}

func (r *signalRelay) relay(s os.Signal) {
	fromTerminal := (s == unix.SIGINT || s == unix.SIGQUIT || s == unix.SIGTSTP) && foreground()
	if number, ok := s.(unix.Signal); ok {
		select {
		case r.job <- job.Signal{Signal: number, Terminal: fromTerminal}:
		case <-r.done:
			return
		}
	}
	if s == unix.SIGTSTP {
		stopSelf()
	}
}

// stopSelf stops this process as SIGTSTP does, so that a shell is told so, until it is
// continued. The Go runtime's handler, once installed, stays (runtime.sigdisable), and
// ignores the signal.
func stopSelf() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// A kernel's struct sigaction fits (rt_sigaction(2)); all zero is SIG_DFL.
	var byDefault, before [4]uint64
	if sigaction(unix.SIGTSTP, &byDefault, &before) != 0 {
		return
	}
	unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGTSTP) // to this thread: it stops here
	sigaction(unix.SIGTSTP, &before, nil)
}

func sigaction(s unix.Signal, act, old *[4]uint64) unix.Errno {
	const setBytes = 8
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(act)), uintptr(unsafe.Pointer(old)), setBytes, 0, 0)
	return errno
}

// stop ends the relaying. The signals stay caught: one more Ctrl-C, while exec ends too,
// would take the job's status away.
func (r *signalRelay) stop() {
	close(r.done)
	r.wait.Wait()
}
