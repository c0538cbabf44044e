package main

import (
	"bytes"
	"debug/buildinfo"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"rmagent/internal/gpu/gputest"
	"rmagent/internal/hostfs"
	"rmagent/record"
)

// withGPUs makes a command run where a driver is loaded: the files that it has in
// /proc and /dev are there, in a mount namespace of the command's own.
func withGPUs(t *testing.T, cmd *exec.Cmd, m *gputest.Machine) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a mount namespace needs root")
	}
	helper, err := gputest.BuildHelper(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(cmd.Env, asHelper+"=mount "+m.Root, "LD_LIBRARY_PATH="+m.Library, "PATH="+filepath.Dir(helper)+":"+os.Getenv("PATH"))
	cmd.SysProcAttr.Unshareflags = unix.CLONE_NEWNS
}

// mountDriver makes a driver's files appear, and becomes the agent.
func mountDriver(root string) error {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	for _, m := range []struct{ from, to, kind string }{
		{root + "/proc/driver", "/proc/driver", ""},
		{"tmpfs", "/dev", "tmpfs"},
	} {
		flags := uintptr(0)
		if m.kind == "" {
			flags = unix.MS_BIND
		}
		if err := unix.Mount(m.from, m.to, m.kind, flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.to, err)
		}
	}
	for _, name := range []string{"/dev/null", "/dev/nvidiactl"} {
		if err := os.WriteFile(name, nil, 0o666); err != nil {
			return err
		}
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", null.Fd()), "/dev/null", "", unix.MS_BIND, ""); err != nil {
		return err
	}
	os.Unsetenv(asHelper)
	return syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), asAgent+"=rmagent"))
}

