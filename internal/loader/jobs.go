package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"rmagent/internal/sample"
	"rmagent/record"
)

// JobNotice is something that a job's owner should look at now.
type JobNotice struct {
	Job  uint64
	Kind JobNoticeKind
	At   time.Duration // CLOCK_BOOTTIME
}

// JobNoticeKind says what happened.
type JobNoticeKind uint64

// The notices. They hasten what readings show, too: one may be lost.
const (
	JobEmpty     JobNoticeKind = 1 // its last thread has ended, and its totals are complete
	JobAtOnce    JobNoticeKind = 2 // more processes at once than JobOrder.AtOnce
	JobProcesses JobNoticeKind = 3 // more in all than JobOrder.Processes
)

// JobOrder is what is asked of a job.
type JobOrder struct {
	UID       uint32 // whose processes may be killed; 0: everybody's
	AtOnce    uint64 // processes at once to be told of; 0: none
	Processes uint64 // processes in all to be told of; 0: none
	// FatalAtOnce: who forks while there are more than that is killed at once; 0:
	// nobody. It bounds what a fork bomb does before user space looks.
	FatalAtOnce uint64
}

// ErrNoJob means that a job's place was taken away.
var ErrNoJob = errors.New("no such job")

// ErrTooManyJobs means that every place for a job is taken.
var ErrTooManyJobs = errors.New("too many jobs at once")

// jobsOfTask is in how many jobs a task may be: JOBS_OF_TASK of bpf/jobs.h.
const jobsOfTask = uint32(len(jobsTag{}.Job))

// ErrTooDeep means that whoever is to start a job is in as many as it may.
var ErrTooDeep = fmt.Errorf("a job in more than %d others", jobsOfTask-1)

// Jobs owns the programs that tell which tasks belong to which job, and what they
// used. They are attached while there is a job. It is safe for many goroutines.
type Jobs struct {
	programs   *ebpf.Collection
	area       []byte    // the map jobs
	places     []jobsJob // in area; the kernel writes there
	launchers  *ebpf.Map
	tags       *ebpf.Map
	iter       *link.Iter
	reader     *ringbuf.Reader
	notices    chan JobNotice
	watch      sync.WaitGroup
	bootOffset time.Duration
	page       uint64

	mu       sync.Mutex
	hooks    []string // programs in the order of their attachment
	links    []link.Link
	calls    link.Link // on_job_call; nil: nobody dies
	dying    int
	slots    map[uint64]uint32
	last     uint32 // the place that was taken last
	nextID   uint64
	capacity uint32
	buffer   []byte
}

// OpenJobs loads the programs, for so many jobs at once. Nothing is attached yet.
func OpenJobs(capacity int) (_ *Jobs, err error) {
	env, err := tracingEnvironment("jobs")
	if err != nil {
		return nil, err
	}
	j := &Jobs{
		notices: make(chan JobNotice, 64), slots: map[uint64]uint32{}, nextID: 1,
		capacity: uint32(capacity), bootOffset: env.bootOffset, page: uint64(os.Getpagesize()),
		buffer: make([]byte, iterBytes),
	}
	if err := j.load(env); err != nil {
		return nil, errors.Join(err, j.Close())
	}
	return j, nil
}

func (j *Jobs) load(env *environment) error {
	read := func() (*ebpf.CollectionSpec, error) {
		spec, err := loadJobs()
		if err != nil {
			return nil, fmt.Errorf("read the jobs' object: %w", err)
		}
		spec.Maps[jobsMapJobs].MaxEntries = j.capacity + 1 // place 0 is nobody's
		if err := spec.Variables[jobsVarNested].Set(min(j.capacity, jobsOfTask)); err != nil {
			return nil, fmt.Errorf("set nested: %w", err)
		}
		return spec, env.configure(spec)
	}
	var err error
	if j.programs, err = loadQuickly(_JobsBytes, read, env.options(), j.choose); err != nil {
		return fmt.Errorf("load jobs: %w", refused(err))
	}
	j.launchers, j.tags = j.programs.Maps[jobsMapLaunchers], j.programs.Maps[jobsMapTags]
	if err := j.mapPlaces(j.programs.Maps[jobsMapJobs]); err != nil {
		return err
	}
	if err := learn(j.programs.Programs[jobsProgLearnJobs]); err != nil {
		return err
	}
	if j.iter, err = link.AttachIter(link.IterOptions{Program: j.programs.Programs[jobsProgJobTasks]}); err != nil {
		return fmt.Errorf("attach the iterator of jobs: %w", err)
	}
	if j.reader, err = ringbuf.NewReader(j.programs.Maps[jobsMapNotices]); err != nil {
		return fmt.Errorf("open the ring of notices: %w", err)
	}
	j.watch.Go(j.readNotices)
	return nil
}

