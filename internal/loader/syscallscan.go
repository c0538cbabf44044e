package loader

import (
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// syscallScan runs bpf/scan.bpf.c.
type syscallScan struct {
	objects scanObjects
	area    []byte // the mapped records
	records []scanProcessRecord
	chunk   uint32

	args scanScanArgs
	run  ebpf.RunOptions
	seen []place // this scan's processes, in order
}

// place is a process as the kernel's list knows it.
type place struct {
	pid   uint32
	task  uint64
	start uint64
}

func openSyscallScan(opts Options, env *environment) (*syscallScan, error) {
	spec, err := loadScan()
	if err != nil {
		return nil, fmt.Errorf("read the syscall scan's object: %w", err)
	}
	if err := env.configure(spec); err != nil {
		return nil, err
	}
	if opts.repeatCPUs > 1 {
		if err := spec.Variables["cpu_repeat"].Set(uint32(opts.repeatCPUs)); err != nil {
			return nil, fmt.Errorf("set cpu_repeat: %w", err)
		}
	}
	s := &syscallScan{}
	if err := spec.LoadAndAssign(&s.objects, env.options()); err != nil {
		return nil, fmt.Errorf("load the syscall scan: %w", refused(err))
	}
	if err := s.prepare(opts); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *syscallScan) prepare(opts Options) error {
	if failed, err := s.objects.LearnOffsets.Run(&ebpf.RunOptions{}); err != nil {
		return fmt.Errorf("learn the per-CPU offsets: %w", refused(err))
	} else if failed != 0 {
		return errors.New("learn the per-CPU offsets: a CPU has none")
	}
	n := s.objects.Records.MaxEntries()
	size := int(n) * int(unsafe.Sizeof(scanProcessRecord{}))
	area, err := unix.Mmap(s.objects.Records.FD(), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the records: %w", err)
	}
	s.area = area
	s.records = unsafe.Slice((*scanProcessRecord)(unsafe.Pointer(&area[0])), n)
	s.chunk = n
	if c := uint32(opts.ChunkProcesses); c > 0 && c < n {
		s.chunk = c
	}
	s.run.Context = &s.args
	s.run.ContextOut = &s.args
	return nil
}

func (s *syscallScan) name() Scan { return ScanSyscall }

func (s *syscallScan) call(args scanScanArgs) error {
	s.args = args
	if _, err := s.objects.Scan.Run(&s.run); err != nil {
		return fmt.Errorf("run the syscall scan: %w", err)
	}
	return nil
}

// scan walks the list a chunk at a time. The list is in the order of birth and new
// processes join at its end, so going on behind the last process misses nobody.
// Where that one is gone, it goes on behind the last one before it that is still
// there, and leaves out whom it has already seen.
func (s *syscallScan) scan(exact bool, emit func(*scanProcessRecord)) (missed uint64, err error) {
	s.seen = s.seen[:0]
	behind := 0 // how many of seen the next chunk comes behind
	args := scanScanArgs{Max: s.chunk}
	if exact {
		args.Exact = 1
	}
	for {
		if err := s.call(args); err != nil {
			return missed, err
		}
		if s.args.LostPlace != 0 {
			if args.After == 0 {
				return missed, errors.New("run the syscall scan: kthreadd is not there")
			}
			behind = s.goBack(&args, behind)
			continue
		}
		again := s.seen[behind:]
		for i := range s.records[:s.args.Count] {
			r := &s.records[i]
			p := place{r.Tgid, r.Task, r.StartBoottimeNs}
			if slices.Contains(again, p) {
				continue
			}
			s.seen = append(s.seen, p)
			emit(r)
		}
		if s.args.Done != 0 {
			return missed, nil
		}
		args.After, args.AfterTask, args.AfterStart = s.args.Last, s.args.LastTask, s.args.LastStart
		behind = len(s.seen)
	}
}

// goBack aims args behind the process before those that are gone, and returns how
// many of seen that leaves behind. The first process of all has no place to lose.
func (s *syscallScan) goBack(args *scanScanArgs, behind int) int {
	if behind == 0 {
		args.After, args.AfterTask, args.AfterStart = 0, 0, 0
		return 0
	}
	p := s.seen[behind-1]
	if p.pid == args.After && p.task == args.AfterTask { // this one is the one that is gone
		s.seen = slices.Delete(s.seen, behind-1, behind)
		return s.goBack(args, behind-1)
	}
	args.After, args.AfterTask, args.AfterStart = p.pid, p.task, p.start
	return behind
}

func (s *syscallScan) one(pid int32, emit func(*scanProcessRecord)) error {
	if err := s.call(scanScanArgs{Only: uint32(pid), Exact: 1, Max: 1}); err != nil {
		return err
	}
	if s.args.Count == 1 {
		emit(&s.records[0])
	}
	return nil
}

func (s *syscallScan) close() error {
	var err error
	if s.area != nil {
		err = unix.Munmap(s.area)
		s.area, s.records = nil, nil
	}
	return errors.Join(err, s.objects.Close())
}
