//go:build cgo

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxa100"
	"github.com/google/go-cmp/cmp"

	"rmagent/internal/gpu/wire"
	"rmagent/record"
)

const unsupported = nvml.ERROR_NOT_SUPPORTED

// machine is a DGX A100 that answers every call that the reader makes.
type machine struct {
	*dgxa100.Server
	reader *reader
	clock  time.Duration
	inits  int
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{Server: dgxa100.New(), clock: time.Hour}
	m.InitFunc = func() nvml.Return { m.inits++; return nvml.SUCCESS }
	for i := range m.Devices {
		m.answer(i)
	}
	m.reader = newReader(m, t.TempDir())
	m.reader.now = func() time.Duration { return m.clock }
	return m
}

func (m *machine) card(i int) *dgxa100.Device { return m.Devices[i].(*dgxa100.Device) }

// answer makes card i have numbers that follow from i.
func (m *machine) answer(i int) {
	d, n := m.card(i), uint32(i)
	d.UUID = fmt.Sprintf("GPU-%d", i)
	d.MemoryInfo = nvml.Memory{Total: 40 << 30, Free: 30 << 30, Used: 10<<30 + uint64(i)}
	d.GetUtilizationRatesFunc = func() (nvml.Utilization, nvml.Return) {
		return nvml.Utilization{Gpu: 10 + n, Memory: 77}, nvml.SUCCESS
	}
	d.GetTemperatureFunc = func(nvml.TemperatureSensors) (uint32, nvml.Return) { return 50 + n, nvml.SUCCESS }
	d.GetPowerUsageFunc = func() (uint32, nvml.Return) { return 300_000 + n, nvml.SUCCESS }
	d.GetEncoderUtilizationFunc = func() (uint32, uint32, nvml.Return) { return 20 + n, 167_000, nvml.SUCCESS }
	d.GetDecoderUtilizationFunc = func() (uint32, uint32, nvml.Return) { return 30 + n, 167_000, nvml.SUCCESS }
	none := func() ([]nvml.ProcessInfo, nvml.Return) { return nil, nvml.SUCCESS }
	d.GetComputeRunningProcessesFunc, d.GetGraphicsRunningProcessesFunc, d.GetMPSComputeRunningProcessesFunc = none, none, none
	d.GetProcessUtilizationFunc = func(uint64) ([]nvml.ProcessUtilizationSample, nvml.Return) { return nil, nvml.ERROR_NOT_FOUND }
}

func lists(infos ...nvml.ProcessInfo) func() ([]nvml.ProcessInfo, nvml.Return) {
	return func() ([]nvml.ProcessInfo, nvml.Return) { return infos, nvml.SUCCESS }
}

func info(pid uint32, memory uint64) nvml.ProcessInfo {
	return nvml.ProcessInfo{Pid: pid, UsedGpuMemory: memory, GpuInstanceId: ^uint32(0), ComputeInstanceId: ^uint32(0)}
}

func known(v uint64) record.Opt[uint64] { return record.Some(v) }

var unknown record.Opt[uint64]

func TestEveryCardIsRead(t *testing.T) {
	m := newMachine(t)
	r := m.reader.read()
	if r.Failure != "" || r.Driver != m.DriverVersion || r.Library != m.NvmlVersion || r.Version != wire.Version || len(r.GPUs) != 8 {
		t.Fatalf("%+v", r)
	}
	for i, got := range r.GPUs {
		n := uint64(i)
		want := wire.GPU{
			Index: i, UUID: fmt.Sprintf("GPU-%d", i), Name: m.card(i).Name, UtilizationPercent: known(10 + n),
			MemoryTotalBytes: known(40 << 30), MemoryUsedBytes: known(10<<30 + n), TemperatureCelsius: known(50 + n),
			PowerMilliwatts: known(300_000 + n), EncoderPercent: known(20 + n), DecoderPercent: known(30 + n), Complete: true,
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(record.Opt[uint64]{})); diff != "" {
			t.Errorf("card %d (-want +got):\n%s", i, diff)
		}
	}
}