func (j *Jobs) mapPlaces(m *ebpf.Map) error {
	size := int(m.MaxEntries()) * int(unsafe.Sizeof(jobsJob{}))
	area, err := unix.Mmap(m.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the jobs: %w", err)
	}
	j.area = area
	j.places = unsafe.Slice((*jobsJob)(unsafe.Pointer(&area[0])), m.MaxEntries())
	return nil
}

// choose returns the programs for this kernel.
func (j *Jobs) choose(kernel *quickLoader) []string {
	j.hooks = append([]string{jobsProgOnJobSwitch, jobsProgOnJobExit, jobsProgOnJobExec}, jobNetPrograms(kernel)...)
	j.hooks = append(j.hooks, jobsProgOnJobFork) // last: whom it tags, the others must see
	return append([]string{jobsProgOnJobCall, jobsProgJobTasks, jobsProgLearnJobs}, j.hooks...)
}

// jobNetPrograms are those that count bytes on this kernel, as of the hook net.
func jobNetPrograms(kernel *quickLoader) []string {
	names := []string{jobsProgOnJobSend, jobsProgOnJobReceive}
	if !kernel.attachable(jobsProgOnJobSend) {
		names = []string{jobsProgOnJobInetSend, jobsProgOnJobInet6Send, jobsProgOnJobInetReceive, jobsProgOnJobInet6Receive}
	}
	if kernel.attachable(jobsProgOnJobInetSendpage) {
		names = append(names, jobsProgOnJobInetSendpage)
	}
	return names
}

func (j *Jobs) readNotices() {
	var record ringbuf.Record
	for j.reader.ReadInto(&record) == nil {
		b := record.RawSample
		if len(b) < int(unsafe.Sizeof(jobsJobNotice{})) {
			continue
		}
		n := JobNotice{
			Job:  binary.NativeEndian.Uint64(b),
			At:   time.Duration(binary.NativeEndian.Uint64(b[8:])),
			Kind: JobNoticeKind(binary.NativeEndian.Uint64(b[16:])),
		}
		select {
		case j.notices <- n:
		default: // a reading will show it
		}
	}
}

// Notices are told as they happen, of all jobs.
func (j *Jobs) Notices() <-chan JobNotice { return j.notices }

// New makes a job without processes.
func (j *Jobs) New(o JobOrder) (id uint64, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	slot, ok := j.free()
	if !ok {
		return 0, ErrTooManyJobs
	}
	if len(j.slots) == 0 {
		if err := j.attach(); err != nil {
			return 0, errors.Join(err, j.detach())
		}
	}
	id = j.nextID
	j.nextID++
	place := &j.places[slot]
	*place = jobsJob{Uid: uint64(o.UID), MaxAtOnce: o.AtOnce, MaxProcesses: o.Processes, FatalAtOnce: o.FatalAtOnce}
	atomic.StoreUint64(&place.Id, id)
	j.slots[id], j.last = slot, slot
	return id, nil
}

// free returns a free place, in turns: a program that found the job that was there last
// before it was forgotten may still be adding to it.
func (j *Jobs) free() (slot uint32, ok bool) {
	taken := make([]bool, j.capacity+1)
	for _, s := range j.slots {
		taken[s] = true
	}
	for i := range j.capacity {
		slot := (j.last+i)%j.capacity + 1
		if !taken[slot] {
			return slot, true
		}
	}
	return 0, false
}

func (j *Jobs) attach() error {
	for _, name := range j.hooks {
		l, err := link.AttachTracing(link.TracingOptions{Program: j.programs.Programs[name]})
		if err != nil {
			return fmt.Errorf("attach %s: %w", name, err)
		}
		j.links = append(j.links, l)
	}
	return nil
}

func (j *Jobs) detach() error {
	err := closeLinks(j.links)
	j.links = nil
	return err
}

// Forget ends a job: its processes go on, and belong to none.
func (j *Jobs) Forget(id uint64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	slot, ok := j.slots[id]
	if !ok {
		return ErrNoJob
	}
	delete(j.slots, id)
	atomic.StoreUint64(&j.places[slot].Id, 0)
	if len(j.slots) == 0 {
		return j.detach()
	}
	return nil
}

