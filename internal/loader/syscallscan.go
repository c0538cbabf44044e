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
	loaded  *ebpf.Collection // what objects does not name: the variables' maps
	objects scanObjects
	areas   [][]byte // the mapped records and what stands of them
	records []scanProcessRecord
	stands  []scanStanding
	places  uint32 // of all processes; one more is for one that is read by itself
	most    uint32 // records of one run
	chunk   uint32

	args scanScanArgs
	seen []place // this scan's processes, in order, where it takes more than one run
	// aligned is how many processes the scan before emitted, if each was once, in the
	// order of the places, and these were enough; else 0.
	aligned uint32
}

// maxStarts is how often one reading may begin at the head of the list, because
// everybody behind whom it could have gone on has ended: each time with twice as
// many processes to a run.
const maxStarts = 16

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
	s := &syscallScan{most: spec.Maps[scanMapRecords].MaxEntries - 1}
	if err := sizeMaps(spec); err != nil {
		return nil, err
	}
	if s.loaded, err = load(spec, opts, env, &s.objects); err != nil {
		return nil, fmt.Errorf("load the syscall scan: %w", err)
	}
	if err := s.prepare(opts); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// The scan keeps what it read of sleeping processes in places by their PID, of 192
// bytes each: two for each task that there is, so that few share one, and no more
// than 12 MiB.
const (
	minKept = 1 << 12
	maxKept = 1 << 16
)

// Records have places for as many processes as there are tasks, of 352 bytes each, so that
// the next scan finds each in its own.
const (
	minPlaces = 1 << 11
	maxPlaces = 1 << 15
)

