package loader

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Feature is something that eBPF needs or can use, and whether it is here.
type Feature struct {
	Name string
	OK   bool
	Why  string // what is missing and what it costs, in words for people; empty where OK
}

// Probe tries everything out that the scans and the events build on.
func Probe() []Feature {
	var fs []Feature
	add := func(name string, err error) {
		f := Feature{Name: name, OK: err == nil}
		if err != nil {
			f.Why = err.Error()
		}
		fs = append(fs, f)
	}
	_, err := os.Stat(kernelBTF)
	add("kernel BTF", plain(err, kernelBTF+" is not there (CONFIG_DEBUG_INFO_BTF): no BPF program can be fitted to this kernel"))
	fs = append(fs, probeCapabilities()...)
	add("no kernel lockdown", probeLockdown())
	add("initial PID namespace", probeNamespace())
	add("syscall scan", tryScan(ScanSyscall))
	add("task iterator", tryScan(ScanIter))
	return fs
}

// plain gives an error the words that say what it means here.
func plain(err error, why string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", why, err)
}

// The capabilities that rmagent can use, and what is lost without each.
var wantedCapabilities = []struct {
	bit  int
	name string
	lost string
}{
	{capBPF, "CAP_BPF", "no BPF program can be loaded"},
	{capPerfmon, "CAP_PERFMON", "no BPF program may read kernel memory"},
	{unix.CAP_SYS_PTRACE, "CAP_SYS_PTRACE", "exe, io and maps of other users' processes can't be read from /proc"},
	{unix.CAP_DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH", "descriptors of other users' processes can't be read from /proc"},
}

func probeCapabilities() (fs []Feature) {
	effective, err := effectiveCapabilities()
	for _, c := range wantedCapabilities {
		f := Feature{Name: c.name, OK: err == nil && effective>>c.bit&1 != 0}
		instead := (c.bit == capBPF || c.bit == capPerfmon) && err == nil && effective>>capSysAdmin&1 != 0
		switch {
		case f.OK:
		case instead:
			f.OK = true // CAP_SYS_ADMIN includes both
		case err != nil:
			f.Why = err.Error()
		default:
			f.Why = c.lost
		}
		fs = append(fs, f)
	}
	return fs
}

func probeLockdown() error {
	mode, err := os.ReadFile(lockdownFile)
	if err != nil {
		return nil // the kernel has none, or shows none: a load will tell
	}
	if strings.Contains(string(mode), "[confidentiality]") {
		return errors.New("it is in confidentiality mode, which forbids BPF to read kernel memory")
	}
	return nil
}

func probeNamespace() error {
	nested, err := inOwnNamespace()
	if err != nil {
		return err
	}
	if nested {
		return errors.New("rmagent is in a PID namespace of its own: it sees the processes of that namespace only, and no events")
	}
	return nil
}

func tryScan(scan Scan) error {
	r, err := Open(Options{Scan: scan})
	if err != nil {
		return err
	}
	return r.Close()
}

// ObjectHash is the SHA-256 of the BPF objects that this program carries.
func ObjectHash() string {
	h := sha256.New()
	for _, object := range [][]byte{_ScanBytes, _ScanIterBytes, _EventsBytes, _FdtraceBytes} {
		h.Write(object)
	}
	return hex.EncodeToString(h.Sum(nil))
}