func TestProcesses(t *testing.T) {
	m := newMachine(t)
	d := m.card(2)
	d.GetComputeRunningProcessesFunc = lists(info(7, 100), info(8, 200), info(9, notAvailable))
	d.GetGraphicsRunningProcessesFunc = lists(info(7, 100), info(10, 5)) // 7 has both kinds of context
	d.GetMPSComputeRunningProcessesFunc = lists(info(11, 6))
	g := m.reader.read().GPUs[2]
	var got []string
	for _, p := range g.Processes {
		v, ok := p.MemoryBytes().Get()
		got = append(got, fmt.Sprintf("%d:%d:%v", p.PID(), v, ok))
	}
	want := "[7:100:true 8:200:true 9:0:false 10:5:true 11:6:true]"
	if fmt.Sprint(got) != want || !g.Complete {
		t.Errorf("%v, complete %v; want %s", got, g.Complete, want)
	}
	d.GetGraphicsRunningProcessesFunc = func() ([]nvml.ProcessInfo, nvml.Return) { return nil, unsupported }
	if g = m.reader.read().GPUs[2]; !g.Complete || len(g.Processes) != 4 {
		t.Errorf("a card without graphics: %+v", g)
	}
	for _, ret := range []nvml.Return{unsupported, nvml.ERROR_NO_PERMISSION} {
		d.GetComputeRunningProcessesFunc = func() ([]nvml.ProcessInfo, nvml.Return) { return nil, ret }
		if g = m.reader.read().GPUs[2]; g.Complete {
			t.Errorf("%v, but the list is said to be complete", ret)
		}
	}
}

func TestUtilizationOfProcesses(t *testing.T) {
	m := newMachine(t)
	d := m.card(0)
	d.GetComputeRunningProcessesFunc = lists(info(1, 0), info(2, 0), info(3, 0))
	var asked uint64
	samples, ret := []nvml.ProcessUtilizationSample{{Pid: 1, TimeStamp: 1000, SmUtil: 99}}, nvml.SUCCESS
	d.GetProcessUtilizationFunc = func(last uint64) ([]nvml.ProcessUtilizationSample, nvml.Return) {
		asked = last
		return samples, ret
	}
	read := func(after time.Duration) string {
		m.clock += after
		out := ""
		for _, p := range m.reader.read().GPUs[0].Processes {
			if v, ok := p.UtilizationPercent().Get(); ok {
				out += fmt.Sprintf("%d ", v)
			} else {
				out += "? "
			}
		}
		return out
	}
	expect := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	expect("samples of long ago", read(0), "? ? ? ")
	samples = []nvml.ProcessUtilizationSample{{Pid: 1, TimeStamp: 3000, SmUtil: 40}, {Pid: 3, TimeStamp: 2000, SmUtil: 4_000_000}}
	expect("one sample, and nonsense", read(time.Second), "40 ? ? ")
	if asked != 1000 {
		t.Errorf("asked for samples after %d, want 1000", asked)
	}
	samples, ret = nil, nvml.ERROR_NOT_FOUND
	expect("none within the period", read(time.Second/2), "40 ? ? ")
	if asked != 3000 {
		t.Errorf("asked for samples after %d, want 3000", asked)
	}
	expect("watched for more than two seconds", read(time.Second), "40 0 0 ")
	expect("none for two seconds", read(time.Second), "0 0 0 ")
	ret = unsupported
	expect("not supported", read(time.Second), "? ? ? ")
}

