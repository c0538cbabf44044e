package held

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"

	"rmagent/internal/sample"
)

// maxSockets bounds each of the tables in /proc/PID/net that are read.
const maxSockets = 16 << 20 // bytes

type socket struct {
	kind          sample.FDKind
	local, remote netip.AddrPort
	listening     bool
	path          string // of a unix socket
}

// socketTable is the sockets of a network namespace, by inode.
type socketTable map[uint64]socket

// readSockets reads the sockets of a process's network namespace.
func readSockets(dir int) socketTable {
	t := socketTable{}
	for name, kind := range map[string]sample.FDKind{
		"tcp": sample.FDTCP4, "tcp6": sample.FDTCP6, "udp": sample.FDUDP4, "udp6": sample.FDUDP6,
	} {
		t.each(dir, name, func(line string) { t.inet(strings.Fields(line), kind) })
	}
	t.each(dir, "netlink", func(line string) { t.plain(strings.Fields(line), 9, sample.FDNetlink) })
	t.each(dir, "packet", func(line string) { t.plain(strings.Fields(line), 8, sample.FDPacket) })
	t.each(dir, "unix", t.unix) // the last: its lines may be forged
	return t
}

// each calls f with every line but the first.
func (t socketTable) each(dir int, name string, f func(line string)) {
	text, _ := readAt(dir, "net/"+name, maxSockets) // what can't be read stays unknown
	first := true
	for line := range strings.Lines(string(text)) {
		if !first {
			f(strings.TrimSuffix(line, "\n"))
		}
		first = false
	}
}

func (t socketTable) plain(fields []string, column int, kind sample.FDKind) {
	if len(fields) <= column {
		return
	}
	if inode, err := strconv.ParseUint(fields[column], 10, 64); err == nil && inode != 0 {
		t[inode] = socket{kind: kind}
	}
}

// tcpListen is TCP_LISTEN as the tables write it (include/net/tcp_states.h).
const tcpListen = "0A"

// inet reads a line of tcp, tcp6, udp or udp6 (proc_net_tcp(5)).
func (t socketTable) inet(fields []string, kind sample.FDKind) {
	if len(fields) < 10 {
		return
	}
	inode, err := strconv.ParseUint(fields[9], 10, 64)
	if err != nil || inode == 0 {
		return
	}
	s := socket{kind: kind, local: address(fields[1]), remote: address(fields[2])}
	s.listening = fields[3] == tcpListen && (kind == sample.FDTCP4 || kind == sample.FDTCP6)
	t[inode] = s
}

// address reads "0100007F:1F90": the address in words of the machine's byte order,
// the port in hexadecimal. The zero AddrPort where it is none, or says none.
func address(text string) netip.AddrPort {
	host, port, ok := strings.Cut(text, ":")
	raw, err := hex.DecodeString(host)
	n, err2 := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || err2 != nil || len(raw) != 4 && len(raw) != 16 {
		return netip.AddrPort{}
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	a, _ := netip.AddrFromSlice(raw)
	if n == 0 && a.IsUnspecified() {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a, uint16(n))
}

// unix reads a line of unix: "Num RefCount Protocol Flags Type St Inode Path". A name in the
// abstract namespace may hold a newline and what looks like a line, of anybody's socket: a
// socket that has two names has none that can be told, and other kinds stay what they are.
func (t socketTable) unix(line string) {
	for range 6 {
		_, line, _ = strings.Cut(line, " ")
	}
	number, path, _ := strings.Cut(strings.TrimLeft(line, " "), " ")
	inode, err := strconv.ParseUint(number, 10, 64)
	if err != nil || inode == 0 {
		return
	}
	s, twice := t[inode]
	switch {
	case !twice:
		t[inode] = socket{kind: sample.FDUnix, path: path}
	case s.kind == sample.FDUnix && s.path != path:
		t[inode] = socket{kind: sample.FDUnix}
	}
}
