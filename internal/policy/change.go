package policy

import (
	"rmagent/internal/sample"
	"rmagent/record"
)

// Change is one thing that the policy decided, for whoever writes it down or acts on
// it. Exactly one of State and Prune is set; both are valid until the next judgment.
type Change struct {
	// Crossing numbers what was crossed, from 1 on, in the order of the decisions: no
	// two crossings of a run have the same number. A prune decision that still holds
	// is told again each minute under its first number (Again is set), so who acts
	// once for each number acts once for each crossing.
	Crossing uint64
	Again    bool

	State *record.StateChange // a threshold or the limit of a tracked process was crossed, up or down
	Prune *record.Prune

	// Process is who the target is; zero where it is no process.
	Process sample.ID
	// Rule names the rule of the configuration's list "tracked" whose limit was
	// crossed; empty for thresholds and prune decisions. Actions are the names of the
	// actions that the rule asks for.
	Rule    string
	Actions []string
	Tracked bool // it is a limit of such a rule, whether or not that has a name

	key   gaugeKey
	state int // which of the engine's states
}

// Key tells whose state it is that changed: of one resource of one target there is one by
// thresholds, and one by each rule that limits it.
func (c *Change) Key() Key { return Key{c.key} }

// Key identifies a state.
type Key struct{ key gaugeKey }

// Worse tells whether the change is one for the worse, which actions are for.
func (c *Change) Worse() bool {
	if c.Prune != nil {
		return c.Prune.ShouldPrune
	}
	return rank(c.State.State) > rank(c.State.Previous)
}
