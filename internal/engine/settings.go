package engine

import (
	"time"

	"rmagent/internal/policy"
	"rmagent/internal/report"
	"rmagent/record"
)

// Settings are what can change while an engine runs.
type Settings struct {
	Policy    policy.Config
	Interval  time.Duration
	CPUBudget float64
	Select    report.Selection
	Record    *record.Config // to be written when they come into force
	Applied   func()         // called then; may be nil
}

// SettingsSource has new settings now and then.
type SettingsSource interface {
	// Next returns settings that are to be in force from now on, or nil. It never waits.
	Next() *Settings
}

// renew puts new settings in force, if there are any, between two ticks: a decision is
// taken by one configuration, and the records say by which.
func (e *Engine) renew() {
	if e.Settings == nil {
		return
	}
	s := e.Settings.Next()
	if s == nil {
		return
	}
	e.Policy.Configure(s.Policy)
	e.Select = s.Select
	if e.Interval != s.Interval || e.CPUBudget != s.CPUBudget {
		e.Interval, e.CPUBudget = s.Interval, s.CPUBudget
		e.budget = newBudget(e.CPUBudget, e.Interval)
	}
	if s.Applied != nil {
		s.Applied()
	}
	e.now = time.Now()
	e.emit(s.Record)
}
