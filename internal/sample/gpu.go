package sample

import "time"

// GPUs is one reading of the NVIDIA GPUs. Nobody changes one after it is made.
type GPUs struct {
	Monotonic time.Duration // when it was asked for: its values are no older
	// ListedTicks is CLOCK_BOOTTIME in USER_HZ before it began: a PID in Processes is
	// that of a process which started before.
	ListedTicks uint64
	Devices     []GPU
}

// GPU is what one card had at one instant.
type GPU struct {
	Index int    // NVML's, which may change with a boot
	UUID  string // empty: unknown, here and below
	Name  string

	Utilization        Opt[float64] // share of the driver's sample period in which a kernel ran
	MemoryTotalBytes   Opt[uint64]
	MemoryUsedBytes    Opt[uint64] // all that is not free: what the driver keeps for itself is in it
	TemperatureCelsius Opt[float64]
	PowerWatts         Opt[float64]
	Encoder            Opt[float64] // share of the driver's sample period
	Decoder            Opt[float64]

	Instances []GPUInstance // nil where the card is not divided by MIG
	Processes []GPUProcess
	// Complete says that Processes has everyone who has a context on the card.
	Complete bool
}

// GPUInstance is a part of a card that MIG set apart: its memory is a limit of its
// own.
type GPUInstance struct {
	UUID             string
	Name             string
	GPUInstanceID    Opt[uint64]
	ComputeID        Opt[uint64] // of the compute instance; those of one GPU instance share its memory
	MemoryTotalBytes Opt[uint64]
	MemoryUsedBytes  Opt[uint64]
}

// GPUProcess is what one process has of one card, or of a part of it.
type GPUProcess struct {
	PID         int32
	MemoryBytes Opt[uint64]
	Utilization Opt[float64] // compute and graphics, since the reading before
	// GPUInstanceID is the part of a divided card that this is of; a process may have
	// several.
	GPUInstanceID Opt[uint64]
}

// Unread returns the card as one of which nothing is known but what it is.
func (g *GPU) Unread() GPU {
	u := GPU{Index: g.Index, UUID: g.UUID, Name: g.Name}
	for i := range g.Instances {
		m := &g.Instances[i]
		u.Instances = append(u.Instances, GPUInstance{UUID: m.UUID, Name: m.Name, GPUInstanceID: m.GPUInstanceID, ComputeID: m.ComputeID})
	}
	return u
}