func TestMIG(t *testing.T) {
	m := newMachine(t)
	d := m.card(1)
	d.MigMode = nvml.DEVICE_MIG_ENABLE
	d.GetUtilizationRatesFunc = func() (nvml.Utilization, nvml.Return) { return nvml.Utilization{}, unsupported }
	d.GetMaxMigDeviceCountFunc = func() (int, nvml.Return) { return 7, nvml.SUCCESS }
	part := func(i int, pid uint32) *dgxa100.Device {
		p := dgxa100.NewDevice(0)
		p.UUID, p.Name, p.MemoryInfo = fmt.Sprintf("MIG-%d", i), "A100 MIG 1g.5gb", nvml.Memory{Total: 5 << 30, Used: uint64(i)}
		p.GetGpuInstanceIdFunc = func() (int, nvml.Return) { return 7 + i, nvml.SUCCESS }
		p.GetComputeInstanceIdFunc = func() (int, nvml.Return) { return 0, nvml.SUCCESS }
		p.GetComputeRunningProcessesFunc = lists(nvml.ProcessInfo{Pid: pid, UsedGpuMemory: 100, GpuInstanceId: noInstance})
		p.GetGraphicsRunningProcessesFunc = func() ([]nvml.ProcessInfo, nvml.Return) { return nil, unsupported }
		p.GetMPSComputeRunningProcessesFunc = p.GetGraphicsRunningProcessesFunc
		return p
	}
	parts := map[int]*dgxa100.Device{0: part(0, 41), 3: part(3, 41)} // one process, two parts
	d.GetMigDeviceHandleByIndexFunc = func(i int) (nvml.Device, nvml.Return) {
		if p := parts[i]; p != nil {
			return p, nvml.SUCCESS
		}
		return nil, nvml.ERROR_NOT_FOUND
	}
	d.GetComputeRunningProcessesFunc = func() ([]nvml.ProcessInfo, nvml.Return) { return nil, nvml.ERROR_NO_PERMISSION }
	d.GetProcessUtilizationFunc = func(uint64) ([]nvml.ProcessUtilizationSample, nvml.Return) { return nil, unsupported }
	g := m.reader.read().GPUs[1]
	want := []wire.Instance{
		{UUID: "MIG-0", Name: "A100 MIG 1g.5gb", GPUInstanceID: known(7), ComputeInstanceID: known(0), MemoryTotalBytes: known(5 << 30), MemoryUsedBytes: known(0)},
		{UUID: "MIG-3", Name: "A100 MIG 1g.5gb", GPUInstanceID: known(10), ComputeInstanceID: known(0), MemoryTotalBytes: known(5 << 30), MemoryUsedBytes: known(3)},
	}
	if diff := cmp.Diff(want, g.Instances, cmp.AllowUnexported(record.Opt[uint64]{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !g.MIG || g.Failure != "" || g.UtilizationPercent.Known() || !g.Complete || len(g.Processes) != 2 {
		t.Fatalf("%+v", g)
	}
	for i, in := range []uint64{7, 10} {
		if p := &g.Processes[i]; p.PID() != 41 || p.MemoryBytes() != known(100) || p.UtilizationPercent() != unknown || p.GPUInstanceID() != known(in) {
			t.Errorf("%v, want what it has of %d", p, in)
		}
	}
}

func TestALostCardHidesNoOther(t *testing.T) {
	m := newMachine(t)
	m.reader.read()
	calls := 0
	lost := func() (uint32, nvml.Return) { calls++; return 0, nvml.ERROR_GPU_IS_LOST }
	m.card(4).GetTemperatureFunc = func(nvml.TemperatureSensors) (uint32, nvml.Return) { return lost() }
	m.card(4).GetPowerUsageFunc = lost
	r := m.reader.read()
	g := r.GPUs[4]
	if g.UUID != "GPU-4" || g.Failure == "" || g.TemperatureCelsius.Known() || g.Complete || calls != 1 {
		t.Errorf("after %d calls: %+v", calls, g)
	}
	if r.Failure != "" || r.GPUs[5].Failure != "" || !r.GPUs[5].TemperatureCelsius.Known() {
		t.Errorf("the next card: %+v", r.GPUs[5])
	}
	handle := m.DeviceGetHandleByIndexFunc
	m.DeviceGetHandleByIndexFunc = func(i int) (nvml.Device, nvml.Return) {
		if i == 4 {
			return nil, nvml.ERROR_GPU_IS_LOST
		}
		return handle(i)
	}
	if g = m.reader.read().GPUs[4]; g.UUID != "GPU-4" || g.MemoryTotalBytes.Known() || g.Failure == "" {
		t.Errorf("without a handle: %+v", g)
	}
	if m.inits != 1 {
		t.Errorf("initialized %d times", m.inits)
	}
	m.DeviceGetHandleByIndexFunc = handle
	m.answer(4)
	m.card(4).GetPowerUsageFunc = func() (uint32, nvml.Return) { return 0, nvml.ERROR_UNKNOWN }
	for range renewEvery {
		m.reader.read()
	}
	if m.inits != 2 {
		t.Errorf("with a card that fails initialized %d times, want 2", m.inits)
	}
	if g = m.reader.read().GPUs[4]; !g.TemperatureCelsius.Known() || g.PowerMilliwatts.Known() || g.Failure == "" {
		t.Errorf("one call that fails: %+v", g)
	}
}

func TestCardsThatCome(t *testing.T) {
	m := newMachine(t)
	for range 3 * renewEvery {
		m.reader.read()
	}
	if m.inits != 1 {
		t.Errorf("initialized %d times while nothing changed", m.inits)
	}
	if err := os.WriteFile(filepath.Join(m.reader.pci, "0000:88:00.0"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for range renewEvery {
		m.reader.read()
	}
	if m.inits != 2 {
		t.Errorf("initialized %d times after a card came, want 2", m.inits)
	}
}

func TestUnsupportedIsNoFailure(t *testing.T) {
	m := newMachine(t)
	m.card(0).GetPowerUsageFunc = func() (uint32, nvml.Return) { return 0, unsupported }
	if g := m.reader.read().GPUs[0]; g.PowerMilliwatts.Known() || g.Failure != "" || !g.DecoderPercent.Known() {
		t.Errorf("%+v", g)
	}
	m.card(0).GetEncoderUtilizationFunc = func() (uint32, uint32, nvml.Return) { return 0, 0, nvml.ERROR_NO_PERMISSION }
	if g := m.reader.read().GPUs[0]; g.EncoderPercent.Known() || g.Failure == "" || !g.DecoderPercent.Known() {
		t.Errorf("%+v", g)
	}
	if m.reader.failing {
		t.Error("NVML would be initialized anew for want of permission")
	}
}

// A function that the library lacks is never called.
func TestAnOldLibrary(t *testing.T) {
	m := newMachine(t)
	m.LookupSymbolFunc = func(symbol string) error {
		switch symbol {
		case "nvmlDeviceGetMigMode", "nvmlDeviceGetProcessUtilization", "nvmlDeviceGetMPSComputeRunningProcesses_v2", "nvmlDeviceGetMPSComputeRunningProcesses_v3":
			return errors.New("undefined symbol")
		}
		return nil
	}
	d := m.card(0)
	d.GetMigModeFunc, d.GetProcessUtilizationFunc, d.GetMPSComputeRunningProcessesFunc = nil, nil, nil // the mock panics
	d.GetComputeRunningProcessesFunc = lists(info(1, 5))
	g := m.reader.read().GPUs[0]
	if g.Failure != "" || g.MIG || !g.Complete || g.Processes[0].MemoryBytes() != known(5) || g.Processes[0].UtilizationPercent().Known() {
		t.Errorf("%+v", g)
	}
}

func TestNVMLThatFails(t *testing.T) {
	for what, change := range map[string]func(*machine){
		"open": func(m *machine) {
			m.reader.open = func() error { return errors.New("libnvidia-ml.so.1: no such file") }
		},
		"init":  func(m *machine) { m.InitFunc = func() nvml.Return { return nvml.ERROR_LIB_RM_VERSION_MISMATCH } },
		"count": func(m *machine) { m.DeviceGetCountFunc = func() (int, nvml.Return) { return 0, nvml.ERROR_UNKNOWN } },
	} {
		m := newMachine(t)
		change(m)
		var out bytes.Buffer
		in := &bytes.Buffer{}
		for range 2 {
			if err := wire.Write(in, wire.Request{Version: wire.Version}); err != nil {
				t.Fatal(err)
			}
		}
		if err := serve(in, &out, m.reader); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		var r wire.Reading
		if err := wire.Read(&out, &r); err != nil || r.Failure == "" || r.GPUs != nil {
			t.Errorf("%s: %+v, %v", what, r, err)
		}
		if out.Len() != 0 || in.Len() == 0 {
			t.Errorf("%s: it went on after it failed", what)
		}
	}
}

func TestMoreThanABoundIsCutAndSaid(t *testing.T) {
	m := newMachine(t)
	var infos []nvml.ProcessInfo
	for i := range wire.MaxProcesses + 1 {
		infos = append(infos, info(uint32(i+1), 1))
	}
	m.card(0).GetComputeRunningProcessesFunc = lists(infos...)
	if g := m.reader.read().GPUs[0]; g.Complete || len(g.Processes) != wire.MaxProcesses {
		t.Errorf("complete %v, %d processes", g.Complete, len(g.Processes))
	}
}

// BenchmarkRead is what a tick costs the child beside the library: eight cards,
// sixteen processes each, and the answer written.
func BenchmarkRead(b *testing.B) {
	m := &machine{Server: dgxa100.New()}
	for i := range m.Devices {
		m.answer(i)
		var infos []nvml.ProcessInfo
		for j := range 16 {
			infos = append(infos, info(uint32(1000*i+j+1), 1<<30))
		}
		m.card(i).GetComputeRunningProcessesFunc = lists(infos...)
	}
	m.reader = newReader(m, b.TempDir())
	var out bytes.Buffer
	b.ReportAllocs()
	for b.Loop() {
		out.Reset()
		if err := wire.Write(&out, m.reader.read()); err != nil {
			b.Fatal(err)
		}
	}
}
