package server

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/procfs"
	"github.com/prometheus/procfs/blockdevice"

	"rmagent/internal/engine"
	"rmagent/internal/policy"
	"rmagent/record"
)

// Usage is what /v1/usage/{resource} answers.
type Usage struct {
	Resource    string             `json:"resource"`
	Path        record.Opt[string] `json:"path"`        // of disk
	Utilization num                `json:"utilization"` // 0 to 1
	Total       num                `json:"total"`       // in unit
	Available   num                `json:"available"`
	Unit        string             `json:"unit"`
	State       record.Opt[string] `json:"state"` // null where nothing judges the resource
	Details     any                `json:"details"`
	Timestamp   float64            `json:"timestamp"`
}

// usages are the resources that /v1/usage knows.
var usages = map[string]func(s *Server, v *engine.View, path string) (Usage, error){
	"cpu": cpuUsage, "memory": memoryUsage, "disk": diskUsage, "gpu": gpuUsage, "network": networkUsage, "fd": fdUsage,
}

func usageNames() string {
	var names []string
	for name := range usages {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

func (s *Server) usage(w http.ResponseWriter, r *http.Request) error {
	resource := r.PathValue("resource")
	of := usages[resource]
	if of == nil {
		return problemf(http.StatusNotFound, "There is no resource %q; there are %s.", record.Text([]byte(resource)), usageNames())
	}
	path := r.URL.Query().Get("path")
	if path != "" && resource != "disk" {
		return problemf(http.StatusBadRequest, "Only disk has a path.")
	}
	v, err := s.detailed(r.Context())
	if err != nil {
		return err
	}
	u, err := of(s, v, path)
	if err != nil {
		return err
	}
	u.Resource, u.Timestamp = resource, stamp(v)
	return writeJSON(w, u)
}

// stateOf is the state of a target, null where the policy does not judge the resource.
func stateOf(v *engine.View, resource policy.Resource, target string) record.Opt[string] {
	for i := range v.Details.States {
		if c := &v.Details.States[i]; c.Resource == string(resource) && c.Target == target {
			return record.Some(string(c.State))
		}
	}
	return record.SomeIf(string(record.StateNormal), slices.Contains(policy.Resources, resource))
}

func cpuUsage(s *Server, v *engine.View, _ string) (Usage, error) {
	count, ok := v.Host.CPUCount.Get()
	u := Usage{Utilization: v.Host.CPURatio, Total: record.SomeIf(float64(count), ok), Unit: "cores", State: stateOf(v, "cpu", "host")}
	if used, known := u.Utilization.Get(); known && ok {
		u.Available = record.Some((1 - used) * float64(count))
	}
	u.Details = struct {
		CPUs  []CPU `json:"cpus"`
		Load1 num   `json:"load1"`
	}{s.cpus.read(time.Now()), v.Host.Load1}
	return u, nil
}

// MemoryDetails are what /proc/meminfo says beside.
type MemoryDetails struct {
	UsedBytes      record.Opt[uint64] `json:"used_bytes"`
	FreeBytes      record.Opt[uint64] `json:"free_bytes"`
	CachedBytes    record.Opt[uint64] `json:"cached_bytes"`
	BuffersBytes   record.Opt[uint64] `json:"buffers_bytes"`
	SwapTotalBytes record.Opt[uint64] `json:"swap_total_bytes"`
	SwapUsedBytes  record.Opt[uint64] `json:"swap_used_bytes"`
}

func memoryUsage(_ *Server, v *engine.View, _ string) (Usage, error) {
	h := &v.Host
	d := MemoryDetails{UsedBytes: h.MemoryUsedBytes, SwapTotalBytes: h.SwapTotalBytes, SwapUsedBytes: h.SwapUsedBytes}
	if fs, err := procfs.NewDefaultFS(); err == nil {
		if m, err := fs.Meminfo(); err == nil {
			d.FreeBytes, d.CachedBytes, d.BuffersBytes = known(m.MemFreeBytes), known(m.CachedBytes), known(m.BuffersBytes)
		}
	}
	return Usage{
		Utilization: usedShare(h.MemoryTotalBytes, h.MemoryAvailableBytes), Total: record.Float(h.MemoryTotalBytes),
		Available: record.Float(h.MemoryAvailableBytes), Unit: "bytes", State: stateOf(v, policy.Memory, "host"), Details: d,
	}, nil
}

func known(v *uint64) record.Opt[uint64] {
	if v == nil {
		return record.Opt[uint64]{}
	}
	return record.Some(*v)
}

// DiskDetails are the counters of the block device that a filesystem is on, null where
// it is on none, or on several.
type DiskDetails struct {
	ReadsTotal      record.Opt[uint64] `json:"reads_total"`
	WritesTotal     record.Opt[uint64] `json:"writes_total"`
	ReadBytesTotal  record.Opt[uint64] `json:"read_bytes_total"`
	WrittenBytes    record.Opt[uint64] `json:"written_bytes_total"`
	InodesTotal     record.Opt[uint64] `json:"inodes_total"`
	InodesAvailable record.Opt[uint64] `json:"inodes_available"`
}

func diskUsage(_ *Server, v *engine.View, path string) (Usage, error) {
	if path == "" {
		path = "/"
	}
	var paths []string
	for i := range v.Host.Filesystems {
		f := &v.Host.Filesystems[i]
		paths = append(paths, f.Path)
		if f.Path != path {
			continue
		}
		d := countersOf(path)
		d.InodesTotal, d.InodesAvailable = f.InodesTotal, f.InodesAvailable
		return Usage{
			Path: record.Some(path), Utilization: ratio(f.Space()), Total: record.Float(f.TotalBytes),
			Available: record.Float(f.AvailableBytes), Unit: "bytes", State: stateOf(v, "disk", "mount:"+path), Details: d,
		}, nil
	}
	return Usage{}, problemf(http.StatusNotFound, "No filesystem that is watched is mounted at %q; those that are: %s.", path, strings.Join(paths, ", "))
}

// sector is the unit of /proc/diskstats, whatever the disk's own is.
const sector = 512

// countersOf reads the counters of the device of a mount point. The filesystem itself
// is not touched: it may hang.
func countersOf(mount string) (d DiskDetails) {
	mounts, err := procfs.GetMounts()
	if err != nil {
		return d
	}
	device := ""
	for _, m := range mounts {
		if m.MountPoint == mount { // the last one covers those before
			device = m.MajorMinorVer
		}
	}
	fs, err := blockdevice.NewDefaultFS()
	if err != nil {
		return d
	}
	stats, err := fs.ProcDiskstats()
	if err != nil {
		return d
	}
	for i := range stats {
		s := &stats[i]
		if device == deviceName(s.MajorNumber, s.MinorNumber) {
			d.ReadsTotal, d.WritesTotal = record.Some(s.ReadIOs), record.Some(s.WriteIOs)
			d.ReadBytesTotal, d.WrittenBytes = record.Some(s.ReadSectors*sector), record.Some(s.WriteSectors*sector)
		}
	}
	return d
}

func gpuUsage(s *Server, v *engine.View, _ string) (Usage, error) {
	var u Usage
	u.Unit = "bytes"
	cards := make([]*record.GPU, len(v.GPUs))
	busiest := -1
	for i := range v.GPUs {
		g := v.GPUs[i]
		g.Host, g.BootID, g.Schema, g.Kind = s.Host, s.BootID, record.Schema, record.KindGPU
		cards[i] = &g
		if busiest < 0 || g.UtilizationRatio.Or(-1) > v.GPUs[busiest].UtilizationRatio.Or(-1) {
			busiest = i
		}
	}
	u.Details = struct {
		GPUs []*record.GPU `json:"gpus"`
	}{cards}
	if busiest >= 0 {
		g := &v.GPUs[busiest]
		u.Utilization, u.Total = g.UtilizationRatio, record.Float(g.MemoryTotalBytes)
		total, ok1 := g.MemoryTotalBytes.Get()
		used, ok2 := g.MemoryUsedBytes.Get()
		u.Available = record.SomeIf(float64(total-min(used, total)), ok1 && ok2)
		u.State = stateOf(v, policy.GPU, "gpu:"+g.UUID.Or(""))
	}
	return u, nil
}

func networkUsage(_ *Server, v *engine.View, _ string) (Usage, error) {
	h := &v.Host
	return Usage{Unit: "bytes_per_second", State: stateOf(v, "network", "host"), Details: struct {
		Received      num                `json:"received_bytes_per_second"`
		Sent          num                `json:"sent_bytes_per_second"`
		ReceivedTotal record.Opt[uint64] `json:"received_bytes_total"`
		SentTotal     record.Opt[uint64] `json:"sent_bytes_total"`
	}{h.NetReceivedBytesPerSecond, h.NetSentBytesPerSecond, h.NetReceivedBytesTotal, h.NetSentBytesTotal}}, nil
}

func fdUsage(_ *Server, v *engine.View, _ string) (Usage, error) {
	open, ok1 := v.Host.FilesOpen.Get()
	limit, ok2 := v.Host.FilesLimit.Get()
	return Usage{
		Utilization: ratio(v.Host.FilesOpen, v.Host.FilesLimit), Total: record.Float(v.Host.FilesLimit),
		Available: record.SomeIf(float64(limit-min(open, limit)), ok1 && ok2), Unit: "files",
		State: stateOf(v, policy.FD, "host"), Details: struct{}{},
	}, nil
}
