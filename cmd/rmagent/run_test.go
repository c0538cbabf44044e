package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/cgrouptest"
	"rmagent/internal/sampletest"
	"rmagent/record"
)

// only decodes the records of one type.
func only[T record.Record](all []record.Record) (some []T) {
	for _, r := range all {
		if x, ok := r.(T); ok {
			some = append(some, x)
		}
	}
	return some
}

// each runs a test with each source that this machine allows.
func each(t *testing.T, test func(t *testing.T, source string)) {
	for _, source := range []string{"ebpf", "procfs"} {
		t.Run(source, func(t *testing.T) {
			if source == "ebpf" && os.Geteuid() != 0 {
				t.Skip("eBPF needs root")
			}
			test(t, source)
		})
	}
}

func TestRunForAWhile(t *testing.T) {
	each(t, func(t *testing.T, source string) {
		cmd := agentCommand(t, "run", "--source", source, "--interval", "200ms", "--duration", "1500ms", "--jsonl", "out.jsonl")
		r := runToEnd(t, cmd)
		if r.status != 0 {
			t.Fatalf("exit status %d: %s", r.status, r.stderr)
		}
		all := records(t, filepath.Join(cmd.Dir, "out.jsonl"))
		gapless(t, all)
		if _, ok := all[0].(*record.Config); !ok {
			t.Errorf("the first record is a %s", all[0].Head().Kind)
		}
		if _, ok := all[len(all)-1].(*record.Agent); !ok {
			t.Errorf("the last record is a %s", all[len(all)-1].Head().Kind)
		}
		if n := len(only[*record.Host](all)); n < 3 {
			t.Errorf("%d readings of the host in 1.5 s", n)
		}
		self := false
		for _, p := range only[*record.Process](all) {
			self = self || int(p.PID) == os.Getpid() && string(p.Source) == source
		}
		if !self {
			t.Error("no record of this process")
		}
	})
}

// The keys that other programs depend on, in full.
func TestFieldNames(t *testing.T) {
	cmd := agentCommand(t, "run", "--interval", "200ms", "--duration", "700ms", "--jsonl", "-")
	r := runToEnd(t, cmd)
	want := map[string]string{
		"process": `pid start_ticks ns_pid ppid start_time comm exe uid cgroup container_id unit source threads
			fd_open fd_open_min fd_open_max fd_limit fd_hard_limit fd_ratio fd_opened_total fd_closed_total fd_growth_per_second fd_seconds_to_limit
			rss_bytes rss_anon_bytes rss_file_bytes rss_shmem_bytes rss_peak_bytes swap_bytes virtual_bytes minor_faults_total major_faults_total
			cpu_seconds_total cpu_user_seconds_total cpu_system_seconds_total cpu_cores run_delay_seconds_total
			disk_read_bytes_total disk_written_bytes_total disk_read_bytes_per_second disk_written_bytes_per_second io_read_bytes_total io_written_bytes_total
			net_received_bytes_total net_sent_bytes_total net_received_bytes_per_second net_sent_bytes_per_second gpu_memory_bytes gpu_utilization_ratio`,
		"host": `monotonic_seconds cpu_ratio cpu_count load1 memory_total_bytes memory_available_bytes memory_used_bytes swap_total_bytes swap_used_bytes
			files_open files_limit processes threads pid_limit disk_read_bytes_total disk_written_bytes_total net_received_bytes_total net_sent_bytes_total
			disk_read_bytes_per_second disk_written_bytes_per_second net_received_bytes_per_second net_sent_bytes_per_second
			pressure_cpu_some_ratio pressure_cpu_full_ratio pressure_memory_some_ratio pressure_memory_full_ratio pressure_io_some_ratio pressure_io_full_ratio filesystems gone`,
		"cgroup": `path container_id unit memory_bytes memory_limit_bytes swap_bytes pids pids_limit cpu_seconds_total cpu_throttled_seconds_total
			cpu_limit_cores oom_kills_total fd_open pressure_cpu_some_ratio`,
		"agent": `events_seen events_delivered events_lost events_pending map_entries map_capacity scan_seconds program_seconds_estimated`,
	}
	seen := map[string]bool{}
	for line := range strings.Lines(r.stdout) {
		var got map[string]any
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatalf("%v: %q", err, line)
		}
		kind := got["kind"].(string)
		if seen[kind] {
			continue
		}
		seen[kind] = true
		for _, key := range strings.Fields("time kind host boot_id seq schema " + want[kind]) {
			if _, ok := got[key]; !ok {
				t.Errorf("a %s record has no %s", kind, key)
			}
		}
	}
	for kind := range want {
		if !seen[kind] {
			t.Errorf("there is no %s record", kind)
		}
	}
}

