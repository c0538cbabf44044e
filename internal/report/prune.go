package report

import (
	"fmt"
	"strings"

	"rmagent/internal/human"
	"rmagent/record"
)

// PruneMessage says in a sentence what a prune record means.
func PruneMessage(p *record.Prune) string {
	if !p.ShouldPrune {
		return "There is no longer too much work: nothing that has a maximum stays above it"
	}
	reasons := make([]string, len(p.Reasons))
	for i := range p.Reasons {
		r := &p.Reasons[i]
		value, known := r.Value.Get()
		if !known {
			reasons[i] = fmt.Sprintf("%s of %s: unknown now, at most %s", r.Resource, r.Target, quantity(r.Max.Or(0), r.Unit))
			continue
		}
		reasons[i] = fmt.Sprintf("%s of %s: %s, at most %s, %.0f%% of that on average (target %.0f%%)", r.Resource, r.Target,
			quantity(value, r.Unit), quantity(r.Max.Or(0), r.Unit), r.AverageRatio.Or(0)*100, r.TargetRatio.Or(0)*100)
	}
	m := "There is too much work. " + strings.Join(reasons, "; ")
	if len(p.Candidates) > 0 {
		c := &p.Candidates[0]
		m += fmt.Sprintf(". First to go: %s (pid %d): %s", c.Comm, c.PID, c.Why)
	}
	return m
}

func quantity(v float64, unit string) string {
	switch unit {
	case "percent":
		return fmt.Sprintf("%.1f%%", v)
	case "bytes":
		return human.Bytes(v)
	case "bytes_per_second":
		return human.Bytes(v) + "/s"
	}
	return fmt.Sprintf("%.0f %s", v, unit)
}
