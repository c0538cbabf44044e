//go:build cgo

package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"golang.org/x/sys/unix"

	"rmagent/internal/gpu/wire"
	"rmagent/record"
)

// reader reads the cards by NVML.
type reader struct {
	lib      nvml.Interface
	open     func() error
	now      func() time.Duration // of CLOCK_MONOTONIC
	pci      string               // the directory with an entry for each card
	symbols  map[string]bool
	ready    bool
	readings int
	failing  bool   // a card failed in the last reading
	listed   string // the entries of pci when NVML was initialized
	driver   string
	version  string
	cards    map[int]*card // by index
}

// card is what is kept of one from one reading to the next.
type card struct {
	uuid, name string
	use        usage
}

func newReader(lib nvml.Interface, pci string) *reader {
	return &reader{
		lib: lib, pci: pci, open: func() error { return nil },
		now: func() time.Duration {
			var t unix.Timespec
			_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t)
			return time.Duration(t.Nano())
		},
	}
}

// renewEvery is after how many readings NVML is initialized anew where a card fails
// or another is there than before: it tells of neither by itself.
const renewEvery = 30

// read makes one reading.
func (r *reader) read() *wire.Reading {
	out := &wire.Reading{Version: wire.Version}
	r.readings++
	if r.ready && r.readings%renewEvery == 0 && (r.failing || r.entries() != r.listed) {
		r.lib.Shutdown()
		r.ready = false
	}
	if !r.ready {
		if out.Failure = r.initialize(); out.Failure != "" {
			return out
		}
	}
	out.Driver, out.Library = r.driver, r.version
	count, ret := r.lib.DeviceGetCount()
	if ret != nvml.SUCCESS {
		out.Failure = failed("nvmlDeviceGetCount", ret)
		return out
	}
	r.failing = false
	out.GPUs = make([]wire.GPU, 0, min(count, wire.MaxGPUs))
	for i := range min(count, wire.MaxGPUs) {
		out.GPUs = append(out.GPUs, r.gpu(i))
	}
	var cpu unix.Timespec
	if unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &cpu) == nil {
		out.CPUNanos = uint64(cpu.Nano())
	}
	return out
}

// initialize returns why NVML can't be used, or nothing.
func (r *reader) initialize() string {
	if err := r.open(); err != nil {
		return err.Error()
	}
	r.listed = r.entries()
	if ret := r.lib.Init(); ret != nvml.SUCCESS {
		return failed("nvmlInit", ret)
	}
	r.ready, r.symbols, r.cards = true, map[string]bool{}, map[int]*card{}
	r.driver, _ = r.lib.SystemGetDriverVersion()
	r.version, _ = r.lib.SystemGetNVMLVersion()
	return ""
}