// Await has the next process that a thread of process forks become the first of a
// job. Cancel ends the wait.
func (j *Jobs) Await(id uint64, thread int, process sample.ID) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	slot, ok := j.slots[id]
	if !ok {
		return ErrNoJob
	}
	switch n, err := j.depth(process.PID); {
	case err != nil:
		return err
	case n >= jobsOfTask:
		return ErrTooDeep
	}
	ticks := process.StartTicks - uint64(j.bootOffset/userTick)
	l := jobsJobLauncher{Job: id, Slot: slot, Pid: uint32(process.PID), StartTicks: ticks}
	if err := j.launchers.Put(uint32(thread), &l); err != nil {
		return fmt.Errorf("await a job's first process: %w", err)
	}
	return nil
}

// depth is in how many jobs a process is.
func (j *Jobs) depth(pid int32) (n uint32, err error) {
	fd, err := unix.PidfdOpen(int(pid), 0)
	if err != nil {
		return 0, fmt.Errorf("look at PID %d: %w", pid, err)
	}
	defer unix.Close(fd)
	var tag jobsTag
	if err := j.tags.Lookup(uint32(fd), &tag); err != nil {
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return 0, nil
		}
		return 0, fmt.Errorf("look for the jobs of PID %d: %w", pid, err)
	}
	for _, id := range tag.Job {
		if j.slots[id] != 0 {
			n++
		}
	}
	return n, nil
}

// userTick is what start times count in: USER_HZ is 100 on every architecture that
// rmagent is built for.
const userTick = 10 * time.Millisecond

// Cancel no longer waits for a thread's fork, if it is this job that waits: the thread
// may have begun another since.
func (j *Jobs) Cancel(id uint64, thread int) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	var l jobsJobLauncher
	err := j.launchers.Lookup(uint32(thread), &l)
	if err == nil && l.Job == id {
		err = j.launchers.Delete(uint32(thread))
	}
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("await no first process: %w", err)
	}
	return nil
}

func (j *Jobs) slot(id uint64) (uint32, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	slot, ok := j.slots[id]
	if !ok {
		return 0, ErrNoJob
	}
	return slot, nil
}

// Totals reads what the processes of a job that ended did, and how many live.
func (j *Jobs) Totals(id uint64) (t sample.JobTotals, err error) {
	slot, err := j.slot(id)
	if err != nil {
		return t, err
	}
	place := &j.places[slot]
	pending := atomic.LoadUint64(&place.Tasks) // first: who is counted as gone has added all before
	v := *place
	v.Tasks = pending
	return j.totals(&v), nil
}

func (j *Jobs) totals(v *jobsJob) sample.JobTotals {
	at := func(ns uint64) time.Duration {
		if ns == 0 {
			return 0
		}
		return time.Duration(ns) + j.bootOffset
	}
	return sample.JobTotals{
		Processes: v.Processes, Now: v.Now, Most: v.Most, MostAt: at(v.MostAt), Threads: v.Threads, Pending: v.Tasks,
		CPU: time.Duration(v.Cpu), User: time.Duration(v.Utime), System: time.Duration(v.Stime), RunDelay: time.Duration(v.RunDelay),
		MinorFlt: v.MinFlt, MajorFlt: v.MajFlt, Voluntary: v.Voluntary, Forced: v.Involuntary,
		ReadBytes: v.Rchar, WrittenBytes: v.Wchar, DiskRead: v.ReadBytes, DiskWritten: v.WriteBytes,
		Received: v.NetReceived, Sent: v.NetSent,
		PeakBytes: v.PeakPages * j.page, PeakAt: at(v.PeakAt), PeakVirtual: v.PeakVmPages * j.page,
		PeakFDs: v.PeakFds, PeakFDsAt: at(v.PeakFdsAt),
		Hidden: v.PeakHidden, HiddenBytes: v.HiddenPages * j.page,
		FDsFull: v.FdsFull, OOMKills: v.OomKills, Lost: v.Untagged,
	}
}

// Processes calls add for each living process of each job, and use for what each of
// its threads used so far: it is in no total yet.
func (j *Jobs) Processes(add func(job uint64, p *sample.JobProcess), use func(job uint64, used *sample.JobTotals)) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	fd, err := createIterator(j.iter.FD())
	if err != nil {
		return fmt.Errorf("open the iterator of jobs: %w", err)
	}
	defer unix.Close(fd)
	orphans := map[uint32]bool{} // processes whose first thread has ended: each other speaks for them
	return readRecords(fd, j.buffer, func(t *jobsJobTask) {
		used, p := taskUse(t), j.process(t)
		speaks := t.Flags&jobLeader != 0
		if speaks && t.Tid != t.Pid {
			speaks = !orphans[t.Pid]
			orphans[t.Pid] = true
		}
		for _, id := range t.Job {
			if id == 0 {
				continue
			}
			use(id, used)
			if speaks {
				add(id, &p)
			}
		}
	})
}

