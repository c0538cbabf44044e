package loader

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"rmagent/internal/clock"
	"rmagent/internal/sample"
)

// FDPath names where births of descriptors are seen.
type FDPath string

// The paths.
const (
	FDPathAuto     FDPath = ""         // the best that this kernel takes
	FDPathInstall  FDPath = "install"  // fentry, where descriptors are put into the table
	FDPathSyscalls FDPath = "syscalls" // the return of every system call
)

// FDTraceOptions say how to trace descriptors. The zero value is right for an agent.
type FDTraceOptions struct {
	Path FDPath
	// LogEntries is how many births the log keeps until they are drained, a power of
	// two; 0 means 2048, which take 5 MiB. Births that find it full go on without
	// their stacks.
	LogEntries uint32
	// Stamps is of how many open descriptors it can be known at a time who opened
	// them, and 4096 more; 0 means 61440, which take 8 MiB where they are used.
	Stamps uint32
}

const (
	defaultLogEntries = 2048
	defaultStamps     = 61440
	nearStamps        = 4096 // NEAR of bpf/fdtrace.bpf.c
	nearRounds        = 32   // NEAR_ROUNDS
	deepEntries       = 128
	maxAncestors      = 4   // FD_ANCESTORS of bpf/fdtrace.h
	fdCPULines        = 256 // FD_CPUS
)

// MaxTraced is how many processes are traced at once.
const MaxTraced = 256

// callWorker is FDBirth.Syscall where an io_uring worker made a descriptor and the
// opcode is unknown: CALL_WORKER of bpf/fdtrace.bpf.c.
const callWorker = -256

// FDTracer tells who opened the descriptors of processes that are traced, and what
// any process's table of descriptors holds. Everything is loaded when it is opened;
// hooks are attached only while somebody is traced, which needs no capability. One
// goroutine at a time uses it.
type FDTracer struct {
	env     *environment
	loaded  *ebpf.Collection // maps, and programs that are run
	listing fdLister

	hooks    map[FDPath][]string // programs to attach, in order
	programs map[FDPath]*ebpf.Collection
	path     FDPath
	refused  error // why it is not FDPathInstall
	links    []link.Link

	births  []fdtraceFdBirth   // mapped
	knowns  []fdtraceFdKnown   // mapped
	deeps   []fdtraceFdDeep    // mapped
	records []fdtraceFdSuspect // mapped: of suspects, by place
	areas   [][]byte

	known    fdWalks
	suspects map[sample.ID]*fdSuspect
	tester   sample.ID // this process, once it tested the hooks
	drained  uint64    // the last seq that was drained, or lost
	lost     uint64
	// openedBefore is what those got who were traced before.
	openedBefore uint64
	// Entries up to settled are written, or never will be; up to settling, they will
	// be so once settledAt is long enough ago.
	settled, settling uint64
	settledAt         time.Duration
	swept, pruned     time.Duration // when
}

// fdSuspect is a process that is traced.
type fdSuspect struct {
	place uint32 // in the array of suspects
	deep  bool   // its stacks need deep windows
	// python: it runs CPython, or did before an exec.
	python bool
	exec   uint64 // ExecID of its latest birth that was drained
	files  uint64
	// before has the file of each descriptor that was open before it was traced.
	before []uint64
}

