package cmdline

import (
	"fmt"
	"os"
	"path/filepath"

	"rmagent/internal/config"
)

// SocketPath is the configured socket. Where none is configured, an ordinary user,
// who can't write to /run, has one in a directory of their own.
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

// JobsSocket is where jobs are registered, beside the agent's own socket.
func JobsSocket(socket string) string { return filepath.Join(filepath.Dir(socket), "jobs.sock") }
