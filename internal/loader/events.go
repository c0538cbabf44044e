package loader

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"rmagent/internal/clock"
	"rmagent/internal/sample"
)

// EventOptions says which events are wanted.
type EventOptions struct {
	Hooks []string // names of Hooks; nil means those that are on by default
	// OverdueAge is how long an ended process may stay unreaped before its Exit is
	// delivered without the last accounting; 0 means 2 s.
	OverdueAge time.Duration

	ringBytes uint32 // 0 means what bpf/events.bpf.c says; tests make it small
}

// Events owns the event programs, their links and the ring that they fill. It is
// used by one goroutine at a time. What it counts lives in the kernel: an event
// that is lost is counted as lost, and changes no total.
type Events struct {
	spec    *ebpf.CollectionSpec
	base    *ebpf.Collection // the maps, and no program
	hooks   map[string]*loaded
	refused map[string]error
	reader  *ringbuf.Reader
	record  ringbuf.Record

	unreaped *link.Iter // of the hook exits, as overdue
	overdue  *ebpf.Program
	age      time.Duration

	bootOffset time.Duration // of this time namespace: programs see the clocks without it

	spill     *ebpf.Map
	runs      *ebpf.Map
	area      []byte // the mapped variables, which counts is one of
	counts    *eventsEventCounts
	delivered struct{ exits, ooms uint64 }
	malformed uint64

	ready   chan struct{}
	watched *os.File
	watch   sync.WaitGroup
}

// loaded is a hook's programs, and where they are attached.
type loaded struct {
	names    []string // of the programs, in the order of their attachment
	programs *ebpf.Collection
	links    []link.Link // none: it does not run
}

func (l *loaded) detach() error {
	err := closeLinks(l.links)
	l.links = nil
	return err
}

