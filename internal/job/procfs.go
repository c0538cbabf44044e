package job

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/cctools"
	"rmagent/internal/clock"
	"rmagent/internal/sample"
)

// procTracker follows a job without eBPF: by a cgroup of its own where one can be
// made, else by who is whose child. What a process did before it was first seen, or
// after it was last seen, is told by whom it left it to: the kernel adds it to the
// parent that waits for it (wait4(2), /proc/PID/stat, /proc/PID/io).
type procTracker struct {
	reap     bool
	notOfJob func(pid int32) bool // nil: every child of this process is the job's
	group    *group               // nil: none could be made
	lent     bool                 // group is the caller's
	first    int                  // PID of the first process; 0: not started, or reaped
	keep     int                  // of how many members the files are kept open
	members  map[int32]*member
	seen     map[sample.ID]time.Duration // when who was there lately was met last, on CLOCK_BOOTTIME
	met      uint64                      // how many there were ever
	now      time.Duration               // of the last Read, on CLOCK_BOOTTIME
	swept    time.Duration
	most     uint64
	mostAt   time.Duration
	peak     uint64           // of one process
	dead     sample.JobTotals // of processes that this one reaped
	doomed   bool
	killed   map[int32]bool // children that are not reaped: whether they were sent SIGKILL, or may not be
	notices  chan struct{}
}

// member is a process that was there at the last look.
type member struct {
	stat procStat
	io   procIO
	// file is its /proc/PID/io. Once a process is a zombie an ordinary user can't open
	// it any more, but read it still (fs/proc/base.c, task_dump_owner).
	file *os.File
}

// maxOpen is of how many processes the files are kept open, at most.
const maxOpen = 512

// filesToKeep is how many that is here: most of what this process may open is left to
// whoever else opens files in it.
func filesToKeep() int {
	limit, ok := limitOfFiles(int32(os.Getpid()))
	if !ok {
		return 0
	}
	return int(min(maxOpen, limit/4))
}

func (t *procTracker) forget(pid int32) {
	delete(t.killed, pid)
	if m := t.members[pid]; m != nil {
		if m.file != nil {
			m.file.Close()
		}
		delete(t.members, pid)
	}
}

// ProcOptions say how a job is followed by /proc.
type ProcOptions struct {
	// Reap makes this process the one that orphans of the job are given to, and reaps
	// them: what they did is then known too. It takes every child of this process that
	// ended for one of them, so it is for programs that have no others but those that
	// NotOfJob, if any, tells.
	Reap     bool
	NotOfJob func(pid int32) bool
	// Limited is the cgroup that the job runs in, and stays the caller's; nil: one is made
	// where it can be.
	Limited *Limited
}

// OpenProc begins a job that /proc tells of. It needs no privilege.
func OpenProc(o ProcOptions) (Tracker, error) {
	if o.Reap {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return nil, err
		}
	}
	t := newProcTracker(o)
	if t.group == nil {
		t.group, _ = newGroup() // without one it goes on as it can
	}
	return t, nil
}

func newProcTracker(o ProcOptions) *procTracker {
	t := &procTracker{
		reap: o.Reap, notOfJob: o.NotOfJob, keep: filesToKeep(), members: map[int32]*member{}, seen: map[sample.ID]time.Duration{}, killed: map[int32]bool{},
		notices: make(chan struct{}),
	}
	if o.Limited != nil {
		t.group, t.lent = o.Limited.group, true
	}
	return t
}

func (t *procTracker) Start(cmd *exec.Cmd) error {
	if t.group != nil {
		t.group.take(cmd)
	}
	if err := StartCommand(cmd); err != nil {
		return err
	}
	t.first = cmd.Process.Pid
	t.look(int32(t.first))
	return nil
}

func (t *procTracker) Read(dst *Reading) error {
	dst.reset()
	dst.Boottime = clock.Boottime()
	t.now = dst.Boottime
	t.find()
	t.sweep() // behind it, so that who is there stays known however long the last reading is past
	if t.reap {
		t.reapOrphans()
	}
	t.fill(dst)
	if t.group != nil {
		t.group.read(dst)
	}
	return nil
}

