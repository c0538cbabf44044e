package sock

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/cctools"
	"rmagent/internal/hostfs"
	"rmagent/internal/job"
	"rmagent/internal/loader"
	"rmagent/internal/sample"
	"rmagent/record"
)

// answerTime is how long an agent may take to answer.
const answerTime = 10 * time.Second

// Tracker is a job.Tracker that asks a running agent.
type Tracker struct {
	conn    net.Conn
	answers chan *response
	notices chan struct{}
	read    sync.WaitGroup
	failed  error // why there are no more answers; set before answers is closed
}

// Open begins a job at the agent that listens on path, and tells it about the job.
func Open(path string, o loader.JobOrder, about About) (*Tracker, error) {
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return nil, err
	}
	if !hostfs.PeerSharesPIDs(conn) {
		return nil, errors.Join(fmt.Errorf("%w: it is in another PID namespace", ErrAgent), conn.Close())
	}
	t := &Tracker{conn: conn, answers: make(chan *response, 1), notices: make(chan struct{}, 1)}
	t.read.Go(t.receive)
	q := about.request()
	q.AtOnce, q.Processes, q.FatalAtOnce = o.AtOnce, o.Processes, o.FatalAtOnce
	_, err = t.ask(q)
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

func (t *Tracker) receive() {
	defer close(t.answers)
	for {
		r := &response{}
		if err := readFrame(t.conn, r, maxResponse); err != nil {
			t.failed = err
			return
		}
		if r.Notice {
			select {
			case t.notices <- struct{}{}:
			default:
			}
			continue
		}
		select {
		case t.answers <- r:
		default:
			t.failed = errors.New("it answers what was not asked")
			return
		}
	}
}

// ErrAgent is wrapped by errors of the agent, or of the way to it.
var ErrAgent = errors.New("ask the agent")

// errGone is wrapped by those after which there is no more to be asked.
var errGone = fmt.Errorf("%w: it is gone", ErrAgent)

// Gone tells whether an error means that the agent can be asked no more.
func Gone(err error) bool { return errors.Is(err, errGone) }

func (t *Tracker) ask(q *request) (*response, error) {
	t.conn.SetWriteDeadline(time.Now().Add(answerTime))
	wrote := writeFrame(t.conn, q, maxRequest)
	if wrote != nil { // it may have said why it hung up
		t.conn.SetReadDeadline(time.Now().Add(time.Second))
	}
	timeout := time.NewTimer(answerTime)
	defer timeout.Stop()
	select {
	case r, ok := <-t.answers:
		switch {
		case !ok:
			return nil, fmt.Errorf("%w: %w", errGone, cmp.Or(wrote, t.failed))
		case r.Error != "":
			return nil, fmt.Errorf("%w: %s", ErrAgent, record.Text([]byte(r.Error)))
		case wrote != nil:
			return nil, fmt.Errorf("%w: %w", errGone, wrote)
		}
		return r, nil
	case <-timeout.C:
		t.conn.Close() // a late answer would be taken for that to another question
		return nil, fmt.Errorf("%w: no answer in %v", errGone, answerTime)
	}
}

// Start starts the job's first process.
func (t *Tracker) Start(cmd *exec.Cmd) error {
	job.SettlePidfds()
	runtime.LockOSThread() // the agent awaits a fork of this thread
	defer runtime.UnlockOSThread()
	if _, err := t.ask(&request{Op: opAwait, Thread: unix.Gettid()}); err != nil {
		return err
	}
	if err := job.StartCommand(cmd); err != nil {
		_, cancelled := t.ask(&request{Op: opCancel})
		return errors.Join(err, cancelled)
	}
	return nil
}

// Read replaces dst with what the job did until now.
func (t *Tracker) Read(dst *job.Reading) error { return t.readInto(dst, false) }

func (t *Tracker) readInto(dst *job.Reading, fresh bool) error {
	r, err := t.ask(&request{Op: opRead, Fresh: fresh})
	if err != nil {
		return err
	}
	if r.Totals == nil {
		return fmt.Errorf("%w: it answers nothing", ErrAgent)
	}
	*dst = job.Reading{Boottime: r.Boottime, Totals: *r.Totals, Processes: fromWire(dst.Processes[:0], r.Processes), GPUs: gpusFromWire(r.GPUs)}
	return nil
}

// Signal sends a signal to every process of the job whose real UID is this process's:
// these kill(2) allows it to end, while an agent that only observes may end nobody.
func (t *Tracker) Signal(s unix.Signal) (sent int, refused []sample.ID, err error) {
	var now job.Reading
	if err := t.readInto(&now, true); err != nil {
		return 0, nil, err
	}
	uid := uint32(os.Getuid())
	var ids, others []sample.ID
	for i := range now.Processes {
		if p := &now.Processes[i]; uid == 0 || p.UID == uid {
			ids = append(ids, p.ID)
		} else {
			others = append(others, p.ID)
		}
	}
	sent, refused, err = job.SignalAll(ids, s)
	return sent, append(refused, others...), err
}

// Doom lets none of these fork any more.
func (t *Tracker) Doom() error {
	_, err := t.ask(&request{Op: opDoom})
	return err
}

// Notices are signalled when it is worth to Read.
func (t *Tracker) Notices() <-chan struct{} { return t.notices }

// Reaped has nothing to add.
func (t *Tracker) Reaped(*unix.Rusage) {}

// Source is agent.
func (t *Tracker) Source() string { return "agent" }

// Exactness is that of the kernel's tags.
func (t *Tracker) Exactness(m cctools.Measure) (cctools.Exactness, string) {
	return job.KernelExactness(m)
}

// Close ends the job at the agent.
func (t *Tracker) Close() error {
	err := t.conn.Close()
	t.read.Wait()
	return err
}
