package cmdline

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"rmagent/internal/config"
)

// SocketPath is where an agent of this user listens: the configured socket. Where none is
// configured, an ordinary user, who can't write to /run, has one in a directory of their
// own.
func SocketPath(l *config.Loaded) string {
	if os.Geteuid() == 0 || l.Origin("socket").Layer != config.LayerDefault {
		return l.Socket
	}
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if dir == "" {
		dir = filepath.Join(os.TempDir(), fmt.Sprintf("rmagent-%d", os.Geteuid()))
	}
	return filepath.Join(dir, "rmagent.sock")
}

// Sockets are where commands look for an agent to ask, in this order: an ordinary user's
// own, and the system's.
func Sockets(l *config.Loaded) []string {
	own := SocketPath(l)
	switch {
	case own == l.Socket:
		return []string{own}
	case CheckOwn(l) != nil:
		return []string{l.Socket}
	}
	return []string{own, l.Socket}
}

// CheckOwn fails if an ordinary user's own directory for the socket is somebody else's:
// everybody can make one in /tmp, and answer in it for an agent.
func CheckOwn(l *config.Loaded) error {
	own := SocketPath(l)
	if own == l.Socket {
		return nil
	}
	dir := filepath.Dir(own)
	var st unix.Stat_t
	switch err := unix.Lstat(dir, &st); {
	case err == unix.ENOENT:
		return nil
	case err != nil:
		return fmt.Errorf("look at the socket's directory %s: %w", dir, err)
	case st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Uid != uint32(os.Geteuid()) || st.Mode&0o022 != 0:
		return fmt.Errorf("the socket's directory %s is not this user's alone; set XDG_RUNTIME_DIR, or choose a --socket", dir)
	}
	return nil
}

// JobsSocket is where jobs are registered, beside the agent's own socket.
func JobsSocket(socket string) string { return filepath.Join(filepath.Dir(socket), "jobs.sock") }