// OpenFDTracer loads the tracer. The error is an *UnsupportedError where the
// kernel or the privileges don't allow it.
func OpenFDTracer(o FDTraceOptions) (_ *FDTracer, err error) {
	if o.LogEntries == 0 {
		o.LogEntries = defaultLogEntries
	}
	if o.Stamps == 0 {
		o.Stamps = defaultStamps
	}
	env, err := tracingEnvironment("events")
	if err != nil {
		return nil, err
	}
	t := &FDTracer{env: env, suspects: map[sample.ID]*fdSuspect{}}
	defer func() {
		if err != nil {
			t.Close()
		}
		env.btf = nil // what was decoded of the kernel's types is large
	}()
	if err := t.load(o); err != nil {
		return nil, err
	}
	if t.births, err = mapRecords[fdtraceFdBirth](t, fdtraceMapBirths, unix.PROT_READ); err != nil {
		return nil, err
	}
	if t.knowns, err = mapRecords[fdtraceFdKnown](t, fdtraceMapKnowns, unix.PROT_READ); err != nil {
		return nil, err
	}
	if t.known.walks, err = mapRecords[fdtraceFdWalk](t, fdtraceMapWalks, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		return nil, err
	}
	if t.deeps, err = mapRecords[fdtraceFdDeep](t, fdtraceMapDeeps, unix.PROT_READ); err != nil {
		return nil, err
	}
	if t.records, err = mapRecords[fdtraceFdSuspect](t, fdtraceMapSuspects, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		return nil, err
	}
	listed, err := mapRecords[fdtraceFdRecord](t, fdtraceMapListing, unix.PROT_READ)
	if err != nil {
		return nil, err
	}
	return t, t.listing.open(t.loaded, listed)
}

// load loads the programs that this kernel has a use for.
func (t *FDTracer) load(o FDTraceOptions) error {
	spec, err := loadFdtrace()
	if err != nil {
		return fmt.Errorf("read the descriptor tracer's object: %w", err)
	}
	for name, v := range map[string]any{
		fdtraceVarCalls:       tracedCalls(),
		fdtraceVarCompatCalls: compatCalls(),
		fdtraceVarConcerned:   concernedCalls(),
		fdtraceVarLogEntries:  o.LogEntries,
		fdtraceVarDeepEntries: uint32(deepEntries),
	} {
		if err := spec.Variables[name].Set(v); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	spec.Maps[fdtraceMapBirths].MaxEntries = o.LogEntries
	spec.Maps[fdtraceMapKnowns].MaxEntries = o.LogEntries
	spec.Maps[fdtraceMapDeeps].MaxEntries = deepEntries
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("count CPUs: %w", err)
	}
	spec.Maps[fdtraceMapStackWords].MaxEntries = uint32(cpus)
	spec.Maps[fdtraceMapStamps].MaxEntries = o.Stamps
	if err := t.chooseHooks(o.Path); err != nil {
		return err
	}
	return t.loadAny(spec)
}

// loadAny loads what this kernel takes: the list as a syscall program, or as a walk;
// and the hooks of each path, all over the same maps.
func (t *FDTracer) loadAny(spec *ebpf.CollectionSpec) (err error) {
	t.loaded, err = ebpf.NewCollectionWithOptions(only(spec, fdtraceProgSweep, fdtraceProgListFds), *t.env.options())
	if err != nil {
		t.loaded, err = ebpf.NewCollectionWithOptions(only(spec, fdtraceProgSweep, fdtraceProgListFdsByWalk), *t.env.options())
	}
	if err != nil {
		return fmt.Errorf("load the list of descriptors: %w", refused(err))
	}
	o := t.env.options()
	o.MapReplacements = t.loaded.Maps
	t.programs = map[FDPath]*ebpf.Collection{}
	for _, path := range []FDPath{FDPathSyscalls, FDPathInstall} {
		if t.hooks[path] == nil {
			continue
		}
		c, err := ebpf.NewCollectionWithOptions(only(spec, t.hooks[path]...), *o)
		if err == nil {
			t.programs[path], t.path = c, path
			continue
		}
		err = fmt.Errorf("load the descriptor tracer: %w", refused(err))
		if path == FDPathSyscalls || t.path == "" {
			return err
		}
		t.refused = err
	}
	return nil
}

// only is a copy of spec with some of its programs.
func only(spec *ebpf.CollectionSpec, programs ...string) *ebpf.CollectionSpec {
	spec = spec.Copy()
	for name := range spec.Programs {
		if !slices.Contains(programs, name) {
			delete(spec.Programs, name)
		}
	}
	return spec
}