// find replaces the members by those that are there now.
func (t *procTracker) find() {
	pids := map[int32]bool{}
	if list, err := t.groupPIDs(); err == nil {
		for _, pid := range list {
			pids[pid] = true
		}
	} else { // there is no group, or it could not be read now
		for pid := range t.members {
			addDescendants(pids, pid)
		}
	}
	if t.first != 0 {
		addDescendants(pids, int32(t.first))
	}
	if t.reap {
		for _, pid := range t.ownChildren() {
			addDescendants(pids, pid)
		}
	}
	for pid := range t.members {
		if !pids[pid] {
			t.forget(pid)
		}
	}
	for pid := range pids {
		t.look(pid)
	}
}

func (t *procTracker) groupPIDs() ([]int32, error) {
	if t.group == nil {
		return nil, errNoGroup
	}
	return t.group.pids()
}

// look reads a process, or forgets it if it has ended. What it can't read for another
// reason, as for want of descriptors, says nothing of the process.
func (t *procTracker) look(pid int32) {
	stat, err := readStat(pid)
	m := t.members[pid]
	if ended(err) || err == nil && m != nil && m.stat.start != stat.start { // another process has its PID
		t.forget(pid)
		m = nil
	}
	if err != nil {
		if m != nil {
			t.meet(sample.ID{PID: pid, StartTicks: m.stat.start})
		}
		return
	}
	if m == nil {
		m = &member{}
		if len(t.members) < t.keep {
			m.file, _ = os.Open("/proc/" + strconv.Itoa(int(pid)) + "/io")
		}
		t.members[pid] = m
	}
	m.stat = stat
	if io, ok := readIO(pid, m.file); ok {
		m.io = io
	}
	t.meet(sample.ID{PID: pid, StartTicks: stat.start})
}

// meet counts a process when it is met first.
func (t *procTracker) meet(id sample.ID) {
	if _, known := t.seen[id]; !known {
		t.met++
	}
	t.seen[id] = t.now
}

// remembered is for how long a process is known again that was not met meanwhile: a walk
// may miss one, but not for long. A job of months has hundreds of millions of processes.
const remembered = time.Minute

// sweep forgets who was met last longer ago than that.
func (t *procTracker) sweep() {
	if t.now-t.swept < remembered {
		return
	}
	t.swept = t.now
	maps.DeleteFunc(t.seen, func(_ sample.ID, at time.Duration) bool { return t.now-at > remembered })
}

// ended reports whether an error of reading /proc/PID means that the process has ended.
func ended(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH)
}

// ownChildren are the children of this process that are the job's.
func (t *procTracker) ownChildren() []int32 {
	list := children(os.Getpid())
	if t.notOfJob == nil {
		return list
	}
	return slices.DeleteFunc(list, t.notOfJob)
}

// addDescendants adds a process and all that descend from it.
func addDescendants(pids map[int32]bool, pid int32) {
	if pids[pid] {
		return
	}
	pids[pid] = true
	for _, child := range children(int(pid)) {
		addDescendants(pids, child)
	}
}

// children returns whom the threads of a process forked, and whom it was given
// (CONFIG_PROC_CHILDREN, proc(5)).
func children(pid int) []int32 {
	dir := "/proc/" + strconv.Itoa(pid) + "/task"
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil {
		return nil
	}
	if st.Nlink == 3 { // itself, its parent, and one thread
		return childrenOf(dir+"/"+strconv.Itoa(pid), nil)
	}
	threads, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var list []int32
	for _, t := range threads {
		list = childrenOf(dir+"/"+t.Name(), list)
	}
	return list
}

// childrenOf adds the children of one thread.
func childrenOf(dir string, list []int32) []int32 {
	b, err := os.ReadFile(dir + "/children")
	if err != nil {
		return list // the thread ended
	}
	for word := range bytes.FieldsSeq(b) {
		if n, err := strconv.ParseInt(string(word), 10, 32); err == nil {
			list = append(list, int32(n))
		}
	}
	return list
}

