package loader

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"rmagent/internal/sample"
)

// maxExactCPUs is up to how many possible CPUs every scan adds each CPU's share of
// every process's RSS; beyond, only readings of chosen processes do. A share costs
// 2 ns where it is in the cache (BenchmarkCPUs: 180 ns a process become 300 with 64
// CPUs), but on a large machine it is in another CPU's.
const maxExactCPUs = 64

// PROC_PID_INIT_INO and PROC_USER_INIT_INO (include/linux/proc_ns.h).
const (
	initialPIDNamespace  = 0xEFFFFFFC
	initialUserNamespace = 0xEFFFFFFD
)

// Where cgroup ids come from: CGROUP_* of bpf/scan_body.h.
const (
	cgroupV2 = iota
	cgroupMemory
	cgroupPIDs
)

// environment is what the programs must be told about this machine.
type environment struct {
	cpus       int  // possible
	nested     bool // in another than the initial PID namespace
	cgroupFrom uint32
	// What the time namespace adds to CLOCK_BOOTTIME and CLOCK_MONOTONIC: programs read both
	// without that.
	bootOffset, monotonicOffset time.Duration
	btf                         *btf.Cache // the kernel's types, decoded once for all programs; garbage after loading
}

func readEnvironment() (*environment, error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count the possible CPUs: %w", err)
	}
	env := &environment{cpus: cpus, btf: btf.NewCache()}
	if env.nested, err = inOwnNamespace(); err != nil {
		return nil, err
	}
	controllers, err := os.ReadFile("/proc/cgroups")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read the cgroup controllers: %w", err)
	}
	env.cgroupFrom = cgroupSource(string(controllers))
	offsets, err := os.ReadFile("/proc/self/timens_offsets") // time_namespaces(7); since 5.6
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read the time namespace's offsets: %w", err)
	}
	env.bootOffset, env.monotonicOffset = clockOffset(string(offsets), "boottime"), clockOffset(string(offsets), "monotonic")
	return env, nil
}

// clockOffset is what the time namespace adds to a clock.
func clockOffset(offsets, clock string) time.Duration {
	for line := range strings.Lines(offsets) {
		var seconds, nanos int64
		if n, _ := fmt.Sscanf(line, clock+" %d %d", &seconds, &nanos); n == 2 {
			return time.Duration(seconds)*time.Second + time.Duration(nanos)
		}
	}
	return 0
}

// inOwnNamespace reports whether this process's PID namespace is not the initial one.
func inOwnNamespace() (bool, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/pid", &st); err != nil {
		return false, fmt.Errorf("find the PID namespace: %w", err)
	}
	return st.Ino != initialPIDNamespace, nil
}

// cgroupSource says which hierarchy tells cgroups apart, from /proc/cgroups: the
// memory or the pids controller's where it is attached to a v1 hierarchy, whose
// number is not 0, else v2.
func cgroupSource(controllers string) uint32 {
	from := map[string]uint32{"memory": cgroupMemory, "pids": cgroupPIDs}
	found := uint32(cgroupV2)
	for line := range strings.Lines(controllers) {
		f := strings.Fields(line)
		if len(f) < 4 || f[1] == "0" {
			continue
		}
		source, ok := from[f[0]]
		if ok && (found == cgroupV2 || source == cgroupMemory) {
			found = source
		}
	}
	return found
}

// options shares what was decoded of the kernel's types.
func (env *environment) options() *ebpf.CollectionOptions {
	return &ebpf.CollectionOptions{Cache: env.btf}
}

