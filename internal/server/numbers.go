package server

import (
	"net/http"

	"rmagent/internal/aggregate"
	"rmagent/internal/engine"
	"rmagent/record"
)

// numberRoutes are open to whoever reaches the door: numbers of the host, no names of
// files, no command lines, no stacks.
var numberRoutes = []route{
	{method: "GET", path: "/", summary: "A page for people.", media: "text/html", handle: (*Server).page},
	{method: "GET", path: "/resources/cpu", summary: "CPU use of the host.", numbers: cpuNumbers},
	{method: "GET", path: "/resources/memory", summary: "Memory in use.", numbers: memoryNumbers},
	{method: "GET", path: "/resources/gpu", summary: "Use of the busiest GPU, memory of the fullest.", numbers: gpuNumbers},
	{method: "GET", path: "/resources/network", summary: "Bytes received and sent a second.", numbers: networkNumbers},
	{method: "GET", path: "/resources/all", summary: "All of the above.", numbers: allNumbers},
	{method: "GET", path: "/resources/disk", summary: "Bytes read and written a second, and how full the fullest filesystem is.", numbers: diskNumbers},
	{method: "GET", path: "/resources/fd", summary: "Open files of the host and their limit.", numbers: fdNumbers},
	{method: "GET", path: "/resources/prune", summary: "Whether work should be taken off this machine.", handle: (*Server).shouldPrune},
	{method: "GET", path: "/metrics", summary: "Prometheus metrics; series of processes not on the door for everybody.",
		media: "text/plain", streams: true, handle: (*Server).metrics},
	{method: "GET", path: "/healthz", summary: "Whether the agent reads the machine, and what it can't do here. 503 where it does not.", handle: (*Server).healthz},
	{method: "GET", path: "/readyz", summary: "204 once the agent has read the machine, 503 before.", handle: (*Server).readyz},
}

// PruneNumbers is what /resources/prune answers; /v1/policy has the reasons.
type PruneNumbers struct {
	ShouldPrune bool    `json:"should_prune"`
	Timestamp   float64 `json:"timestamp"`
}

func (s *Server) shouldPrune(w http.ResponseWriter, r *http.Request) error {
	v, err := s.view()
	if err != nil {
		return err
	}
	if v.Prune == nil {
		return missing(s, w, r)
	}
	return writeJSON(w, PruneNumbers{v.Prune.ShouldPrune, stamp(v)})
}

type num = record.Opt[float64]

// CPUNumbers is what /resources/cpu answers. Timestamps are Unix seconds.
type CPUNumbers struct {
	CPUPercent num     `json:"cpu_percent"`
	Timestamp  float64 `json:"timestamp"`
}

// MemoryNumbers is what /resources/memory answers. A MB is 2^20 bytes.
type MemoryNumbers struct {
	MemoryUsageMB num     `json:"memory_usage_mb"`
	Timestamp     float64 `json:"timestamp"`
}

// GPUNumbers is what /resources/gpu answers: the busiest card, and the fullest one.
type GPUNumbers struct {
	GPUPercent       num     `json:"gpu_percent"`
	GPUMemoryPercent num     `json:"gpu_memory_percent"`
	Timestamp        float64 `json:"timestamp"`
}

// NetworkNumbers is what /resources/network answers.
type NetworkNumbers struct {
	NetworkUsage num     `json:"network_usage_bytes_per_second"`
	Timestamp    float64 `json:"timestamp"`
}

// AllNumbers is what /resources/all answers.
type AllNumbers struct {
	CPUPercent       num     `json:"cpu_percent"`
	MemoryUsageMB    num     `json:"memory_usage_mb"`
	GPUPercent       num     `json:"gpu_percent"`
	GPUMemoryPercent num     `json:"gpu_memory_percent"`
	NetworkUsage     num     `json:"network_usage_bytes_per_second"`
	Timestamp        float64 `json:"timestamp"`
}

// DiskNumbers is what /resources/disk answers.
type DiskNumbers struct {
	DiskRead        num     `json:"disk_read_bytes_per_second"`
	DiskWritten     num     `json:"disk_written_bytes_per_second"`
	DiskUsedPercent num     `json:"disk_used_percent"` // of the fullest filesystem
	Timestamp       float64 `json:"timestamp"`
}

