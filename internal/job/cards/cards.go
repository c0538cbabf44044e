// Package cards tells what jobs have of the NVIDIA GPUs: from the readings of an agent's
// client, or of one of its own, which is started when it is asked for the first time and
// only where there is a driver.
package cards

import (
	"fmt"
	"log/slog"
	"time"

	"rmagent/internal/clock"
	"rmagent/internal/gpu"
	"rmagent/internal/hostfs"
	"rmagent/internal/job"
	"rmagent/internal/sample"
	"rmagent/record"
)

// every is how often the cards are read for a job, as by an agent.
const every = time.Second

// patience is from which age a reading says nothing of now.
const patience = 3 * every

// Own is a job.GPUs that reads the cards itself. Its owner calls Close. It is not safe
// for several goroutines at once.
type Own struct {
	root   string // put before where the driver is looked for; for tests
	off    bool
	absent bool
	client *gpu.Client // nil until it is needed
}

// Open finds out whether there are cards; none is read yet, and, if that is switched off,
// none ever. root is put before where the driver is looked for, for tests.
func Open(root string, off bool) *Own {
	return &Own{root: root, off: off, absent: gpu.WhyNone(root) != ""}
}

// Why says why the cards can't be read, as far as that shows before the driver is asked;
// empty: they can, or there are none.
func (o *Own) Why() string {
	switch {
	case o.absent:
		return ""
	case o.off:
		return "gpu: off"
	}
	if initial, err := hostfs.InitialPIDNamespace(""); err != nil || !initial {
		return "NVIDIA's driver names the machine's PIDs, and this is another PID namespace"
	}
	if err := gpu.Installed(); err != nil {
		return err.Error()
	}
	return ""
}

// Use tells what processes have of the cards.
func (o *Own) Use(processes []sample.JobProcess) job.GPUUse {
	switch {
	case o.absent:
		return none()
	case o.off:
		return job.GPUUse{Told: true, Why: o.Why()}
	}
	if o.client == nil {
		initial, err := hostfs.InitialPIDNamespace("")
		o.client = gpu.Open(gpu.Options{Root: o.root, Processes: err == nil && initial, Log: slog.New(slog.DiscardHandler)})
	}
	return use(o.client, processes)
}

// Owns tells whether a child of this process is the one that reads the cards.
func (o *Own) Owns(pid int32) bool { return o.client != nil && o.client.Owns(pid) }

// Close ends the child that reads the cards.
func (o *Own) Close() error {
	if o.client == nil {
		return nil
	}
	return o.client.Close()
}

// Agents is a job.GPUs of the readings that an agent takes anyway, or takes for it where
// those are rarer. It may be used by several goroutines.
type Agents struct{ Client *gpu.Client }

// Use tells what processes have of the cards.
func (a Agents) Use(processes []sample.JobProcess) job.GPUUse { return use(a.Client, processes) }

func use(c *gpu.Client, processes []sample.JobProcess) job.GPUUse {
	latest, status := c.Latest()
	if status.State == gpu.Absent {
		return none()
	}
	age := clock.Monotonic()
	if latest != nil {
		age -= latest.Monotonic
	}
	if age >= every { // it is asked once, however often this is said before it answers
		c.Poll()
	}
	if latest != nil && age >= patience && status.State == gpu.Reading {
		return job.GPUUse{Told: true, Why: fmt.Sprintf("the GPUs were read last %.0f s ago: the driver does not answer", age.Seconds())}
	}
	u := job.UseOf(latest, processes)
	if u.Why != "" && status.State == gpu.Failing {
		u.Why = "the GPUs can't be read: " + status.Why
	}
	return u
}

// none is the use of cards that there are not.
func none() job.GPUUse {
	return job.GPUUse{Told: true, Absent: true, Cards: record.Some[uint64](0), MemoryBytes: record.Some[uint64](0)}
}
