package record

// KindPrune is the kind of a [Prune].
const KindPrune Kind = "prune"

// Prune says whether work should be taken off this machine, or off a part of it:
// when the answer or its reasons change, and once a minute while it is yes.
type Prune struct {
	Header
	ShouldPrune bool             `json:"should_prune"`
	Reasons     []PruneReason    `json:"reasons"`    // each suffices; none where ShouldPrune is false
	Candidates  []PruneCandidate `json:"candidates"` // first to go first; none where ShouldPrune is false
}

// PruneReason is a resource of a target that is above its maximum now, and was used
// for more than the target share of it on average.
type PruneReason struct {
	Resource     string       `json:"resource"`
	Target       string       `json:"target"` // as in [StateChange]
	Value        Opt[float64] `json:"value"`  // now, in Unit
	Max          Opt[float64] `json:"max"`
	Unit         string       `json:"unit"`
	AverageRatio Opt[float64] `json:"average_ratio"` // mean over the observation period / max
	TargetRatio  Opt[float64] `json:"target_ratio"`  // what it may be
}

// PruneCandidate is a process that relieves a resource when it ends.
type PruneCandidate struct {
	PID        int32        `json:"pid"`
	StartTicks uint64       `json:"start_ticks"`
	Comm       string       `json:"comm"`
	Cgroup     Opt[string]  `json:"cgroup"`
	Resource   string       `json:"resource"` // of the reason that it relieves most
	Value      Opt[float64] `json:"value"`    // what it has of that, in the reason's unit
	Why        string       `json:"why"`
}

func (e *encoder) prune(r *Prune) {
	e.bool(`,"should_prune":`, r.ShouldPrune)
	e.list(`,"reasons":`, r.Reasons == nil, len(r.Reasons), func(i int) { e.pruneReason(&r.Reasons[i]) })
	e.list(`,"candidates":`, r.Candidates == nil, len(r.Candidates), func(i int) { e.pruneCandidate(&r.Candidates[i]) })
}

func (e *encoder) pruneReason(r *PruneReason) {
	e.str(`{"resource":`, r.Resource)
	e.str(`,"target":`, r.Target)
	e.optFloat(`,"value":`, r.Value)
	e.optFloat(`,"max":`, r.Max)
	e.str(`,"unit":`, r.Unit)
	e.optFloat(`,"average_ratio":`, r.AverageRatio)
	e.optFloat(`,"target_ratio":`, r.TargetRatio)
	e.raw("}")
}

func (e *encoder) pruneCandidate(c *PruneCandidate) {
	e.int(`{"pid":`, int64(c.PID))
	e.uint(`,"start_ticks":`, c.StartTicks)
	e.str(`,"comm":`, c.Comm)
	e.optStr(`,"cgroup":`, c.Cgroup)
	e.str(`,"resource":`, c.Resource)
	e.optFloat(`,"value":`, c.Value)
	e.str(`,"why":`, c.Why)
	e.raw("}")
}
