package loader

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/cilium/ebpf"

	"rmagent/internal/clock"
	"rmagent/internal/sample"
)

// Scan names a way to read the processes.
type Scan string

// The scans.
const (
	ScanAuto    Scan = ""        // the best that this kernel has
	ScanSyscall Scan = "syscall" // 6.10 and later
	ScanIter    Scan = "iter"    // 5.17 and later
)

// Options say how to open the reader. The zero value is right for an agent.
type Options struct {
	Scan Scan
	// Events are where the counts of bytes and descriptors come from that only
	// events tell; nil: they stay unknown. They are to be closed after the reader.
	Events *Events
	// ChunkProcesses is how many processes one run of the syscall scan reads, 0
	// for the most that fit. Tests make it small.
	ChunkProcesses int
	// repeatCPUs plays a machine with that many times as many CPUs, for
	// benchmarks.
	repeatCPUs int
}

// scanner is one of the scans. It calls emit with each record, which is valid only
// until emit returns, and with where the process was in the scan before (the first was at
// 0), if the record is known to be the same; else -1.
type scanner interface {
	scan(exact bool, emit func(*scanProcessRecord, int)) error
	// one reads one process by its PID in the initial PID namespace. Only the
	// syscall scan can.
	one(pid int32, emit func(*scanProcessRecord, int)) error
	name() Scan
	mapBytes() (uint64, error)
	close() error
}

// Reader is a sample.Reader over the kernel's own tables. One goroutine uses it at
// a time.
type Reader struct {
	scanner scanner
	decoder recordDecoder
	splits  splits
	last    lastReading
	caps    sample.Capabilities
	exact   bool // every scan adds every CPU's share of the RSS
	alone   bool // a process can be read by its PID in the initial PID namespace
	nested  bool // in another one, whose PIDs it is asked for
	hidden  bool // PID 1 is there, but this kernel hides it from BPF's look-ups

	// Of the running Read.
	dst  *sample.Snapshot
	some bool
	want map[int32]bool // where some: those that are not read yet

	// whole: last is of the scan before, which began at lastAt.
	whole  bool
	lastAt time.Duration
	held   bool // dst has what that filled in

	emit func(*scanProcessRecord, int)
}

var _ sample.Reader = (*Reader)(nil)

// Open loads the scan. The error is an *UnsupportedError where the kernel or the
// privileges don't allow it.
func Open(opts Options) (*Reader, error) {
	if err := checkPrivileges(); err != nil {
		return nil, err
	}
	env, err := readEnvironment()
	if err != nil {
		return nil, err
	}

	s, err := openScanner(opts, env)
	if err != nil {
		return nil, err
	}
	r := &Reader{
		scanner: s,
		exact:   env.cpus*max(opts.repeatCPUs, 1) <= maxExactCPUs || !env.percpuRSS(),
		alone:   s.name() == ScanSyscall,
		nested:  env.nested,
		want:    map[int32]bool{},
	}
	r.caps = env.capabilities(opts.Events)
	r.decoder = recordDecoder{pageBytes: uint64(os.Getpagesize()), bootOffset: env.bootOffset, known: r.caps.Set()}
	r.emit = r.add
	// One run before anybody drops capabilities, and proof that it works.
	if err := r.probe(env); err != nil {
		return nil, errors.Join(fmt.Errorf("run the %s scan: %w", s.name(), err), s.close())
	}
	return r, nil
}

// probe reads for the first time. A kernel may be built to hide the first process
// from BPF; the walk of the syscall scan still meets it.
func (r *Reader) probe(env *environment) error {
	var s sample.Snapshot
	if err := r.Read(context.Background(), sample.Scope{}, &s); err != nil || env.nested {
		return err
	}
	if r.alone {
		found := false
		err := r.scanner.one(1, func(*scanProcessRecord, int) { found = true })
		r.hidden = !found
		return err
	}
	r.hidden = !slices.ContainsFunc(s.Processes, func(p sample.Process) bool { return p.ID.PID == 1 })
	return nil
}

func openScanner(opts Options, env *environment) (scanner, error) {
	switch opts.Scan {
	case ScanSyscall:
		return openSyscallScan(opts, env)
	case ScanIter:
		return openIterScan(opts, env)
	case ScanAuto:
	default:
		return nil, fmt.Errorf("open the scan: no scan is named %q", opts.Scan)
	}
	s, err := openSyscallScan(opts, env)
	if err == nil {
		return s, nil
	}
	i, iterErr := openIterScan(opts, env)
	if iterErr == nil {
		return i, nil
	}
	return nil, &UnsupportedError{
		Missing: "the kernel loads neither the syscall scan (needs 6.10) nor the task iterator (needs 5.17)",
		Err:     errors.Join(err, iterErr),
	}
}

