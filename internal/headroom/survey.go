package headroom

import (
	"cmp"
	"context"
	"math"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"rmagent/internal/hostfs"
	"rmagent/internal/hostfs/kfile"
	"rmagent/internal/sample"
	"rmagent/record"
)

// Survey is what limits many processes at one instant, as far as a scan's
// snapshot, prlimit(2), each process's status file and shared readings of cgroups
// tell, and a reading of the GPUs. What takes a look at each descriptor or mapping
// (filesystems, RLIMIT_FSIZE, RLIMIT_SIGPENDING, vm.max_map_count, inotify) is not in
// it, and a user's tasks are those of its number in every user namespace.
type Survey struct {
	at        time.Duration
	machine   *Facts
	processes []surveyed
	cgroups   map[string]*surveyedCgroup
	index     map[sample.ID]int
}

// surveyed is one process of a survey. Numbers that are unknown, and limits that
// there are none of, are NaN.
type surveyed struct {
	id          sample.ID
	comm        sample.Comm
	uid         uint32
	caps        uint64
	used, limit [numRlimits]float64
	hard        [numRlimits]uint64
	cgroup      *surveyedCgroup
	gpus        []GPU // nil but for those that use cards
	started     time.Time
}

// surveyedCgroup is a cgroup that processes share.
type surveyedCgroup struct {
	path   string
	chain  sample.CgroupChain
	judged bool
	space  *record.HeadroomLimit // first, of this cgroup and those above
	time   *record.HeadroomLimit
}

// surveyLimits are the rlimits that a survey looks at.
var surveyLimits = [...]int{nofile, nproc, addressSpace, data, stack, memlock, cpuTime}

// statusLimits are those whose use only the status file tells.
const statusLimits = 1<<data | 1<<stack | 1<<memlock

// Survey reads what limits the processes of a snapshot that want says yes to; a
// nil want takes all. cgroupOf names a process's cgroup as [hostfs.CgroupReader]
// does. gpus is a reading of the cards from before the snapshot, or nil.
func (r *Reader) Survey(ctx context.Context, s *sample.Snapshot, gpus *sample.GPUs, want func(*sample.Process) bool, cgroupOf func(*sample.Process) string) (*Survey, error) {
	r.cgroup.Refresh()
	v := &Survey{
		at: s.Monotonic, machine: r.ReadMachine(), processes: make([]surveyed, 0, len(s.Processes)),
		cgroups: map[string]*surveyedCgroup{}, index: make(map[sample.ID]int, len(s.Processes)),
	}
	v.machine.At = s.Monotonic
	tasks := tasksOfUsers(s)
	for i := range s.Processes {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		p := &s.Processes[i]
		if p.KernelThread || want != nil && !want(p) {
			continue
		}
		v.index[p.ID] = len(v.processes)
		v.processes = append(v.processes, surveyed{})
		q := &v.processes[len(v.processes)-1]
		q.take(p, tasks)
		q.started = hostfs.StartTime(p.ID.StartTicks, s.Time, s.Boottime).UTC().Round(time.Second / sample.UserHz)
		r.surveyRlimits(q)
		q.cgroup = v.cgroupAt(r, cgroupOf(p))
		q.gpus = GPUsOf(gpus, p.ID)
	}
	return v, nil
}

// tasksOfUsers counts each user's tasks. Kernel threads count for root, whom no
// limit holds.
func tasksOfUsers(s *sample.Snapshot) map[uint32]uint64 {
	tasks := map[uint32]uint64{}
	for i := range s.Processes {
		p := &s.Processes[i]
		if p.Known.HasAll(sample.SetOf(sample.UID, sample.Threads)) {
			tasks[p.UID] += p.Threads
		}
	}
	return tasks
}

// take takes what the snapshot has.
func (q *surveyed) take(p *sample.Process, tasks map[uint32]uint64) {
	q.id, q.comm, q.uid = p.ID, p.Comm, p.UID
	for i := range numRlimits {
		q.used[i], q.limit[i] = math.NaN(), math.NaN()
	}
	if p.Known.Has(sample.FDOpen) {
		q.used[nofile] = float64(p.FDOpen)
	}
	if p.Known.HasAll(sample.SetOf(sample.FDLimit, sample.FDHardLimit)) {
		q.setLimit(nofile, p.FDLimit, p.FDHardLimit)
	}
	if p.Known.Has(sample.Virtual) {
		q.used[addressSpace] = float64(p.VirtualBytes)
	}
	if p.Known.Has(sample.CPU) {
		q.used[cpuTime] = float64(p.CPUNanos) / 1e9
	}
	if p.Known.Has(sample.UID) {
		q.used[nproc] = float64(tasks[p.UID])
	}
}

