package sock

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/clock"
	"rmagent/internal/hostfs"
	"rmagent/internal/job"
	"rmagent/internal/loader"
	"rmagent/internal/sample"
)

// Bounds of what clients may have.
const (
	MaxJobs        = 64 // connections, and so jobs, at once
	maxJobsOfUser  = 32
	firstFrameTime = 5 * time.Second  // until a connection asks for its job
	frameTime      = 10 * time.Second // for a client to take its answer
	readingAge     = 20 * time.Millisecond
)

// Jobs is what the server needs of package loader's Jobs.
type Jobs interface {
	New(loader.JobOrder) (uint64, error)
	Forget(id uint64) error
	Await(id uint64, thread int, process sample.ID) error
	Cancel(id uint64, thread int) error
	Totals(id uint64) (sample.JobTotals, error)
	Processes(add func(job uint64, p *sample.JobProcess), use func(job uint64, used *sample.JobTotals)) error
	Doom(id uint64) error
	Forgive(id uint64) error
	Notices() <-chan loader.JobNotice
}

// Server serves jobs on a socket.
type Server struct {
	jobs     Jobs
	gpus     job.GPUs // nil: the agent reads none
	listener *net.UnixListener
	work     sync.WaitGroup
	done     chan struct{}

	mu      sync.Mutex
	clients map[*client]struct{}
	byJob   map[uint64]*client
	survey  survey
}

// survey is one walk over all tasks, which serves every client that asks at the time.
type survey struct {
	at        time.Time
	boottime  time.Duration
	totals    map[uint64]sample.JobTotals
	processes map[uint64][]sample.JobProcess
}

// Serve listens on a path that everybody may connect to, until Close. The socket of an
// agent that is gone is replaced; that no other agent runs is the caller's to know. gpus is
// nil where none are read; it is used by many goroutines.
func Serve(path string, jobs Jobs, gpus job.GPUs) (*Server, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listen for jobs: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for jobs: %w", err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		return nil, errors.Join(fmt.Errorf("listen for jobs: %w", err), l.Close())
	}
	s := &Server{jobs: jobs, gpus: gpus, listener: l, done: make(chan struct{}), clients: map[*client]struct{}{}, byJob: map[uint64]*client{}}
	s.work.Go(s.accept)
	s.work.Go(s.forward)
	return s, nil
}

// Close ends every job: their processes go on, unmeasured.
func (s *Server) Close() error {
	close(s.done)
	err := s.listener.Close()
	s.mu.Lock()
	for c := range s.clients {
		c.conn.Close()
	}
	s.mu.Unlock()
	s.work.Wait()
	return err
}

func (s *Server) accept() {
	for {
		conn, err := s.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors: the next may find one
			select {
			case <-time.After(100 * time.Millisecond):
				continue
			case <-s.done:
				return
			}
		}
		c, err := s.admit(conn)
		if err != nil {
			conn.SetWriteDeadline(time.Now().Add(time.Second))
			writeFrame(conn, &response{Error: err.Error()}, maxResponse) // a courtesy
			conn.Close()
			continue
		}
		s.work.Go(c.serve)
		s.work.Go(c.notify)
	}
}

// forward tells clients what the kernel tells of their jobs.
func (s *Server) forward() {
	for {
		select {
		case n := <-s.jobs.Notices():
			s.mu.Lock()
			c := s.byJob[n.Job]
			s.survey.at = time.Time{} // what was read before is old news
			s.mu.Unlock()
			if c != nil {
				select {
				case c.notices <- struct{}{}:
				default: // one is waiting to be sent
				}
			}
		case <-s.done:
			return
		}
	}
}

// client is one connection, and its job.
type client struct {
	server *Server
	conn   *net.UnixConn
	uid    uint32
	self   sample.ID // who connected
	job    uint64    // 0: none yet
	thread int       // that is to fork the first process; 0: none
	doomed bool
	write  sync.Mutex

	notices chan struct{} // to be sent
	left    chan struct{} // closed with the connection

	watched watched // under the server's lock, once there is a job
}

// admit finds out who connects.
func (s *Server) admit(conn *net.UnixConn) (*client, error) {
	cred, err := hostfs.PeerCredentials(conn)
	if err != nil {
		return nil, err
	}
	if cred.Pid <= 0 {
		return nil, errors.New("the agent can't see this process: it is in another PID namespace")
	}
	self, err := hostfs.ReadID(int(cred.Pid))
	if err != nil {
		return nil, err
	}
	c := &client{server: s, conn: conn, uid: cred.Uid, self: self, notices: make(chan struct{}, 1), left: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.done: // Close hung up on all that it knew, and waits for them
		return nil, errors.New("the agent is ending")
	default:
	}
	of := 0
	for other := range s.clients {
		if other.uid == c.uid {
			of++
		}
	}
	if len(s.clients) >= MaxJobs || c.uid != 0 && of >= maxJobsOfUser {
		return nil, loader.ErrTooManyJobs
	}
	s.clients[c] = struct{}{}
	return c, nil
}

func (c *client) serve() {
	defer c.leave()
	c.conn.SetReadDeadline(time.Now().Add(firstFrameTime))
	for {
		var q request
		if err := readFrame(c.conn, &q, maxRequest); err != nil {
			if !errors.Is(err, io.EOF) {
				c.send(&response{Error: err.Error()})
			}
			return
		}
		r, err := c.answer(&q)
		if err != nil {
			r = &response{Error: err.Error()}
		}
		if c.send(r) != nil {
			return
		}
		if c.job != 0 {
			c.conn.SetReadDeadline(time.Time{})
		}
	}
}

