package server

import (
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/procfs"

	"rmagent/internal/aggregate"
	"rmagent/record"
)

// cpuMeter says how busy each CPU was between two questions: nobody reads that at
// every tick. The first question has no answer.
type cpuMeter struct {
	mu     sync.Mutex
	at     time.Time
	before map[int64]procfs.CPUStat
	last   []CPU
}

// CPU is one CPU of the host.
type CPU struct {
	Number       int64 `json:"number"`
	BusyRatio    num   `json:"busy_ratio"`    // since the last question, between a second and a minute ago; null where there was none
	FrequencyMHz num   `json:"frequency_mhz"` // as /proc/cpuinfo says
}

// oldest is the age of a reading from which on it says nothing of now.
const oldest = time.Minute

func (m *cpuMeter) read(now time.Time) []CPU {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now.Sub(m.at) < time.Second {
		return m.last
	}
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return nil
	}
	stat, err := fs.Stat()
	if err != nil {
		return nil
	}
	frequency := map[int64]float64{}
	if infos, err := fs.CPUInfo(); err == nil {
		for i := range infos {
			frequency[int64(infos[i].Processor)] = infos[i].CPUMHz
		}
	}
	recent := now.Sub(m.at) < oldest
	list := make([]CPU, 0, len(stat.CPU))
	for n, after := range stat.CPU {
		c := CPU{Number: n}
		if mhz := frequency[n]; mhz > 0 {
			c.FrequencyMHz = record.Some(mhz)
		}
		if before, ok := m.before[n]; ok && recent {
			c.BusyRatio = busyRatio(&before, &after)
		}
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b CPU) int { return int(a.Number - b.Number) })
	m.at, m.before, m.last = now, stat.CPU, list
	return list
}

// busyRatio is the share that was neither idle nor waiting for I/O. Guests' time is in
// that of their hosts (proc(5)).
func busyRatio(before, after *procfs.CPUStat) num {
	idle := after.Idle + after.Iowait - before.Idle - before.Iowait
	busy := 0.0
	for _, d := range [...]float64{
		after.User - before.User, after.Nice - before.Nice, after.System - before.System,
		after.IRQ - before.IRQ, after.SoftIRQ - before.SoftIRQ, after.Steal - before.Steal,
	} {
		busy += max(d, 0)
	}
	if all := busy + max(idle, 0); all > 0 {
		return record.Some(aggregate.Round(busy / all))
	}
	return num{}
}

// deviceName writes a device as /proc/self/mountinfo does.
func deviceName(major, minor uint32) string {
	return strconv.FormatUint(uint64(major), 10) + ":" + strconv.FormatUint(uint64(minor), 10)
}
