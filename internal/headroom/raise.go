package headroom

import (
	"fmt"
	"path"
	"strings"

	"rmagent/internal/hostfs"
	"rmagent/internal/sample"
	"rmagent/record"
)

// raiseRlimit says how to raise an rlimit: now if the hard limit allows it, and
// for good where the process was started from.
func raiseRlimit(f *Facts, i int) string {
	k, l := &rlimits[i], f.Rlimits[i]
	var now string
	if l.Hard > l.Soft {
		now = fmt.Sprintf("prlimit --pid %d --%s=%s:; ", f.ID.PID, k.option, rlimitText(l.Hard))
	}
	wanted := record.SomeIf(l.Soft, l.Soft < unlimited)
	more := max(wanted.Or(0)*2, 1)
	return now + "to keep: " + keepRlimit(f, i, more)
}

func rlimitText(v uint64) string {
	if v >= unlimited {
		return "unlimited"
	}
	return fmt.Sprint(v)
}

func keepRlimit(f *Facts, i int, more uint64) string {
	k := &rlimits[i]
	container := hostfs.ContainerOf(f.Cgroup)
	switch runtimeOf(f.Cgroup) {
	case kubernetes:
		return k.property + "= of the node's containerd.service or crio.service (pods inherit it)"
	case docker, podman:
		return fmt.Sprintf("%s run --ulimit %s=%d (a new container for %.12s)", runtimeOf(f.Cgroup), k.option, more, container)
	case otherContainer:
		return fmt.Sprintf("the ulimit %s of container %.12s", k.option, container)
	}
	if unit := hostfs.UnitOf(f.Cgroup); strings.HasSuffix(unit, ".service") {
		return fmt.Sprintf("%s=%d by systemctl edit %s, then restart it", k.property, more, shellQuote(unit))
	}
	if k.unit == "KiB" {
		more = (more + 1023) / 1024
	}
	return fmt.Sprintf("ulimit %s %d in the shell that starts it, or /etc/security/limits.conf", k.shell, more)
}

// containerRuntime is what runs a container.
type containerRuntime string

const (
	noContainer    containerRuntime = ""
	docker         containerRuntime = "docker"
	podman         containerRuntime = "podman"
	kubernetes     containerRuntime = "kubernetes"
	otherContainer containerRuntime = "container"
)

// runtimeOf tells the runtime by the names it gives its cgroups.
func runtimeOf(cgroup string) containerRuntime {
	switch {
	case hostfs.ContainerOf(cgroup) == "":
		return noContainer
	case strings.Contains(cgroup, "kubepods"):
		return kubernetes
	case strings.Contains(cgroup, "libpod"):
		return podman
	case strings.Contains(cgroup, "docker"):
		return docker
	}
	return otherContainer
}

// properties are how the managers of cgroups call a limit.
var properties = map[string]struct{ systemd, container, kubernetes, v1, unit string }{
	"memory.max":                  {"MemoryMax", "--memory", "memory", "memory.limit_in_bytes", ""},
	"memory.high":                 {"MemoryHigh", "", "", "", ""},
	"memory.swap.max":             {"MemorySwapMax", "--memory-swap", "", "", ""},
	"memory.memsw.limit_in_bytes": {"", "--memory-swap", "", "memory.memsw.limit_in_bytes", ""},
	"pids.max":                    {"TasksMax", "--pids-limit", "", "pids.max", ""},
	"cpuset.cpus":                 {"AllowedCPUs", "--cpuset-cpus", "", "cpuset.cpus", ""},
}

// raiseCgroup says how to raise a limit of a cgroup, by whoever manages it, to
// twice of what it is.
func raiseCgroup(f *Facts, name string, l *sample.CgroupLevel, limit uint64) string {
	p := properties[name]
	value := fmt.Sprint(limit * 2)
	if name == "cpuset.cpus" {
		value = "0-N"
	}
	base := path.Base(l.Path)
	own := hostfs.ContainerOf(base) != ""
	switch runtime := runtimeOf(l.Path); {
	case runtime == kubernetes && p.kubernetes != "":
		return "resources.limits." + p.kubernetes + " in the pod's spec"
	case own && (runtime == docker || runtime == podman) && p.container != "":
		return fmt.Sprintf("%s update %s=%s %.12s", runtime, p.container, value, hostfs.ContainerOf(base))
	case own && runtime == otherContainer && p.container != "":
		return fmt.Sprintf("%s of container %.12s", p.container, hostfs.ContainerOf(base))
	case isSystemd(base) && p.systemd != "":
		return fmt.Sprintf("systemctl set-property %s %s=%s", shellQuote(base), p.systemd, value)
	}
	file := name
	if l.Version == 1 {
		file = p.v1
	}
	return fmt.Sprintf("echo %s > %s", value, shellQuote(path.Join(l.Dir, file)))
}

// isSystemd reports whether systemd manages a cgroup of that name.
func isSystemd(name string) bool {
	switch path.Ext(name) {
	case ".service", ".scope", ".slice":
		return true
	}
	return false
}

// raiseCPU is raiseCgroup for the one limit that is written as two numbers.
func raiseCPU(_ *Facts, l *sample.CgroupLevel, cores float64) string {
	more := cores * 2
	base := path.Base(l.Path)
	own := hostfs.ContainerOf(base) != ""
	switch runtime := runtimeOf(l.Path); {
	case runtime == kubernetes:
		return "resources.limits.cpu in the pod's spec"
	case own && (runtime == docker || runtime == podman):
		return fmt.Sprintf("%s update --cpus=%g %.12s", runtime, more, hostfs.ContainerOf(base))
	case isSystemd(base):
		return fmt.Sprintf("systemctl set-property %s CPUQuota=%.0f%%", shellQuote(base), more*100)
	case l.Version == 1:
		return fmt.Sprintf("echo -1 > %s", shellQuote(path.Join(l.Dir, "cpu.cfs_quota_us")))
	}
	return fmt.Sprintf("echo max > %s", shellQuote(path.Join(l.Dir, "cpu.max")))
}

// sysctl says how to raise a kernel-wide limit, to twice of what it is.
func sysctl(name string, limit uint64) string {
	if limit >= unlimited/2 {
		return ""
	}
	return fmt.Sprintf("sysctl -w %s=%d (to keep: the same in /etc/sysctl.d/)", name, limit*2)
}

// shellQuote makes one word of s for a shell, if it is not one.
func shellQuote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-@:+=,", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