// chooseHooks finds out which programs fit this kernel, by path.
func (t *FDTracer) chooseHooks(path FDPath) error {
	k, err := t.env.btf.Kernel()
	if err != nil {
		return fmt.Errorf("read kernel BTF: %w", err)
	}
	tables := []string{fdtraceProgOnFork, fdtraceProgOnExec, fdtraceProgOnExit}
	t.hooks = map[FDPath][]string{}
	if path != FDPathInstall {
		t.hooks[FDPathSyscalls] = append(slices.Clone(tables), callHooks(k)...)
	}
	if path == FDPathSyscalls {
		return nil
	}
	install, err := installHooks(k)
	if err != nil && path == FDPathInstall {
		return err
	}
	if t.refused = err; err == nil {
		t.hooks[FDPathInstall] = append(slices.Clone(tables), install...)
	}
	return nil
}

func callHooks(k *btf.Spec) (hooks []string) {
	if proto := tracepoint(k, "io_uring_complete"); proto != nil && len(proto.Params) == 4 {
		hooks = append(hooks, fdtraceProgOnRing)
	} else if proto != nil {
		hooks = append(hooks, fdtraceProgOnRingBefore615)
	}
	return append(hooks, fdtraceProgOnCall)
}

func installHooks(k *btf.Spec) (hooks []string, err error) {
	for _, f := range []string{"fd_install", "do_dup2"} {
		if !hasFunc(k, f) {
			return nil, fmt.Errorf("%w: the kernel has no function %s to attach to", ebpf.ErrNotSupported, f)
		}
	}
	switch {
	case hasFunc(k, "file_close_fd_locked"):
		hooks = append(hooks, fdtraceProgOnClose)
	case hasFunc(k, "pick_file"):
		hooks = append(hooks, fdtraceProgOnCloseBefore67)
	default:
		return nil, fmt.Errorf("%w: the kernel has neither file_close_fd_locked nor pick_file to attach to", ebpf.ErrNotSupported)
	}
	if hasFunc(k, "alloc_fd") {
		hooks = append(hooks, fdtraceProgOnNoNumber)
	}
	if hasFunc(k, "alloc_empty_file") {
		hooks = append(hooks, fdtraceProgOnNoFile)
	}
	return append(hooks, fdtraceProgOnDup2, fdtraceProgOnInstall), nil
}

// mapRecords maps an array that the programs write.
func mapRecords[T any](t *FDTracer, name string, protection int) ([]T, error) {
	m := t.loaded.Maps[name]
	n := int(m.MaxEntries())
	var record T
	area, err := unix.Mmap(m.FD(), 0, n*int(unsafe.Sizeof(record)), protection, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", name, err)
	}
	t.areas = append(t.areas, area)
	return unsafe.Slice((*T)(unsafe.Pointer(&area[0])), n), nil
}

// Start makes ids those who are traced, instead of whoever was: at most 256. Who
// was traced before goes on being; of who is new, the descriptors open now are from
// before. A process that is gone is left out.
func (t *FDTracer) Start(ids []sample.ID) error {
	if len(ids) > MaxTraced {
		return fmt.Errorf("trace descriptors: %d processes, at most %d can be", len(ids), MaxTraced)
	}
	if err := t.dropSuspects(ids); err != nil {
		return err
	}
	var fresh []sample.ID
	for _, id := range ids {
		if t.suspects[id] != nil {
			continue
		}
		err := t.addSuspect(id)
		if errors.Is(err, ErrGone) {
			continue
		}
		if err != nil {
			return err
		}
		fresh = append(fresh, id)
	}
	if err := t.mark(); err != nil {
		return err
	}
	if len(t.suspects) == 0 {
		return t.detach()
	}
	if err := t.attach(); err != nil {
		return err
	}
	// Only now: what was not open before is stamped.
	for _, id := range fresh {
		if err := t.rememberBefore(id); err != nil && !errors.Is(err, ErrGone) {
			return err
		}
	}
	return nil
}