// Bits of job_task.flags: enum job_task_flag of bpf/jobs.h.
const (
	jobLeader = 1 << iota
	jobMM
	jobFiles
	jobCopied
	jobForked
	jobFirst
)

func taskUse(t *jobsJobTask) *sample.JobTotals {
	return &sample.JobTotals{
		CPU: time.Duration(t.Cpu), User: time.Duration(t.Utime), System: time.Duration(t.Stime), RunDelay: time.Duration(t.RunDelay),
		MinorFlt: t.MinFlt, MajorFlt: t.MajFlt, Voluntary: t.Voluntary, Forced: t.Involuntary,
		ReadBytes: t.Rchar, WrittenBytes: t.Wchar, DiskRead: t.ReadBytes, DiskWritten: t.WriteBytes,
	}
}

func (j *Jobs) process(t *jobsJobTask) sample.JobProcess {
	p := sample.JobProcess{
		ID:     sample.ID{PID: int32(t.Pid), StartTicks: uint64((time.Duration(t.Start) + j.bootOffset) / userTick)},
		UID:    t.Uid,
		Space:  t.Mm,
		Table:  t.Files,
		First:  t.Flags&jobFirst != 0,
		Memory: t.Flags&jobMM != 0,
		Family: t.Flags&(jobForked|jobCopied) != 0,
		Forked: t.Flags&jobForked != 0,
		File:   t.FilePages * j.page, Anon: t.AnonPages * j.page, Shmem: t.ShmemPages * j.page, Swap: t.SwapPages * j.page,
		Peak: t.PeakPages * j.page, Virtual: t.VmPages * j.page, PeakVirtual: t.PeakVmPages * j.page,
	}
	for i, c := range t.Comm {
		p.Comm[i] = byte(c)
	}
	if t.Flags&jobFiles != 0 {
		p.FDs, p.FDLimit = record.Some(t.Fds), record.Some(t.FdLimit)
	}
	return p
}

// readRecords reads an iterator's records to its end, through a buffer.
func readRecords[T any](fd int, buffer []byte, emit func(*T)) error {
	size := int(unsafe.Sizeof(*new(T)))
	held := 0
	for {
		n, err := unix.Read(fd, buffer[held:])
		switch {
		case err == unix.EINTR || err == unix.EAGAIN: // it has read a million tasks and met nobody to tell of
			continue
		case err != nil:
			return fmt.Errorf("read an iterator: %w", err)
		case n == 0 && held != 0:
			return errors.New("read an iterator: it ends within a record")
		case n == 0:
			return nil
		}
		held += n
		whole := held / size * size
		for at := 0; at < whole; at += size {
			emit((*T)(unsafe.Pointer(&buffer[at])))
		}
		held = copy(buffer, buffer[whole:held])
	}
}

// Doom has every process of a job die at its next system call, until it is forgotten
// or forgiven. Whoever makes none is the caller's to kill.
func (j *Jobs) Doom(id uint64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.mark(id, 1); err != nil {
		return err
	}
	j.dying++
	if j.calls != nil {
		return nil
	}
	l, err := link.AttachTracing(link.TracingOptions{Program: j.programs.Programs[jobsProgOnJobCall]})
	if err != nil {
		j.dying--
		return fmt.Errorf("attach %s: %w", jobsProgOnJobCall, err)
	}
	j.calls = l
	return nil
}

// Forgive ends a Doom.
func (j *Jobs) Forgive(id uint64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	var err error
	if j.slots[id] != 0 {
		err = j.mark(id, 0)
	}
	if j.dying--; j.dying > 0 || j.calls == nil {
		return err
	}
	err = errors.Join(err, j.calls.Close())
	j.calls = nil
	return err
}

// mark writes one word of a job, whose others the kernel changes.
func (j *Jobs) mark(id, dying uint64) error {
	slot, ok := j.slots[id]
	if !ok {
		return ErrNoJob
	}
	atomic.StoreUint64(&j.places[slot].Dying, dying)
	return nil
}

// Close detaches and frees everything.
func (j *Jobs) Close() error {
	var errs []error
	if j.reader != nil {
		errs = append(errs, j.reader.Close())
		j.watch.Wait()
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.calls != nil {
		errs = append(errs, j.calls.Close())
	}
	errs = append(errs, j.detach())
	if j.iter != nil {
		errs = append(errs, j.iter.Close())
	}
	if j.area != nil {
		errs = append(errs, unix.Munmap(j.area))
		j.area, j.places = nil, nil
	}
	if j.programs != nil {
		j.programs.Close()
	}
	return errors.Join(errs...)
}
