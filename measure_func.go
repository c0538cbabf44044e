package rmagent

import (
	"context"
	"errors"

	"rmagent/internal/job"
	"rmagent/internal/job/cards"
)

// MeasureFunc runs a function and measures the whole process while it does: what other
// goroutines do meanwhile counts too, and so does memory that was there before. Network
// bytes and processes are unknown. To measure work alone, run it as a command of its
// own by [Measure].
//
// A limit that is broken cancels the function's context, with an *[ExhaustionError]
// as its cause, unless o.MeasureOnly is set; the function then returns when it likes,
// and MeasureFunc returns that error. Else it returns f's own. f runs in the goroutine
// that calls, which may recover from a panic of f; o.OnMeasure is called by another,
// beside it. Fields of o that are about processes (Grace, MainOnly, Socket) mean nothing
// here.
func MeasureFunc(ctx context.Context, name string, f func(context.Context) error, o JobOptions) (*Job, error) {
	limits, err := jobLimits(o.Limits)
	if err != nil {
		return nil, err
	}
	o.Name = name
	steps := newSteps(&o)
	gpus := cards.Open("", false)
	defer gpus.Close()
	var broken *ExhaustionError
	r, err := job.RunSelf(ctx, job.Options{Limits: limits, Only: o.MeasureOnly, GPUs: gpus, Interval: steps.interval, Step: steps.tell}, f,
		func(r *job.Result) error {
			broken = exhaustion(job.SummarizeSelf(r))
			return broken
		})
	s := job.SummarizeSelf(r)
	s.Category, s.TaskID, s.Command = o.Category, o.TaskID, name
	j := &Job{}
	j.fill(s)
	switch {
	case len(s.Exceeded) == 0:
		return j, err
	case broken == nil: // seen only at the end, or not to be enforced
		broken = exhaustion(s)
	}
	if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, broken) {
		return j, errors.Join(broken, err)
	}
	return j, broken
}