// Whoever is impatient and sends another signal while it ends takes nothing away.
func TestSignalsEndItWell(t *testing.T) {
	for _, sig := range []os.Signal{unix.SIGTERM, unix.SIGINT} {
		cmd := agentCommand(t, "run", "--interval", "200ms", "--jsonl", "out.jsonl")
		s := start(t, cmd)
		out := filepath.Join(cmd.Dir, "out.jsonl")
		await(t, "the first records", func() bool { return size(out) > 0 })
		go func() {
			for cmd.Process.Signal(sig) == nil {
				time.Sleep(time.Millisecond)
			}
		}()
		if status := s.wait(); status != 0 {
			t.Errorf("%v: exit status %d: %s", sig, status, s.stderr.String())
		}
		all := records(t, out)
		gapless(t, all)
		if _, ok := all[len(all)-1].(*record.Agent); !ok {
			t.Errorf("%v: the last record is a %s", sig, all[len(all)-1].Head().Kind)
		}
	}
}

// However busy the machine is, what was decided is written before the agent ends.
func TestItEndsWellUnderLoad(t *testing.T) {
	cmd := agentCommand(t, "run", "--interval", "100ms", "--processes", "all", "--jsonl", "out.jsonl", "--log-file", "log")
	s := start(t, cmd)
	out := filepath.Join(cmd.Dir, "out.jsonl")
	await(t, "the first records", func() bool { return size(out) > 0 })
	for range 4 * runtime.NumCPU() {
		helper(t, "hog cpu").Say("")
	}
	before := size(out)
	await(t, "records under load", func() bool { return size(out) > before })
	s.stop()
	all := records(t, out)
	gapless(t, all)
	a, ok := all[len(all)-1].(*record.Agent)
	if !ok || len(a.RecordsLost) != 0 {
		t.Errorf("the last record is %+v", all[len(all)-1])
	}
	if s.stderr.Len() > 0 {
		t.Errorf("it said %s", s.stderr.String())
	}
}

// A reader of the records who reads nothing does not keep the agent, nor make a failure
// of it: the log says what was lost.
func TestAReaderThatHangsAtTheEnd(t *testing.T) {
	cmd := agentCommand(t, "run", "--interval", "100ms", "--processes", "all", "--jsonl", "-", "--log-file", "log", "--log-format", "json")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, 4096); err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = w
	s := start(t, cmd)
	w.Close()
	await(t, "a full pipe", func() bool {
		waiting, err := unix.IoctlGetInt(int(r.Fd()), unix.TIOCINQ)
		return err == nil && waiting == 4096
	})
	s.stop()
	log := filepath.Join(cmd.Dir, "log")
	if lines(log, "output_incomplete", "lines are lost") != 1 || lines(log, `"stopped"`, `"closed":`) != 1 {
		b, _ := os.ReadFile(log)
		t.Errorf("the log says:\n%s", b)
	}
}

// What logrotate does: rename, then SIGHUP. No record may be lost or doubled.
func TestRotation(t *testing.T) {
	cmd := agentCommand(t, "run", "--interval", "100ms", "--processes", "all", "--jsonl", "out.jsonl", "--log-file", "log")
	s := start(t, cmd)
	out := filepath.Join(cmd.Dir, "out.jsonl")
	paths := []string{}
	for i := range 4 {
		await(t, "records", func() bool { return size(out) > 0 })
		old := fmt.Sprintf("%s.%d", out, i)
		paths = append(paths, old)
		if err := os.Rename(out, old); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(unix.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "the last file", func() bool { return size(out) > 0 })
	s.stop()
	gapless(t, records(t, append(paths, out)...))
}

func TestAReaderThatCloses(t *testing.T) {
	cmd := agentCommand(t, "run", "--interval", "100ms", "--jsonl", "-")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = w
	s := start(t, cmd)
	w.Close()
	if _, err := r.Read(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	r.Close()
	if status := s.wait(); status != 0 {
		t.Errorf("exit status %d: %s", status, s.stderr.String())
	}
}

// A reader that has seen enough of a snapshot is no mistake, and no signal's end.
func TestSnapshotToAReaderThatCloses(t *testing.T) {
	crowd := helperCrowd(t, 100) // more than a pipe holds
	defer crowd()
	cmd := agentCommand(t, "snapshot")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = w
	s := start(t, cmd)
	w.Close()
	if _, err := r.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	r.Close()
	if status := s.wait(); status != 0 || s.stderr.Len() > 0 {
		t.Errorf("exit status %d: %s", status, s.stderr.String())
	}
}

// A reader who is gone before the first word is no mistake either, of any command; what a
// status says stands.
func TestReaderThatIsGone(t *testing.T) {
	for args, want := range map[string]int{
		"snapshot --pid 1": 0, "fds --for 0": 0, "fds --for 0 --json": 0, "fds --for 0 --pid 1": 0,
		"headroom --for 0": 0, "headroom --for 0 --pid 1 --json": 0, "top": 0, "top --json": 0,
		"check --files 1": 0, "check --files 9999999999": exitRisky, "check --files 1 --pid 2 --json": exitUnknown,
		"doctor": 0, "doctor --json": 0, "config": 0, "config --json": 0, "config --schema": 0,
		"version": 0, "version --json": 0, "completion bash": 0,
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			r.Close()
			cmd := agentCommand(t, strings.Fields(args)...)
			cmd.Stdout = w
			s := start(t, cmd)
			w.Close()
			if status := s.wait(); status != want || s.stderr.Len() > 0 {
				t.Errorf("exit status %d, want %d: %s", status, want, s.stderr.String())
			}
		})
	}
}

