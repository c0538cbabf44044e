package worker

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/stack"
	"rmagent/record"
)

const (
	answerTime   = 5 * time.Second // what one request may take, but for waiting for a CPU
	unwatched    = time.Second     // from when on it is looked at how long that is
	longestTime  = time.Minute     // what it may take with it
	endTime      = time.Second / 5 // what its end is waited for
	minBackoff   = 100 * time.Millisecond
	shortBackoff = time.Second // up to which jobs wait for the next child
	maxBackoff   = time.Minute
	maxModules   = 256
	maxMapped    = 32 << 30 // bytes of modules together: half of what the child may map
	maxAsked     = 1024     // requests for one stack
)

// SocketFD is the descriptor of the child's socket.
const SocketFD = 3

var errNoChild = errors.New("the process for it is not running")

// refusedError is a request that the child could not do; it goes on.
type refusedError struct{ reason string }

func (e *refusedError) Error() string { return e.reason }

// child is a running child. Its owner calls end.
type child struct {
	cmd    *exec.Cmd
	conn   *conn
	buffer []byte
	stderr *tail
}

// tail keeps the beginning of what a child says on its way out.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	const most = 512
	t.b = append(t.b, p[:min(len(p), most-len(t.b))]...)
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	line, _, _ := strings.Cut(string(t.b), "\n")
	return printable(line)
}

func startChild(program string, args []string) (*child, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "worker"), os.NewFile(uintptr(pair[1]), "worker")
	defer ours.Close()
	defer theirs.Close()
	conn, err := newConn(ours)
	if err != nil {
		return nil, err
	}
	c := &child{conn: conn, buffer: make([]byte, maxMessage), stderr: &tail{}}
	c.cmd = exec.Command(program, args...)
	if program == Itself {
		c.cmd.Args[0] = os.Args[0]
	}
	c.cmd.Env, c.cmd.Dir = []string{}, "/"
	c.cmd.ExtraFiles = []*os.File{theirs}
	c.cmd.Stderr = c.stderr
	if err := c.cmd.Start(); err != nil {
		return nil, errors.Join(err, conn.c.Close())
	}
	return c, nil
}

// end kills the child and reaps it, and doesn't wait long for that: who may end nobody, as
// an agent without CAP_KILL, can't kill a child that is another user now. That one ends
// where it finds the socket closed, or its time over (Serve).
func (c *child) end() {
	_ = c.conn.c.Close()
	_ = c.cmd.Process.Kill()
	reaped := make(chan struct{})
	go func() {
		_ = c.cmd.Wait()
		close(reaped)
	}()
	select {
	case <-reaped:
	case <-time.After(endTime):
	}
}

// call sends a request and waits for its answer.
func (c *child) call(r *request, file *os.File, a *answer) error {
	began := time.Now()
	if err := c.conn.c.SetDeadline(began.Add(unwatched)); err != nil {
		return err
	}
	if err := c.conn.send(r, file); err != nil {
		return err
	}
	*a = answer{}
	err := c.receive(a)
	for before := time.Duration(-1); errors.Is(err, os.ErrDeadlineExceeded); {
		waited := runDelay(c.cmd.Process.Pid)
		if before < 0 {
			before = waited
		}
		own := time.Since(began) - (waited - before)
		if own >= answerTime || time.Since(began) >= longestTime {
			return fmt.Errorf("no answer in %s", answerTime)
		}
		if err := c.conn.c.SetDeadline(time.Now().Add(answerTime - own)); err != nil {
			return err
		}
		err = c.receive(a)
	}
	if err == nil {
		err = a.check()
	}
	if err == nil && a.Error != "" {
		err = &refusedError{printable(a.Error)}
	}
	return err
}

func (c *child) receive(a *answer) error {
	got, err := c.conn.receive(a, c.buffer)
	if got != nil {
		_ = got.Close()
	}
	return err
}

// runDelay is for how long the threads of a process have waited for a CPU
// (/proc/PID/task/TID/schedstat), 0 where the kernel does not count it: on a machine
// with too much work the child takes long, and yet does not hang.
func runDelay(pid int) (sum time.Duration) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		return 0
	}
	for _, name := range tasks {
		b, err := os.ReadFile(name)
		var ran, waited int64
		if err != nil { // the thread has ended
			continue
		}
		if _, err := fmt.Sscan(string(b), &ran, &waited); err == nil {
			sum += time.Duration(waited)
		}
	}
	return sum
}

// moduleCache is what modules the child has.
type moduleCache struct {
	byFile map[identity]*moduleState
	last   uint64
	clock  uint64
	mapped int64
	vdso   *moduleState
}

type moduleState struct {
	number uint64
	id     identity
	used   uint64
	reason string // why the child does not have it
}