// reapOrphans reaps the processes that were given to this one and ended.
func (t *procTracker) reapOrphans() {
	for pid, m := range t.members {
		if m.stat.state != 'Z' || int(pid) == t.first || int(m.stat.ppid) != os.Getpid() {
			continue
		}
		var usage unix.Rusage
		got, err := unix.Wait4(int(pid), nil, unix.WNOHANG, &usage)
		if err != nil || got != int(pid) {
			continue
		}
		t.bury(m, &usage)
		t.forget(pid)
	}
}

// bury adds what a process did that was reaped here, and what those did that it
// waited for itself.
func (t *procTracker) bury(m *member, usage *unix.Rusage) {
	d := &t.dead
	d.User += time.Duration(usage.Utime.Nano())
	d.System += time.Duration(usage.Stime.Nano())
	d.CPU = d.User + d.System
	d.MinorFlt += uint64(usage.Minflt)
	d.MajorFlt += uint64(usage.Majflt)
	d.Voluntary += uint64(usage.Nvcsw)
	d.Forced += uint64(usage.Nivcsw)
	// A process that vfork gave its launcher's memory has the launcher's peak, too.
	var own unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &own) == nil && usage.Maxrss > own.Maxrss {
		t.peak = max(t.peak, uint64(usage.Maxrss)<<10)
	}
	if m != nil {
		m.io.add(d)
	}
}

// Reaped takes what the first process did.
func (t *procTracker) Reaped(usage *unix.Rusage) {
	t.bury(t.members[int32(t.first)], usage)
	t.forget(int32(t.first))
	t.first = 0
}

func (t *procTracker) fill(dst *Reading) {
	dst.Totals = t.dead
	for pid, m := range t.members {
		m.stat.add(&dst.Totals)
		m.io.add(&dst.Totals)
		dst.Totals.Pending++
		if m.stat.state == 'Z' {
			continue
		}
		dst.Totals.Now++
		if p, ok := readProcess(pid, &m.stat); ok {
			t.peak = max(t.peak, p.Peak)
			dst.Processes = append(dst.Processes, p)
		}
	}
	if dst.Totals.Now > t.most {
		t.most, t.mostAt = dst.Totals.Now, dst.Boottime
	}
	dst.Totals.Most, dst.Totals.MostAt, dst.Totals.PeakBytes = t.most, t.mostAt, t.peak
	dst.Totals.Processes = max(t.met, 1)
	if dst.Totals.Pending == 0 && t.reap && hasChildren() && len(t.ownChildren()) > 0 {
		// Its parent ended when that one's children had been looked for, and it was not
		// given to this process yet when these had been.
		dst.Totals.Pending = 1
	}
}

// hasChildren reports whether this process has any, whether they live or wait to be
// reaped: the kernel says so at one instant, while a walk over files may pass by who
// forks and ends meanwhile.
func hasChildren() bool {
	for {
		err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			return err != unix.ECHILD
		}
	}
}

func (t *procTracker) Signal(s unix.Signal) (int, []sample.ID, error) {
	if t.doomed && t.group == nil && t.reap {
		left, refused := t.killChildren()
		return left, refused, nil
	}
	t.find()
	if t.doomed && t.group != nil && t.group.kill() == nil {
		return t.left(), nil, nil
	}
	var ids []sample.ID
	for pid, m := range t.members {
		if m.stat.state == 'Z' {
			continue
		}
		if t.doomed {
			// Who may have no process more than none can't fork, nor can its children.
			unix.Prlimit(int(pid), unix.RLIMIT_NPROC, &unix.Rlimit{}, nil)
		}
		ids = append(ids, sample.ID{PID: pid, StartTicks: m.stat.start})
	}
	return SignalAll(ids, s)
}

// killTurn is how long killChildren goes on before it lets others have a turn.
const killTurn = 20 * time.Millisecond

