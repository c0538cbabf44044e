package record

import "time"

// History is what one resource of one target was used, in the order of time. It is no
// [Record].
type History struct {
	Resource string         `json:"resource"`
	Target   string         `json:"target"` // as in [StateChange]
	Unit     string         `json:"unit"`   // of the values
	Points   []HistoryPoint `json:"points"`
}

// HistoryPoint is one reading.
type HistoryPoint struct {
	Time  time.Time    `json:"time"`
	Value float64      `json:"value"`
	Ratio Opt[float64] `json:"ratio"` // of the limit; null where there is none
}

// Stats are the peaks and events since a time. It is no [Record].
type Stats struct {
	Since     time.Time       `json:"since"`
	Resources []ResourceStats `json:"resources"`
	// Events count the crossings upwards by resource, those of processes and cgroups
	// included.
	WarningEvents  map[string]uint64 `json:"warning_events"`
	CriticalEvents map[string]uint64 `json:"critical_events"`
}

// ResourceStats are of one resource of one target.
type ResourceStats struct {
	Resource       string       `json:"resource"`
	Target         string       `json:"target"`
	Unit           string       `json:"unit"`
	Readings       uint64       `json:"readings"`
	Average        float64      `json:"average"`
	Peak           float64      `json:"peak"`
	PeakRatio      Opt[float64] `json:"peak_ratio"` // at the time of the peak
	PeakTime       time.Time    `json:"peak_time"`
	WarningEvents  uint64       `json:"warning_events"`
	CriticalEvents uint64       `json:"critical_events"`
}
