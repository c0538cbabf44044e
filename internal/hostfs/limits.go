package hostfs

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"rmagent/internal/hostfs/kfile"
	"rmagent/internal/sample"
)

// LimitReader reads which limits the cgroups of a process set, and all cgroups
// above them: of version 1, of version 2, or of both (hybrid). Each controller is
// looked up in the hierarchy that the process's own /proc/PID/cgroup names for
// it, so the paths may differ.
//
// What it has read it keeps until [LimitReader.Refresh], so that many processes
// cost as much as the cgroups they share.
type LimitReader struct {
	cgroupMounts
	// namespaced: the reader's cgroup namespace is not the initial one, so there
	// may be cgroups above its root.
	namespaced bool

	memory1 map[string]*sample.MemoryLevel // by path; nil: the controller is not enabled there
	pids1   map[string]*sample.PIDsLevel
	cpu1    map[string]*sample.CPULevel
	cpuset1 map[string]*sample.CPUSetLevel
	buf     []byte
}

// initialCgroupNamespace is the inode of the initial cgroup namespace on every
// Linux (PROC_CGROUP_INIT_INO in include/linux/proc_ns.h).
const initialCgroupNamespace = "cgroup:[4026531835]"

// OpenLimits finds the hierarchies. A host without cgroups has no limits of
// theirs, which is no error.
func OpenLimits(o Options) (*LimitReader, error) {
	r := &LimitReader{buf: make([]byte, 16<<10)}
	mountinfo, errno := kfile.Read(unix.AT_FDCWD, kfile.MakeName(o.Root+"/proc/self/mountinfo"), kfile.Records, &r.buf)
	if errno != 0 {
		return nil, fmt.Errorf("read mounts: %w", errno)
	}
	r.cgroupMounts = openCgroupMounts(o.Root, mountinfo)
	ns, err := os.Readlink(o.Root + "/proc/self/ns/cgroup")
	r.namespaced = err == nil && ns != initialCgroupNamespace
	r.Refresh()
	return r, nil
}

// Close closes the hierarchies.
func (r *LimitReader) Close() error {
	r.cgroupMounts.close()
	return nil
}

// Refresh forgets what was read.
func (r *LimitReader) Refresh() {
	r.memory1, r.pids1 = map[string]*sample.MemoryLevel{}, map[string]*sample.PIDsLevel{}
	r.cpu1, r.cpuset1 = map[string]*sample.CPULevel{}, map[string]*sample.CPUSetLevel{}
}

// The controllers that limit.
const (
	memoryController = "memory"
	pidsController   = "pids"
	cpuController    = "cpu"
	cpusetController = "cpuset"
)

// Chain reads the chain of the process whose /proc/PID/cgroup is text.
func (r *LimitReader) Chain(text []byte) sample.CgroupChain {
	own := func(controller string) place {
		if p, ok := parseCgroup(text, controller); ok {
			return place{r.controller(controller), 1, controller, string(p)}
		}
		p, _ := parseCgroup(text, "")
		return place{&r.unified, 2, controller, string(p)}
	}
	cpuacct, _ := parseCgroup(text, "cpuacct")
	return r.chain(own, string(cpuacct))
}

// ChainAt reads the chain of the processes in the cgroup of that path, as
// [CgroupReader] names it: of version 1's hierarchies, it takes the cgroups of
// the same path.
func (r *LimitReader) ChainAt(cgroup string) sample.CgroupChain {
	return r.chain(func(controller string) place {
		if h := r.controller(controller); h.dir >= 0 {
			fd := h.open(cgroup)
			if fd < 0 {
				return place{h, 1, controller, ""}
			}
			kfile.Close(fd)
			return place{h, 1, controller, cgroup}
		}
		return place{&r.unified, 2, controller, cgroup}
	}, cgroup)
}

// place is a cgroup in the hierarchy of a controller.
type place struct {
	h          *hierarchy
	version    int
	controller string
	path       string // empty: in none
}

func (r *LimitReader) chain(own func(controller string) place, cpuacct string) (c sample.CgroupChain) {
	c.Memory = walk(r, own(memoryController), r.memory1, r.readMemory, &c.Hidden)
	if n := len(c.Hidden); n > 0 {
		r.readHierarchicalLimit(own(memoryController), &c.Hidden[n-1])
	}
	c.Memory = ownHierarchy(r, c.Memory)
	c.PIDs = walk(r, own(pidsController), r.pids1, r.readPIDs, &c.Hidden)
	cpu := own(cpuController)
	c.CPU = walk(r, cpu, r.cpu1, func(l sample.CgroupLevel, dir int) *sample.CPULevel {
		return r.readCPU(l, dir, cpuacct == cpu.path)
	}, &c.Hidden)
	c.CPUSet = walk(r, own(cpusetController), r.cpuset1, r.readCPUSet, &c.Hidden)
	return c
}