// configure tells a program about this machine.
func (env *environment) configure(spec *ebpf.CollectionSpec) error {
	for name, value := range map[string]uint32{
		"nr_cpus":     uint32(env.cpus),
		"cgroup_from": env.cgroupFrom,
	} {
		v, ok := spec.Variables[name]
		if !ok {
			continue // the compiler dropped what this program has no use for
		}
		if err := v.Set(value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

// capabilities says what a scan knows here.
func (env *environment) capabilities(events *Events) (c sample.Capabilities) {
	for f := range sample.NumFields {
		c[f].Level = sample.Exact
	}
	set := func(level sample.Level, why string, fields ...sample.Field) {
		for _, f := range fields {
			c[f] = sample.Capability{Level: level, Why: why}
		}
	}
	counted := func(hook string, fields ...sample.Field) {
		if events != nil && events.Attached(hook) {
			set(sample.Approximate, "counted since the "+hook+" hook was attached", fields...)
		} else {
			set(sample.Absent, "only events tell, and the "+hook+" hook is not attached", fields...)
		}
	}
	counted("net", sample.NetReceived, sample.NetSent)
	counted("fds", sample.FDOpened, sample.FDClosed)
	set(sample.Approximate, "the kernel samples the split of the exact total by the tick", sample.CPUUser, sample.CPUSystem)
	set(sample.Approximate, "the kernel keeps no run delay of threads that ended", sample.RunDelay)
	if !env.hasMember("sched_info", "run_delay") {
		set(sample.Absent, "the kernel is built without CONFIG_SCHED_INFO", sample.RunDelay)
	}
	if !env.hasMember("task_io_accounting", "rchar") {
		set(sample.Absent, "the kernel is built without CONFIG_TASK_XACCT", sample.IORead, sample.IOWritten)
	}
	if !env.hasMember("task_io_accounting", "read_bytes") {
		set(sample.Absent, "the kernel is built without CONFIG_TASK_IO_ACCOUNTING", sample.DiskRead, sample.DiskWritten)
	}
	rss := []sample.Field{sample.RSSAnon, sample.RSSFile, sample.RSSShmem, sample.RSSPeak, sample.Swap}
	if env.percpuRSS() && env.cpus > maxExactCPUs {
		set(sample.Approximate, fmt.Sprintf("exact where chosen processes are read; of all, each of %d CPUs may hold up to %d pages of a kind back",
			env.cpus, rssBatch(env.cpus)), rss...)
	}
	return c
}

// rssBatch is how many pages a CPU may hold back (lib/percpu_counter.c,
// compute_batch_value).
func rssBatch(cpus int) int { return max(32, 2*cpus) }

// percpuRSS tells whether the kernel counts RSS per CPU (6.2: f1a7941243c1).
func (env *environment) percpuRSS() bool {
	return env.hasMember("percpu_counter", "counters") && !env.hasMember("mm_rss_stat", "count")
}

// hasMember looks a field up in the kernel's BTF.
func (env *environment) hasMember(structName, member string) bool {
	spec, err := env.btf.Kernel()
	if err != nil {
		return false
	}
	var s *btf.Struct
	if err := spec.TypeByName(structName, &s); err != nil {
		return false
	}
	for _, m := range s.Members {
		if m.Name == member {
			return true
		}
	}
	return false
}

// Where the kernel tells its types, and its lockdown.
const (
	kernelBTF    = "/sys/kernel/btf/vmlinux"
	lockdownFile = "/sys/kernel/security/lockdown"
)

// Capabilities of a process (include/uapi/linux/capability.h).
const (
	capSysAdmin = 21
	capPerfmon  = 38
	capBPF      = 39
)

// checkPrivileges names what is missing before the kernel answers with a bare
// EPERM, which says nothing.
func checkPrivileges() error {
	if _, err := os.Stat(kernelBTF); err != nil {
		return &UnsupportedError{Missing: "the kernel tells no types (CONFIG_DEBUG_INFO_BTF)", Err: err}
	}
	var user unix.Stat_t
	if unix.Stat("/proc/self/ns/user", &user) == nil && user.Ino != initialUserNamespace {
		return &UnsupportedError{Missing: "this is a user namespace of its own, as a rootless container's: bpf(2) takes capabilities of the initial one only"}
	}
	effective, err := effectiveCapabilities()
	if err != nil {
		return err
	}
	has := func(c int) bool { return effective>>c&1 != 0 }
	if has(capSysAdmin) {
		return nil
	}
	var missing []string
	if !has(capBPF) {
		missing = append(missing, "CAP_BPF")
	}
	if !has(capPerfmon) {
		missing = append(missing, "CAP_PERFMON")
	}
	if len(missing) > 0 {
		return &UnsupportedError{Missing: strings.Join(missing, " and ") + " (or CAP_SYS_ADMIN) is missing: run as root"}
	}
	return nil
}

func effectiveCapabilities() (uint64, error) {
	f, err := os.Open("/proc/thread-self/status") // they are a thread's own: capabilities(7)
	if err != nil {
		return 0, fmt.Errorf("read the own capabilities: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), "CapEff:"); ok {
			return strconv.ParseUint(strings.TrimSpace(text), 16, 64)
		}
	}
	return 0, errors.New("read the own capabilities: /proc/thread-self/status has no CapEff")
}

// refused says what a refused load means. The kernel answers EPERM for several
// reasons and logs none; cilium/ebpf then guesses at RLIMIT_MEMLOCK.
func refused(err error) error {
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	if probeLockdown() != nil {
		return &UnsupportedError{Missing: "kernel lockdown is in confidentiality mode, which forbids BPF to read kernel memory", Err: unix.EPERM}
	}
	return &UnsupportedError{Missing: "the kernel refused bpf(2) although the capabilities are there: a security module or seccomp forbids it", Err: unix.EPERM}
}