// running returns the child, which is started where there is none.
func (c *Client) running() (*child, error) {
	if c.child != nil {
		return c.child, nil
	}
	if time.Now().Before(c.retryAt) {
		return nil, errNoChild
	}
	started, err := c.start()
	if err != nil {
		c.startLater(err)
		return nil, fmt.Errorf("%w: %w", errNoChild, err)
	}
	c.child = started
	c.modules = moduleCache{byFile: map[identity]*moduleState{}, last: c.modules.last}
	c.mu.Lock()
	c.stats.Started++
	for _, im := range c.images {
		im.number = 0
	}
	c.forgotten = nil
	c.pid, c.calls = started.cmd.Process.Pid, started.conn
	c.mu.Unlock()
	select {
	case <-c.stop: // Close may not have seen it
		_ = started.conn.c.Close()
	default:
	}
	return started, nil
}

// kill ends a child that failed; the next is started after a while.
func (c *Client) kill(why error) {
	if c.child == nil {
		return
	}
	said := c.child.stderr
	c.endChild()
	if s := said.String(); s != "" {
		why = fmt.Errorf("%w: %s", why, s)
	}
	c.startLater(why)
	c.mu.Lock()
	c.stats.Killed++
	c.mu.Unlock()
}

func (c *Client) startLater(why error) {
	c.backoff = min(max(2*c.backoff, minBackoff), maxBackoff)
	c.retryAt = time.Now().Add(c.backoff)
	c.mu.Lock()
	c.stats.LastFail = why.Error()
	c.mu.Unlock()
}

func (c *Client) endChild() {
	if c.child == nil {
		return
	}
	c.mu.Lock()
	c.readCPU()
	c.pastCPU, c.lastCPU, c.pid, c.calls = c.pastCPU+c.lastCPU, 0, 0, nil
	c.mu.Unlock()
	c.child.end()
	c.child = nil
}

