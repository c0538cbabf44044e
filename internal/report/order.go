package report

import (
	"cmp"
	"math"
	"slices"

	"rmagent/record"
)

// states are in order of severity.
var states = []record.State{record.StateNormal, record.StateInfo, record.StateWarning, record.StateCritical}

// WorseState orders states: the most severe first, of those the nearest to its limit.
func WorseState(a, b record.StateChange) int {
	return cmp.Or(
		slices.Index(states, b.State)-slices.Index(states, a.State),
		cmp.Compare(b.Ratio.Or(0), a.Ratio.Or(0)),
		cmp.Compare(a.Resource, b.Resource),
		cmp.Compare(a.Target, b.Target))
}

// verdicts are in order of urgency.
var verdicts = []record.Verdict{
	record.VerdictUnknown, record.VerdictSteady, record.VerdictOver, record.VerdictGrowing, record.VerdictLeaking,
}

// WorseLeak orders processes: leaks first, of those the one whose limit is nearest in
// time.
func WorseLeak(a, b record.Leak) int {
	return cmp.Or(
		slices.Index(verdicts, b.Verdict)-slices.Index(verdicts, a.Verdict),
		cmp.Compare(a.SecondsToLimit.Or(math.Inf(1)), b.SecondsToLimit.Or(math.Inf(1))),
		cmp.Compare(b.FDOpen.Or(0), a.FDOpen.Or(0)),
		cmp.Compare(a.PID, b.PID))
}