// killChildren kills the children of this process, again and again: whoever loses its
// parent is given to this process, so it meets all of the job's one day, also those that
// fork faster than /proc can be walked. Between reading who is a child and killing it
// nothing is asked: the PID of a child stays its own until it is reaped here, and who is
// not reaped still counts against what its user may fork. It returns how many of them
// live, and who may not be killed.
func (t *procTracker) killChildren() (left int, refused []sample.ID) {
	for begin := time.Now(); time.Since(begin) < killTurn; {
		if t.killFresh() == 0 {
			break
		}
	}
	for pid, sent := range t.killed {
		switch {
		case hasEnded(pid):
		case sent:
			left++
		default:
			stat, _ := readStat(pid) // a child that is not reaped has one
			refused = append(refused, sample.ID{PID: pid, StartTicks: stat.start})
		}
	}
	// Who has ended has given its children away: they are in the list by now.
	if left == 0 && t.killFresh() > 0 {
		left = 1
	}
	return left, refused
}

// hasEnded reports whether a child has ended, all of its threads: one whose leader is a
// zombie may still have children.
func hasEnded(pid int32) bool {
	var info unix.Siginfo
	for {
		err := unix.Waitid(unix.P_PID, int(pid), &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			return err != nil || info.Signo != 0
		}
	}
}

// killFresh kills the children that were not killed yet, and returns how many.
func (t *procTracker) killFresh() (n int) {
	for _, pid := range t.ownChildren() {
		if _, met := t.killed[pid]; met {
			continue
		}
		// Its children inherit that they may have none.
		unix.Prlimit(int(pid), unix.RLIMIT_NPROC, &unix.Rlimit{}, nil)
		t.killed[pid] = !errors.Is(unix.Kill(int(pid), unix.SIGKILL), unix.EPERM)
		n++
	}
	return n
}

// left is how many processes have not ended.
func (t *procTracker) left() (n int) {
	for _, m := range t.members {
		if m.stat.state != 'Z' {
			n++
		}
	}
	return n
}

func (t *procTracker) Doom() error {
	t.doomed = true
	return nil
}

func (t *procTracker) Notices() <-chan struct{} { return t.notices }

func (t *procTracker) Source() string {
	if t.group != nil {
		return "cgroup"
	}
	return "procfs"
}

// Exactness says what /proc tells an ordinary user.
func (t *procTracker) Exactness(m cctools.Measure) (cctools.Exactness, string) {
	switch m {
	case cctools.WallTime, cctools.Start, cctools.End:
		return cctools.Exact, ""
	case cctools.CPUTime, cctools.CoresAvg, cctools.Cores:
		if t.group != nil {
			return cctools.Exact, ""
		}
		return cctools.AtLeast, "what processes used that nobody waited for is missing"
	case cctools.BytesRead, cctools.BytesWritten, cctools.MinorFaults, cctools.MajorFaults, cctools.ContextSwitches:
		return cctools.AtLeast, "what processes did that nobody waited for is missing"
	case cctools.BytesReceived, cctools.BytesSent, cctools.Bandwidth:
		return cctools.Unknown, "the kernel tells an ordinary user no network bytes of processes: run beside an agent, or as root"
	case cctools.RunDelay:
		return cctools.Unknown, "the kernel tells an ordinary user no run delay of threads that ended"
	case cctools.TotalProcesses:
		return cctools.AtLeast, "processes that lived between two of ten readings a second were not seen"
	case cctools.MaxConcurrentProcesses, cctools.Memory, cctools.VirtualMemory, cctools.SwapMemory, cctools.OpenFiles:
		return cctools.Sampled, "the highest of ten readings a second"
	}
	return cctools.Exact, ""
}

func (t *procTracker) Close() error {
	var errs []error
	for pid := range t.members {
		t.forget(pid)
	}
	if t.reap {
		errs = append(errs, unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0))
	}
	if t.group != nil && !t.lent {
		errs = append(errs, t.group.remove())
	}
	return errors.Join(errs...)
}