// A reader that does not read costs records, which leave a gap in seq.
func TestAReaderThatIsSlow(t *testing.T) {
	cmd := agentCommand(t, "run", "--interval", "100ms", "--processes", "all", "--jsonl", "-", "--log-file", "log", "--log-format", "console")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	crowd := helperCrowd(t, 300)
	defer crowd()
	cmd.Stdout = w
	s := start(t, cmd)
	w.Close()
	// Some 500 kB ten times a second: the queue of 8 MiB is full soon. Its memory
	// must stay bounded; the kernel's mark of the peak tells.
	first := make([]byte, 1)
	if _, err := r.Read(first); err != nil { // it has started
		t.Fatal(err)
	}
	// The log tells of the host every five seconds: that is fifty ticks.
	log := filepath.Join(cmd.Dir, "log")
	await(t, "as many ticks as fill the queue", func() bool { return lines(log, "nearest_fd_limit") >= 2 })
	if peak := peakBytes(t, cmd.Process.Pid); peak > 160<<20 {
		t.Errorf("the agent took %d MiB", peak>>20)
	}
	var rest countedBuffer
	read := make(chan error, 1)
	go func() {
		_, err := io.Copy(&rest, r)
		read <- err
	}()
	// What waited is read, and more, so that the last record finds room.
	fd := int(r.Fd())
	await(t, "the reader to catch up", func() bool {
		waiting, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
		return err == nil && waiting == 0 && rest.n.Load() > 10<<20
	})
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err != nil {
		t.Fatal(err)
	}
	if status := s.wait(); status != 0 {
		t.Errorf("exit status %d: %s", status, s.stderr.String())
	}
	var all []record.Record
	for line := range bytes.Lines(append(first, rest.Bytes()...)) {
		rec, err := record.Decode(line)
		if err != nil {
			continue // what the pipe had when the agent ended may be half a line
		}
		all = append(all, rec)
	}
	lossesAddUp(t, all, "queue_full")
}

// countedBuffer tells another goroutine how much it has.
type countedBuffer struct {
	bytes.Buffer
	n atomic.Int64
}

func (b *countedBuffer) Write(p []byte) (int, error) {
	b.n.Add(int64(len(p)))
	return b.Buffer.Write(p)
}

// ReadFrom is that of an io.Writer alone, so that io.Copy counts as it goes.
func (b *countedBuffer) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{b}, r)
}

// lossesAddUp compares the gaps in seq with what the last agent record says was
// lost, all of it by one cause.
func lossesAddUp(t *testing.T, all []record.Record, cause string) {
	t.Helper()
	next := uint64(1)
	var missing, lost uint64
	told := false
	for _, rec := range all {
		missing += rec.Head().Seq - next
		next = rec.Head().Seq + 1
		if a, ok := rec.(*record.Agent); ok {
			told = true
			lost = 0
			for c, n := range a.RecordsLost {
				if lost += n; c != cause {
					t.Errorf("the agent lost %d records by %s", n, c)
				}
			}
			if missing != lost {
				t.Errorf("%d records are missing before the agent's, which counts %d", missing, lost)
			}
		}
	}
	switch {
	case !told:
		t.Errorf("no agent record tells what was lost; %d records, the last is %T", len(all), all[len(all)-1])
	case lost == 0:
		t.Error("no record was lost")
	}
}

func helperCrowd(t *testing.T, n int) (end func()) {
	t.Helper()
	var all []*exec.Cmd
	for range n {
		cmd := exec.Command("/bin/sleep", "1000")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		all = append(all, cmd)
	}
	return func() {
		for _, cmd := range all {
			cmd.Process.Kill()
			cmd.Wait()
		}
	}
}

func peakBytes(t *testing.T, pid int) (n uint64) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &n); err == nil {
			return n << 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}

// A disk that fills costs what does not fit, says so, and the file goes on with
// whole lines when there is room.
func TestAFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a small disk")
	}
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(disk, unix.MNT_DETACH)
	ballast := filepath.Join(disk, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 128<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(disk, "out.jsonl")
	cmd := agentCommand(t, "run", "--interval", "100ms", "--processes", "all", "--jsonl", out, "--log-file", "log", "--log-format", "json")
	s := start(t, cmd)
	log := filepath.Join(cmd.Dir, "log")
	await(t, "the log to tell of the full disk", func() bool {
		b, _ := os.ReadFile(log)
		return bytes.Contains(b, []byte("output_failed")) && bytes.Contains(b, []byte("no space"))
	})
	full := size(out)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", disk, "tmpfs", unix.MS_REMOUNT, "size=256m"); err != nil { // room to the end
		t.Fatal(err)
	}
	await(t, "the file to go on", func() bool { return size(out) > full })
	s.stop()
	all := records(t, out)
	lossesAddUp(t, all, "disk_full")
}

