package policy

import (
	"cmp"

	"rmagent/internal/aggregate"
	"rmagent/internal/sample"
	"rmagent/record"
)

// measure is one thing that is measured of a target.
type measure uint8

const (
	mCPU measure = iota
	mMemory
	mFD
	mDisk
	mInodes
	mNetwork
	mGPU
	mGPUMemory
	mPIDs
	mPressureCPU
	mPressureMemory
	mPressureIO
	mTransfer // what a tracked process reads from and writes to disks
)

// measures says of each measure: what records call it, which thresholds it has, in
// which unit it is, and whether it is a stock, which is full when it reaches its
// limit; the others are rates, which can't be foretold.
var measures = [...]struct {
	name  string
	group Resource
	unit  string
	stock bool
}{
	mCPU:            {"cpu", CPU, "percent", false},
	mMemory:         {"memory", Memory, "bytes", true},
	mFD:             {"fd", FD, "files", true},
	mDisk:           {"disk", Disk, "bytes", true},
	mInodes:         {"disk_inodes", Disk, "inodes", true},
	mNetwork:        {"network", Network, "bytes_per_second", false},
	mGPU:            {"gpu", GPU, "percent", false},
	mGPUMemory:      {"gpu_memory", GPUMemory, "bytes", true},
	mPIDs:           {"pids", PIDs, "threads", true},
	mPressureCPU:    {"pressure_cpu", Pressure, "percent", false},
	mPressureMemory: {"pressure_memory", Pressure, "percent", false},
	mPressureIO:     {"pressure_io", Pressure, "percent", false},
	mTransfer:       {"disk", Disk, "bytes_per_second", false},
}

// kind is what a target is.
type kind uint8

const (
	kindHost kind = iota
	kindCgroup
	kindMount
	kindGPU
	kindJob
	kindProcess
)

// target is whom something is measured of.
type target struct {
	kind kind
	name string    // of a cgroup and a mount the path, of a card the UUID, of a job its name
	id   sample.ID // of a process
}

// String is the target as records have it. The names come from records: they are
// text already.
func (t target) String() string {
	switch t.kind {
	case kindCgroup:
		return "cgroup:" + t.name
	case kindMount:
		return "mount:" + t.name
	case kindGPU:
		return "gpu:" + t.name
	case kindJob:
		return "job:" + t.name
	case kindProcess:
		return t.id.String()
	}
	return "host"
}

func compareTargets(a, b target) int {
	return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.name, b.name),
		cmp.Compare(a.id.PID, b.id.PID), cmp.Compare(a.id.StartTicks, b.id.StartTicks))
}

// gaugeKey names one gauge. Rule is 0 for what thresholds and the maxima of the host
// are for, else the place of a tracked rule, from 1.
type gaugeKey struct {
	target  target
	measure measure
	rule    int
}

func compareKeys(a, b gaugeKey) int {
	return cmp.Or(compareTargets(a.target, b.target), cmp.Compare(a.measure, b.measure), cmp.Compare(a.rule, b.rule))
}

// unitOf is the unit of a gauge's values.
func unitOf(k gaugeKey) string {
	if k.measure == mPIDs && k.target.kind == kindJob {
		return "processes"
	}
	return measures[k.measure].unit
}

// reading is one value of one target, and what it is measured against.
type reading struct {
	value, limit float64
	// ratio is value/limit, as the record has it.
	ratio     float64
	unlimited bool // there is no limit, so the ratio is 0
}

// of makes a reading of a value against a limit, false where either is unknown or
// there is none.
func of(value, limit record.Opt[uint64]) (reading, bool) {
	v, ok1 := value.Get()
	l, ok2 := limit.Get()
	if !ok1 || !ok2 || l == 0 || l == sample.Unlimited {
		return reading{}, false
	}
	return reading{value: float64(v), limit: float64(l), ratio: aggregate.Round(float64(v) / float64(l))}, true
}

// share makes a reading of a share of 1, in percent.
func share(ratio record.Opt[float64]) (reading, bool) {
	r, ok := ratio.Get()
	return reading{value: aggregate.Round(r * 100), limit: 100, ratio: r}, ok
}