// SetPython has the frames of CPython read at each birth of a process that is traced.
func (t *FDTracer) SetPython(id sample.ID, p sample.PythonLayout) error {
	if t.suspects[id] == nil {
		return nil
	}
	layout := fdtracePython{
		Interpreters: p.Interpreters, NextInterpreter: p.NextInterpreter, Threads: p.Threads,
		NextThread: p.NextThread, ThreadId: p.ThreadID, Current: p.Current, Indirect: p.Indirect, Code: p.Code,
		Instruction: p.Instruction, Previous: p.Previous, Owner: p.Owner, Shim: p.Shim, Entry: p.Entry,
	}
	if err := t.loaded.Maps[fdtraceMapPythons].Put(uint32(id.PID), &layout); err != nil {
		return fmt.Errorf("trace the CPython of %v: %w", id, err)
	}
	t.suspects[id].python = true
	return t.setPlaces()
}

// NeedDeep has the stacks of a process that is traced copied deeply more often: what
// is copied otherwise does not reach who called.
func (t *FDTracer) NeedDeep(id sample.ID) error {
	s := t.suspects[id]
	if s == nil || s.deep {
		return nil
	}
	s.deep = true
	return t.setPlaces()
}

// setPlaces says whose stacks need deep windows, and who runs CPython.
func (t *FDTracer) setPlaces() error {
	var deep, python [places]bool
	for _, s := range t.suspects {
		deep[s.place], python[s.place] = s.deep, s.python
	}
	err := t.loaded.Variables[fdtraceVarNeedsDeep].Set(deep)
	if err := errors.Join(err, t.loaded.Variables[fdtraceVarRunsPython].Set(python)); err != nil {
		return fmt.Errorf("ask for deep stacks and CPython's: %w", err)
	}
	return nil
}

// ExecID is FDBirth.ExecID of the births that a process that is traced has now: one
// with another is from before an exec. 0 where nobody knows.
func (t *FDTracer) ExecID(id sample.ID) uint64 {
	s := t.suspects[id]
	if s == nil {
		return 0
	}
	return max(s.exec, atomic.LoadUint64(&t.records[s.place].ExecId))
}

// Stop traces nobody any more, and forgets.
func (t *FDTracer) Stop() error {
	return t.Start(nil)
}

// dropSuspects stops tracing those who are not in ids: all of them, whatever fails.
func (t *FDTracer) dropSuspects(ids []sample.ID) error {
	var dropped []uint32
	var errs []error
	for id, s := range t.suspects {
		if slices.Contains(ids, id) {
			continue
		}
		t.ForgetWalks(id)
		t.known.disown(id)
		delete(t.suspects, id)
		dropped = append(dropped, s.place)
		if err := t.loaded.Maps[fdtraceMapPythons].Delete(uint32(id.PID)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("forget the CPython of %v: %w", id, err))
		}
	}
	if len(dropped) == 0 {
		return nil
	}
	errs = append(errs, t.mark(), t.setPlaces(), t.dropTables())
	for _, place := range dropped {
		t.openedBefore += atomic.LoadUint64(&t.records[place].Opened)
	}
	return errors.Join(errs...)
}

// dropTables forgets the tables, and with them the stamps, of who is not traced any
// more. One that a suspect shares is the suspect's now.
func (t *FDTracer) dropTables() error {
	tables := t.loaded.Maps[fdtraceMapTables]
	owner := map[uint64]sample.ID{}
	traced := map[uint32]bool{}
	for id, s := range t.suspects {
		owner[s.files] = id
		traced[uint32(id.PID)] = true
	}
	var files uint64
	var table fdtraceFdTable
	var gone []uint64
	for it := tables.Iterate(); it.Next(&files, &table); {
		if traced[table.Tgid] || table.Since == 0 && len(t.suspects) > 0 {
			continue
		}
		id, shared := owner[files]
		if !shared {
			gone = append(gone, files)
			continue
		}
		table.Tgid = uint32(id.PID)
		if err := tables.Put(files, &table); err != nil {
			return fmt.Errorf("hand a table on: %w", err)
		}
	}
	for _, files := range gone {
		if err := tables.Delete(files); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget a table: %w", err)
		}
	}
	return t.sweep()
}