func TestRunWithGPUs(t *testing.T) {
	each(t, func(t *testing.T, source string) {
		holder := helper(t, "still")
		processes := fmt.Sprintf("process compute %d 4096 60\n", holder.Process.Pid)
		m := gputest.New(t, gputest.Eight(5)+processes)
		cmd := agentCommand(t, "run", "--source", source, "--interval", "200ms", "--jsonl", "out.jsonl", "--processes", "all", "--log-format", "json",
			"--pid", fmt.Sprint(holder.Process.Pid), "--pid", fmt.Sprint(os.Getpid()))
		withGPUs(t, cmd, m)
		out := filepath.Join(cmd.Dir, "out.jsonl")
		a := start(t, cmd)
		t.Cleanup(func() {
			if t.Failed() {
				t.Log(a.stderr.String())
			}
		})
		written := func() []record.Record { return wholeRecords(t, out) }
		await(t, "what the holder uses", func() bool {
			return slices.ContainsFunc(only[*record.Process](written()), func(p *record.Process) bool {
				return int(p.PID) == holder.Process.Pid && p.GPUMemoryBytes == record.Some(uint64(4096)) && p.GPUUtilizationRatio == record.Some(0.6)
			})
		})
		idle := os.Getpid()
		await(t, "that this process uses none", func() bool {
			return slices.ContainsFunc(only[*record.Process](written()), func(p *record.Process) bool {
				return int(p.PID) == idle && p.GPUMemoryBytes == record.Some(uint64(0))
			})
		})
		id, err := hostfs.ReadID(holder.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		await(t, "who holds the last card", func() bool {
			return slices.ContainsFunc(only[*record.GPU](written()), func(g *record.GPU) bool {
				return g.Index == 7 && slices.ContainsFunc(g.Processes, func(p record.GPUProcess) bool {
					return p.PID == id.PID && p.StartTicks == record.Some(id.StartTicks) && p.MemoryBytes == record.Some(uint64(4096))
				})
			})
		})
		checkFullCard(t, written())

		m.Play(t, gputest.Eight(5)+"crash nvmlDeviceGetPowerUsage\n")
		await(t, "unknown values", func() bool {
			gpus := only[*record.GPU](written())
			last := gpus[len(gpus)-1]
			return last.UUID.Known() && !last.UtilizationRatio.Known() && !last.MemoryUsedBytes.Known() && !last.AgeSeconds.Known() && last.Processes == nil
		})
		hosts := len(only[*record.Host](written()))
		await(t, "the agent to go on", func() bool { return len(only[*record.Host](written())) > hosts+3 })
		m.Play(t, gputest.Eight(2))
		await(t, "the next full card", func() bool {
			return slices.ContainsFunc(only[*record.StateChange](written()), func(c *record.StateChange) bool {
				return c.Resource == "gpu_memory" && c.Target == "gpu:GPU-2" && c.State == record.StateCritical
			})
		})
		a.stop()
		for _, message := range []string{"gpu_available", "gpu_unavailable"} {
			if n := strings.Count(a.stderr.String(), `"message":"`+message+`"`); n < 1 || n > 2 {
				t.Errorf("%d lines of %s", n, message)
			}
		}
		gapless(t, records(t, out))
	})
}

// checkFullCard wants the rules to have triggered for one card of eight.
func checkFullCard(t *testing.T, all []record.Record) {
	t.Helper()
	seen := map[int]bool{}
	for _, g := range only[*record.GPU](all) {
		seen[g.Index] = seen[g.Index] || g.UtilizationRatio.Known()
	}
	if len(seen) != 8 {
		t.Errorf("cards %v are recorded, want eight", seen)
	}
	var changes []string
	for _, c := range only[*record.StateChange](all) {
		if strings.HasPrefix(c.Target, "gpu:") {
			changes = append(changes, c.Resource+" "+c.Target+" "+string(c.State))
		}
	}
	slices.Sort(changes)
	if got := strings.Join(changes, ", "); got != "gpu gpu:GPU-5 critical, gpu_memory gpu:GPU-5 critical" {
		t.Errorf("states: %s", got)
	}
}

// wholeRecords decodes a file that is being written.
func wholeRecords(t *testing.T, path string) []record.Record {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var all []record.Record
	for line := range bytes.Lines(b) {
		if line[len(line)-1] != '\n' {
			break
		}
		r, err := record.Decode(line)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

func TestSnapshotAndDoctorWithGPUs(t *testing.T) {
	holder := helper(t, "still")
	m := gputest.New(t, gputest.Eight(5)+fmt.Sprintf("process graphics %d 4096 60\n", holder.Process.Pid)+"fail nvmlDeviceGetPowerUsage 999 3\n")
	cmd := agentCommand(t, "snapshot", "--source", "procfs")
	withGPUs(t, cmd, m)
	r := runToEnd(t, cmd)
	if r.status != 0 {
		t.Fatalf("exit status %d: %s", r.status, r.stderr)
	}
	path := filepath.Join(cmd.Dir, "out")
	if err := os.WriteFile(path, []byte(r.stdout), 0o644); err != nil {
		t.Fatal(err)
	}
	all := records(t, path)
	if n := len(only[*record.GPU](all)); n != 8 {
		t.Errorf("%d cards", n)
	}
	holds := slices.ContainsFunc(only[*record.Process](all), func(p *record.Process) bool {
		return int(p.PID) == holder.Process.Pid && p.GPUMemoryBytes.Or(0) == 4096 && p.GPUUtilizationRatio.Or(0) == 0.6
	})
	if !holds {
		t.Error("nobody holds memory of a card")
	}

	cmd = agentCommand(t, "doctor", "--source", "procfs")
	withGPUs(t, cmd, m)
	r = runToEnd(t, cmd)
	unwrapped := strings.Join(strings.Fields(r.stdout), " ")
	for _, want := range []string{"reading: driver 550.54, NVML 12.0, by ", "GPU 5 Fake A100 GPU-5 GPU 6", "GPU 3 Fake A100 GPU-3: nvmlDeviceGetPowerUsage: Error 999"} {
		if r.status != 0 || !strings.Contains(unwrapped, want) {
			t.Errorf("exit status %d, no %q in:\n%s%s", r.status, want, r.stdout[:min(len(r.stdout), 2000)], r.stderr)
		}
	}
}

func TestHeadroomOfAGPU(t *testing.T) {
	holder := helper(t, "still")
	m := gputest.New(t, gputest.Card(0, 1, 40<<30-4096)+fmt.Sprintf("process compute %d 4096 60\n", holder.Process.Pid)+gputest.Card(1, 1, 40<<30))
	check := func(h *record.Headroom) {
		if l := h.FirstInSpace; l == nil || l.Name != "GPU memory" || l.Scope != "GPU 0 (Fake A100)" || l.Available.Or(0) != 4096 {
			t.Errorf("%+v", l)
		}
	}
	cmd := agentCommand(t, "headroom", "--pid", fmt.Sprint(holder.Process.Pid), "--for", "0s", "--json", "--local")
	withGPUs(t, cmd, m)
	var h record.Headroom
	decode(t, runToEnd(t, cmd), &h)
	check(&h)

	cmd = agentCommand(t, "headroom", "--for", "0s", "--json", "--local")
	withGPUs(t, cmd, m)
	var list record.HeadroomList
	decode(t, runToEnd(t, cmd), &list)
	if nearest := &list.Processes[0]; int(nearest.PID) != holder.Process.Pid {
		t.Errorf("the nearest is %+v", nearest)
	}
	check(&list.Processes[0])
}

func TestGPUsSwitchedOff(t *testing.T) {
	m := gputest.New(t, gputest.Eight(5))
	cmd := agentCommand(t, "run", "--source", "procfs", "--gpu", "off", "--duration", "500ms", "--interval", "100ms", "--jsonl", "out.jsonl")
	withGPUs(t, cmd, m)
	r := runToEnd(t, cmd)
	all := records(t, filepath.Join(cmd.Dir, "out.jsonl"))
	if r.status != 0 || len(only[*record.GPU](all)) != 0 || strings.Contains(r.stderr, "gpu_") {
		t.Errorf("exit status %d, %d cards: %s", r.status, len(only[*record.GPU](all)), r.stderr)
	}
}

// The agent is static and has no C in it, though its child has.
func TestTheAgentIsStatic(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rmagent")
	build := exec.Command("go", "build", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("it has a %v segment", p.Type)
		}
	}
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, dep := range info.Deps {
		if strings.Contains(dep.Path, "nvml") {
			t.Errorf("it contains %s", dep.Path)
		}
	}
	for _, s := range info.Settings {
		if s.Key == "CGO_ENABLED" && s.Value != "0" {
			t.Errorf("it was built with CGO_ENABLED=%s", s.Value)
		}
	}
}