func TestWarningsFile(t *testing.T) {
	cmd := agentCommand(t, "run", "--interval", "100ms", "--warnings-file", "warnings", "--log-format", "console", "--source", "procfs")
	h := helper(t, "fds")
	s := start(t, cmd)
	warnings := filepath.Join(cmd.Dir, "warnings")
	await(t, "the warning", func() bool {
		b, _ := os.ReadFile(warnings)
		return bytes.Contains(b, []byte(fmt.Sprintf("(pid %d)", h.Process.Pid)))
	})
	s.stop()
	if said := s.stderr.String(); strings.Contains(said, "High FD usage") || !strings.Contains(said, "started") {
		t.Errorf("the console is not clean, or mute:\n%s", said)
	}
}

func TestASecondAgentRefuses(t *testing.T) {
	first := agentCommand(t, "run", "--interval", "1h", "--jsonl", "out.jsonl")
	s := start(t, first)
	await(t, "the first agent", func() bool { return size(filepath.Join(first.Dir, "out.jsonl")) > 0 })
	second := agentCommand(t, "run", "--socket", filepath.Join(first.Dir, "rmagent.sock"))
	r := runToEnd(t, second)
	if r.status != 1 || !strings.Contains(r.stderr, fmt.Sprintf("PID %d", first.Process.Pid)) {
		t.Errorf("exit status %d: %s", r.status, r.stderr)
	}
	// kill -9 leaves nothing that stands in the way.
	first.Process.Kill()
	s.wait()
	if r := runToEnd(t, agentCommand(t, "run", "--duration", "300ms", "--socket", filepath.Join(first.Dir, "rmagent.sock"))); r.status != 0 {
		t.Errorf("after kill -9: exit status %d: %s", r.status, r.stderr)
	}
}

// A process that comes near its limit is told of once for each threshold on the
// way up, and once when it is down again.
func TestStates(t *testing.T) {
	each(t, func(t *testing.T, source string) {
		cmd := agentCommand(t, "run", "--config", "c.yaml", "--source", source, "--jsonl", "out.jsonl")
		config := "interval: 100ms\nthresholds:\n  fd:\n    hold: 500ms\n"
		if err := os.WriteFile(filepath.Join(cmd.Dir, "c.yaml"), []byte(config), 0o644); err != nil {
			t.Fatal(err)
		}
		s := start(t, cmd)
		out := filepath.Join(cmd.Dir, "out.jsonl")
		await(t, "the agent", func() bool { return size(out) > 0 })
		h := helper(t, "fds")
		states := func() (got []string) {
			b, _ := os.ReadFile(out)
			for line := range bytes.Lines(b) {
				if !bytes.HasSuffix(line, []byte("\n")) {
					break
				}
				if r, err := record.Decode(line); err == nil {
					if c, ok := r.(*record.StateChange); ok && strings.HasPrefix(c.Target, fmt.Sprintf("pid:%d@", h.Process.Pid)) {
						got = append(got, string(c.State))
					}
				}
			}
			return got
		}
		await(t, "the state critical", func() bool { return slices.Contains(states(), "critical") })
		h.Say("")
		await(t, "the state normal", func() bool { return slices.Contains(states(), "normal") })
		s.stop()
		got := states()
		if got[len(got)-1] != "normal" || got[len(got)-2] != "critical" || len(got) > 4 || !slices.IsSorted(ranks(got[:len(got)-1])) {
			t.Errorf("states %v", got)
		}
	})
}

func ranks(states []string) (r []int) {
	for _, s := range states {
		r = append(r, slices.Index([]string{"normal", "info", "warning", "critical"}, s))
	}
	return r
}

// A child that ends is told of with what wait4 says of it.
func TestExitRecords(t *testing.T) {
	each(t, func(t *testing.T, source string) {
		cmd := agentCommand(t, "run", "--interval", "100ms", "--source", source, "--jsonl", "out.jsonl")
		s := start(t, cmd)
		out := filepath.Join(cmd.Dir, "out.jsonl")
		await(t, "the agent", func() bool { return size(out) > 0 })
		h := helper(t, "burn")
		pid := h.Process.Pid
		find := func() *record.Exit {
			b, _ := os.ReadFile(out)
			for line := range bytes.Lines(b) {
				if !bytes.Contains(line, []byte(`"kind":"exit"`)) || !bytes.HasSuffix(line, []byte("\n")) {
					continue
				}
				if r, err := record.Decode(line); err == nil && int(r.(*record.Exit).PID) == pid {
					return r.(*record.Exit)
				}
			}
			return nil
		}
		await(t, "a reading of the child", func() bool {
			b, _ := os.ReadFile(out)
			return bytes.Contains(b, []byte(fmt.Sprintf(`"pid":%d,`, pid)))
		})
		h.Say("")
		state, err := h.Process.Wait()
		if err != nil {
			t.Fatal(err)
		}
		await(t, "the exit record", func() bool { return find() != nil })
		s.stop()
		x := find()
		want := (state.UserTime() + state.SystemTime()).Seconds()
		got := x.CPUSecondsTotal.Or(-1)
		if source == "procfs" {
			if !x.Inferred || x.ExitCode.Known() || got > want*1.02+0.02 {
				t.Errorf("inferred %v, code known %v, %v CPU seconds of %v", x.Inferred, x.ExitCode.Known(), got, want)
			}
			return
		}
		if x.Inferred || x.ExitCode.Or(-1) != 7 || x.ExitSignal.Known() {
			t.Errorf("inferred %v, code %v, signal %v", x.Inferred, x.ExitCode, x.ExitSignal)
		}
		if x.CPUFinal && (got < want*0.98 || got > want*1.02) {
			t.Errorf("%v CPU seconds, wait4 says %v", got, want)
		}
		if x.PPID.Or(0) != int32(os.Getpid()) || x.Exe.Or("") == "" || !x.Cgroup.Known() {
			t.Errorf("parent %v, exe %v, cgroup %v", x.PPID, x.Exe, x.Cgroup)
		}
	})
}

