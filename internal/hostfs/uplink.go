package hostfs

import (
	"bytes"
	"os"
	"strings"

	"rmagent/internal/hostfs/kfile"
	"rmagent/internal/sample"
)

// uplinkReader sums what entered and left the machine over its network devices,
// as its network namespace shows them.
type uplinkReader struct {
	file
	sysNet string
	sums   deviceSums
}

func openUplinks(root string) uplinkReader {
	return uplinkReader{
		file:   openFile(root+"/proc/net/dev", kfile.ShortRecords),
		sysNet: root + "/sys/class/net/",
		sums:   deviceSums{devices: map[string]*device{}},
	}
}

func (r *uplinkReader) read(buf *[]byte, dst *sample.Host) {
	b := r.file.read(buf)
	if b == nil {
		return
	}
	if came, left := r.sums.take(b, parseNetDevice); came || left {
		r.decide()
	}
	dst.NetReceivedBytes, dst.NetSentBytes = some(r.sums.sums[0]), some(r.sums.sums[1])
}

// parseNetDevice reads a line of /proc/net/dev: name: eight numbers of what was
// received, bytes first, and eight of what was sent. A name may hold any byte
// but blanks, slashes and colons (dev_valid_name in net/core/dev.c).
func parseNetDevice(line []byte) (name []byte, counts [2]uint64, ok bool) {
	name, rest, found := bytes.Cut(line, []byte{':'})
	name, _ = kfile.Word(name)
	if !found || len(name) == 0 {
		return nil, counts, false
	}
	var v [9]uint64
	for i := range v {
		if v[i], rest, ok = kfile.NextUint(rest); !ok {
			return nil, counts, false
		}
	}
	return name, [2]uint64{v[0], v[8]}, true
}

// decide picks the uplinks: the hardware (real or a VM's), which every bond,
// bridge, VLAN and tunnel above it ends in; or, where a namespace has none, the
// lowest virtual devices, as a container's end of a veth is.
func (r *uplinkReader) decide() {
	links := map[string]link{}
	hardware := false
	for name := range r.sums.devices {
		l := r.inspect(name)
		links[name] = l
		hardware = hardware || l == hardwareLink
	}
	want := hardwareLink
	if !hardware {
		want = virtualUplink
	}
	r.sums.decide(func(name string) bool { return links[name] == want })
}

// link says what an interface is to the count.
type link uint8

const (
	otherLink     link = iota // loopback, or its bytes pass another one
	hardwareLink              // a device stands behind it
	virtualUplink             // the lowest of its namespace
)

// ARPHRD_LOOPBACK, and the range of monitors (ARPHRD_IEEE80211_*), which see
// again what another interface carries (include/uapi/linux/if_arp.h).
const (
	arpLoopback     = "772"
	arpMonitor      = "802"
	arpMonitorRadio = "803"
)

func (r *uplinkReader) inspect(name string) link {
	dir := r.sysNet + name
	switch firstLine(dir + "/type") {
	case arpLoopback, arpMonitor, arpMonitorRadio:
		return otherLink
	}
	if exists(dir + "/device") {
		return r.inspectHardware(dir)
	}
	if exists(dir+"/master") || hasLower(dir) || isInward(name, devtype(dir)) {
		return otherLink
	}
	return virtualUplink
}

func (r *uplinkReader) inspectHardware(dir string) link {
	switch {
	case exists(dir + "/master/device"):
		return otherLink // Hyper-V's virtual function, counted by its netvsc master too
	case devtype(dir) == "dsa":
		return otherLink // a switch's port, whose bytes pass its conduit
	case isRepresentor(firstLine(dir + "/phys_port_name")):
		return otherLink // a switch's inner port towards a virtual function
	}
	return hardwareLink
}

// isRepresentor tells the host's ends of virtual and sub functions: pf0vf1,
// c1pf0sf3 (devlink_port_phys_port_name_get in net/devlink/port.c).
func isRepresentor(port string) bool {
	return strings.Contains(port, "pf") && (strings.Contains(port, "vf") || strings.Contains(port, "sf"))
}

// isInward tells virtual devices that lead nowhere outside.
func isInward(name, devtype string) bool {
	return devtype == "bridge" || devtype == "bond" || strings.HasPrefix(name, "dummy") || strings.HasPrefix(name, "ifb")
}

// hasLower reports whether the interface stands on another one of its namespace.
func hasLower(dir string) bool {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "lower_") {
			return true
		}
	}
	return false
}

func devtype(dir string) string {
	b, _ := os.ReadFile(dir + "/uevent")
	for line := range strings.Lines(string(b)) {
		if t, ok := strings.CutPrefix(line, "DEVTYPE="); ok {
			return strings.TrimSpace(t)
		}
	}
	return ""
}

func firstLine(path string) string {
	b, _ := os.ReadFile(path)
	line, _ := kfile.Line(b)
	return string(line)
}