// walk reads a cgroup and all above it that can be seen, each once.
func walk[T any](r *LimitReader, p place, known map[string]*T, read func(sample.CgroupLevel, int) *T, hidden *[]sample.HiddenCgroups) (levels []T) {
	if p.path == "" {
		return nil
	}
	hide := func(at, why string) {
		*hidden = append(*hidden, sample.HiddenCgroups{Controller: p.controller, Path: at, Why: why})
	}
	if p.h.dir < 0 {
		if p.path != "/" || r.namespaced {
			hide(p.path, "its cgroup hierarchy is not mounted")
		}
		return nil
	}
	if _, ok := p.h.below(p.path); !ok {
		hide(p.path, "it is outside of what the mount at "+p.h.point+" shows")
		return nil
	}
	whole := p.h.root == "/" && !r.namespaced // the mount shows everything
	at := p.path
	for {
		if at == "/" && whole {
			break // the root has no limits
		}
		level, ok := known[at]
		if !ok {
			dir := p.h.open(at)
			if dir < 0 {
				hide(at, "the cgroup was removed, or may not be read")
				return levels
			}
			level = read(sample.CgroupLevel{Path: at, Dir: p.h.file(at), Version: p.version}, dir)
			kfile.Close(dir)
			known[at] = level
		}
		if level != nil {
			levels = append(levels, *level)
		}
		up, ok := p.h.parent(at)
		if !ok {
			break
		}
		at = up
	}
	if !whole {
		hide(at, "what is above it can't be seen from this cgroup namespace")
	}
	return levels
}

// parent returns the path of the cgroup above, if the mount shows it.
func (h *hierarchy) parent(at string) (string, bool) {
	if at == "/" {
		return "", false
	}
	up := path.Dir(at)
	_, ok := h.below(up)
	return up, ok
}

// file returns the path of a cgroup's directory.
func (h *hierarchy) file(at string) string {
	rest, _ := h.below(at)
	return path.Join(h.point, rest)
}

func (r *LimitReader) text(dir int, name kfile.Name) []byte {
	b, errno := kfile.Read(dir, name, kfile.Whole, &r.buf)
	if errno != 0 {
		return nil
	}
	return b
}

// gone reports whether the cgroup of an open directory was removed.
func gone(dir int) bool {
	var st unix.Stat_t
	return kfile.Stat(dir, procsName, &st) != 0
}

var (
	memoryHigh     = kfile.MakeName("memory.high")
	memorySwapMax  = kfile.MakeName("memory.swap.max")
	memoryOOMGroup = kfile.MakeName("memory.oom.group")
	memswUsage     = kfile.MakeName("memory.memsw.usage_in_bytes")
	memswLimit     = kfile.MakeName("memory.memsw.limit_in_bytes")
	useHierarchy   = kfile.MakeName("memory.use_hierarchy")
)

// readMemory reads a cgroup's memory controller; nil where it has none, as the
// root of version 2.
func (r *LimitReader) readMemory(l sample.CgroupLevel, dir int) *sample.MemoryLevel {
	m := &sample.MemoryLevel{CgroupLevel: l}
	if l.Version == 1 {
		m.Max = parseLimit(r.text(dir, memoryLimit))
		m.UsageBytes = parseNumber(r.text(dir, memoryUsage))
		m.ReclaimableBytes = sumKeyed(r.text(dir, memoryStat), "total_inactive_file", "total_active_file")
		m.SwapMax = parseLimit(r.text(dir, memswLimit))
		m.SwapBytes = parseNumber(r.text(dir, memswUsage))
		m.OOMOff = parseKeyed(r.text(dir, oomControl), "oom_kill_disable").Or(0) == 1
	} else {
		m.Max = parseLimit(r.text(dir, memoryMax))
		m.High = parseLimit(r.text(dir, memoryHigh))
		m.UsageBytes = parseNumber(r.text(dir, memoryCurrent))
		m.ReclaimableBytes = sumKeyed(r.text(dir, memoryStat), "inactive_file", "active_file", "slab_reclaimable")
		m.SwapMax = parseLimit(r.text(dir, memorySwapMax))
		m.SwapBytes = parseNumber(r.text(dir, memorySwap))
		m.OOMGroup = parseNumber(r.text(dir, memoryOOMGroup)).Or(0) == 1
	}
	if m.Gone = gone(dir); !m.Gone && !m.Max.Value.Known() {
		return nil
	}
	return m
}

// ownHierarchy cuts a chain of version 1 where a cgroup does not count what is
// below it (memory.use_hierarchy 0, possible before Linux 5.11).
func ownHierarchy(r *LimitReader, levels []sample.MemoryLevel) []sample.MemoryLevel {
	for i := 1; i < len(levels); i++ {
		if levels[i].Version != 1 {
			return levels
		}
		dir := r.memory.open(levels[i].Path)
		if dir < 0 {
			continue
		}
		counts := parseNumber(r.text(dir, useHierarchy)).Or(1) == 1
		kfile.Close(dir)
		if !counts {
			return levels[:i]
		}
	}
	return levels
}

// readHierarchicalLimit asks version 1 for the least limit of a cgroup and all
// above it: the kernel knows those that can't be seen.
func (r *LimitReader) readHierarchicalLimit(p place, hidden *sample.HiddenCgroups) {
	if p.version != 1 || hidden.Controller != memoryController || p.h.dir < 0 {
		return
	}
	dir := p.h.open(p.path)
	if dir < 0 {
		return
	}
	defer kfile.Close(dir)
	v, ok := parseKeyed(r.text(dir, memoryStat), "hierarchical_memory_limit").Get()
	if v >= unlimitedV1 {
		v = sample.Unlimited
	}
	hidden.MemoryMax = sample.Limit{Value: someIf(v, ok)}
}