func sizeMaps(spec *ebpf.CollectionSpec) error {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return fmt.Errorf("count the tasks: %w", err)
	}
	kept := powerOfTwo(2*uint32(info.Procs), minKept, maxKept)
	places := powerOfTwo(uint32(info.Procs), minPlaces, maxPlaces)
	spec.Maps[scanMapKept].MaxEntries = kept
	spec.Maps[scanMapRecords].MaxEntries = places + 1
	spec.Maps[scanMapStandings].MaxEntries = places + 1
	for name, mask := range map[string]uint32{scanVarKeptMask: kept - 1, scanVarPlaceMask: places - 1} {
		if err := spec.Variables[name].Set(mask); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

// powerOfTwo returns the least that is not below n, of those from least to most.
func powerOfTwo(n, least, most uint32) uint32 {
	for least < most && least < n {
		least *= 2
	}
	return least
}

func (s *syscallScan) prepare(opts Options) error {
	if err := learn(s.objects.Learn); err != nil {
		return err
	}
	records, err := s.mapArray(s.objects.Records)
	if err != nil {
		return fmt.Errorf("map the records: %w", err)
	}
	stands, err := s.mapArray(s.objects.Standings)
	if err != nil {
		return fmt.Errorf("map what stands of the records: %w", err)
	}
	n := s.objects.Records.MaxEntries()
	s.records = unsafe.Slice((*scanProcessRecord)(records), n)
	s.stands = unsafe.Slice((*scanStanding)(stands), n)
	s.places = n - 1
	s.chunk = s.most
	if c := uint32(opts.ChunkProcesses); c > 0 && c < s.most {
		s.chunk = c
	}
	return nil
}

func (s *syscallScan) mapArray(m *ebpf.Map) (unsafe.Pointer, error) {
	area, err := unix.Mmap(m.FD(), 0, int(m.MaxEntries()*m.ValueSize()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	s.areas = append(s.areas, area)
	return unsafe.Pointer(&area[0]), nil
}

// load loads what objects names. The collection that it returns holds the rest.
func load(spec *ebpf.CollectionSpec, opts Options, env *environment, objects any) (*ebpf.Collection, error) {
	o := env.options()
	if opts.Events != nil {
		o.MapReplacements = opts.Events.states()
		if err := spec.Variables[scanVarWithEvents].Set(uint32(1)); err != nil {
			return nil, fmt.Errorf("join the events: %w", err)
		}
	}
	c, err := ebpf.NewCollectionWithOptions(spec, *o)
	if err != nil {
		return nil, refused(err)
	}
	if err := c.Assign(objects); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// learn lets a scan find out who reads, and where CPUs have their memory.
func learn(program *ebpf.Program) error {
	failed, err := program.Run(&ebpf.RunOptions{})
	if err != nil {
		return fmt.Errorf("prepare the scan: %w", refused(err))
	}
	if failed != 0 {
		return fmt.Errorf("prepare the scan: it returned %d", failed)
	}
	return nil
}

func (s *syscallScan) name() Scan { return ScanSyscall }

func (s *syscallScan) call(args scanScanArgs) error {
	s.args = args
	if err := runSyscallProgram(s.objects.Scan.FD(), &s.args); err != nil {
		return fmt.Errorf("run the syscall scan: %w", err)
	}
	return nil
}

// scan walks the list a chunk at a time. The list is in the order of birth and new
// processes join at its end, so going on behind the last process misses nobody.
// Where that one is gone, it goes on behind the last one before it that is still
// there, and leaves out whom it has already seen.
func (s *syscallScan) scan(exact bool, emit func(*scanProcessRecord, int)) error {
	before := s.aligned
	s.aligned = 0
	s.seen = s.seen[:0]
	behind := 0 // how many of seen the next chunk comes behind
	args := scanScanArgs{Max: s.chunk}
	if exact {
		args.Exact = 1
	}
	for starts := 0; ; {
		if args.After == 0 {
			if starts++; starts > maxStarts {
				return errors.New("run the syscall scan: processes end faster than they can be read")
			}
			args.Max = min(s.chunk<<(starts-1), s.most)
		}
		if err := s.call(args); err != nil {
			return err
		}
		if s.args.LostPlace != 0 {
			if args.After == 0 {
				return errors.New("run the syscall scan: kthreadd is not there")
			}
			behind = s.goBack(&args, behind)
			continue
		}
		if s.args.Done != 0 && args.First == 0 {
			s.takeAll(before, emit)
			return nil
		}
		s.take(s.seen[behind:], before, emit)
		args.First += s.args.Count
		if s.args.Done != 0 {
			if int(args.First) == len(s.seen) && args.First <= s.places {
				s.aligned = args.First
			}
			return nil
		}
		args.After, args.AfterTask, args.AfterStart = s.args.Last, s.args.LastTask, s.args.LastStart
		behind = len(s.seen)
	}
}

// take emits the records of a run but for those that were seen already.
func (s *syscallScan) take(seen []place, before uint32, emit func(*scanProcessRecord, int)) {
	for i := s.args.First; i < s.args.First+s.args.Count; i++ {
		r := &s.records[i&(s.places-1)]
		p := place{r.Tgid, r.Task, r.StartBoottimeNs}
		// By PID and start: exec by another thread gives a process another task.
		if slices.ContainsFunc(seen, func(q place) bool { return q.pid == p.pid && q.start == p.start }) {
			continue
		}
		s.seen = append(s.seen, p)
		emit(r, s.was(i, before))
	}
}

// takeAll emits the records of the one run that a scan took.
func (s *syscallScan) takeAll(before uint32, emit func(*scanProcessRecord, int)) {
	for i := range s.args.Count {
		emit(&s.records[i], s.was(i, before))
	}
	s.aligned = s.args.Count
}

// was is where the i-th record was in the scan before, which emitted before records, if it
// is known to be the same; else -1.
func (s *syscallScan) was(i, before uint32) int {
	if i < before && s.stands[i].Slept&1 != 0 {
		return int(i)
	}
	return -1
}

// goBack aims args behind the process before those that are gone, and returns how
// many of seen that leaves behind. The first process of all has no place to lose.
func (s *syscallScan) goBack(args *scanScanArgs, behind int) int {
	for behind > 0 {
		p := s.seen[behind-1]
		if p.pid != args.After || p.task != args.AfterTask {
			args.After, args.AfterTask, args.AfterStart = p.pid, p.task, p.start
			return behind
		}
		behind-- // this one is the one that is gone
	}
	args.After, args.AfterTask, args.AfterStart = 0, 0, 0
	return 0
}

func (s *syscallScan) one(pid int32, emit func(*scanProcessRecord, int)) error {
	if err := s.call(scanScanArgs{Only: uint32(pid), Exact: 1, Max: 1}); err != nil {
		return err
	}
	if s.args.Count == 1 {
		emit(&s.records[s.places], -1)
	}
	return nil
}

func (s *syscallScan) mapBytes() (uint64, error) {
	return mapBytes(s.loaded, s.objects.Records, s.objects.Standings, s.objects.Kept, s.objects.Work, s.objects.CpuProbe)
}

func (s *syscallScan) close() error {
	var err error
	for _, area := range s.areas {
		err = errors.Join(err, unix.Munmap(area))
	}
	s.areas, s.records, s.stands = nil, nil, nil
	s.loaded.Close()
	return errors.Join(err, s.objects.Close())
}