// notify sends notices. A client that takes none holds up nobody else.
func (c *client) notify() {
	for {
		select {
		case <-c.notices:
			if c.send(&response{Notice: true}) != nil {
				c.conn.Close() // half a frame may have gone out
				return
			}
		case <-c.left:
			return
		}
	}
}

func (c *client) send(r *response) error {
	c.write.Lock()
	defer c.write.Unlock()
	c.conn.SetWriteDeadline(time.Now().Add(frameTime))
	return writeFrame(c.conn, r, maxResponse)
}

// leave ends the job with its connection.
func (c *client) leave() {
	s := c.server
	c.conn.Close()
	close(c.left)
	s.mu.Lock()
	delete(s.clients, c)
	delete(s.byJob, c.job)
	s.mu.Unlock()
	if c.thread != 0 {
		s.jobs.Cancel(c.job, c.thread)
	}
	if c.doomed {
		s.jobs.Forgive(c.job)
	}
	if c.job != 0 {
		s.jobs.Forget(c.job)
	}
}

func (c *client) answer(q *request) (*response, error) {
	if q.Op == opNew {
		return &response{}, c.begin(q)
	}
	if c.job == 0 {
		return nil, fmt.Errorf("%q before there is a job", q.Op)
	}
	switch q.Op {
	case opAwait:
		return &response{}, c.await(q.Thread)
	case opCancel:
		return &response{}, c.cancel()
	case opRead:
		return c.server.read(c.job, q.Fresh)
	case opDoom:
		return &response{}, c.doom()
	}
	return nil, fmt.Errorf("nothing is called %q", q.Op)
}

func (c *client) begin(q *request) error {
	if c.job != 0 {
		return errSecondJob
	}
	a, err := about(q)
	if err != nil {
		return err
	}
	id, err := c.server.jobs.New(loader.JobOrder{UID: c.uid, AtOnce: q.AtOnce, Processes: q.Processes, FatalAtOnce: q.FatalAtOnce})
	if err != nil {
		return err
	}
	c.job = id
	c.server.mu.Lock()
	c.watched = watched{about: a, meter: job.NewMeter(clock.Boottime()), since: time.Now()}
	c.server.byJob[id] = c
	c.server.mu.Unlock()
	return nil
}

// await has the next child of a thread of the client's be the job's first process. The
// thread must be the client's own, and the client still who it was.
func (c *client) await(thread int) error {
	if c.thread != 0 {
		return errors.New("a first process is awaited already")
	}
	now, err := hostfs.ReadID(int(c.self.PID))
	if err != nil || now != c.self {
		return errors.New("the process that connected is gone")
	}
	var st unix.Stat_t
	dir := "/proc/" + strconv.Itoa(int(c.self.PID)) + "/task/"
	if thread <= 0 || unix.Stat(dir+strconv.Itoa(thread), &st) != nil {
		return fmt.Errorf("thread %d is none of process %d: is it in another PID namespace?", thread, c.self.PID)
	}
	if err := c.server.jobs.Await(c.job, thread, c.self); err != nil {
		return err
	}
	c.thread = thread
	return nil
}

func (c *client) cancel() error {
	thread := c.thread
	c.thread = 0
	if thread == 0 {
		return nil
	}
	return c.server.jobs.Cancel(c.job, thread)
}

func (c *client) doom() error {
	if c.doomed {
		return nil
	}
	if err := c.server.jobs.Doom(c.job); err != nil {
		return err
	}
	c.doomed = true
	return nil
}

// read tells of a job. One walk serves all who ask within readingAge, but for who needs a
// fresh one.
func (s *Server) read(id uint64, now bool) (*response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	totals, err := s.jobs.Totals(id)
	if err != nil {
		return nil, err
	}
	if totals.Pending == 0 { // nothing lives
		return s.tell(id, &job.Reading{Boottime: clock.Boottime(), Totals: totals}), nil
	}
	_, fresh := s.survey.totals[id]
	if now || !fresh || time.Since(s.survey.at) > readingAge {
		if err := s.walk(); err != nil {
			return nil, err
		}
	}
	return s.tell(id, &job.Reading{Boottime: s.survey.boottime, Totals: s.survey.totals[id], Processes: s.survey.processes[id]}), nil
}

// tell makes an answer of a reading, and keeps what others may ask for.
func (s *Server) tell(id uint64, r *job.Reading) *response {
	out := &response{Totals: &r.Totals, Boottime: r.Boottime, Processes: toWire(r.Processes)}
	if s.gpus != nil { // else nobody reads them
		r.GPUs = s.gpus.Use(r.Processes)
		out.GPUs = gpusToWire(r.GPUs)
	}
	if c := s.byJob[id]; c != nil {
		c.watched.add(r)
	}
	return out
}

// walk reads the dead first, as job's own tracker does.
func (s *Server) walk() error {
	v := survey{at: time.Now(), totals: map[uint64]sample.JobTotals{}, processes: map[uint64][]sample.JobProcess{}}
	for id := range s.byJob {
		t, err := s.jobs.Totals(id)
		if err != nil {
			continue // it is being forgotten
		}
		v.totals[id] = t
	}
	v.boottime = clock.Boottime()
	err := s.jobs.Processes(
		func(id uint64, p *sample.JobProcess) { v.processes[id] = append(v.processes[id], *p) },
		func(id uint64, used *sample.JobTotals) {
			if t, ok := v.totals[id]; ok {
				t.Add(used)
				v.totals[id] = t
			}
		})
	if err != nil {
		return err
	}
	s.survey = v
	for id, c := range s.byJob {
		c.watched.meet(v.processes[id])
	}
	return nil
}
