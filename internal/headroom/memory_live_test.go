package headroom_test

import (
	"bufio"
	"fmt"
	"math"
	"os"
	"runtime/debug"
	"testing"

	"rmagent"
	"rmagent/internal/cgrouptest"
	"rmagent/internal/childtest"
	"rmagent/internal/headroom"
)

func init() { headroom.Helpers["fill"] = fill }

const (
	fillLimit = 256 << 20
	fillStep  = 8 << 20
	fillStop  = 16 << 20 // available that is near zero
)

// fill takes memory until hardly any is available, and lets go of it. It says what
// it took, by its own count, and what was available each time.
func fill() {
	bufio.NewReader(os.Stdin).ReadString('\n') // until it is in its cgroup
	debug.SetGCPercent(-1)
	var held [][]byte
	say := func() uint64 {
		m, err := rmagent.ReadMemory()
		available, ok := m.Available.Get()
		if err != nil || !ok {
			fmt.Println("failed", err)
			os.Exit(1)
		}
		fmt.Println(len(held)*fillStep, available, m.LimitedBy)
		return available
	}
	for say() > fillStop {
		b := make([]byte, fillStep)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		held = append(held, b)
	}
	clear(held)
	held = nil
	debug.FreeOSMemory()
	say()
}

// TestAvailableFallsAndRises: a program that fills memory in a limited cgroup sees
// what is available fall to nearly nothing and rise again, and lives.
func TestAvailableFallsAndRises(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	g := cgrouptest.New(t)
	if !g.Has("memory.max") {
		t.Skip("no memory controller")
	}
	g.Limit("memory.max", fillLimit)
	c := childtest.Start(t, childtest.Itself("HEADROOM_TEST_HELPER", "fill"))
	g.Add(int(c.PID()))
	c.Say("")

	var taken, available, first, last float64
	readings, worst := 0, 0.0
	for {
		line, ok := c.Line()
		if !ok {
			break
		}
		var name, of, cgroup, path string
		if _, err := fmt.Sscan(line, &taken, &available, &name, &of, &cgroup, &path); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if name != "memory.max" || path != g.Path() {
			t.Fatalf("limited by %q", line)
		}
		if readings == 0 {
			first = available
		}
		readings++
		worst = max(worst, math.Abs(available-(first-taken)))
		last = available
		if taken > 0 {
			t.Logf("%3.0f MiB taken, %3.0f MiB available", taken/(1<<20), available/(1<<20))
		}
	}
	if err := c.Wait(); err != nil {
		t.Fatalf("it did not live: %v", err)
	}
	if first < 0.9*fillLimit || first > fillLimit {
		t.Errorf("%v available at first, of %v", first, fillLimit)
	}
	t.Logf("off by %.1f MiB at most", worst/(1<<20))
	if worst > 0.05*fillLimit {
		t.Errorf("off by %v, more than 5 %% of %v", worst, fillLimit)
	}
	if readings < 20 || last < 0.95*first {
		t.Errorf("%d readings; %v available in the end, %v at first", readings, last, first)
	}
}