// A process that becomes another program is one process, which the next reading
// calls by its new name; its end, however soon, is the new program's.
func TestAProcessThatBecomesAnotherProgram(t *testing.T) {
	sleep, err := filepath.EvalSymlinks("/bin/sleep")
	if err != nil {
		t.Skip(err)
	}
	each(t, func(t *testing.T, source string) {
		cmd := agentCommand(t, "run", "--interval", "100ms", "--source", source, "--jsonl", "out.jsonl")
		s := start(t, cmd)
		out := filepath.Join(cmd.Dir, "out.jsonl")
		pids := map[string]int{}
		for _, from := range []string{"leader", "thread"} {
			h := helper(t, "become "+from)
			pids[from] = h.Process.Pid
			pid := fmt.Sprintf(`"pid":%d,`, h.Process.Pid)
			await(t, "a reading of the first program", func() bool { return lines(out, pid) > 0 })
			h.Say("")
			await(t, "a reading of the second", func() bool { return lines(out, pid, `"kind":"process"`, `"comm":"sleep"`) > 0 })
			h.Process.Kill()
			h.Wait()
			await(t, "the exit record", func() bool { return lines(out, pid, `"kind":"exit"`) > 0 })
		}
		s.stop()
		all := records(t, out)
		for from, pid := range pids {
			var before, after *record.Process
			for _, p := range only[*record.Process](all) {
				switch {
				case int(p.PID) != pid:
				case p.Comm != "sleep":
					before = p
				case after == nil:
					after = p
				}
			}
			if before == nil || after == nil || before.StartTicks != after.StartTicks || after.Exe.Or("") != sleep || before.Exe.Or(sleep) == sleep {
				t.Errorf("exec from the %s: before %+v, after %+v; want exe %s", from, before, after, sleep)
			}
			unknown := ""
			if source == "procfs" { // it may end between the reading of it and that of its exe
				unknown = sleep
			}
			for _, x := range only[*record.Exit](all) {
				if int(x.PID) == pid && (x.Comm != "sleep" || x.Exe.Or(unknown) != sleep || x.StartTicks != after.StartTicks) {
					t.Errorf("exec from the %s: ended as %+v; want exe %s", from, x, sleep)
				}
			}
		}
	})
}

// Two programs in one interval: the record of the end has the second.
func TestAProcessThatBecomesAnotherProgramAtOnce(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("eBPF needs root")
	}
	program, err := filepath.EvalSymlinks("/bin/true")
	if err != nil {
		t.Skip(err)
	}
	cmd := agentCommand(t, "run", "--interval", "1s", "--source", "ebpf", "--jsonl", "out.jsonl")
	s := start(t, cmd)
	out := filepath.Join(cmd.Dir, "out.jsonl")
	await(t, "the agent", func() bool { return size(out) > 0 })
	child := exec.Command("/bin/sh", "-c", "exec /bin/true")
	if err := child.Run(); err != nil {
		t.Fatal(err)
	}
	pid := fmt.Sprintf(`"pid":%d,`, child.Process.Pid)
	await(t, "the exit record", func() bool { return lines(out, pid, `"kind":"exit"`) > 0 })
	s.stop()
	for _, x := range only[*record.Exit](records(t, out)) {
		if int(x.PID) == child.Process.Pid && (x.Exe.Or("") != program || x.Comm != "true") {
			t.Errorf("exe %v, comm %s; want %s", x.Exe, x.Comm, program)
		}
	}
}

// An agent that was stopped through a storm says what it lost, to the last end.
func TestAnAgentThatIsStoppedLosesNothingInSilence(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("eBPF needs root")
	}
	const n = 30000 // the ring holds 14,000 ends, the table of processes some more
	cmd := agentCommand(t, "run", "--interval", "100ms", "--source", "ebpf", "--processes", "none", "--jsonl", "out.jsonl")
	s := start(t, cmd)
	out := filepath.Join(cmd.Dir, "out.jsonl")
	await(t, "the agent", func() bool { return size(out) > 0 })
	signal := func(sig os.Signal) {
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
	}
	signal(unix.SIGSTOP)
	storm := exec.Command(sampletest.StormProgram(t, n))
	if err := storm.Run(); err != nil {
		t.Fatal(err)
	}
	signal(unix.SIGCONT)
	await(t, "the storm's end", func() bool {
		return lines(out, fmt.Sprintf(`"pid":%d,`, storm.Process.Pid), `"kind":"exit"`) > 0
	})
	s.stop()
	all := records(t, out)
	told := uint64(len(only[*record.Exit](all)))
	last := only[*record.Agent](all)
	a := last[len(last)-1]
	lost := a.EventsLost["exit_ring_full"]
	seen, delivered, pending := a.EventsSeen.Or(0), a.EventsDelivered.Or(0), a.EventsPending.Or(0)
	unwritten := uint64(0)
	for _, n := range a.RecordsLost {
		unwritten += n
	}
	if seen < n || lost == 0 || seen != delivered+lost+pending {
		t.Errorf("seen %d, delivered %d, lost %v, pending %d", seen, delivered, a.EventsLost, pending)
	}
	if told > delivered || delivered > told+unwritten+uint64(len(only[*record.OOM](all))) {
		t.Errorf("%d exit records, %d records lost, of %d events delivered", told, unwritten, delivered)
	}
}