func (t *FDTracer) addSuspect(id sample.ID) error {
	if err := t.listing.run(id.PID, 0, 0); err != nil {
		return err
	}
	args, err := t.listing.answer(id, t.env.bootOffset)
	if err != nil {
		return err
	}
	last, err := t.lastSeq()
	if err != nil {
		return err
	}
	tables := t.loaded.Maps[fdtraceMapTables]
	var table fdtraceFdTable
	if err := tables.Lookup(args.Files, &table); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("trace descriptors of %v: %w", id, err)
	}
	if table.Since == 0 {
		table.Since, table.Tgid = last+1, uint32(id.PID)
		if err := tables.Put(args.Files, &table); err != nil {
			return fmt.Errorf("trace descriptors of %v: %w", id, err)
		}
	}
	s := &fdSuspect{place: t.freePlace(), files: args.Files}
	suspect := fdtraceFdSuspect{Start: args.Start, Files: args.Files, Tgid: uint32(id.PID), Place: s.place}
	if err := t.loaded.Maps[fdtraceMapSuspects].Put(s.place, &suspect); err != nil {
		return fmt.Errorf("trace descriptors of %v: %w", id, err)
	}
	t.suspects[id] = s
	return nil
}

// freePlace is where in the array of suspects nobody is; the first is never free.
func (t *FDTracer) freePlace() uint32 {
	var used [MaxTraced + 1]bool
	for _, s := range t.suspects {
		used[s.place] = true
	}
	place := uint32(1)
	for used[place] {
		place++
	}
	return place
}

// As in bpf/fdtrace.bpf.c.
const (
	buckets = 16384
	marks   = 65536
	places  = 512
)

// tableMark is table_mark of bpf/fdtrace.bpf.c.
func tableMark(files uint64) uint32 { return uint32(files >> 6 * 0x9e3779b97f4a7c15 >> 48) }

// mark makes known who is suspect, and whose tables, so that everybody else goes on
// at once.
func (t *FDTracer) mark() error {
	var first [buckets]uint16
	var tables [marks / 64]uint64
	for id, s := range t.suspects {
		bucket := &first[uint32(id.PID)%buckets]
		atomic.StoreUint32(&t.records[s.place].Next, uint32(*bucket)) // the kernel counts beside it
		*bucket = uint16(s.place)
	}
	if err := t.loaded.Variables[fdtraceVarFirstSuspect].Set(first); err != nil {
		return fmt.Errorf("mark who is traced: %w", err)
	}
	// The kernel sets bits of tables, too: those are cleared only where nobody is
	// traced.
	if err := t.loaded.Variables[fdtraceVarTableMarks].Get(&tables); err != nil {
		return fmt.Errorf("mark the tables that are traced: %w", err)
	}
	if len(t.suspects) == 0 {
		clear(tables[:])
	}
	for _, s := range t.suspects {
		at := tableMark(s.files)
		tables[at/64] |= 1 << (at % 64)
	}
	if err := t.loaded.Variables[fdtraceVarTableMarks].Set(tables); err != nil {
		return fmt.Errorf("mark the tables that are traced: %w", err)
	}
	return nil
}

// attach attaches the hooks of the path, and falls back to system calls where the
// kernel refuses those of fentry, or they do not see what they should: a copy of a
// function that the compiler put into its caller is not hooked.
func (t *FDTracer) attach() error {
	if len(t.links) > 0 {
		return nil
	}
	if t.path == FDPathInstall {
		err := t.attachHooks()
		if err == nil {
			err = t.selfTest()
		}
		if err == nil {
			return nil
		}
		t.refused = err
		if err := t.detach(); err != nil || t.programs[FDPathSyscalls] == nil {
			return errors.Join(t.refused, err)
		}
		t.path = FDPathSyscalls
	}
	return t.attachHooks()
}