// FDNumbers is what /resources/fd answers.
type FDNumbers struct {
	FilesOpen  record.Opt[uint64] `json:"files_open"`
	FilesLimit record.Opt[uint64] `json:"files_limit"`
	FDPercent  num                `json:"fd_percent"`
	Timestamp  float64            `json:"timestamp"`
}

// numbersHandler answers with what f makes of the last view, once for all who ask.
func numbersHandler(f func(*engine.View) any) handler {
	var texts perView[[]byte]
	return func(s *Server, w http.ResponseWriter, _ *http.Request) error {
		v, err := s.view()
		if err != nil {
			return err
		}
		b, err := texts.of(v, func() ([]byte, error) { return encodeJSON(f(v)) })
		if err != nil {
			return err
		}
		return writeBytes(w, "application/json", b)
	}
}

func stamp(v *engine.View) float64 { return float64(v.Time.UnixMicro()) / 1e6 }

func cpuNumbers(v *engine.View) any { return CPUNumbers{percent(v.Host.CPURatio), stamp(v)} }

func memoryNumbers(v *engine.View) any { return MemoryNumbers{memoryMB(v), stamp(v)} }

func gpuNumbers(v *engine.View) any {
	use, memory := fullestGPU(v.GPUs)
	return GPUNumbers{use, memory, stamp(v)}
}

func networkNumbers(v *engine.View) any { return NetworkNumbers{network(v), stamp(v)} }

func allNumbers(v *engine.View) any {
	use, memory := fullestGPU(v.GPUs)
	return AllNumbers{percent(v.Host.CPURatio), memoryMB(v), use, memory, network(v), stamp(v)}
}

func diskNumbers(v *engine.View) any {
	d := DiskNumbers{DiskRead: v.Host.DiskReadBytesPerSecond, DiskWritten: v.Host.DiskWrittenBytesPerSecond, Timestamp: stamp(v)}
	for i := range v.Host.Filesystems {
		f := &v.Host.Filesystems[i]
		if share := percent(ratio(f.Space())); share.Or(-1) > d.DiskUsedPercent.Or(-1) {
			d.DiskUsedPercent = share
		}
	}
	return d
}

func fdNumbers(v *engine.View) any {
	return FDNumbers{v.Host.FilesOpen, v.Host.FilesLimit, percent(ratio(v.Host.FilesOpen, v.Host.FilesLimit)), stamp(v)}
}

func memoryMB(v *engine.View) num {
	used, ok := v.Host.MemoryUsedBytes.Get()
	return record.SomeIf(float64(used)/(1<<20), ok)
}

// network is what was received and sent together.
func network(v *engine.View) num {
	in, ok1 := v.Host.NetReceivedBytesPerSecond.Get()
	out, ok2 := v.Host.NetSentBytesPerSecond.Get()
	return record.SomeIf(in+out, ok1 && ok2)
}

// fullestGPU is the use of the busiest card and the memory of the fullest, in percent:
// seven idle cards don't hide a full one.
func fullestGPU(gpus []record.GPU) (use, memory num) {
	for i := range gpus {
		g := &gpus[i]
		if u := percent(g.UtilizationRatio); u.Or(-1) > use.Or(-1) {
			use = u
		}
		if m := percent(ratio(g.MemoryUsedBytes, g.MemoryTotalBytes)); m.Or(-1) > memory.Or(-1) {
			memory = m
		}
	}
	return use, memory
}

func percent(share num) num {
	v, ok := share.Get()
	return record.SomeIf(aggregate.Round(v*100), ok)
}

func ratio(part, whole record.Opt[uint64]) num {
	p, ok1 := part.Get()
	w, ok2 := whole.Get()
	if !ok1 || !ok2 || w == 0 {
		return num{}
	}
	return record.Some(aggregate.Round(float64(p) / float64(w)))
}

// usedShare is the share of total that is not available.
func usedShare(total, available record.Opt[uint64]) num {
	return ratio(aggregate.Used(total, available), total)
}