func (r *LimitReader) readPIDs(l sample.CgroupLevel, dir int) *sample.PIDsLevel {
	p := &sample.PIDsLevel{CgroupLevel: l, Max: parseLimit(r.text(dir, pidsMax)), Tasks: parseNumber(r.text(dir, pidsCurrent))}
	if p.Gone = gone(dir); !p.Gone && !p.Max.Value.Known() {
		return nil
	}
	return p
}

// readCPU reads a cgroup's CPU quota. Version 1 counts CPU time in a hierarchy of
// its own, which says something only where the process has the same path there.
func (r *LimitReader) readCPU(l sample.CgroupLevel, dir int, samePath bool) *sample.CPULevel {
	c := &sample.CPULevel{CgroupLevel: l}
	if l.Version == 1 {
		c.LimitCores = r.quotaV1(dir)
		c.ThrottledNanos = parseKeyed(r.text(dir, cpuStat), "throttled_time")
		if acct := r.cpuacct.open(l.Path); acct >= 0 {
			if samePath {
				c.CPUNanos = parseNumber(r.text(acct, cpuacctUsage))
			}
			kfile.Close(acct)
		}
	} else {
		c.LimitCores = parseQuota(r.text(dir, cpuMax))
		b := r.text(dir, cpuStat)
		c.CPUNanos = microseconds(parseKeyed(b, "usage_usec"))
		c.ThrottledNanos = microseconds(parseKeyed(b, "throttled_usec"))
	}
	if c.Gone = gone(dir); !c.Gone && !c.LimitCores.Known() {
		return nil
	}
	return c
}

func (r *LimitReader) quotaV1(dir int) sample.Opt[float64] {
	b := r.text(dir, cfsQuota)
	if word, _ := kfile.Word(b); string(word) == "-1" {
		return some(math.Inf(1))
	}
	quota, ok := parseNumber(b).Get()
	period, okPeriod := parseNumber(r.text(dir, cfsPeriod)).Get()
	return cores(quota, period, ok && okPeriod)
}

// parseQuota reads cpu.max like parseCPUMax, but tells no quota from an unknown
// one.
func parseQuota(b []byte) sample.Opt[float64] {
	if word, _ := kfile.Word(b); string(word) == "max" {
		return some(math.Inf(1))
	}
	return parseCPUMax(b)
}

var (
	effectiveV1 = kfile.MakeName("cpuset.effective_cpus")
	effectiveV2 = kfile.MakeName("cpuset.cpus.effective")
)

func (r *LimitReader) readCPUSet(l sample.CgroupLevel, dir int) *sample.CPUSetLevel {
	name := effectiveV2
	if l.Version == 1 {
		name = effectiveV1
	}
	c := &sample.CPUSetLevel{CgroupLevel: l, CPUs: countList(r.text(dir, name))}
	if c.Gone = gone(dir); !c.Gone && !c.CPUs.Known() {
		return nil
	}
	return c
}

// sumKeyed sums the numbers of the lines "key number" of keys; unknown if one is
// missing.
func sumKeyed(b []byte, keys ...string) sample.Opt[uint64] {
	var sum uint64
	for _, key := range keys {
		v, ok := parseKeyed(b, key).Get()
		if !ok || sum+v < sum {
			return sample.Opt[uint64]{}
		}
		sum += v
	}
	return some(sum)
}

// countList counts a list of numbers and ranges, such as 0-3,8 (cpuset(7)); one
// that is empty or malformed is unknown.
func countList(b []byte) sample.Opt[uint64] {
	var n uint64
	b = bytes.TrimSpace(b)
	for part := range bytes.SplitSeq(b, []byte{','}) {
		first, last, isRange := bytes.Cut(part, []byte{'-'})
		from, ok := kfile.Uint(first)
		to, okTo := from, true
		if isRange {
			to, okTo = kfile.Uint(last)
		}
		if !ok || !okTo || to < from || to >= 1<<20 {
			return sample.Opt[uint64]{}
		}
		n += to - from + 1
	}
	return some(n)
}

// ContainerOf returns the id of the innermost container of a cgroup path, and
// UnitOf the innermost systemd service or scope; both may be empty.
func ContainerOf(cgroup string) string { return containerOf(cgroup) }

// UnitOf returns the innermost systemd service or scope of a cgroup path.
func UnitOf(cgroup string) string { return unitOf(cgroup) }

// CgroupOf returns the path by which [CgroupReader] would name a process's cgroup,
// from its /proc/PID/cgroup: that of version 1's memory controller, or else of
// its pids controller, or version 2's.
func CgroupOf(text []byte) string {
	for _, controller := range []string{memoryController, pidsController, ""} {
		if p, ok := parseCgroup(text, controller); ok {
			return strings.TrimSuffix(string(p), deleted)
		}
	}
	return ""
}