func (t *FDTracer) attachHooks() error {
	for _, name := range t.hooks[t.path] {
		l, err := link.AttachTracing(link.TracingOptions{Program: t.programs[t.path].Programs[name]})
		if err != nil {
			return errors.Join(fmt.Errorf("attach %s: %w", name, err), t.detach())
		}
		t.links = append(t.links, l)
	}
	return nil
}

// Path is where births are seen, and, if that is not where they are seen best, why.
// Until the first Start, it is what will be tried.
func (t *FDTracer) Path() (FDPath, error) { return t.path, t.refused }

func (t *FDTracer) detach() error {
	err := closeLinks(t.links)
	t.links = nil
	return err
}

// rememberBefore notes what is open and has no stamp.
func (t *FDTracer) rememberBefore(id sample.ID) error {
	s := t.suspects[id]
	s.before = s.before[:0]
	return t.listing.each(id, t.env.bootOffset, func(r *fdtraceFdRecord) {
		if r.Seq != 0 || r.Why != 0 {
			return
		}
		for len(s.before) <= int(r.Fd) {
			s.before = append(s.before, 0)
		}
		s.before[r.Fd] = r.File
	})
}

// Attached reports whether hooks run.
func (t *FDTracer) Attached() bool { return len(t.links) > 0 }

// sweepEvery is how often stamps are swept at most, and pruneEvery how often tables
// are.
const (
	sweepEvery = time.Second
	pruneEvery = time.Minute
)

// sweepIfFull drops tables of processes that ended, and, where stamps fill three
// quarters of their map, those that nobody needs.
func (t *FDTracer) sweepIfFull() error {
	c, err := t.readCounts()
	if err != nil {
		return err
	}
	stamps := t.loaded.Maps[fdtraceMapStamps].MaxEntries()
	now := clock.Monotonic()
	if t.Attached() && now-t.pruned >= pruneEvery {
		t.pruned = now
		if err := t.pruneTables(); err != nil {
			return err
		}
	}
	if c.Stamps < uint64(stamps/4*3) || now-t.swept < sweepEvery {
		return nil
	}
	t.swept = now
	return t.sweep()
}

// pruneTables forgets the tables of processes that ended, but for those that the
// living's are copies of.
func (t *FDTracer) pruneTables() error {
	tables := t.loaded.Maps[fdtraceMapTables]
	parents := map[uint64]uint64{}
	needed := map[uint64]bool{}
	var files uint64
	var table fdtraceFdTable
	for it := tables.Iterate(); it.Next(&files, &table); {
		parents[files] = table.Parent
		needed[files] = unix.Kill(int(table.Tgid), 0) != unix.ESRCH
	}
	// Who shares a table needs it, whoever's it was first; of its threads, some may have their own.
	for id, s := range t.suspects {
		if unix.Kill(int(id.PID), 0) != unix.ESRCH {
			needed[s.files], needed[atomic.LoadUint64(&t.records[s.place].Files)] = true, true
		}
	}
	for files, alive := range needed {
		if !alive {
			continue
		}
		for at, n := parents[files], 0; at != 0 && n < maxAncestors; at, n = parents[at], n+1 {
			needed[at] = true
		}
	}
	for files := range parents {
		if needed[files] {
			continue
		}
		if err := tables.Delete(files); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget a table: %w", err)
		}
	}
	return nil
}

func (t *FDTracer) sweep() error {
	if _, err := t.loaded.Programs[fdtraceProgSweep].Run(&ebpf.RunOptions{}); err != nil {
		return fmt.Errorf("sweep stamps: %w", err)
	}
	return nil
}

func (t *FDTracer) readCounts() (c fdtraceFdCounts, err error) {
	if err := t.loaded.Variables[fdtraceVarCounts].Get(&c); err != nil {
		return c, fmt.Errorf("read the counts of births: %w", err)
	}
	return c, nil
}

