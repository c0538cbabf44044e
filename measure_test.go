package rmagent

import (
	"context"
	"errors"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestMeasureTellsOfTheStartAndTheEnd(t *testing.T) {
	var steps []int
	_, err := Measure(context.Background(), exec.Command("true"), JobOptions{
		Socket: "none", Interval: time.Hour,
		OnMeasure: func(m Measurement) { steps = append(steps, m.Step) },
	})
	if err != nil || !slices.Equal(steps, []int{0, -1}) {
		t.Errorf("steps %v, %v", steps, err)
	}
}

func TestMeasureTellsOfEachStep(t *testing.T) {
	var steps []Measurement
	j, err := Measure(context.Background(), exec.Command("sleep", "0.35"), JobOptions{
		Name: "nap", Category: "naps", TaskID: "7", Socket: "none", Interval: 100 * time.Millisecond,
		OnMeasure: func(m Measurement) { steps = append(steps, m) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if !j.State.Success() || j.ExitType != "normal" || j.Category.Or("") != "naps" || j.TaskID.Or("") != "7" {
		t.Errorf("%+v", j)
	}
	if len(steps) < 3 {
		t.Fatalf("%d steps", len(steps))
	}
	for i, s := range steps {
		number := i
		if i == len(steps)-1 {
			number = -1
		}
		if s.Step != number || s.Name != "nap" || s.ID != steps[0].ID {
			t.Errorf("step %d: %+v", i, s)
		}
	}
	last := steps[len(steps)-1].Resources
	if w := last["wall_time"]; w.Unit != "s" || w.Value < 0.35 {
		t.Errorf("wall time %+v", w)
	}
	if n := last["total_processes"]; n.Value != 1 || n.Unit != "procs" {
		t.Errorf("processes %+v", n)
	}
}

func TestMeasureEndsWhatBreaksALimit(t *testing.T) {
	j, err := Measure(context.Background(), exec.Command("sh", "-c", "sleep 60 & sleep 60"), JobOptions{
		Socket: "none", Limits: map[string]float64{"wall_time": 0.2, "memory": 1000}, Grace: time.Second,
	})
	var e *ExhaustionError
	if !errors.As(err, &e) {
		t.Fatal(err)
	}
	if e.Error() != "Limits broken: wall_time: 0.2" || len(e.Broken) != 1 || e.Resources["wall_time"].Value <= 0.2 {
		t.Errorf("%v: %+v", e, e)
	}
	if j == nil || j.ExitType != "limits" || len(j.Limits) != 1 {
		t.Errorf("%+v", j)
	}
}

func TestMeasureOnly(t *testing.T) {
	j, err := Measure(context.Background(), exec.Command("sleep", "0.3"), JobOptions{
		Socket: "none", Limits: map[string]float64{"wall_time": 0.1}, MeasureOnly: true,
	})
	var e *ExhaustionError
	if !errors.As(err, &e) || !j.State.Success() {
		t.Errorf("%v, %v", err, j.State)
	}
}

func TestMeasureRefuses(t *testing.T) {
	for name, limits := range map[string]map[string]float64{
		"memroy": {"memroy": 3}, "memory": {"memory": -3},
	} {
		_, err := Measure(context.Background(), exec.Command("true"), JobOptions{Limits: limits})
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v: %v", limits, err)
		}
	}
	var internal *InternalError
	if _, err := Measure(context.Background(), exec.Command("/no/such"), JobOptions{Socket: "none"}); err == nil || errors.As(err, &internal) {
		t.Errorf("a command that is not there: %v", err)
	}
}

func TestMeasureEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	started := func(Measurement) { cancel() }
	j, err := Measure(ctx, exec.Command("sleep", "60"), JobOptions{Socket: "none", OnMeasure: started})
	if !errors.Is(err, context.Canceled) || j == nil || j.Signal.Or(0) != 15 {
		t.Errorf("%v: %+v", err, j)
	}
}

func TestAFailureIsNoError(t *testing.T) {
	j, err := Measure(context.Background(), exec.Command("sh", "-c", "exit 3"), JobOptions{Socket: "none"})
	if err != nil || j.State.ExitCode() != 3 || j.ExitStatus.Or(0) != 3 || j.OutputErr != nil {
		t.Errorf("%v: %+v", err, j)
	}
}

func TestMeasureFunc(t *testing.T) {
	fails := errors.New("it fails")
	var steps []int
	j, err := MeasureFunc(context.Background(), "work", func(context.Context) error {
		buffer := make([]byte, 64<<20)
		for begin := time.Now(); time.Since(begin) < 300*time.Millisecond; {
			for i := 0; i < len(buffer); i += 4096 {
				buffer[i]++
			}
		}
		return fails
	}, JobOptions{Interval: 100 * time.Millisecond, OnMeasure: func(m Measurement) { steps = append(steps, m.Step) }})
	if err != fails {
		t.Errorf("%v", err)
	}
	if j.MeasuredBy != "self" || j.CPUTimeSeconds.Or(0) < 0.05 || j.MemoryBytes.Or(0) < 64<<20 || j.SentBytes.Known() {
		t.Errorf("%+v", j)
	}
	if len(steps) < 2 || steps[len(steps)-1] != -1 {
		t.Errorf("steps %v", steps)
	}
}

func TestMeasureFuncIsCancelledAboveALimit(t *testing.T) {
	var cause error
	_, err := MeasureFunc(context.Background(), "wait", func(ctx context.Context) error {
		<-ctx.Done()
		cause = context.Cause(ctx)
		return ctx.Err()
	}, JobOptions{Limits: map[string]float64{"wall_time": 0.1}})
	var e *ExhaustionError
	if !errors.As(err, &e) || !errors.As(cause, &e) || e.Error() != "Limits broken: wall_time: 0.1" {
		t.Errorf("%v, cause %v", err, cause)
	}
}

// What a function panics with reaches who called for it, when all is told.
func TestMeasureFuncPanics(t *testing.T) {
	steps := 0
	defer func() {
		if p := recover(); p != http.ErrAbortHandler || steps < 2 {
			t.Errorf("panicked with %v after %d steps", p, steps)
		}
	}()
	_, err := MeasureFunc(context.Background(), "work", func(context.Context) error { panic(http.ErrAbortHandler) },
		JobOptions{OnMeasure: func(Measurement) { steps++ }})
	t.Errorf("it returns %v", err)
}
