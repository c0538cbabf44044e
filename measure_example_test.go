package rmagent_test

import (
	"context"
	"errors"
	"fmt"
	"os/exec"

	"rmagent"
)

// A command, its descendants included, is measured, and ended above its limits.
func ExampleMeasure() {
	job, err := rmagent.Measure(context.Background(), exec.Command("sh", "-c", "sleep 0.1; exit 3"), rmagent.JobOptions{
		Limits: map[string]float64{"memory": 500, "wall_time": 60},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("status", job.State.ExitCode())
	fmt.Println("it took more than 0.1 s:", job.WallTimeSeconds.Or(0) > 0.1)
	// Output:
	// status 3
	// it took more than 0.1 s: true
}

// What broke a limit is told by the error, and what the job used until then, too.
func ExampleExhaustionError() {
	_, err := rmagent.Measure(context.Background(), exec.Command("sleep", "60"), rmagent.JobOptions{
		Limits: map[string]float64{"wall_time": 0.2},
	})
	var exhausted *rmagent.ExhaustionError
	if errors.As(err, &exhausted) {
		fmt.Println(exhausted)
		fmt.Println(exhausted.Broken[0].Resource, "is in", exhausted.Resources["wall_time"].Unit)
	}
	// Output:
	// Limits broken: wall_time: 0.2
	// wall_time is in s
}

// A function is measured with the process that it runs in.
func ExampleMeasureFunc() {
	job, err := rmagent.MeasureFunc(context.Background(), "sum", func(context.Context) error {
		sum := 0
		for i := range 1000 {
			sum += i
		}
		fmt.Println(sum)
		return nil
	}, rmagent.JobOptions{})
	fmt.Println(err, job.MeasuredBy)
	// Output:
	// 499500
	// <nil> self
}