// surveyRlimits asks for the limits by prlimit(2), and reads what is used of those
// that only the status file tells.
func (r *Reader) surveyRlimits(q *surveyed) {
	finite := 0
	for _, i := range surveyLimits {
		if i != nofile { // which the snapshot has
			var l unix.Rlimit
			if prlimit(q.id.PID, rlimits[i].number, &l) != 0 {
				continue
			}
			q.setLimit(i, l.Cur, l.Max)
		}
		if !math.IsNaN(q.limit[i]) {
			finite |= 1 << i
		}
	}
	if q.uid == 0 {
		q.limit[nproc] = math.NaN() // root is exempt
	} else if finite&(1<<nproc) != 0 {
		finite |= statusLimits // for its capabilities
	}
	if finite&statusLimits == 0 {
		return
	}
	dir, errno := r.openProcess(q.id.PID)
	if errno != 0 {
		return
	}
	defer kfile.Close(dir)
	s := parseStatus(r.file(dir, statusName))
	for _, u := range [...]struct {
		i    int
		used sample.Opt[uint64]
	}{{data, s.data}, {stack, s.stack}, {memlock, s.locked}} {
		if v, ok := u.used.Get(); ok {
			q.used[u.i] = float64(v)
		}
	}
	r.exempt(dir, q, s.capabilities.Or(0))
}

func (q *surveyed) setLimit(i int, soft, hard uint64) {
	q.hard[i] = hard
	if soft < unlimited {
		q.limit[i] = float64(soft)
	}
}

// exempt drops the limits that capabilities lift, as rlimitRow and userRlimit do. It
// looks at the user namespace only where that matters.
func (r *Reader) exempt(dir int, q *surveyed, caps uint64) {
	if caps == 0 || q.uid == 0 && q.used[memlock] == 0 || !r.inInitialUserNS(dir) {
		return
	}
	q.caps = caps
	f := Facts{RealUID: record.Some(q.uid), Capabilities: record.Some(caps)}
	if f.exemptFromNPROC() {
		q.limit[nproc] = math.NaN()
	}
	if f.may(capIPCLock) {
		q.limit[memlock] = math.NaN()
	}
}

func prlimit(pid int32, resource int, old *unix.Rlimit) unix.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_PRLIMIT64, uintptr(pid), uintptr(resource), 0, uintptr(unsafe.Pointer(old)), 0, 0)
	return errno
}

func (v *Survey) cgroupAt(r *Reader, path string) *surveyedCgroup {
	if path == "" {
		return nil
	}
	g := v.cgroups[path]
	if g == nil {
		g = &surveyedCgroup{path: path, chain: r.cgroup.ChainAt(path)}
		v.cgroups[path] = g
	}
	return g
}

// nearest is what a process is nearest to: an rlimit, or a row that was judged.
type nearest struct {
	process *surveyed
	ratio   float64 // share gone of the first in space
	space   int
	seconds float64 // to the first in time
	time    int
	// The rows of judged: of its cgroups or cards.
	spaceRow, timeRow *record.HeadroomLimit
}

const (
	judged = -1
	byNone = -2
)

// Nearest judges a survey: the processes nearest to a limit that is theirs, their
// user's or their cgroups', the nearest in space first; n > 0 cuts the list.
// before may be nil, or an earlier survey: then rates are known.
func Nearest(before, now *Survey, n int) record.HeadroomList {
	var machine *Facts
	if before != nil {
		machine = before.machine
	}
	list := record.HeadroomList{Machine: Machine(machine, now.machine), Evaluated: len(now.processes)}
	all := make([]nearest, len(now.processes))
	for i := range now.processes {
		all[i] = firstOf(before, now, &now.processes[i])
	}
	slices.SortFunc(all, func(a, b nearest) int {
		return cmp.Or(cmp.Compare(b.ratio, a.ratio), cmp.Compare(a.seconds, b.seconds), cmp.Compare(a.process.id.PID, b.process.id.PID))
	})
	if n > 0 && len(all) > n {
		all = all[:n]
	}
	list.Processes = make([]record.Headroom, 0, len(all))
	for i := range all {
		list.Processes = append(list.Processes, all[i].headroom(before, now))
	}
	return list
}

// firstOf finds the first limits of one process, and allocates nothing.
func firstOf(before, now *Survey, q *surveyed) nearest {
	first := nearest{process: q, ratio: -1, space: byNone, seconds: math.Inf(1), time: byNone}
	old, elapsed := earlier(before, now, q)
	for _, i := range surveyLimits {
		used, limit := q.used[i], q.limit[i]
		if math.IsNaN(used) || math.IsNaN(limit) {
			continue
		}
		available := max(0, limit-used)
		ratio := -1.0
		switch {
		case limit > 0:
			ratio = 1 - available/limit
		case used > 0:
			ratio = 1
		}
		if ratio > first.ratio {
			first.ratio, first.space = ratio, i
		}
		if old == nil || math.IsNaN(old.used[i]) {
			continue
		}
		if rate := (used - old.used[i]) / elapsed; rate > 0 && available/rate < first.seconds {
			first.seconds, first.time = available/rate, i
		}
	}
	first.cgroup(before, now)
	first.cards(old, elapsed)
	return first
}

