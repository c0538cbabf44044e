package main

import (
	"os"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// relayed are the signals that a job gets when exec does.
var relayed = []os.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM, unix.SIGTSTP, unix.SIGCONT,
}

// signalRelay passes on to the job what is sent to exec. The command is in exec's
// process group, so that it reads the terminal, belongs to its pipeline and stops with
// it; then what the terminal sends reaches both, and is not passed on.
type signalRelay struct {
	job  chan os.Signal
	in   chan os.Signal
	done chan struct{}
	wait sync.WaitGroup
	once sync.Once
}

func relaySignals() *signalRelay {
	r := &signalRelay{job: make(chan os.Signal, 16), in: make(chan os.Signal, 16), done: make(chan struct{})}
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
	if !fromTerminal {
		select {
		case r.job <- s:
		case <-r.done:
			return
		}
	}
	if s == unix.SIGTSTP {
		time.Sleep(10 * time.Millisecond) // the job stops first, and its last output is out
		unix.Kill(os.Getpid(), unix.SIGSTOP)
	}
}

func (r *signalRelay) stop() {
	r.once.Do(func() {
		signal.Stop(r.in)
		close(r.done)
		r.wait.Wait()
	})
}
