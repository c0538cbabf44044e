package source

import (
	"errors"
	"fmt"

	"rmagent/internal/fallback"
	"rmagent/internal/hostfs"
	"rmagent/internal/loader"
	"rmagent/internal/sample"
	"rmagent/record"
)

// Choice is what the user asks for.
type Choice string

// The choices.
const (
	Auto   Choice = "auto"
	EBPF   Choice = "ebpf"
	Procfs Choice = "procfs"
)

// Source is an open reader and how it came to be.
type Source struct {
	sample.Reader
	Name record.Source // whose processes these are
	// Detail names the way of reading: "syscall scan", "task iterator", "procfs".
	Detail string
	// Lost says why eBPF is not used although it was wished for; nil otherwise.
	Lost error
}

// Open opens the source of choice. Auto takes eBPF where it loads, completes it
// from procfs, and else is procfs, with Lost saying why. Readings count what
// events tell, if there are events; they stay the caller's, to close after the
// source.
func Open(choice Choice, events *loader.Events) (*Source, error) {
	switch choice {
	case Procfs:
		return openProcfs()
	case EBPF:
		return openEBPF(events)
	case Auto:
		return openAuto(events)
	}
	return nil, fmt.Errorf("open the source: there is no %q, only auto, ebpf and procfs", choice)
}

func openProcfs() (*Source, error) {
	if err := hostfs.OwnProc(); err != nil {
		return nil, err
	}
	r, err := fallback.Open(fallback.Options{})
	if err != nil {
		return nil, err
	}
	return &Source{Reader: r, Name: record.SourceProcfs, Detail: "procfs"}, nil
}

func openEBPF(events *loader.Events) (*Source, error) {
	r, err := loader.Open(loader.Options{Events: events})
	if err != nil {
		return nil, err
	}
	details := map[loader.Scan]string{loader.ScanSyscall: "syscall scan", loader.ScanIter: "task iterator"}
	return &Source{Reader: r, Name: record.SourceEBPF, Detail: details[r.Scan()]}, nil
}

func openAuto(events *loader.Events) (*Source, error) {
	s, ebpfErr := openEBPF(events)
	p, procErr := openProcfs()
	switch {
	case ebpfErr != nil && procErr != nil:
		return nil, errors.Join(ebpfErr, procErr)
	case ebpfErr != nil:
		p.Lost = ebpfErr
		return p, nil
	case procErr != nil: // nothing to complete it from
		return s, nil
	}
	merged, err := Merge(s.Reader, p.Reader)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.Reader = merged
	return s, nil
}
