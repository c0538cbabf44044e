package hostfs

import (
	"errors"
	"os"
	"strconv"
)

var errForeignProc = errors.New("/proc is of another PID namespace, where a PID is another process's: mount one of this (mount -t proc proc /proc)")

// OwnProc fails where /proc is of another PID namespace than this process: what it says of a
// PID is said of another process than the one that was asked for.
func OwnProc() error {
	self, err := os.Readlink("/proc/self")
	if err == nil && self != strconv.Itoa(os.Getpid()) || errors.Is(err, os.ErrNotExist) && exists("/proc/1") {
		return errForeignProc
	}
	return err
}
