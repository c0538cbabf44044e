package cctools

import (
	"math"
	"strconv"
)

// Measure names one thing that a job uses, or that its summary says beside.
type Measure uint8

// The measures, in the order in which cctools writes them; those that rmagent adds
// come last.
const (
	Start    Measure = iota // since the epoch
	End                     // since the epoch
	WallTime                // End - Start
	CPUTime                 // user and system, of all processes

	// Of the tree, the most at one instant.
	Memory        // resident, what processes share counted once where it can be told
	VirtualMemory // mapped
	SwapMemory
	Disk // of the working directories, see package footprint

	BytesRead     // by read calls, cached or not
	BytesWritten  // by write calls
	BytesReceived // over IP sockets
	BytesSent
	Bandwidth // both ways, the most over a minute; see BandwidthWindow
	GPUs      // GPUs that the job's processes used
	Cores     // the most over three minutes; see CoresWindow
	CoresAvg  // CPUTime / WallTime

	MachineCPUs // online
	MachineLoad // of the last minute, the highest reading
	ContextSwitches

	MaxConcurrentProcesses // alive at once
	TotalProcesses         // that ever were
	TotalFiles             // files and directories of the working directories
	FSNodes                // inodes that the working directory's filesystem lost since the start, to whoever
	Workers                // of a Work Queue: a job has none

	OpenFiles   // descriptors open at once in the tree
	GPUMemory   // of all GPUs, at once
	MinorFaults // page faults served without a device
	MajorFaults // page faults that waited for one
	RunDelay    // that threads waited for a CPU

	NumMeasures = int(RunDelay) + 1
)

type measureInfo struct {
	name     string
	unit     string
	decimals int
	ceil     bool // rounded up where it is whole, not down
	ours     bool // cctools does not know it
}

var measures = [NumMeasures]measureInfo{
	Start:    {name: "start", unit: "s", decimals: 6},
	End:      {name: "end", unit: "s", decimals: 6},
	WallTime: {name: "wall_time", unit: "s", decimals: 6},
	CPUTime:  {name: "cpu_time", unit: "s", decimals: 6},

	Memory:        {name: "memory", unit: "MB"},
	VirtualMemory: {name: "virtual_memory", unit: "MB"},
	SwapMemory:    {name: "swap_memory", unit: "MB"},
	Disk:          {name: "disk", unit: "MB", ceil: true},

	BytesRead:     {name: "bytes_read", unit: "MB"},
	BytesWritten:  {name: "bytes_written", unit: "MB"},
	BytesReceived: {name: "bytes_received", unit: "MB"},
	BytesSent:     {name: "bytes_sent", unit: "MB"},
	Bandwidth:     {name: "bandwidth", unit: "Mbps", decimals: 3},
	GPUs:          {name: "gpus", unit: "gpus"},
	Cores:         {name: "cores", unit: "cores", decimals: 3},
	CoresAvg:      {name: "cores_avg", unit: "cores", decimals: 3},

	MachineCPUs:     {name: "machine_cpus", unit: "cores", decimals: 3},
	MachineLoad:     {name: "machine_load", unit: "procs"},
	ContextSwitches: {name: "context_switches", unit: "switches"},

	MaxConcurrentProcesses: {name: "max_concurrent_processes", unit: "procs"},
	TotalProcesses:         {name: "total_processes", unit: "procs"},
	TotalFiles:             {name: "total_files", unit: "files"},
	FSNodes:                {name: "fs_nodes", unit: "nodes"},
	Workers:                {name: "workers", unit: "workers"},

	OpenFiles:   {name: "open_files", unit: "files", ours: true},
	GPUMemory:   {name: "gpu_memory", unit: "MB", ours: true},
	MinorFaults: {name: "minor_faults", unit: "faults", ours: true},
	MajorFaults: {name: "major_faults", unit: "faults", ours: true},
	RunDelay:    {name: "run_delay", unit: "s", decimals: 6, ours: true},
}

// String returns the measure's name in files and options.
func (m Measure) String() string { return measures[m].name }

// Unit returns the unit of the measure's values.
func (m Measure) Unit() string { return measures[m].unit }

// Ours reports whether cctools does not know the measure.
func (m Measure) Ours() bool { return measures[m].ours }

// MeasureOf returns the measure of that name.
func MeasureOf(name string) (Measure, bool) {
	for i := range measures {
		if measures[i].name == name {
			return Measure(i), true
		}
	}
	return 0, false
}

// Round returns v as a summary shows it: seconds to 6 decimals, cores and Mbps to 3,
// all else whole. Whole values are cut off, but disk, which is rounded up, as
// cctools does.
func (m Measure) Round(v float64) float64 {
	info := &measures[m]
	switch {
	case info.decimals > 0:
		return roundTo(v, info.decimals)
	case info.ceil:
		return math.Ceil(v)
	}
	return math.Trunc(v)
}

func roundTo(v float64, decimals int) float64 {
	scale := math.Pow10(decimals)
	if r := math.Round(v * scale); math.Abs(r) < 1<<53 {
		return r / scale
	}
	return v
}

// Text returns v rounded, without its unit: 3.142, 302.
func (m Measure) Text(v float64) string {
	return strconv.FormatFloat(m.Round(v), 'f', measures[m].decimals, 64)
}

// TextWithUnit returns v rounded, with its unit: 302 MB.
func (m Measure) TextWithUnit(v float64) string { return m.Text(v) + " " + m.Unit() }

// BytesPerMB is cctools' MB.
const BytesPerMB = 1 << 20

// Measures is a value for each measure, or none. The zero Measures has none.
type Measures struct {
	values [NumMeasures]float64
	known  uint64
}

// Get returns a measure's value, and whether it is known.
func (m *Measures) Get(id Measure) (float64, bool) {
	return m.values[id], m.Known(id)
}

// Known reports whether there is a value.
func (m *Measures) Known(id Measure) bool { return m.known>>id&1 == 1 }

// Set gives a measure a value in its unit. Values that are no number or less than 0
// make it unknown.
func (m *Measures) Set(id Measure, v float64) {
	if !(v >= 0) || math.IsInf(v, 1) {
		m.Clear(id)
		return
	}
	m.values[id] = v
	m.known |= 1 << id
}

// SetBytes gives a measure in MB its value in bytes.
func (m *Measures) SetBytes(id Measure, n uint64) { m.Set(id, float64(n)/BytesPerMB) }

// SetCount gives a measure that counts its value.
func (m *Measures) SetCount(id Measure, n uint64) { m.Set(id, float64(n)) }

// Clear makes a measure unknown.
func (m *Measures) Clear(id Measure) {
	m.values[id] = 0
	m.known &^= 1 << id
}

// Empty reports whether nothing is known.
func (m *Measures) Empty() bool { return m.known == 0 }

// Raise takes each value of now that is higher than m's, or known where m's is not,
// and notes in peaks that it was reached at seconds since the start; 0 is no peak.
func (m *Measures) Raise(now *Measures, peaks *Measures, seconds float64) {
	for id := range Measure(NumMeasures) {
		v, ok := now.Get(id)
		if !ok {
			continue
		}
		if old, had := m.Get(id); had && old >= v {
			continue
		}
		m.Set(id, v)
		if v > 0 {
			peaks.Set(id, seconds)
		}
	}
}
