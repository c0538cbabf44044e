package rmagent

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"rmagent/internal/fdcheck"
	"rmagent/internal/headroom"
	"rmagent/record"
)

// FDRequest is what a process is about to open. The zero values of Overhead and
// Margin mean their defaults.
type FDRequest struct {
	PID     int // 0: the calling process
	Files   int
	Sockets int
	// Overhead is what else is opened meanwhile: libraries, log files, epoll; 0: 10,
	// negative: none.
	Overhead int
	// Margin is the share of the limit that must stay free, such as 0.1; 0: 0.2.
	Margin float64
}

// CheckFDs tells whether the calling process can safely open n files more: whether
// what is open, n and an overhead of 10 stay below 80 % of its limit. It reads a few
// files in /proc, and waits for nothing. Safe is unknown where it can't be told.
func CheckFDs(n int) (record.FDCheck, error) {
	return FDRequest{Files: n}.Check(context.Background())
}

// Check answers the request. The error wraps [ErrNoProcess] where there is no such
// process; a value that is out of range is an error, too.
func (q FDRequest) Check(ctx context.Context) (record.FDCheck, error) {
	if q.PID == 0 {
		q.PID = os.Getpid()
	}
	if q.PID < 1 || q.PID > 1<<22 {
		return record.FDCheck{}, fmt.Errorf("check descriptors: PID %d: %w", q.PID, ErrNoProcess)
	}
	if q.Files < 0 || q.Sockets < 0 {
		return record.FDCheck{}, fmt.Errorf("check descriptors: %d files, %d sockets: allowed are 0 and more", q.Files, q.Sockets)
	}
	request := fdcheck.NewRequest(uint64(q.Files))
	request.Sockets = uint64(q.Sockets)
	if q.Overhead != 0 {
		request.Overhead = uint64(max(q.Overhead, 0))
	}
	if q.Margin != 0 {
		request.Margin = q.Margin
	}
	if err := request.Validate(); err != nil {
		return record.FDCheck{}, fmt.Errorf("check descriptors: %w", err)
	}
	usage, err := readDescriptors(ctx, int32(q.PID))
	if errors.Is(err, unix.EMFILE) && q.PID == os.Getpid() {
		usage, err = allTaken()
	}
	if err != nil {
		return record.FDCheck{}, fmt.Errorf("check descriptors: %w", err)
	}
	return fdcheck.Judge(usage, &request), nil
}

func readDescriptors(ctx context.Context, pid int32) (*fdcheck.Usage, error) {
	r, err := headroom.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return r.ReadDescriptors(ctx, pid)
}

// allTaken is what EMFILE says of the calling process: no place below the limit is
// free.
func allTaken() (*fdcheck.Usage, error) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return nil, err
	}
	return &fdcheck.Usage{
		PID:  int32(os.Getpid()),
		Open: record.Some(l.Cur), Limit: record.Some(l.Cur), Hard: record.Some(l.Max),
	}, nil
}