// Read fills dst from the kernel's tables.
func (r *Reader) Read(ctx context.Context, s sample.Scope, dst *sample.Snapshot) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	room := cap(dst.Processes)
	held := r.whole && dst.AsRead == r.lastAt && len(dst.Processes) == len(r.last.records)
	dst.Reuse()
	r.held = held && cap(dst.Processes) == room
	dst.Time = time.Now()
	dst.Monotonic = clock.Monotonic()
	dst.Boottime = clock.Boottime()
	r.dst = dst
	clear(r.want)
	r.some = s.PIDs != nil
	var err error
	if r.some {
		err = r.readSome(s.PIDs)
	} else {
		err = r.readAll()
	}
	r.dst = nil
	dst.Took = clock.Monotonic() - dst.Monotonic
	return err
}

func (r *Reader) readAll() error {
	r.last.at = 0 // the reading before may have failed
	if r.whole {
		r.dst.Before = r.lastAt
	}
	if err := r.scanner.scan(r.exact, r.emit); err != nil {
		r.whole = false
		return err
	}
	r.last.cut(len(r.dst.Processes))
	r.whole, r.lastAt = true, r.dst.Monotonic
	r.dst.AsRead = r.lastAt
	r.splits.end()
	if r.hidden && !r.alone {
		r.dst.Missed++
	}
	return nil
}

// readSome reads each PID by itself where that can be done, else all processes for
// the few that are wanted.
func (r *Reader) readSome(pids []int32) error {
	for _, pid := range pids {
		r.want[pid] = true
	}
	if len(r.want) == 0 {
		return nil
	}
	if !r.alone || r.hidden && r.want[1] {
		r.whole = false
		return r.scanner.scan(true, r.emit)
	}
	if r.nested {
		return r.readNested()
	}
	for pid := range r.want {
		if err := r.scanner.one(pid, r.emit); err != nil {
			return err
		}
	}
	return nil
}

// readNested reads those that the last reading of all had, for that knows their PIDs in
// the initial PID namespace, and all processes for those that began since.
func (r *Reader) readNested() error {
	for i := range r.last.records {
		rec := &r.last.records[i]
		if !r.want[int32(rec.Pid)] {
			continue
		}
		if err := r.scanner.one(int32(rec.Tgid), r.emit); err != nil {
			return err
		}
	}
	if len(r.want) == 0 {
		return nil
	}
	r.whole = false
	return r.scanner.scan(true, r.emit)
}

// add takes one record into the snapshot that is being read.
func (r *Reader) add(rec *scanProcessRecord, was int) {
	if r.some && !r.want[int32(rec.Pid)] {
		return
	}
	n := len(r.dst.Processes)
	if n < cap(r.dst.Processes) {
		r.dst.Processes = r.dst.Processes[:n+1]
	} else {
		r.dst.Processes = append(r.dst.Processes, sample.Process{})
	}
	p := &r.dst.Processes[n]
	if r.some {
		delete(r.want, int32(rec.Pid))
		r.decode(rec, p)
		r.splits.rememberSome(p)
		return
	}
	if !r.whole {
		was = -1
	}
	r.addToAll(rec, was, p, n)
}

// addToAll takes a record of a reading of all processes. Where it is as it was in the
// last one, p need not be decoded: it is what it was, or what another place of the
// snapshot was.
func (r *Reader) addToAll(rec *scanProcessRecord, was int, p *sample.Process, n int) {
	if r.held && was == n && !r.splits.turning() {
		r.last.stay(n)
		r.dst.Same = append(r.dst.Same, true)
		return
	}
	was, since := r.last.meet(rec, was, n, r.dst.Monotonic)
	r.dst.Same = append(r.dst.Same, was == n)
	if was > n {
		if all := r.dst.Processes[:cap(r.dst.Processes)]; was < len(all) {
			*p = all[was]
		}
	}
	if p.Since != since || p.ID != r.decoder.id(rec) {
		r.decode(rec, p)
		p.Since = since
	}
	if was < 0 || r.splits.turning() {
		r.splits.remember(p)
	}
}

func (r *Reader) decode(rec *scanProcessRecord, p *sample.Process) {
	r.decoder.decode(rec, p)
	if p.Known.Has(sample.CPU) {
		r.splits.monotonic(p)
	}
}

// Capabilities says what this kernel's tables hold.
func (r *Reader) Capabilities() sample.Capabilities { return r.caps }

// Scan names the scan in use.
func (r *Reader) Scan() Scan { return r.scanner.name() }

// MapBytes is the kernel memory of the scan's maps.
func (r *Reader) MapBytes() (uint64, error) { return r.scanner.mapBytes() }

func mapBytes(rest *ebpf.Collection, maps ...*ebpf.Map) (sum uint64, err error) {
	for _, m := range rest.Maps {
		maps = append(maps, m)
	}
	for _, m := range maps {
		info, err := m.Info()
		if err != nil {
			return 0, fmt.Errorf("size the map: %w", err)
		}
		if n, ok := info.Memlock(); ok {
			sum += n
		}
	}
	return sum, nil
}

// Close unloads everything.
func (r *Reader) Close() error { return r.scanner.close() }
