package hostfs

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// PeerCredentials says who is at the other end of a unix socket: who connected, or who
// listens (unix(7), SO_PEERCRED).
func PeerCredentials(conn net.Conn) (cred *unix.Ucred, err error) {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, fmt.Errorf("%T is no unix socket", conn)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return nil, err
	}
	failed := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	return cred, errors.Join(failed, err)
}

// PeerSharesPIDs tells whether a PID means the same to whoever listens at the other end of
// a unix socket: whether both are in one PID namespace. It is true where that can't be
// told, as without /proc.
func PeerSharesPIDs(conn net.Conn) bool {
	cred, err := PeerCredentials(conn)
	if err != nil {
		return true
	}
	if cred.Pid == 0 { // it has no PID here (pid_vnr)
		return false
	}
	here, there := depth("self"), depth(strconv.Itoa(int(cred.Pid)))
	return here == 0 || there == 0 || here == there
}

// depth is in how many PID namespaces, from that of /proc on, a process has a PID (proc(5),
// NSpid); 0: unknown.
func depth(process string) int {
	b, _ := os.ReadFile("/proc/" + process + "/status")
	_, rest, _ := strings.Cut(string(b), "\nNSpid:")
	line, _, _ := strings.Cut(rest, "\n")
	return len(strings.Fields(line))
}
