package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// instanceLock keeps a second agent off the same socket. The kernel drops it
// when the process ends, however that happens, so no stale file can block a
// start.
type instanceLock struct{ file *os.File }

// heldError is a socket that another agent has.
type heldError struct{ socket, holder string }

func (e *heldError) Error() string {
	return fmt.Sprintf("another agent (PID %s) runs on the socket %s", e.holder, e.socket)
}

// lockInstance takes the lock beside the socket path and leaves the holder's PID
// in it.
func lockInstance(socket string) (*instanceLock, error) {
	path := socket + ".lock"
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the socket's directory: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		holder, _ := os.ReadFile(path) // who holds it is a courtesy
		return nil, &heldError{socket, strings.TrimSpace(string(holder))}
	}
	if err := f.Truncate(0); err == nil {
		fmt.Fprintf(f, "%d\n", os.Getpid())
	}
	return &instanceLock{f}, nil
}

// release gives the lock up. The file stays: to remove it would let two agents
// hold locks on two files of the same name.
func (l *instanceLock) release() error { return l.file.Close() }
