package loader

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// iterBytes is how much of the iterator one read takes.
const iterBytes = 64 << 10

// iterScan reads bpf/scan_iter.bpf.c.
type iterScan struct {
	loaded  *ebpf.Collection // what objects does not name: the variables' maps
	objects scanIterObjects
	link    link.Link
	linkFD  int
	buffer  []byte
	exact   bool // what the program was told
}

func openIterScan(opts Options, env *environment) (*iterScan, error) {
	spec, err := loadScanIter()
	if err != nil {
		return nil, fmt.Errorf("read the task iterator's object: %w", err)
	}
	if err := env.configure(spec); err != nil {
		return nil, err
	}
	s := &iterScan{buffer: make([]byte, iterBytes)}
	if s.loaded, err = load(spec, opts, env, &s.objects); err != nil {
		return nil, fmt.Errorf("load the task iterator: %w", err)
	}
	if err := s.prepare(); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *iterScan) prepare() error {
	if err := learn(s.objects.Learn); err != nil {
		return err
	}
	it, err := link.AttachIter(link.IterOptions{Program: s.objects.ScanTasks})
	if err != nil {
		return fmt.Errorf("attach the task iterator: %w", err)
	}
	s.link, s.linkFD = it, it.FD()
	return nil
}

func (s *iterScan) name() Scan { return ScanIter }

func (s *iterScan) one(int32, func(*scanProcessRecord, int)) error {
	return errors.New("the task iterator reads all or nothing")
}

func (s *iterScan) scan(exact bool, emit func(*scanProcessRecord, int)) error {
	if exact != s.exact {
		var v uint32
		if exact {
			v = 1
		}
		if err := s.objects.Exact.Set(v); err != nil {
			return fmt.Errorf("ask for exact RSS: %w", err)
		}
		s.exact = exact
	}
	fd, err := createIterator(s.linkFD)
	if err != nil {
		return fmt.Errorf("open the task iterator: %w", err)
	}
	defer unix.Close(fd)
	return s.read(fd, emit)
}

func (s *iterScan) read(fd int, emit func(*scanProcessRecord, int)) error {
	const size = int(unsafe.Sizeof(scanProcessRecord{}))
	held := 0
	for {
		n, err := unix.Read(fd, s.buffer[held:])
		switch {
		case err == unix.EINTR || err == unix.EAGAIN: // it has read a million tasks and met nobody to tell of
			continue
		case err != nil:
			return fmt.Errorf("read the task iterator: %w", err)
		case n == 0 && held != 0:
			return errors.New("read the task iterator: it ends within a record")
		case n == 0:
			return nil
		}
		held += n
		whole := held / size * size
		for at := 0; at < whole; at += size {
			emit((*scanProcessRecord)(unsafe.Pointer(&s.buffer[at])), -1)
		}
		held = copy(s.buffer, s.buffer[whole:held])
	}
}

func (s *iterScan) mapBytes() (uint64, error) {
	return mapBytes(s.loaded, s.objects.Scratch, s.objects.Work, s.objects.CpuProbe)
}

func (s *iterScan) close() error {
	var err error
	if s.link != nil {
		err = s.link.Close()
	}
	s.loaded.Close()
	return errors.Join(err, s.objects.Close())
}
