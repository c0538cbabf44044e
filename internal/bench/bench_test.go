package main

import (
	"bufio"
	"bytes"
	"math"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const holdVariable = "BENCH_TEST_HOLD_BYTES"

// TestMain can also be a process that holds memory until its stdin ends.
func TestMain(m *testing.M) {
	if n, err := strconv.Atoi(os.Getenv(holdVariable)); err == nil {
		held := bytes.Repeat([]byte{1}, n)
		os.Stdout.WriteString("ready\n")
		bufio.NewReader(os.Stdin).ReadByte()
		os.Exit(int(held[0]) - 1)
	}
	os.Exit(m.Run())
}

func TestProcessClockIsTheOwnCPUClock(t *testing.T) {
	own := func() int64 {
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts); err != nil {
			t.Fatal(err)
		}
		return ts.Nano()
	}
	before := own()
	got, err := processClock(os.Getpid())
	after := own()
	if err != nil {
		t.Fatal(err)
	}
	if int64(got) < before || int64(got) > after {
		t.Errorf("CPU clock %d, want between %d and %d", got, before, after)
	}
}

func TestDescendantsAreTheWholeTree(t *testing.T) {
	cmd := exec.Command("sh", "-c", `sh -c 'sleep 60 & echo $! $$; wait' & sleep 60 & echo $!; wait`)
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer unix.Kill(-cmd.Process.Pid, unix.SIGKILL)

	want := []int{cmd.Process.Pid}
	for words := bufio.NewScanner(stdout); len(want) < 4 && words.Scan(); {
		for _, field := range strings.Fields(words.Text()) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, pid)
		}
	}
	got := descendants(cmd.Process.Pid)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("descendants %v, want %v", got, want)
	}
}

func TestMemoryGroupIsChargedWithItsWatcher(t *testing.T) {
	if _, _, err := memoryHierarchy(); err != nil || os.Getuid() != 0 {
		t.Skipf("needs root and a memory cgroup hierarchy: %v", err)
	}
	group, err := newMemoryGroup()
	if err != nil {
		t.Fatal(err)
	}
	const held = 32 << 20
	w := &watcher{peer: peer{argv: []string{os.Args[0]}}, group: group}
	cmd := w.command()
	cmd.Env = append(os.Environ(), holdVariable+"="+strconv.Itoa(held))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	bufio.NewReader(stdout).ReadString('\n')
	got, err := group.current()
	if err != nil {
		t.Fatal(err)
	}
	// Beside what it holds: its runtime, page tables, and page cache that nobody
	// has read before.
	if got < held || got > held+64<<20 {
		t.Errorf("charged %d bytes, want at least %d and not much more", got, held)
	}
	stdin.Close()
	cmd.Wait()
	if err := group.remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(group.dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there", group.dir)
	}
}

func TestOutputCountsReadingsAndShownProcesses(t *testing.T) {
	o := newOutput("tick ", []int{17, 170, 1700})
	o.follow(strings.NewReader("17 a fds=8\n1701 b\ntick 2\n" +
		`{"kind":"exit","comm":"noop"}` + "\n" +
		strings.Repeat("x", 1<<17) + "\n(170) c\ntick 3\n"))
	got := o.counts()
	if got.readings != 2 || got.seen != 2 || got.exits != 1 {
		t.Errorf("readings, seen, exits: %d, %d, %d, want 2, 2, 1", got.readings, got.seen, got.exits)
	}
	select {
	case <-o.first:
	default:
		t.Error("the first reading was not announced")
	}
}

func TestLoopRatioCancelsDrift(t *testing.T) {
	costs := func(ns ...float64) []loopCost {
		var all []loopCost
		for _, n := range ns {
			all = append(all, loopCost{CPUNanoseconds: n, WallNanoseconds: n})
		}
		return all
	}
	// The machine slows down steadily, and the agent adds 10 %.
	row := loopRow{Without: costs(100, 120, 140), With: costs(1.1*110, 1.1*130), Goal: 1.09}
	row.compare()
	if math.Abs(row.Ratio-1.1) > 1e-9 {
		t.Errorf("ratio %v, want 1.1", row.Ratio)
	}
	if row.met() {
		t.Error("a goal of 1.09 is met by 1.1")
	}
	// Without a goal: 1 within the noise, which is here 17 to 20 %.
	if row.Goal = 0; !row.met() {
		t.Errorf("ratio %v is not within the noise of %v", row.Ratio, row.Noise)
	}
}

func TestMedianOfEvenAndOddCounts(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 4}, 4}, {[]float64{4, 1, 9, 2}, 3}} {
		if got := median(c.values); got != c.want {
			t.Errorf("median of %v: %v, want %v", c.values, got, c.want)
		}
	}
}

func TestTableSaysWhatIsMissingAndWhichGoalsAreMet(t *testing.T) {
	charged := int64(41 << 20)
	sample := steadySample{CPUSecondsPerMinute: 0.09, ChargedBytes: &charged, SeenRatio: 1, ReadingsPerSecond: 0.5, ForksPerSecond: 70}
	r := result{Machine: machine{OtherAgents: []int{42}}, Steady: []*steadyRow{
		{Kind: "idle", N: 1000, Watcher: agentName, Samples: []steadySample{sample}, Median: sample},
		{Kind: "idle", N: 1000, Watcher: "pidstat", Missing: "not found"},
		{Kind: "idle", N: 5000, Watcher: agentName, Missing: "ended"},
	}}
	var out strings.Builder
	r.print(&out)
	for _, want := range []string{
		"pidstat missing: not found",
		"at most 0.10 CPU s/min: met (0.090)",
		"at most 40 MiB charged: NOT MET (41.0)",
		"rmagent missing: ended",
		"rmagent could not hold one reading a second",
		"other agents run here, whose hooks cost too: PIDs [42]",
		"disturbed: something else started 70 processes a second",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in:\n%s", want, out.String())
		}
	}
}

func TestTableComparesWithThePlainServerRoundByRound(t *testing.T) {
	row := clientRow{Processes: 5000, Path: "/resources/all", EverySeconds: 1, Goal: 0.001, Beside: &waits{}, Alone: &waits{}}
	add := func(w *waits, slowest time.Duration) {
		took := make([]time.Duration, 100)
		for i := range took {
			took[i] = time.Millisecond / 2
		}
		took[99] = slowest
		w.add(took)
	}
	// The second round was on a machine three times as slow.
	for _, slow := range []time.Duration{1, 3} {
		add(&row.Agent, slow*4*time.Millisecond)
		add(row.Beside, slow*2*time.Millisecond)
		add(row.Alone, slow*time.Millisecond)
	}
	var out strings.Builder
	printClients(&out, []*clientRow{&row, {Processes: 5000, Path: "/v1/processes", Agent: row.Agent}})
	for _, want := range []string{"p99 under 1 ms  NOT MET", "0.50 / 2.00", "0.50 / 4.00", "0.50 / 8.00  ", "2.00\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in:\n%s", want, out.String())
		}
	}
	if got := strings.Count(out.String(), "/v1/processes"); got != 1 {
		t.Errorf("a question without a goal is in %d tables, want 1", got)
	}
}

func TestOptionsNameWhatIsWrong(t *testing.T) {
	for _, args := range [][]string{{"-peers", "topp"}, {"-suites", "steadi"}, {"-n", "x"}, {"-n", "0"}, {"more"}} {
		if _, err := parseOptions(args); err == nil || !strings.Contains(err.Error(), args[len(args)-1]) {
			t.Errorf("%v: error %v does not name %q", args, err, args[len(args)-1])
		}
	}
}