// ask has the child walk a stack, and gives it what it asks for on the way.
func (c *Client) ask(j *job, im *imageState) (*answer, error) {
	ch, err := c.ready(im)
	if err != nil {
		return nil, err
	}
	walk := walkRequest{Image: im.number, Registers: j.raw.Registers, Window: j.raw.Window, Chain: j.raw.Chain, G: j.g}
	r := request{Walk: &walk}
	for range maxAsked {
		a := &answer{}
		if err := ch.call(&r, nil, a); err != nil {
			return nil, err
		}
		switch {
		case a.NeedsRegion != 0:
			err = c.provide(ch, j.image.ID.PID, im, a.NeedsRegion)
		case a.NeedsPerfMap:
			walk.NoPerfMap, err = c.providePerfMap(ch, j.image.ID.PID, im)
		case a.NeedsCode != 0:
			err = c.provideCode(ch, j.image.ID.PID, im, a.NeedsCode)
		default:
			c.backoff = 0
			return a, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("not walked after %d requests", maxAsked)
}

// ready returns the child once it has an image.
func (c *Client) ready(im *imageState) (*child, error) {
	ch, err := c.running()
	if err == nil && im.number == 0 {
		err = c.sendImage(ch, im)
	}
	return ch, err
}

func (c *Client) sendImage(ch *child, im *imageState) error {
	c.number++
	regions := make([]regionOfFile, 0, min(len(im.mappings), maxRegions))
	send := func(more bool) error {
		r := request{Image: &imageRequest{Image: c.number, Append: more, Generates: im.generates, Regions: regions}}
		regions = regions[:0]
		return ch.call(&r, nil, &answer{})
	}
	sent, size := false, 0
	for _, m := range im.mappings {
		if size+len(m.Path)*6+128 > maxMessage/2 || len(regions) == maxRegions {
			if err := send(sent); err != nil {
				return err
			}
			sent, size = true, 0
		}
		size += len(m.Path)*6 + 128
		regions = append(regions, regionOfFile{
			Range: stack.Range{Start: m.Start, End: m.End}, Offset: m.Offset, Path: record.Text([]byte(m.Path)), File: hasFile(&m), // only to be shown
		})
	}
	if err := send(sent); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if im.dropped {
		c.forgotten = append(c.forgotten, c.number)
	}
	im.number = c.number
	return nil
}

func hasFile(m *stack.Mapping) bool { return m.Inode != 0 || m.Path == vdsoPath }

const vdsoPath = "[vdso]"

// provide gives the child the module of a region.
func (c *Client) provide(ch *child, pid int32, im *imageState, start uint64) error {
	for i := range im.mappings {
		m := &im.mappings[i]
		if m.Start != start || !hasFile(m) {
			continue
		}
		module, err := c.module(ch, pid, m)
		if err != nil {
			return err
		}
		bind := bindRequest{Image: im.number, Start: start, Module: module.number, Reason: module.reason}
		return ch.call(&request{Bind: &bind}, nil, &answer{})
	}
	return fmt.Errorf("asked for %#x, which is no region of a file", start)
}

// module returns a mapping's module, which the child has then unless there is a
// reason why it has not.
func (c *Client) module(ch *child, pid int32, m *stack.Mapping) (*moduleState, error) {
	cache := &c.modules
	cache.clock++
	if m.Path == vdsoPath {
		return c.vdsoModule(ch)
	}
	f, err := c.openMapped(pid, m)
	if err != nil {
		return &moduleState{reason: printable(err.Error())}, nil
	}
	defer f.file.Close()
	if known := cache.byFile[f.id]; known != nil {
		known.used = cache.clock
		return known, nil
	}
	if err := c.makeRoom(ch, f.id.size); err != nil {
		return nil, err
	}
	cache.last++
	state := &moduleState{number: cache.last, id: f.id, used: cache.clock}
	a := &answer{}
	if err := c.load(ch, state, &request{Module: &moduleRequest{Module: state.number, Path: pathOf(m)}}, f.file, a); err != nil {
		return nil, err
	}
	cache.byFile[f.id] = state
	if state.reason == "" {
		cache.mapped += f.id.size
		return state, c.loadDebug(ch, pid, state, a.Paths)
	}
	return state, nil
}

// load sends a module; that the child refuses it is noted in state.
func (c *Client) load(ch *child, state *moduleState, r *request, file *os.File, a *answer) error {
	err := ch.call(r, file, a)
	var refused *refusedError
	if errors.As(err, &refused) {
		state.reason, err = refused.reason, nil
	}
	return err
}

// pathOf returns the path of a mapping's file in its process's root.
func pathOf(m *stack.Mapping) string { return strings.TrimSuffix(m.Path, deletedSuffix) }

const deletedSuffix = " (deleted)"

// loadDebug sends the first file of debug information that is one, and what that one
// shares with others. A module without is a module, too.
func (c *Client) loadDebug(ch *child, pid int32, state *moduleState, paths []string) error {
	for _, at := range paths {
		found, more, err := c.loadFirst(ch, pid, at, func(path string) *request {
			return &request{Debug: &moduleRequest{Module: state.number, Path: path}}
		})
		if err != nil {
			return err
		}
		if !found {
			continue
		}
		for _, alt := range more {
			_, _, err = c.loadFirst(ch, pid, alt, func(path string) *request {
				return &request{Alt: &moduleRequest{Module: state.number, Path: path}}
			})
		}
		return err
	}
	return nil
}

// loadFirst sends the file at a path in a process's root or, of those that have their
// own place, in the host's. more is what the child wants beside it.
func (c *Client) loadFirst(ch *child, pid int32, at string, what func(path string) *request) (found bool, more []string, err error) {
	for _, process := range []int32{pid, int32(os.Getpid())} {
		if process != pid && !strings.HasPrefix(at, "/usr/lib/debug/") {
			break
		}
		f, err := c.open.inside(process, at, 0, rootsOwn)
		if err != nil {
			continue
		}
		sent, a := moduleState{}, answer{}
		err = c.load(ch, &sent, what(at), f.file, &a)
		_ = f.file.Close()
		if err != nil {
			return false, nil, err
		}
		if sent.reason == "" {
			return true, a.Paths, nil
		}
	}
	return false, nil, nil
}

// vdsoModule sends the vDSO once.
func (c *Client) vdsoModule(ch *child) (*moduleState, error) {
	cache := &c.modules
	if cache.vdso != nil {
		return cache.vdso, nil
	}
	b, err := ownVDSO()
	if err != nil {
		return &moduleState{reason: printable(err.Error())}, nil
	}
	cache.last++
	state := &moduleState{number: cache.last}
	r := request{Module: &moduleRequest{Module: state.number, VDSO: b}}
	if err := c.load(ch, state, &r, nil, &answer{}); err != nil {
		return nil, err
	}
	cache.vdso = state
	return state, nil
}

// makeRoom has the child forget the modules used longest ago until there is room.
func (c *Client) makeRoom(ch *child, size int64) error {
	cache := &c.modules
	for len(cache.byFile) >= maxModules || len(cache.byFile) > 0 && cache.mapped+size > maxMapped {
		var oldest *moduleState
		for _, s := range cache.byFile {
			if oldest == nil || s.used < oldest.used {
				oldest = s
			}
		}
		delete(cache.byFile, oldest.id)
		if oldest.reason == "" {
			cache.mapped -= oldest.id.size
		}
		if err := ch.call(&request{Forget: &forgetRequest{Module: oldest.number}}, nil, &answer{}); err != nil {
			return err
		}
	}
	return nil
}

// forget tells the child; that it is not heard shows at the next call.
func (c *Client) forget(r forgetRequest) {
	if c.child == nil {
		return
	}
	_ = c.child.call(&request{Forget: &r}, nil, &answer{})
}

// providePerfMap sends a process's perf map for one walk; none says that there is none.
func (c *Client) providePerfMap(ch *child, pid int32, im *imageState) (none bool, err error) {
	f, ok := c.openPerfMap(pid)
	if !ok {
		return true, nil
	}
	defer f.file.Close()
	return false, ch.call(&request{PerfMap: &perfMapRequest{Image: im.number}}, f.file, &answer{})
}
