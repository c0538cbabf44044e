package fallback

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/clock"
	"rmagent/internal/hostfs/kfile"
	"rmagent/internal/sample"
)

// Options says where to read.
type Options struct {
	Root string // a mounted procfs, or the copy of one; "/proc" if empty
}

// Reader reads processes from procfs.
type Reader struct {
	root int // of Options.Root
	kernel
	capabilities sample.Capabilities
	fields       sample.FieldSet // those that capabilities has

	list, tasks kfile.Dir // their buffers live as long as the reader
	text        []byte
	name        kfile.Name
	tables      []int32 // of the process being read: one thread per further descriptor table
	pasts       map[int32]past
	round       uint64 // of reading
}

var _ sample.Reader = (*Reader)(nil)

// Open opens procfs and finds out what it can say here.
func Open(o Options) (*Reader, error) {
	if o.Root == "" {
		o.Root = "/proc"
	}
	root, errno := kfile.OpenDir(unix.AT_FDCWD, kfile.MakeName(o.Root))
	if errno != 0 {
		return nil, fmt.Errorf("open %s: %w", o.Root, errno)
	}
	r := &Reader{
		root:  root,
		list:  kfile.Dir{Buf: make([]byte, 32<<10)},
		tasks: kfile.Dir{Buf: make([]byte, 32<<10)},
		text:  make([]byte, 8<<10),
		name:  make(kfile.Name, 0, 32),
		pasts: map[int32]past{},
	}
	r.kernel = r.probe()
	r.capabilities = r.kernel.capabilities()
	r.fields = r.capabilities.Set()
	return r, nil
}

// Capabilities says what this reader can know here.
func (r *Reader) Capabilities() sample.Capabilities { return r.capabilities }

// Close closes the reader.
func (r *Reader) Close() error {
	kfile.Close(r.root)
	return nil
}

// Read fills dst with the processes of s. One that ends meanwhile is left out;
// one whose directory may not be entered (hidepid=1) is counted as missed. With hidepid=2
// nobody can count those of others.
func (r *Reader) Read(ctx context.Context, s sample.Scope, dst *sample.Snapshot) error {
	r.round++
	dst.Reset()
	dst.Time = time.Now()
	dst.Monotonic = clock.Monotonic()
	dst.Boottime = clock.Boottime()
	want := r.fields
	if s.Fields != 0 {
		want &= s.Fields
	}
	var err error
	if s.PIDs != nil {
		err = r.readPIDs(ctx, s.PIDs, want, dst)
	} else {
		err = r.readAll(ctx, want, dst)
	}
	if err == nil {
		r.forget(s.PIDs == nil, len(dst.Processes))
	}
	dst.Took = clock.Monotonic() - dst.Monotonic
	return err
}

func (r *Reader) readPIDs(ctx context.Context, pids []int32, want sample.FieldSet, dst *sample.Snapshot) error {
	for _, pid := range pids {
		if err := ctx.Err(); err != nil {
			return err
		}
		r.readInto(pid, want, dst)
	}
	return nil
}

func (r *Reader) readAll(ctx context.Context, want sample.FieldSet, dst *sample.Snapshot) error {
	dst.Hidden = r.kernel.others == invisible
	errno := r.list.Start(r.root)
	for errno == 0 {
		var name []byte
		if name, _, errno = r.list.Next(); name == nil {
			break
		}
		pid, ok := kfile.PID(name)
		if !ok {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		r.readInto(pid, want, dst)
	}
	if errno != 0 {
		return fmt.Errorf("list processes: %w", errno)
	}
	return nil
}

// readInto appends process pid to dst, if it is there.
func (r *Reader) readInto(pid int32, want sample.FieldSet, dst *sample.Snapshot) {
	n := len(dst.Processes)
	dst.Processes = append(dst.Processes, sample.Process{})
	switch errno := r.readProcess(pid, want, &dst.Processes[n]); errno {
	case 0:
		return
	case unix.ESRCH, unix.ENOENT: // it ended
	default:
		dst.Missed++
	}
	dst.Processes[n] = sample.Process{}
	dst.Processes = dst.Processes[:n]
}
