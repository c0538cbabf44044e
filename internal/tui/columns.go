package tui

import (
	"cmp"
	"fmt"
	"path"
	"strings"

	"rmagent/internal/human"
	"rmagent/record"
)

// column is one column of the table.
type column struct {
	key   string // that sorts by it
	title string
	width int // of the cells; 0: what is left
	wide  int // least width of the terminal that has room for it
	cell  func(*row) string
	// less tells what comes first: numbers that are large, names in their order.
	less func(a, b *row) int
	help string
}

// greatest sorts the greatest first, the unknown last.
func greatest(value func(*row) record.Opt[float64]) func(a, b *row) int {
	return func(a, b *row) int {
		x, y := value(a), value(b)
		return cmp.Or(known(x, y), cmp.Compare(y.Or(0), x.Or(0)))
	}
}

// least sorts the least first, the unknown last.
func least(value func(*row) record.Opt[float64]) func(a, b *row) int {
	return func(a, b *row) int {
		x, y := value(a), value(b)
		return cmp.Or(known(x, y), cmp.Compare(x.Or(0), y.Or(0)))
	}
}

// outright is how less says that one value is unknown: that one comes last, in either
// direction.
const outright = 2

func known(a, b record.Opt[float64]) int {
	switch {
	case a.Known() && !b.Known():
		return -outright
	case b.Known() && !a.Known():
		return outright
	}
	return 0
}

func cores(r *row) record.Opt[float64]  { return r.CPUCores }
func memory(r *row) record.Opt[float64] { return record.Float(r.RSSBytes) }
func files(r *row) record.Opt[float64]  { return record.Float(r.FDOpen) }
func used(r *row) record.Opt[float64]   { return r.FDRatio }
func disk(r *row) record.Opt[float64] {
	return sum(r.DiskReadBytesPerSecond, r.DiskWrittenBytesPerSecond)
}
func network(r *row) record.Opt[float64] {
	return sum(r.NetReceivedBytesPerSecond, r.NetSentBytesPerSecond)
}
func gpuMemory(r *row) record.Opt[float64] { return record.Float(r.GPUMemoryBytes) }
func threads(r *row) record.Opt[float64]   { return record.Float(r.Threads) }

// timeLeft is when the descriptors run out: as the leak's record says, or the
// process's own. Those that have run out grow no more, and have no time left.
func timeLeft(r *row) record.Opt[float64] {
	if r.FDRatio.Or(0) >= 1 {
		return record.Some(0.0)
	}
	if r.leak != nil && r.leak.SecondsToLimit.Known() {
		return r.leak.SecondsToLimit
	}
	return r.FDSecondsToLimit
}

// cpuTrend is the title of the column that draws CPU; the other that draws has
// descriptors.
const cpuTrend = "CPU TREND"

// columns in the order of the table. The last has what is left of the line.
var columns = []column{
	{key: "p", title: "PID", width: 7, cell: func(r *row) string { return fmt.Sprint(r.PID) },
		less: func(a, b *row) int { return cmp.Compare(a.PID, b.PID) }, help: "PID"},
	{key: "u", title: "UID", width: 6, wide: 96, cell: func(r *row) string { return uid(r) },
		less: func(a, b *row) int { return cmp.Compare(a.UID.Or(0), b.UID.Or(0)) }, help: "user"},
	{key: "c", title: "CPU%", width: 5, cell: func(r *row) string { return cpuCell(r.CPUCores) }, less: greatest(cores), help: "CPU, of one core"},
	{key: "m", title: "MEM", width: 6, wide: 46, cell: func(r *row) string { return sizeOf(r.RSSBytes) }, less: greatest(memory), help: "resident memory"},
	{key: "h", title: "THR", width: 5, wide: 90, cell: func(r *row) string { return countOf(r.Threads) }, less: greatest(threads), help: "threads"},
	{key: "f", title: "FDS", width: 6, cell: func(r *row) string { return countOf(r.FDOpen) }, less: greatest(files), help: "open descriptors"},
	{key: "o", title: "USED", width: 4, wide: 54, cell: func(r *row) string { return percentOf(r.FDRatio) }, less: greatest(used), help: "share of the limit of descriptors"},
	{key: "l", title: "FULL IN", width: 8, wide: 62, cell: leftCell, less: least(timeLeft), help: "time until descriptors run out"},
	{key: "d", title: "DISK/s", width: 6, wide: 72, cell: func(r *row) string { return rateOf(disk(r)) }, less: greatest(disk), help: "disk, read and written"},
	{key: "n", title: "NET/s", width: 6, wide: 78, cell: func(r *row) string { return rateOf(network(r)) }, less: greatest(network), help: "network, received and sent"},
	{key: "g", title: "GPUMEM", width: 6, wide: 104, cell: func(r *row) string { return sizeOf(r.GPUMemoryBytes) }, less: greatest(gpuMemory), help: "GPU memory"},
	{title: cpuTrend, width: 10, wide: 130},
	{title: "FDS TREND", width: 10, wide: 142},
	{key: "N", title: "NAME", cell: func(r *row) string { return r.name },
		less: func(a, b *row) int { return strings.Compare(a.name, b.name) }, help: "name"},
}

func uid(r *row) string {
	n, ok := r.UID.Get()
	if !ok {
		return unknown
	}
	return fmt.Sprint(n)
}

func cpuCell(o record.Opt[float64]) string {
	v, ok := o.Get()
	switch {
	case !ok:
		return unknown
	case v >= 9.995:
		return fmt.Sprintf("%.0f", v*100)
	}
	return fmt.Sprintf("%.1f", v*100)
}

func leftCell(r *row) string {
	seconds, ok := timeLeft(r).Get()
	switch {
	case !ok:
		return unknown
	case seconds == 0:
		return "now"
	}
	return left(seconds)
}

// where says which service a process belongs to.
func where(p *record.ProcessFacts) string {
	switch {
	case p.ContainerID.Known():
		id := p.ContainerID.Or("")
		return human.Text(id[:min(12, len(id))])
	case p.Unit.Known():
		return human.Text(p.Unit.Or(""))
	case p.Cgroup.Or("/") != "/":
		return human.Text(path.Base(p.Cgroup.Or("")))
	}
	return ""
}