// Where no hook tells of ends, they are inferred: none vanishes.
func TestEndsWithoutTheExitsHook(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("eBPF needs root")
	}
	cmd := agentCommand(t, "run", "--interval", "100ms", "--source", "ebpf", "--hooks", "net", "--jsonl", "out.jsonl")
	s := start(t, cmd)
	out := filepath.Join(cmd.Dir, "out.jsonl")
	h := helper(t, "still")
	pid := fmt.Sprintf(`"pid":%d,`, h.Process.Pid)
	await(t, "a reading of the child", func() bool { return lines(out, pid) > 0 })
	h.Process.Kill()
	h.Wait()
	await(t, "its inferred end", func() bool {
		b, _ := os.ReadFile(out)
		for line := range bytes.Lines(b) {
			if bytes.Contains(line, []byte(pid)) && bytes.Contains(line, []byte(`"inferred":true`)) {
				return true
			}
		}
		return false
	})
	s.stop()
}

func TestSnapshotOfOne(t *testing.T) {
	each(t, func(t *testing.T, source string) {
		h := helper(t, "fds")
		r := runToEnd(t, agentCommand(t, "snapshot", "--source", source, "--pid", fmt.Sprint(h.Process.Pid)))
		if r.status != 0 {
			t.Fatalf("exit status %d: %s", r.status, r.stderr)
		}
		rec, err := record.Decode([]byte(r.stdout))
		if err != nil {
			t.Fatalf("%v: %q", err, r.stdout)
		}
		p := rec.(*record.Process)
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", h.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		if p.FDOpen.Or(0) != uint64(len(fds)) || p.FDLimit.Or(0) != 200 || p.CPUCores.Known() || p.PPID.Or(0) != int32(os.Getpid()) {
			t.Errorf("%v of %v descriptors (listed: %d), cores %v, parent %v", p.FDOpen, p.FDLimit, len(fds), p.CPUCores, p.PPID)
		}
	})
}

// A name that is full of escapes and broken text stays within its string.
func TestHostileName(t *testing.T) {
	h := helper(t, "hostile")
	r := runToEnd(t, agentCommand(t, "snapshot"))
	if strings.IndexByte(r.stdout, 0x1b) >= 0 || strings.IndexByte(r.stdout, 0xff) >= 0 {
		t.Error("raw bytes of a name reach the output")
	}
	found := false
	for line := range strings.Lines(r.stdout) {
		rec, err := record.Decode([]byte(line))
		if err != nil {
			t.Fatalf("%v: %q", err, line)
		}
		if p, ok := rec.(*record.Process); ok && int(p.PID) == h.Process.Pid {
			found = true
			if p.Comm != "a) R\n\x1b[2J\\xff" {
				t.Errorf("comm %q", p.Comm)
			}
		}
	}
	if !found {
		t.Error("it is not in the snapshot")
	}
}

func TestFilters(t *testing.T) {
	h := helper(t, "still")
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", h.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	name := strings.TrimSpace(string(comm))
	for args, want := range map[string]func(*record.Process) bool{
		"--name " + name[:3] + "*":         func(p *record.Process) bool { return strings.HasPrefix(p.Comm, name[:3]) },
		"--pid " + fmt.Sprint(os.Getpid()): func(p *record.Process) bool { return int(p.PID) == os.Getpid() },
		"--cgroup /":                       func(p *record.Process) bool { return p.Cgroup.Known() },
		"--unit none-*.service":            func(*record.Process) bool { return false },
		// A slash is a character, and a comma is none between patterns.
		"--name kworker*:*":                      func(p *record.Process) bool { return strings.HasPrefix(p.Comm, "kworker/") },
		"--name none-x,kworker*":                 func(*record.Process) bool { return false },
		"--name nobody-is-called --name " + name: func(p *record.Process) bool { return p.Comm == name },
	} {
		r := runToEnd(t, agentCommand(t, append([]string{"snapshot"}, strings.Fields(args)...)...))
		n := 0
		for line := range strings.Lines(r.stdout) {
			rec, err := record.Decode([]byte(line))
			if err != nil {
				t.Fatal(err)
			}
			if p, ok := rec.(*record.Process); ok {
				if n++; !want(p) {
					t.Errorf("%s shows %s (%d)", args, p.Comm, p.PID)
				}
			}
		}
		if r.status != 0 || n == 0 && !strings.Contains(args, "none") {
			t.Errorf("%s: exit status %d, %d processes: %s", args, r.status, n, r.stderr)
		}
	}
}

