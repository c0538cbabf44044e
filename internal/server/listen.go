package server

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// ListenUnix opens the socket at path, for its owner and, if group is not empty, for
// that group. Whoever calls it holds the instance's lock: a socket that is there is
// left over. It is never open for others, not even for a moment.
func ListenUnix(path, group string) (_ net.Listener, err error) {
	gid := -1
	if group != "" {
		if gid, err = groupID(group); err != nil {
			return nil, err
		}
	}
	if err := removeSocket(path); err != nil {
		return nil, err
	}
	// Made under another name, and moved once its mode is right.
	made := filepath.Join(filepath.Dir(path), fmt.Sprintf(".%d.sock", os.Getpid()))
	if err := removeSocket(made); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: made, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	defer func() {
		if err != nil {
			l.Close()
			os.Remove(made)
		}
	}()
	mode := os.FileMode(0o600)
	if gid >= 0 {
		mode = 0o660 // to connect is to write
		if err := os.Chown(made, -1, gid); err != nil {
			return nil, fmt.Errorf("give the socket to group %s: %w", group, err)
		}
	}
	if err := os.Chmod(made, mode); err != nil {
		return nil, err
	}
	if err := os.Rename(made, path); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return &unixListener{l, path}, nil
}

// unixListener removes its socket when it is closed.
type unixListener struct {
	net.Listener
	path string
}

func (l *unixListener) Close() error {
	err := l.Listener.Close()
	if remove := os.Remove(l.path); remove != nil && !errors.Is(remove, os.ErrNotExist) {
		err = errors.Join(err, remove)
	}
	return err
}

// removeSocket removes a socket, and nothing else.
func removeSocket(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("%s is there and is no socket; remove it, or choose another --socket", path)
	}
	return os.Remove(path)
}

func groupID(group string) (int, error) {
	g, err := user.LookupGroup(group)
	if err != nil {
		if n, numeric := strconv.Atoi(group); numeric == nil && n >= 0 {
			return n, nil
		}
		return 0, fmt.Errorf("socket_group: there is no group %q", group)
	}
	return strconv.Atoi(g.Gid)
}

// ListenTCP opens a TCP address.
func ListenTCP(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, fmt.Errorf("listen on %s: another program does; choose another --listen, or none by --listen ''", address)
	}
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}

// IsLoopback tells whether only this machine reaches a listener.
func IsLoopback(l net.Listener) bool { return isLoopback(l.Addr()) }