// closeLinks detaches programs in the reverse order of their attachment.
func closeLinks(links []link.Link) error {
	var errs []error
	for _, l := range slices.Backward(links) {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// OpenEvents loads and attaches the hooks. One that this kernel refuses is left
// out, and Refused says why; it is an error if none is left.
func OpenEvents(o EventOptions) (_ *Events, err error) {
	if o.OverdueAge == 0 {
		o.OverdueAge = 2 * time.Second
	}
	e := &Events{
		hooks:   map[string]*loaded{},
		refused: map[string]error{},
		age:     o.OverdueAge,
		ready:   make(chan struct{}, 1),
	}
	defer func() {
		if err != nil {
			e.Close()
		}
	}()
	env, err := tracingEnvironment("events")
	if err != nil {
		return nil, err
	}
	e.bootOffset = env.bootOffset
	if err := e.load(o, env); err != nil {
		return nil, err
	}
	running := 0
	for _, name := range wanted(o.Hooks) {
		err := e.loadHook(name, env)
		if err == nil {
			err = e.Attach(name)
		}
		if err != nil {
			e.refused[name] = err
			continue
		}
		running++
	}
	if running == 0 {
		return nil, fmt.Errorf("attach events: %w", e.refusals())
	}
	if err := e.startWatch(); err != nil {
		return nil, err
	}
	return e, nil
}

func wanted(names []string) []string {
	if names != nil {
		return names
	}
	for _, h := range Hooks {
		if h.Default {
			names = append(names, h.Name)
		}
	}
	return names
}

func (e *Events) refusals() error {
	var errs []error
	for _, err := range e.refused {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// tracingEnvironment says what programs must know that tell of processes by PID, or why
// there can be none.
func tracingEnvironment(what string) (*environment, error) {
	if err := checkPrivileges(); err != nil {
		return nil, err
	}
	env, err := readEnvironment()
	if err != nil {
		return nil, err
	}
	if env.nested {
		return nil, &UnsupportedError{Missing: what + " carry PIDs of the initial PID namespace, and this is another"}
	}
	return env, nil
}

// load makes the maps, and what reads them.
func (e *Events) load(o EventOptions, env *environment) error {
	spec, err := eventsSpec(o, env)
	if err != nil {
		return err
	}
	e.spec = spec.Copy()
	clear(spec.Programs)
	if e.base, err = ebpf.NewCollectionWithOptions(spec, *env.options()); err != nil {
		return fmt.Errorf("load event maps: %w", refused(err))
	}
	e.spill = e.base.Maps[eventsMapTaskSpill]
	e.runs = e.base.Maps[eventsMapRuns]
	if err := e.mapCounts(); err != nil {
		return fmt.Errorf("map the event counts: %w", err)
	}
	if e.reader, err = ringbuf.NewReader(e.base.Maps[eventsMapRing]); err != nil {
		return fmt.Errorf("open event ring: %w", err)
	}
	// A drain never waits.
	e.reader.SetDeadline(time.Unix(1, 0))
	return nil
}

// mapCounts maps what the programs count, for each drain looks at it.
func (e *Events) mapCounts() error {
	v := e.spec.Variables[eventsVarCounts]
	m := e.base.Maps[v.SectionName]
	area, err := unix.Mmap(m.FD(), 0, int(m.ValueSize()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	e.area = area
	e.counts = at[eventsEventCounts](area[v.Offset:])
	return nil
}

func eventsSpec(o EventOptions, env *environment) (*ebpf.CollectionSpec, error) {
	spec, err := loadEvents()
	if err != nil {
		return nil, fmt.Errorf("load events: %w", err)
	}
	if err := env.configure(spec); err != nil {
		return nil, err
	}
	ring := spec.Maps[eventsMapRing]
	if o.ringBytes != 0 {
		ring.MaxEntries = o.ringBytes
	}
	spec.Maps[eventsMapProcesses].MaxEntries = processCapacity()
	for name, v := range map[string]any{
		eventsVarWakeEvery: uint64(ring.MaxEntries / 8),
		eventsVarFdClass:   fdClasses(),
		eventsVarOverdueNs: uint64(o.OverdueAge),
	} {
		if err := spec.Variables[name].Set(v); err != nil {
			return nil, fmt.Errorf("set %s: %w", name, err)
		}
	}
	return spec, nil
}

// processCapacity is for how many processes there shall be room: for twice the
// tasks that there are, within reason. Each takes half a KiB, used or not: what
// is allocated at a fork costs more than the rest of the hook.
func processCapacity() uint32 {
	const least, most = 8192, 131072
	b, err := os.ReadFile("/proc/loadavg") // 0.20 0.18 0.12 RUNNING/TASKS 11206
	if err != nil {
		return least
	}
	var load1, load5, load15 float64
	var running, tasks uint32
	if _, err := fmt.Sscanf(string(b), "%f %f %f %d/%d", &load1, &load5, &load15, &running, &tasks); err != nil {
		return least
	}
	return min(max(least, 2*tasks), most)
}

// Attach attaches a hook that is not attached yet. It needs capabilities only if the hook
// was not loaded before: if it was not wanted.
func (e *Events) Attach(name string) error {
	if e.Attached(name) {
		return nil
	}
	if e.hooks[name] == nil {
		env, err := tracingEnvironment("events")
		if err != nil {
			return err
		}
		if err := e.loadHook(name, env); err != nil {
			return err
		}
	}
	h := e.hooks[name]
	for _, n := range h.names {
		if err := e.attach(h, n); err != nil {
			return errors.Join(fmt.Errorf("hook %s: attach %s: %w", name, n, err), h.detach())
		}
	}
	delete(e.refused, name)
	return nil
}

// Detach takes a hook away; it is no error if it was not there. Its programs stay
// loaded.
func (e *Events) Detach(name string) error {
	if !e.Attached(name) {
		return nil
	}
	return e.hooks[name].detach()
}

// Attached reports whether a hook runs.
func (e *Events) Attached(name string) bool {
	h := e.hooks[name]
	return h != nil && len(h.links) > 0
}

// Refused says why hooks that were wanted do not run.
func (e *Events) Refused() map[string]error { return e.refused }

func (e *Events) loadHook(name string, env *environment) error {
	if e.hooks[name] != nil {
		return nil
	}
	hook, err := hookNamed(name)
	if err != nil {
		return err
	}
	variants, err := hook.choose(env)
	if err != nil {
		return fmt.Errorf("hook %s: %w", name, err)
	}
	var errs []error
	for _, v := range variants {
		err := e.loadVariant(name, v, env)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// loadVariant loads a hook's programs and tries them out, where they have a test.
func (e *Events) loadVariant(name string, v *variant, env *environment) error {
	if err := e.loadPrograms(name, v.programs, env); err != nil || v.test == nil {
		return err
	}
	err := e.Attach(name)
	if err == nil {
		err = errors.Join(v.test(e), e.Detach(name))
	}
	if err != nil {
		e.hooks[name].programs.Close()
		delete(e.hooks, name)
	}
	return err
}

func (e *Events) loadPrograms(name string, programs []string, env *environment) (err error) {
	h := &loaded{names: programs}
	spec := e.spec.Copy()
	for n := range spec.Programs {
		if !slices.Contains(programs, n) {
			delete(spec.Programs, n)
		}
	}
	o := env.options()
	o.MapReplacements = e.base.Maps
	if h.programs, err = ebpf.NewCollectionWithOptions(spec, *o); err != nil {
		return fmt.Errorf("hook %s: load: %w", name, refused(err))
	}
	e.hooks[name] = h
	return nil
}

// attach attaches one of a hook's programs, or runs it where that is what it is
// for.
func (e *Events) attach(h *loaded, name string) error {
	p := h.programs.Programs[name]
	var l link.Link
	var err error
	switch name {
	case eventsProgSendOverdue: // run when it is needed
		e.overdue = p
		return nil
	case eventsProgRefreshUnreaped:
		e.unreaped, err = link.AttachIter(link.IterOptions{Program: p})
		l = e.unreaped
	default:
		l, err = link.AttachTracing(link.TracingOptions{Program: p})
	}
	if err != nil {
		return err
	}
	h.links = append(h.links, l)
	return nil
}

// visitTasks has an iterator visit every task, once.
func visitTasks(it *link.Iter) error {
	r, err := it.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(io.Discard, r)
	return err
}

// startWatch signals Ready whenever the kernel wakes the ring's readers. The
// runtime's poller waits: no thread does.
func (e *Events) startWatch() error {
	fd, err := unix.FcntlInt(uintptr(e.base.Maps[eventsMapRing].FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("watch event ring: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return fmt.Errorf("watch event ring: %w", err)
	}
	e.watched = os.NewFile(uintptr(fd), "event ring")
	raw, err := e.watched.SyscallConn()
	if err != nil {
		return fmt.Errorf("watch event ring: %w", err)
	}
	e.watch.Go(func() {
		for {
			asked := false
			err := raw.Read(func(uintptr) bool { // false: wait until it is readable
				was := asked
				asked = true
				return was
			})
			if err != nil {
				return
			}
			select {
			case e.ready <- struct{}{}:
			default:
			}
		}
	})
	return nil
}

// Ready is signalled when the ring fills faster than ticks come, and at an OOM
// kill: drain then. A drain at every tick is needed all the same.
func (e *Events) Ready() <-chan struct{} { return e.ready }

// Drain replaces dst with what happened since the last Drain. It does not wait. Where it
// fails, as for want of a descriptor, dst has what was read before.
func (e *Events) Drain(dst *sample.Events) error {
	dst.Reset()
	defer func() {
		e.delivered.exits += uint64(len(dst.Exits))
		e.delivered.ooms += uint64(len(dst.OOMs))
	}()
	if err := e.readRing(dst); err != nil {
		return err
	}
	sent, err := e.sendOverdue()
	if err != nil {
		return err
	}
	if sent {
		if err := e.readRing(dst); err != nil {
			return err
		}
	}
	return nil
}

// readRing decodes what is in the ring, and no more than it holds: others may fill
// it as fast as it is read.
func (e *Events) readRing(dst *sample.Events) error {
	if e.reader.AvailableBytes() == 0 {
		return nil // to ask would be a system call
	}
	d := e.newEventDecoder(dst)
	for read := 0; read < e.reader.BufferSize() && e.reader.AvailableBytes() > 0; {
		err := e.reader.ReadInto(&e.record)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read events: %w", err)
		}
		read += len(e.record.RawSample)
		if !d.decode(e.record.RawSample) {
			e.malformed++
		}
	}
	return nil
}

// sendOverdue has the kernel put the records of processes that nobody reaps, and of
// those that found the ring full, into it. The table is walked only if there is such
// a process.
func (e *Events) sendOverdue() (sent bool, err error) {
	if !e.Attached("exits") {
		return false, nil
	}
	c := e.counts
	// Mostly there are none, and the clock is a system call.
	old := c.Untold != [8]int64{} && hasOld(&c.Untold, clock.Boottime()-e.bootOffset, e.age)
	if !old && c.Kept <= 0 {
		return false, nil
	}
	if old {
		if err := visitTasks(e.unreaped); err != nil {
			return false, fmt.Errorf("run %s: %w", eventsProgRefreshUnreaped, err)
		}
	}
	if _, err := e.overdue.Run(&ebpf.RunOptions{}); err != nil {
		return false, fmt.Errorf("run %s: %w", eventsProgSendOverdue, err)
	}
	return true, nil
}

// hasOld reports whether a process that ended at least age ago may be among
// those untold. Epochs are 2^30 ns long, and come round again.
func hasOld(untold *[8]int64, now, age time.Duration) bool {
	epoch := int(now >> 30)
	for back := int(age>>30) + 1; back < len(untold); back++ {
		if untold[(epoch-back)&(len(untold)-1)] > 0 {
			return true
		}
	}
	return false
}

// Balance says what became of everything that was seen.
func (e *Events) Balance() (b sample.Balance, err error) {
	c := *e.counts
	tally := func(seen, sent, lost, delivered uint64) sample.Tally {
		return sample.Tally{Seen: seen, Lost: lost, Delivered: delivered, Pending: sent - delivered}
	}
	b.Exits = tally(c.Exits.Seen, c.Exits.Sent, c.Exits.LostRing, e.delivered.exits)
	b.OOMs = tally(c.Ooms.Seen, c.Ooms.Sent, c.Ooms.LostRing, e.delivered.ooms)
	for _, n := range c.Untold {
		b.Exits.Pending += uint64(n)
	}
	b.StateFailed, b.SpillFailed, b.HoldFailed, b.Stranded = c.StateFailed, c.SpillFailed, c.HoldFailed, c.Stranded
	b.UncountedBytes = c.UncountedReceived + c.UncountedSent
	b.UncountedFDs = c.UncountedFds
	b.Malformed = e.malformed
	b.SpillCapacity = uint64(e.spill.MaxEntries())
	b.SpillEntries = e.spillEntries()
	b.RingBytes = uint64(e.reader.AvailableBytes())
	b.RingCapacity = uint64(e.reader.BufferSize())
	return b, nil
}

func (e *Events) spillEntries() (n uint64) {
	var key uint64
	var next uint64
	if e.spill.NextKey(nil, &next) != nil {
		return 0
	}
	for n = 1; n < uint64(e.spill.MaxEntries()); n++ {
		key = next
		if e.spill.NextKey(&key, &next) != nil {
			break
		}
	}
	return n
}

// Runs says how often each hot program ran, by the name of its hook.
func (e *Events) Runs() (map[string]uint64, error) {
	out := map[string]uint64{}
	var perCPU []uint64
	for i, name := range runNames {
		if err := e.runs.Lookup(uint32(i), &perCPU); err != nil {
			return nil, fmt.Errorf("read hook runs: %w", err)
		}
		for _, n := range perCPU {
			out[name] += n
		}
	}
	return out, nil
}

// states returns the maps that the scan reads counters from.
func (e *Events) states() map[string]*ebpf.Map {
	return map[string]*ebpf.Map{
		eventsMapTaskStates: e.base.Maps[eventsMapTaskStates],
		eventsMapTaskSpill:  e.spill,
	}
}

// Close detaches every hook and frees every map.
func (e *Events) Close() error {
	var errs []error
	if e.watched != nil {
		errs = append(errs, e.watched.Close())
		e.watch.Wait()
	}
	for name, h := range e.hooks {
		errs = append(errs, e.Detach(name))
		h.programs.Close()
	}
	if e.reader != nil {
		errs = append(errs, e.reader.Close())
	}
	if e.area != nil {
		counts := *e.counts
		e.counts = &counts
		errs = append(errs, unix.Munmap(e.area))
	}
	if e.base != nil {
		e.base.Close()
	}
	return errors.Join(errs...)
}

// at views the record at the start of b; nil if b is too short.
func at[T any](b []byte) *T {
	var t T
	if len(b) < int(unsafe.Sizeof(t)) {
		return nil
	}
	return (*T)(unsafe.Pointer(unsafe.SliceData(b)))
}