// Whoever the filter does not choose is neither judged nor acted on, and top shows nothing
// of it either, whoever reads.
func TestFiltersChooseWhoIsJudged(t *testing.T) {
	chosen, other := helper(t, "fds").Process.Pid, helper(t, "fds").Process.Pid // both near their limit
	of := func(pid int) string { return fmt.Sprintf("pid:%d@", pid) }
	s := serveAgent(t, "--interval", "100ms", "--jsonl", "out.jsonl", "--pid", fmt.Sprint(chosen))
	path := filepath.Join(s.dir, "out.jsonl")
	await(t, "the state of who is chosen", func() bool {
		b, _ := os.ReadFile(path)
		return bytes.Contains(b, []byte(of(chosen)))
	})
	s.stop()
	for _, c := range only[*record.StateChange](records(t, path)) {
		if strings.HasPrefix(c.Target, "pid:") && !strings.HasPrefix(c.Target, of(chosen)) {
			t.Errorf("a state of %s", c.Target)
		}
	}
	s = serveAgent(t, "--interval", "100ms")
	await(t, "the state of the other", func() bool {
		r := runToEnd(t, s.command(t, "top", "--json"))
		return strings.Contains(r.stdout, of(other)) && strings.Contains(r.stdout, of(chosen))
	})
	for _, where := range []string{"--local=false", "--local"} {
		r := runToEnd(t, s.command(t, "top", "--json", where, "--interval", "100ms", "--pid", fmt.Sprint(chosen)))
		if !strings.Contains(r.stdout, of(chosen)) || strings.Contains(r.stdout, of(other)) {
			t.Errorf("%s: %s%s", where, r.stdout, r.stderr)
		}
	}
}

// Of a process that has another name than those that were asked for, as after an exec, the
// state is over, and nobody says that it ended. Replay decides the same.
func TestAProcessThatIsChosenNoLonger(t *testing.T) {
	p := helper(t, "fds chosen-one another") // near its limit
	s := serveAgent(t, "--interval", "100ms", "--jsonl", "out.jsonl", "--name", "chosen-*")
	path := filepath.Join(s.dir, "out.jsonl")
	target := fmt.Sprintf(`"target":"pid:%d@`, p.Process.Pid)
	crossed := func(n int) func() bool {
		return func() bool {
			b, _ := os.ReadFile(path)
			return bytes.Count(b, []byte(target)) == n
		}
	}
	await(t, "its state", crossed(1))
	p.Say("")
	await(t, "the end of its state", crossed(2))
	s.stop()
	r := runToEnd(t, s.command(t, "replay", path))
	again := filepath.Join(s.dir, "again.jsonl")
	if err := os.WriteFile(again, []byte(r.stdout), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{path, again} {
		for _, c := range only[*record.StateChange](records(t, path)) {
			if c.State == record.StateNormal && c.Message != fmt.Sprintf("FD usage of chosen-one (pid %d) is over: it is chosen no more", p.Process.Pid) {
				t.Errorf("%s: %s", path, c.Message)
			}
		}
	}
	if r.status != 0 || strings.Count(r.stdout, target) != 2 || strings.Contains(r.stderr, " and not ") {
		t.Errorf("exit status %d, %s%s", r.status, r.stdout, r.stderr)
	}
}

// A process that ended is still in the cgroup that it was in, though /proc says nothing of it
// any more: it ended, and is not chosen no more, and its end is told.
func TestTheEndInACgroup(t *testing.T) {
	group := cgrouptest.New(t)
	p := helper(t, "fds") // near its limit
	group.Add(p.Process.Pid)
	s := serveAgent(t, "--source", "procfs", "--interval", "100ms", "--jsonl", "out.jsonl", "--cgroup", group.Path())
	says := func(text string) func() bool {
		return func() bool {
			b, _ := os.ReadFile(filepath.Join(s.dir, "out.jsonl"))
			return bytes.Contains(b, []byte(text))
		}
	}
	await(t, "its state", says(fmt.Sprintf(`"target":"pid:%d@`, p.Process.Pid)))
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	await(t, "the end of its state", says(fmt.Sprintf("FD usage of exe (pid %d) is over: it has ended", p.Process.Pid)))
	p.Wait()
	await(t, "its end", says(`"kind":"exit",`))
}

// Where the processes of others are hidden, nobody says that these are all.
func TestOthersAreHidden(t *testing.T) {
	hidden := func(args ...string) result {
		cmd := asNobody(t, args...)
		cmd.SysProcAttr.Credential = nil
		script := `mount -t proc -o hidepid=2 proc /proc && exec setpriv --reuid 65534 --regid 65534 --clear-groups "$0" "$@"`
		cmd.Args = append([]string{"unshare", "-m", "sh", "-c", script, cmd.Path}, args...)
		var err error
		if cmd.Path, err = exec.LookPath("unshare"); err != nil {
			t.Fatal(err)
		}
		return runToEnd(t, cmd)
	}
	r := hidden("snapshot")
	if r.status != 0 || !strings.Contains(r.stdout, `"processes":null`) || strings.Count(r.stdout, `"kind":"process"`) != 1 {
		t.Errorf("exit status %d, %s%s", r.status, r.stdout, r.stderr)
	}
	for line := range strings.Lines(r.stdout) {
		if strings.Contains(line, `"kind":"cgroup"`) && !strings.Contains(line, `"fd_open":null`) {
			t.Errorf("a sum of what can't be seen: %s", line)
		}
	}
	if r := hidden("doctor"); r.status != 0 || strings.Contains(r.stdout, "every process is seen") {
		t.Errorf("exit status %d, %s%s", r.status, r.stdout, r.stderr)
	}
	for _, command := range []string{"fds", "headroom", "snapshot"} {
		r := hidden(command, "--pid", "1")
		if want := "rmagent: no process has PID 1 that this user may see (/proc is mounted with hidepid)\n"; r.status != 1 || !strings.HasSuffix(r.stderr, want) {
			t.Errorf("%s: exit status %d, %s%s", command, r.status, r.stdout, r.stderr)
		}
	}
}

// asNobody runs a copy of the test binary as a user without privileges.
func asNobody(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to become nobody")
	}
	dir, err := os.MkdirTemp("/tmp", "nobody")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "rmagent")
	if err := os.WriteFile(binary, self, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	cmd := agentCommand(t, args...)
	cmd.Path, cmd.Dir = binary, dir
	// Without a configured socket: an ordinary user has one of their own.
	cmd.Env = slices.DeleteFunc(cmd.Env, func(v string) bool { return strings.HasPrefix(v, "RMAGENT_SOCKET=") })
	cmd.Env = append(cmd.Env, "TMPDIR="+dir, "HOME="+dir)
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
	return cmd
}

