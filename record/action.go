package record

import "encoding/json"

// KindAction is the kind of an [Action].
const KindAction Kind = "action"

// Outcome is how an attempt at an action ended.
type Outcome string

// The outcomes.
const (
	OutcomeDone        Outcome = "done"
	OutcomeDryRun      Outcome = "dry_run" // it would have been done
	OutcomeFailed      Outcome = "failed"
	OutcomeTimedOut    Outcome = "timed_out"
	OutcomeRefused     Outcome = "refused" // by what is never done
	OutcomeRateLimited Outcome = "rate_limited"
	OutcomeDropped     Outcome = "dropped" // the queue was full, or the agent ended first
)

// Action is one attempt at what the configuration asks for when something happens.
type Action struct {
	Header
	Action   string      `json:"action"`   // its name in the configuration
	Type     string      `json:"type"`     // log, command, webhook or signal
	Cause    string      `json:"cause"`    // state, prune, leak, limit, oom, or asked: somebody named the action
	Resource Opt[string] `json:"resource"` // that the cause is about
	Target   Opt[string] `json:"target"`   // as in [StateChange]
	Crossing Opt[uint64] `json:"crossing"` // number of the crossing or decision in this run
	Recovery bool        `json:"recovery"` // the cause is over

	PID        Opt[int32]  `json:"pid"` // whom it is about
	StartTicks Opt[uint64] `json:"start_ticks"`
	Comm       Opt[string] `json:"comm"`

	Why             string  `json:"why"`  // what happened
	What            string  `json:"what"` // what was done or would be
	Attempt         uint64  `json:"attempt"`
	Outcome         Outcome `json:"outcome"`
	Detail          string  `json:"detail"`
	DurationSeconds float64 `json:"duration_seconds"`
}

// ActionInput is what a command of an action reads on its standard input, and what a
// webhook is sent: one JSON object.
type ActionInput struct {
	Action     string          `json:"action"`
	Cause      string          `json:"cause"`
	Recovery   bool            `json:"recovery"`
	DryRun     bool            `json:"dry_run"`
	Message    string          `json:"message"`
	Resource   Opt[string]     `json:"resource"`
	Target     Opt[string]     `json:"target"`
	PID        Opt[int32]      `json:"pid"`
	StartTicks Opt[uint64]     `json:"start_ticks"`
	Comm       Opt[string]     `json:"comm"`
	Record     json.RawMessage `json:"record"` // as it is in the JSON lines; null where nothing happened
}

func (e *encoder) action(r *Action) {
	e.str(`,"action":`, r.Action)
	e.str(`,"type":`, r.Type)
	e.str(`,"cause":`, r.Cause)
	e.optStr(`,"resource":`, r.Resource)
	e.optStr(`,"target":`, r.Target)
	e.optUint(`,"crossing":`, r.Crossing)
	e.bool(`,"recovery":`, r.Recovery)
	e.optInt(`,"pid":`, r.PID)
	e.optUint(`,"start_ticks":`, r.StartTicks)
	e.optStr(`,"comm":`, r.Comm)
	e.str(`,"why":`, r.Why)
	e.str(`,"what":`, r.What)
	e.uint(`,"attempt":`, r.Attempt)
	e.str(`,"outcome":`, string(r.Outcome))
	e.str(`,"detail":`, r.Detail)
	e.optFloat(`,"duration_seconds":`, Some(r.DurationSeconds))
}