// earlier finds the same process in the survey before.
func earlier(before, now *Survey, q *surveyed) (*surveyed, float64) {
	if before == nil || now.at <= before.at {
		return nil, 0
	}
	i, ok := before.index[q.id]
	if !ok {
		return nil, 0
	}
	return &before.processes[i], (now.at - before.at).Seconds()
}

// cgroup holds what was found against the process's cgroups, which are judged
// once.
func (n *nearest) cgroup(before, now *Survey) {
	g := n.process.cgroup
	if g == nil {
		return
	}
	if !g.judged {
		g.judged = true
		g.space, g.time = first(judgeCgroup(before, now, g))
	}
	n.hold(g.space, g.time)
}

// hold holds what was found against rows that are first elsewhere.
func (n *nearest) hold(space, time *record.HeadroomLimit) {
	if space != nil && space.UsedRatio.Or(-1) > n.ratio {
		n.ratio, n.space, n.spaceRow = space.UsedRatio.Or(-1), judged, space
	}
	if time != nil && time.SecondsToLimit.Or(math.Inf(1)) < n.seconds {
		n.seconds, n.time, n.timeRow = time.SecondsToLimit.Or(0), judged, time
	}
}

// cards holds what was found against the memory of the cards that the process uses.
func (n *nearest) cards(old *surveyed, elapsed float64) {
	if n.process.gpus == nil {
		return
	}
	var before []row
	if old != nil {
		before = gpuRows(&Facts{GPUs: old.gpus})
	}
	n.hold(first(judge(before, gpuRows(&Facts{GPUs: n.process.gpus}), elapsed)))
}

func judgeCgroup(before, now *Survey, g *surveyedCgroup) []record.HeadroomLimit {
	f := Facts{At: now.at, Cgroup: g.path, Cgroups: g.chain, Machine: now.machine.Machine}
	var old []row
	elapsed := 0.0
	if before != nil {
		if b := before.cgroups[g.path]; b != nil {
			old = cgroupRows(&Facts{At: before.at, Cgroup: g.path, Cgroups: b.chain, Machine: before.machine.Machine})
			elapsed = (now.at - before.at).Seconds()
		}
	}
	return judge(old, cgroupRows(&f), elapsed)
}

// headroom writes the finding down.
func (n *nearest) headroom(before, now *Survey) record.Headroom {
	q := n.process
	h := record.Headroom{
		PID: q.id.PID, StartTicks: q.id.StartTicks, StartTime: record.Some(q.started),
		Comm: record.Text(q.comm.Bytes()), UID: record.Some(q.uid),
	}
	if q.cgroup != nil {
		h.Cgroup = known(q.cgroup.path)
		h.ContainerID, h.Unit = known(hostfs.ContainerOf(q.cgroup.path)), known(hostfs.UnitOf(q.cgroup.path))
	}
	h.FirstInSpace = n.limit(before, now, n.space, n.spaceRow)
	h.FirstInTime = n.limit(before, now, n.time, n.timeRow)
	return h
}

func (n *nearest) limit(before, now *Survey, which int, row *record.HeadroomLimit) *record.HeadroomLimit {
	switch which {
	case byNone:
		return nil
	case judged:
		return clone(row)
	}
	return n.process.judgeRlimit(before, now, which)
}

// judgeRlimit judges one rlimit of a process.
func (q *surveyed) judgeRlimit(before, now *Survey, which int) *record.HeadroomLimit {
	var old []row
	o, elapsed := earlier(before, now, q)
	if o != nil {
		old = []row{o.row(which)}
	}
	return &judge(old, []row{q.row(which)}, elapsed)[0]
}

// row writes one rlimit as facts of one process would have it.
func (q *surveyed) row(i int) row {
	f := Facts{ID: q.id, RealUID: record.Some(q.uid), Capabilities: record.Some(q.caps)}
	if q.cgroup != nil {
		f.Cgroup = q.cgroup.path
	}
	f.Rlimits[i] = Rlimit{uint64(q.limit[i]), q.hard[i], true}
	whole := record.SomeIf(uint64(max(0, q.used[i])), !math.IsNaN(q.used[i]))
	switch i {
	case nproc:
		f.User.Tasks = whole
	case nofile:
		f.FDOpen = whole
	case addressSpace:
		f.VirtualBytes = whole
	case data:
		f.DataBytes = whole
	case stack:
		f.StackBytes = whole
	case memlock:
		f.LockedBytes = whole
	case cpuTime:
		f.CPUNanos = record.SomeIf(uint64(q.used[i]*1e9), !math.IsNaN(q.used[i]))
	}
	if i == nproc {
		return userRlimit(&f, i, userScope(q.uid), uint64(q.limit[i]))
	}
	return rlimitRow(&f, i, scopeProcess, uint64(q.limit[i]))
}
