package loader

import (
	"bytes"
	"math/bits"
	"net/netip"

	"golang.org/x/sys/unix"

	"rmagent/internal/sample"
)

// Magic numbers of file systems (include/uapi/linux/magic.h).
const (
	magicAnonInode = 0x09041934
	magicPipe      = 0x50495045
	magicPID       = 0x50494446
	magicNamespace = 0x6e736673
	magicTmp       = 0x01021994
	magicHuge      = 0x958458f6
	magicSecretmem = 0x5345434d
)

// anonKinds are the anonymous inodes, by the name of their dentry, which is what
// readlink(2) shows of them.
var anonKinds = map[string]sample.FDKind{
	"[eventfd]":     sample.FDEventfd,
	"[eventpoll]":   sample.FDEpoll,
	"inotify":       sample.FDInotify,
	"[fanotify]":    sample.FDFanotify,
	"[timerfd]":     sample.FDTimerfd,
	"[signalfd]":    sample.FDSignalfd,
	"[pidfd]":       sample.FDPidfd,
	"[io_uring]":    sample.FDIOUring,
	"[userfaultfd]": sample.FDUserfaultfd,
	"[perf_event]":  sample.FDPerfEvent,
	"bpf-map":       sample.FDBPF,
	"bpf-prog":      sample.FDBPF,
	"bpf_link":      sample.FDBPF,
	"bpf-link":      sample.FDBPF,
	"bpf_iter":      sample.FDBPF,
	"bpf-token":     sample.FDBPF,
	"btf":           sample.FDBPF,
}

// kindOf says what a descriptor refers to.
func kindOf(r *fdtraceFdRecord) sample.FDKind {
	name := cString(r.Name[:])
	switch r.Mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		return socketKind(r.Family, r.Protocol)
	case unix.S_IFIFO:
		if r.Magic == magicPipe {
			return sample.FDPipe
		}
		return sample.FDFIFO
	case unix.S_IFDIR:
		return sample.FDDirectory
	case unix.S_IFCHR:
		return sample.FDCharDevice
	case unix.S_IFBLK:
		return sample.FDBlockDevice
	}
	switch r.Magic {
	case magicAnonInode:
		// Names cut short, and those of kinds that have none here, are of "another" kind.
		if kind, ok := anonKinds[name]; ok {
			return kind
		}
		return sample.FDAnon
	case magicPID:
		return sample.FDPidfd
	case magicNamespace:
		return sample.FDNamespace
	case magicSecretmem:
		return sample.FDMemfd
	case magicTmp, magicHuge:
		if r.Placeless != 0 && len(name) >= 6 && name[:6] == "memfd:" {
			return sample.FDMemfd
		}
	}
	if r.Mode&unix.S_IFMT == unix.S_IFREG {
		return sample.FDFile
	}
	return sample.FDAnon
}

func socketKind(family, protocol uint16) sample.FDKind {
	switch {
	case family == unix.AF_INET && isTCP(protocol):
		return sample.FDTCP4
	case family == unix.AF_INET6 && isTCP(protocol):
		return sample.FDTCP6
	case family == unix.AF_INET && protocol == unix.IPPROTO_UDP:
		return sample.FDUDP4
	case family == unix.AF_INET6 && protocol == unix.IPPROTO_UDP:
		return sample.FDUDP6
	case family == unix.AF_UNIX:
		return sample.FDUnix
	case family == unix.AF_NETLINK:
		return sample.FDNetlink
	case family == unix.AF_PACKET:
		return sample.FDPacket
	}
	return sample.FDSocket
}

func isTCP(protocol uint16) bool {
	return protocol == unix.IPPROTO_TCP || protocol == unix.IPPROTO_MPTCP
}

// tcpListen is TCP_LISTEN (include/net/tcp_states.h).
const tcpListen = 10

// addressesOf returns what an IP socket is bound and connected to.
func addressesOf(r *fdtraceFdRecord) (local, remote netip.AddrPort) {
	localPort, remotePort := bits.ReverseBytes16(r.LocalPort), bits.ReverseBytes16(r.RemotePort)
	switch r.Family {
	case unix.AF_INET:
		return addrPort(netip.AddrFrom4([4]byte(bytesOf(&r.Local)[:4])), localPort),
			addrPort(netip.AddrFrom4([4]byte(bytesOf(&r.Remote)[:4])), remotePort)
	case unix.AF_INET6:
		return addrPort(netip.AddrFrom16([16]byte(bytesOf(&r.Local))), localPort),
			addrPort(netip.AddrFrom16([16]byte(bytesOf(&r.Remote))), remotePort)
	}
	return local, remote
}

func bytesOf(b *[16]uint8) []byte { return b[:] }

// addrPort is the zero AddrPort where there is neither address nor port.
func addrPort(a netip.Addr, port uint16) netip.AddrPort {
	if a.IsUnspecified() && port == 0 {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a, port)
}

func cString(b []int8) string {
	raw := make([]byte, 0, 24)
	for _, c := range b {
		raw = append(raw, byte(c))
	}
	if i := bytes.IndexByte(raw, 0); i >= 0 {
		raw = raw[:i]
	}
	return string(raw)
}

// userDevice is a kernel's dev_t as stat(2) gives it (include/linux/kdev_t.h,
// new_encode_dev).
func userDevice(dev uint32) uint64 {
	major, minor := dev>>20, dev&(1<<20-1)
	return unix.Mkdev(major, minor)
}