// lastSeq is the number of the last birth.
func (t *FDTracer) lastSeq() (last uint64, err error) {
	if err := t.loaded.Variables[fdtraceVarLastSeq].Get(&last); err != nil {
		return 0, fmt.Errorf("read the log's end: %w", err)
	}
	return last, nil
}

// Balance says what became of everything that was seen since the tracer was opened.
func (t *FDTracer) Balance() (b sample.FDBalance, err error) {
	c, err := t.readCounts()
	if err != nil {
		return b, err
	}
	last, err := t.lastSeq()
	if err != nil {
		return b, err
	}
	return sample.FDBalance{
		Births: t.opened(), Failures: c.Failures, Logged: last, Quiet: c.Quiet, Lost: t.lost,
		MapFull: c.Unstamped, Ambiguous: c.Unsure, Compat: c.Compat, Gone: c.Gone,
		TablesFull:    c.TablesFull,
		Stamps:        c.NearStamps + c.Stamps,
		StampCapacity: nearStamps + uint64(t.loaded.Maps[fdtraceMapStamps].MaxEntries()),
	}, nil
}

// opened is how many descriptors came to those who were ever traced.
func (t *FDTracer) opened() uint64 {
	n := t.openedBefore
	for _, s := range t.suspects {
		n += atomic.LoadUint64(&t.records[s.place].Opened)
	}
	return n
}

// Counts says what was counted of a process since it is traced; ErrGone if it is not.
func (t *FDTracer) Counts(id sample.ID) (c sample.FDCounts, err error) {
	if t.suspects[id] == nil {
		return c, fmt.Errorf("count descriptors of %v: %w", id, ErrGone)
	}
	var s fdtraceFdSuspect
	if err := t.loaded.Maps[fdtraceMapSuspects].Lookup(t.suspects[id].place, &s); err != nil {
		return c, fmt.Errorf("count descriptors of %v: %w", id, err)
	}
	return sample.FDCounts{
		Opened: s.Opened, EMFILE: s.Emfile, ENFILE: s.Enfile,
		MapFull: s.Unstamped, Ambiguous: s.Unsure, Compat: s.Compat,
	}, nil
}

// What one run of a hook costs, and one birth more, with the copy of a stack or with a walk
// that is known, as measured on Linux 6.18 (docs/fdtrace.md).
const (
	fdCallCost  = 75 * time.Nanosecond
	fdBirthCost = 350 * time.Nanosecond
	fdKnownCost = 60 * time.Nanosecond
)

// Cost estimates the CPU time that the hooks took from everybody since the tracer
// was opened.
func (t *FDTracer) Cost() time.Duration {
	c, err := t.runs()
	if err != nil {
		return 0
	}
	return time.Duration(c.Runs)*fdCallCost + time.Duration(c.Copied)*fdBirthCost + time.Duration(c.Known)*fdKnownCost
}

// runs sums what is counted by CPU: how often the hooks ran, and how often because of a birth.
func (t *FDTracer) runs() (all fdtraceFdCpu, err error) {
	var lines [fdCPULines]fdtraceFdCpu
	if err := t.loaded.Variables[fdtraceVarOfCpu].Get(&lines); err != nil {
		return all, fmt.Errorf("read how often the hooks ran: %w", err)
	}
	for i := range lines {
		all.Runs += lines[i].Runs
		all.Copied += lines[i].Copied
		all.Known += lines[i].Known
	}
	return all, nil
}

// MapBytes is the kernel memory of the maps.
func (t *FDTracer) MapBytes() (uint64, error) { return mapBytes(t.loaded) }

// Close detaches and unloads everything.
func (t *FDTracer) Close() error {
	errs := []error{t.detach(), t.listing.close()}
	for _, area := range t.areas {
		errs = append(errs, unix.Munmap(area))
	}
	t.areas, t.births, t.knowns, t.known.walks, t.deeps, t.records = nil, nil, nil, nil, nil, nil
	for _, c := range t.programs {
		c.Close()
	}
	if t.loaded != nil {
		t.loaded.Close()
	}
	return errors.Join(errs...)
}
