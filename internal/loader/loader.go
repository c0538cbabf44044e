package loader

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/sample"
)

// Scan names a way to read the processes.
type Scan string

// The scans.
const (
	ScanAuto    Scan = ""        // the best that this kernel has
	ScanSyscall Scan = "syscall" // 6.2 and later
	ScanIter    Scan = "iter"    // 5.17 and later
)

// Options say how to open the reader. The zero value is right for an agent.
type Options struct {
	Scan Scan
	// ChunkProcesses is how many processes one run of the syscall scan reads, 0
	// for the most that fit. Tests make it small.
	ChunkProcesses int
	// repeatCPUs plays a machine with that many times as many CPUs, for
	// benchmarks.
	repeatCPUs int
}

// scanner is one of the scans. It calls emit with each record, which is valid only
// until emit returns.
type scanner interface {
	scan(exact bool, emit func(*scanProcessRecord)) (missed uint64, err error)
	// one reads one process by its PID in the initial PID namespace. Only the
	// syscall scan can.
	one(pid int32, emit func(*scanProcessRecord)) error
	name() Scan
	close() error
}

// Reader is a sample.Reader over the kernel's own tables. One goroutine uses it at
// a time.
type Reader struct {
	scanner scanner
	decoder recordDecoder
	caps    sample.Capabilities
	exact   bool // every scan adds every CPU's share of the RSS
	nested  bool // in another than the initial PID namespace

	// Of the running Read.
	dst  *sample.Snapshot
	some bool
	want map[int32]bool // where some: those that are not read yet

	emit func(*scanProcessRecord)
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
		exact:   s.name() == ScanSyscall && env.cpus*max(opts.repeatCPUs, 1) <= maxExactCPUs,
		nested:  env.nsLevel > 0,
		want:    map[int32]bool{},
	}
	r.caps = env.capabilities(s.name())
	r.decoder = recordDecoder{pageBytes: uint64(os.Getpagesize()), bootOffset: env.bootOffset, known: r.caps.Set()}
	r.emit = r.add
	// One run before anybody drops capabilities, and proof that it works.
	var probe sample.Snapshot
	if err := r.Read(context.Background(), sample.Scope{}, &probe); err != nil {
		return nil, errors.Join(fmt.Errorf("run the %s scan: %w", s.name(), err), s.close())
	}
	return r, nil
}

func openScanner(opts Options, env *environment) (scanner, error) {
	switch opts.Scan {
	case ScanSyscall:
		return openSyscallScan(opts, env)
	case ScanIter:
		return openIterScan(env)
	case ScanAuto:
	default:
		return nil, fmt.Errorf("open the scan: no scan is named %q", opts.Scan)
	}
	s, err := openSyscallScan(opts, env)
	if err == nil {
		return s, nil
	}
	i, iterErr := openIterScan(env)
	if iterErr == nil {
		return i, nil
	}
	return nil, &UnsupportedError{
		Missing: "the kernel loads neither the syscall scan (needs 6.2) nor the task iterator (needs 5.17)",
		Err:     errors.Join(err, iterErr),
	}
}

// Read fills dst from the kernel's tables.
func (r *Reader) Read(ctx context.Context, s sample.Scope, dst *sample.Snapshot) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	dst.Reset()
	dst.Time = time.Now()
	dst.Monotonic = clock(unix.CLOCK_MONOTONIC)
	dst.Boottime = clock(unix.CLOCK_BOOTTIME)
	r.dst = dst
	clear(r.want)
	r.some = s.PIDs != nil
	var err error
	if !r.some {
		dst.Missed, err = r.scanner.scan(r.exact, r.emit)
	} else {
		dst.Missed, err = r.readSome(s.PIDs)
	}
	r.dst = nil
	dst.Took = clock(unix.CLOCK_MONOTONIC) - dst.Monotonic
	return err
}

// readSome reads each PID by itself where the scan can. A PID that is not found so
// may be gone, or be one of another namespace than the initial one, or be one that
// this kernel hides from the look-up: a scan of all decides.
func (r *Reader) readSome(pids []int32) (missed uint64, err error) {
	for _, pid := range pids {
		r.want[pid] = true
	}
	if !r.nested && r.scanner.name() == ScanSyscall {
		for pid := range r.want {
			if err := r.scanner.one(pid, r.emit); err != nil {
				return 0, err
			}
		}
	}
	if len(r.want) == 0 {
		return 0, nil
	}
	return r.scanner.scan(true, r.emit)
}

// add decodes one record into the snapshot that is being read.
func (r *Reader) add(rec *scanProcessRecord) {
	if r.some {
		if !r.want[int32(rec.Pid)] {
			return
		}
		delete(r.want, int32(rec.Pid))
	}
	n := len(r.dst.Processes)
	if n < cap(r.dst.Processes) {
		r.dst.Processes = r.dst.Processes[:n+1]
	} else {
		r.dst.Processes = append(r.dst.Processes, sample.Process{})
	}
	r.decoder.decode(rec, &r.dst.Processes[n])
}

// Capabilities says what this kernel's tables hold.
func (r *Reader) Capabilities() sample.Capabilities { return r.caps }

// Scan names the scan in use.
func (r *Reader) Scan() Scan { return r.scanner.name() }

// Close unloads everything.
func (r *Reader) Close() error { return r.scanner.close() }

func clock(id int32) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		panic(fmt.Sprintf("clock_gettime(%d): %v", id, err)) // both clocks exist since 2.6.39
	}
	return time.Duration(ts.Nano())
}
