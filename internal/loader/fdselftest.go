package loader

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"rmagent/internal/sample"
)

// selfTest makes and closes descriptors of its own in the ways that go by different
// functions of the kernel, and looks whether each was seen.
func (t *FDTracer) selfTest() (err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	id, err := t.self()
	if err != nil {
		return err
	}
	t.tester = id
	if t.suspects[id] == nil {
		if err := t.addSuspect(id); err != nil {
			return fmt.Errorf("test the hooks: %w", err)
		}
		defer func() {
			kept := make([]sample.ID, 0, len(t.suspects))
			for other := range t.suspects {
				if other != id {
					kept = append(kept, other)
				}
			}
			err = errors.Join(err, t.dropSuspects(kept), t.mark())
		}()
		if err := t.mark(); err != nil {
			return err
		}
	}
	return t.tryOut(t.suspects[id].files)
}

// self is who this process is.
func (t *FDTracer) self() (id sample.ID, err error) {
	id.PID = int32(os.Getpid())
	if err := t.listing.run(id.PID, 0, 0); err != nil {
		return id, err
	}
	var args fdtraceFdListArgs
	if err := t.listing.args.Get(&args); err != nil {
		return id, fmt.Errorf("find the own process: %w", err)
	}
	if args.Found == 0 {
		return id, fmt.Errorf("find the own process: %w", ErrGone)
	}
	id.StartTicks = startTicks(args.Start, t.env.bootOffset)
	return id, nil
}

func (t *FDTracer) tryOut(files uint64) error {
	fd, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("test the hooks: open: %w", err)
	}
	if err := t.expect("open", files, fd, true); err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	high, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, fd+1)
	if err != nil {
		return errors.Join(fmt.Errorf("test the hooks: fcntl: %w", err), unix.Close(fd))
	}
	err = errors.Join(
		t.expect("F_DUPFD", files, high, true),
		unix.Close(high),
		t.expect("close", files, high, false),
		unix.Dup3(fd, high, unix.O_CLOEXEC),
		t.expect("dup3", files, high, true),
		unix.CloseRange(uint(high), uint(high), 0),
		t.expect("close_range", files, high, false),
		t.tryRights(files, fd),
	)
	return errors.Join(err, unix.Close(fd))
}

// tryRights sends a descriptor to itself.
func (t *FDTracer) tryRights(files uint64, fd int) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("test the hooks: socketpair: %w", err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	if err := t.expect("socketpair", files, pair[1], true); err != nil {
		return err
	}
	came, err := pass(pair, fd)
	if err != nil {
		return fmt.Errorf("test the hooks: %w", err)
	}
	return errors.Join(t.expect("SCM_RIGHTS", files, came, true), unix.Close(came))
}

// pass sends a descriptor from one end of a pair to the other, and returns it as it
// came.
func pass(pair [2]int, fd int) (came int, err error) {
	if err := unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(fd), nil, 0); err != nil {
		return -1, fmt.Errorf("sendmsg: %w", err)
	}
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(pair[1], make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("recvmsg: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return -1, fmt.Errorf("recvmsg: %d messages, %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, fmt.Errorf("recvmsg: %d descriptors, %w", len(fds), err)
	}
	return fds[0], nil
}

// expect looks up whether a descriptor of this process was seen to be made, or to be
// closed.
func (t *FDTracer) expect(call string, files uint64, fd int, open bool) error {
	st, err := t.stampOf(files, uint32(fd))
	if err != nil {
		return fmt.Errorf("test the hooks: %s was not seen: %w", call, err)
	}
	if st.Tid != uint32(unix.Gettid()) || (st.Closed == 0) != open {
		return fmt.Errorf("test the hooks: %s was not seen", call)
	}
	return nil
}

// stampOf looks where find_stamp of bpf/fdtrace.bpf.c does.
func (t *FDTracer) stampOf(files uint64, fd uint32) (st fdtraceFdStamp, err error) {
	if err := t.loaded.Maps[fdtraceMapNearStamps].Lookup((fd^tableMark(files))%nearStamps, &st); err != nil {
		return st, err
	}
	if round := fd / nearStamps; round < nearRounds && st.Tag == files|uint64(round) {
		return st, nil
	}
	err = t.loaded.Maps[fdtraceMapStamps].Lookup(fdtraceFdKey{Files: files, Fd: fd}, &st)
	return st, err
}
