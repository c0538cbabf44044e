package loader

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"rmagent/internal/sample"
)

// ErrGone is what a process that is not there any more, or that this kernel hides,
// is answered with.
var ErrGone = errors.New("no such process")

// fdLister runs the program that reads a table of descriptors.
type fdLister struct {
	args    *ebpf.Variable
	program *ebpf.Program // where syscall programs may look processes up
	walk    *link.Iter    // elsewhere
	records []fdtraceFdRecord
}

// maxTorn is how often a piece of a table is read again because the table was
// replaced meanwhile.
const maxTorn = 8

func (l *fdLister) open(c *ebpf.Collection, records []fdtraceFdRecord) error {
	l.args = c.Variables[fdtraceVarListArgs]
	l.records = records
	if l.program = c.Programs[fdtraceProgListFds]; l.program == nil {
		it, err := link.AttachIter(link.IterOptions{Program: c.Programs[fdtraceProgListFdsByWalk]})
		if err != nil {
			return fmt.Errorf("attach the task iterator: %w", err)
		}
		l.walk = it
	}
	// Once before anybody drops capabilities, and proof that it works.
	return l.run(1, 0, 0)
}

func (l *fdLister) close() error {
	if l.walk == nil {
		return nil
	}
	return l.walk.Close()
}

// run reads up to n descriptors of a process from one on.
func (l *fdLister) run(pid int32, from, n uint32) error {
	if err := l.args.Set(&fdtraceFdListArgs{Tgid: pid, From: from, Max: n}); err != nil {
		return fmt.Errorf("ask for descriptors: %w", err)
	}
	var err error
	if l.program != nil {
		_, err = l.program.Run(&ebpf.RunOptions{})
	} else {
		err = visitTasks(l.walk)
	}
	if err != nil {
		return fmt.Errorf("list descriptors: %w", err)
	}
	return nil
}

// answer is what the last run says, if it was of that process.
func (l *fdLister) answer(id sample.ID, bootOffset time.Duration) (args fdtraceFdListArgs, err error) {
	if err := l.args.Get(&args); err != nil {
		return args, fmt.Errorf("list descriptors: %w", err)
	}
	if args.Found == 0 || startTicks(args.Start, bootOffset) != id.StartTicks {
		return args, fmt.Errorf("list descriptors of %v: %w", id, ErrGone)
	}
	return args, nil
}

// each calls emit with the record of every open descriptor, in order. A record is
// valid until emit returns.
func (l *fdLister) each(id sample.ID, bootOffset time.Duration, emit func(*fdtraceFdRecord)) error {
	var from uint32
	for torn := 0; ; {
		if err := l.run(id.PID, from, uint32(len(l.records))); err != nil {
			return err
		}
		args, err := l.answer(id, bootOffset)
		if err != nil {
			return err
		}
		if args.Torn != 0 && torn < maxTorn {
			torn++
			continue
		}
		for i := range l.records[:args.Count] {
			emit(&l.records[i])
		}
		if args.Done != 0 || args.Files == 0 {
			return nil
		}
		if args.Torn != 0 || args.Next <= from {
			return fmt.Errorf("list descriptors of %v: its table changes faster than it can be read", id)
		}
		from = args.Next
	}
}

// List replaces dst with every open descriptor of a process, traced or not, each
// with its verified birth or the reason why there is none. Drain afterwards: births
// may be younger than the last drain. The error wraps ErrGone where the process is
// gone.
func (t *FDTracer) List(id sample.ID, dst *sample.FDList) error {
	*dst = sample.FDList{ID: id, FDs: dst.FDs[:0]}
	unstamped := t.unstamped(id)
	return t.listing.each(id, t.env.bootOffset, func(r *fdtraceFdRecord) {
		fd := sample.FD{
			Number: int32(r.Fd),
			Kind:   kindOf(r),
			Why:    sample.Unattributed(r.Why),
			Birth:  r.Seq,
			File:   r.File,
			Inode:  r.Inode,
			Used:   r.Used,
			Device: userDevice(r.Device),
		}
		if r.Seq == 0 && r.Why == 0 {
			fd.Why = unstamped(r)
		}
		if r.Family != 0 {
			fd.Local, fd.Remote = addressesOf(r)
			fd.Listening = r.State == tcpListen && (fd.Kind == sample.FDTCP4 || fd.Kind == sample.FDTCP6)
		}
		dst.FDs = append(dst.FDs, fd)
	})
}

// unstamped says why a descriptor of a process may have no stamp.
func (t *FDTracer) unstamped(id sample.ID) func(*fdtraceFdRecord) sample.Unattributed {
	s := t.suspects[id]
	if s == nil {
		s = t.sharing(id)
	}
	if s == nil {
		return func(*fdtraceFdRecord) sample.Unattributed { return sample.BeforeTracing }
	}
	late := sample.UntracedCall
	if c, err := t.Counts(id); err == nil && c.MapFull > 0 {
		late = sample.MapFull
	}
	return func(r *fdtraceFdRecord) sample.Unattributed {
		if int(r.Fd) < len(s.before) && s.before[r.Fd] == r.File {
			return sample.BeforeTracing
		}
		return late
	}
}

// sharing finds the suspect whose table a process shares.
func (t *FDTracer) sharing(id sample.ID) *fdSuspect {
	if len(t.suspects) == 0 || t.listing.run(id.PID, 0, 0) != nil {
		return nil
	}
	args, err := t.listing.answer(id, t.env.bootOffset)
	if err != nil {
		return nil
	}
	for _, s := range t.suspects {
		if s.files == args.Files {
			return s
		}
	}
	return nil
}