func TestWithoutPrivileges(t *testing.T) {
	if r := runToEnd(t, asNobody(t, "run", "--jsonl", "/none.jsonl", "--duration", "1ms")); r.status != 1 || !strings.HasSuffix(r.stderr, "open /none.jsonl: permission denied\n") {
		t.Errorf("a file that may not be made: exit status %d: %s", r.status, r.stderr)
	}
	r := runToEnd(t, asNobody(t, "run", "--source", "ebpf", "--duration", "300ms"))
	if r.status != 1 || !strings.Contains(mistake(r.stderr), "CAP_BPF") {
		t.Errorf("--source ebpf: exit status %d: %s", r.status, r.stderr)
	}

	cmd := asNobody(t, "run", "--interval", "200ms", "--duration", "900ms", "--jsonl", "out.jsonl", "--log-format", "json")
	r = runToEnd(t, cmd)
	if r.status != 0 {
		t.Fatalf("exit status %d: %s", r.status, r.stderr)
	}
	if n := strings.Count(r.stderr, "source_fallback"); n != 1 || !strings.Contains(r.stderr, "CAP_BPF") {
		t.Errorf("the fallback is told of %d times:\n%s", n, r.stderr)
	}
	all := records(t, filepath.Join(cmd.Dir, "out.jsonl"))
	gapless(t, all)
	own, others := 0, 0
	for _, p := range only[*record.Process](all) {
		switch {
		case int(p.PID) == cmd.Process.Pid: // others of this user may be out of its reach (ptrace(2), PR_SET_DUMPABLE)
			own++
			if p.UID != record.Some(uint32(65534)) || !p.FDOpen.Known() || !p.IOReadBytesTotal.Known() {
				t.Errorf("of the agent itself: user %v, descriptors %v, bytes read %v", p.UID, p.FDOpen, p.IOReadBytesTotal)
			}
		case int(p.PID) == os.Getpid():
			others++
			if p.IOReadBytesTotal.Known() || p.Exe.Known() || !p.Threads.Known() || !p.RSSAnonBytes.Known() {
				t.Errorf("of root's process: bytes read %v, exe %v, threads %v", p.IOReadBytesTotal, p.Exe, p.Threads)
			}
		}
	}
	if own == 0 || others == 0 {
		t.Errorf("%d records of its own process, %d of root's", own, others)
	}
}

// A budget that can't be kept makes the interval long, and says so.
func TestCPUBudget(t *testing.T) {
	cmd := agentCommand(t, "run", "--interval", "100ms", "--cpu-budget", "0.000001", "--log-file", "log", "--log-format", "json", "--jsonl", "out.jsonl")
	s := start(t, cmd)
	log := filepath.Join(cmd.Dir, "log")
	await(t, "the log to tell of a longer interval", func() bool { return lines(log, "interval_changed") > 0 })
	s.stop()
	if n := lines(log, "interval_changed"); n != 1 {
		t.Errorf("the change is told of %d times", n)
	}
	agents := only[*record.Agent](records(t, filepath.Join(cmd.Dir, "out.jsonl")))
	if last := agents[len(agents)-1]; last.IntervalSeconds != 60 {
		t.Errorf("the interval is %v s", last.IntervalSeconds)
	}
}

// lines counts the lines of a file that have a text once.
func lines(path string, texts ...string) (n int) {
	b, _ := os.ReadFile(path)
	for line := range bytes.Lines(b) {
		if !slices.ContainsFunc(texts, func(text string) bool { return !bytes.Contains(line, []byte(text)) }) {
			n++
		}
	}
	return n
}
