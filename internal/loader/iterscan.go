package loader

import (
	"errors"
	"fmt"
	"io"
	"unsafe"

	"github.com/cilium/ebpf/link"
)

// iterBytes is how much of the iterator one read takes.
const iterBytes = 64 << 10

// iterScan reads bpf/scan_iter.bpf.c.
type iterScan struct {
	objects scanIterObjects
	link    *link.Iter
	buffer  []byte
}

func openIterScan(env *environment) (*iterScan, error) {
	spec, err := loadScanIter()
	if err != nil {
		return nil, fmt.Errorf("read the task iterator's object: %w", err)
	}
	if err := env.configure(spec); err != nil {
		return nil, err
	}
	s := &iterScan{buffer: make([]byte, iterBytes)}
	if err := spec.LoadAndAssign(&s.objects, env.options()); err != nil {
		return nil, fmt.Errorf("load the task iterator: %w", refused(err))
	}
	s.link, err = link.AttachIter(link.IterOptions{Program: s.objects.ScanTasks})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("attach the task iterator: %w", err), s.objects.Close())
	}
	return s, nil
}

func (s *iterScan) name() Scan { return ScanIter }

func (s *iterScan) one(int32, func(*scanProcessRecord)) error {
	return errors.New("the task iterator reads all or nothing")
}

func (s *iterScan) scan(_ bool, emit func(*scanProcessRecord)) (missed uint64, err error) {
	f, err := s.link.Open()
	if err != nil {
		return 0, fmt.Errorf("open the task iterator: %w", err)
	}
	defer f.Close()
	const size = int(unsafe.Sizeof(scanProcessRecord{}))
	held := 0
	for {
		n, err := f.Read(s.buffer[held:])
		held += n
		whole := held / size * size
		for at := 0; at < whole; at += size {
			emit((*scanProcessRecord)(unsafe.Pointer(&s.buffer[at])))
		}
		held = copy(s.buffer, s.buffer[whole:held])
		switch {
		case errors.Is(err, io.EOF) || err == nil && n == 0:
			if held != 0 {
				return 0, fmt.Errorf("read the task iterator: it ends within a record")
			}
			return 0, nil
		case err != nil:
			return 0, fmt.Errorf("read the task iterator: %w", err)
		}
	}
}

func (s *iterScan) close() error { return errors.Join(s.link.Close(), s.objects.Close()) }