// entries lists the cards that the driver has, as text.
func (r *reader) entries() string {
	entries, err := os.ReadDir(r.pci)
	if err != nil {
		return ""
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

// has tells whether the library has a function. To call one that it lacks would end
// this program.
func (r *reader) has(symbol string) bool {
	has, known := r.symbols[symbol]
	if !known {
		has = r.lib.Extensions().LookupSymbol(symbol) == nil
		r.symbols[symbol] = has
	}
	return has
}

// gpu reads one card.
func (r *reader) gpu(index int) wire.GPU {
	g := wire.GPU{Index: index}
	c := r.cards[index]
	if c == nil {
		c = &card{}
		r.cards[index] = c
	}
	d, ret := r.lib.DeviceGetHandleByIndex(index)
	if ret == nvml.SUCCESS {
		r.identify(c, d)
	}
	g.UUID, g.Name = c.uuid, c.name
	if ret != nvml.SUCCESS {
		g.Failure, r.failing = failed("nvmlDeviceGetHandleByIndex", ret), true
		return g
	}
	k := calls{r: r, failure: &g.Failure}
	k.value("nvmlDeviceGetUtilizationRates", &g.UtilizationPercent, func() (uint64, nvml.Return) {
		u, ret := d.GetUtilizationRates()
		return uint64(u.Gpu), ret
	})
	k.memory(d, &g.MemoryTotalBytes, &g.MemoryUsedBytes)
	k.value("nvmlDeviceGetTemperature", &g.TemperatureCelsius, func() (uint64, nvml.Return) {
		t, ret := d.GetTemperature(nvml.TEMPERATURE_GPU)
		return uint64(t), ret
	})
	k.value("nvmlDeviceGetPowerUsage", &g.PowerMilliwatts, func() (uint64, nvml.Return) {
		p, ret := d.GetPowerUsage()
		return uint64(p), ret
	})
	k.value("nvmlDeviceGetEncoderUtilization", &g.EncoderPercent, func() (uint64, nvml.Return) {
		p, _, ret := d.GetEncoderUtilization()
		return uint64(p), ret
	})
	k.value("nvmlDeviceGetDecoderUtilization", &g.DecoderPercent, func() (uint64, nvml.Return) {
		p, _, ret := d.GetDecoderUtilization()
		return uint64(p), ret
	})
	instances := k.instances(&g, d)
	k.processes(&g, d, instances, &c.use)
	return g
}

// identify reads what stays the same, until it is known. A handle of another card
// at the same index begins anew.
func (r *reader) identify(c *card, d nvml.Device) {
	if uuid, ret := d.GetUUID(); ret == nvml.SUCCESS && uuid != c.uuid {
		*c = card{uuid: uuid}
	}
	if c.name == "" {
		if name, ret := d.GetName(); ret == nvml.SUCCESS {
			c.name = name
		}
	}
}

// calls are those for one card: after one that says that the card is lost there is
// no other, each could take seconds.
type calls struct {
	r        *reader
	failure  *string // the first
	failures int
	lost     bool
}

// try tells whether a call gave a value, and notes the first that failed otherwise
// than for want of support.
func (k *calls) try(symbol string, call func() nvml.Return) bool {
	if k.lost || !k.r.has(symbol) {
		return false
	}
	ret := call()
	switch ret {
	case nvml.SUCCESS:
		return true
	case nvml.ERROR_NOT_SUPPORTED, nvml.ERROR_FUNCTION_NOT_FOUND, nvml.ERROR_NO_DATA, nvml.ERROR_NOT_FOUND,
		nvml.ERROR_DEPRECATED, nvml.ERROR_ARGUMENT_VERSION_MISMATCH:
		return false
	case nvml.ERROR_NO_PERMISSION: // no other attempt would be allowed
	case nvml.ERROR_GPU_IS_LOST, nvml.ERROR_RESET_REQUIRED, nvml.ERROR_UNINITIALIZED, nvml.ERROR_DRIVER_NOT_LOADED:
		k.lost, k.r.failing = true, true
	default:
		k.r.failing = true
	}
	k.failures++
	if *k.failure == "" {
		*k.failure = failed(symbol, ret)
	}
	return false
}

func (k *calls) value(symbol string, to *record.Opt[uint64], call func() (uint64, nvml.Return)) {
	var v uint64
	if k.try(symbol, func() (ret nvml.Return) { v, ret = call(); return ret }) {
		*to = record.Some(v)
	}
}

// memory reads total and used memory of a card or an instance. What NVML calls used
// here is all that is not free.
func (k *calls) memory(d nvml.Device, total, used *record.Opt[uint64]) {
	var m nvml.Memory
	if k.try("nvmlDeviceGetMemoryInfo", func() (ret nvml.Return) { m, ret = d.GetMemoryInfo(); return ret }) {
		*total, *used = record.Some(m.Total), record.Some(m.Used)
	}
}

// instances reads the MIG devices of a card, and returns their handles.
func (k *calls) instances(g *wire.GPU, d nvml.Device) []nvml.Device {
	mode := nvml.DEVICE_MIG_DISABLE
	if !k.try("nvmlDeviceGetMigMode", func() (ret nvml.Return) { mode, _, ret = d.GetMigMode(); return ret }) ||
		mode != nvml.DEVICE_MIG_ENABLE {
		return nil
	}
	g.MIG = true
	most := 0
	if !k.try("nvmlDeviceGetMaxMigDeviceCount", func() (ret nvml.Return) { most, ret = d.GetMaxMigDeviceCount(); return ret }) {
		return nil
	}
	var handles []nvml.Device
	for i := range min(most, wire.MaxInstances) {
		var m nvml.Device
		if !k.try("nvmlDeviceGetMigDeviceHandleByIndex", func() (ret nvml.Return) { m, ret = d.GetMigDeviceHandleByIndex(i); return ret }) {
			continue // there is none at this index
		}
		handles = append(handles, m)
		g.Instances = append(g.Instances, k.instance(m))
	}
	return handles
}

func (k *calls) instance(m nvml.Device) (in wire.Instance) {
	k.try("nvmlDeviceGetUUID", func() (ret nvml.Return) { in.UUID, ret = m.GetUUID(); return ret })
	k.try("nvmlDeviceGetName", func() (ret nvml.Return) { in.Name, ret = m.GetName(); return ret })
	k.value("nvmlDeviceGetGpuInstanceId", &in.GPUInstanceID, func() (uint64, nvml.Return) {
		id, ret := m.GetGpuInstanceId()
		return uint64(id), ret
	})
	k.value("nvmlDeviceGetComputeInstanceId", &in.ComputeInstanceID, func() (uint64, nvml.Return) {
		id, ret := m.GetComputeInstanceId()
		return uint64(id), ret
	})
	k.memory(m, &in.MemoryTotalBytes, &in.MemoryUsedBytes)
	return in
}

func failed(call string, ret nvml.Return) string { return fmt.Sprintf("%s: %s", call, ret) }
