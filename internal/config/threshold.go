package config

import (
	"fmt"
	"slices"
	"time"
)

// resources are those that have thresholds, with their defaults.
var resources = []struct {
	name string
	def  Threshold
}{
	{"fd", Threshold{Info: 0.7, Warning: 0.8, Critical: 0.9, Hysteresis: 0.05, Hold: 10 * time.Second}},
	{"memory", Threshold{Info: 0.7, Warning: 0.8, Critical: 0.9, Hysteresis: 0.05, Hold: 10 * time.Second}},
}

func thresholdKeys() []key {
	var list []key
	for _, r := range resources {
		prefix := "thresholds." + r.name + "."
		list = append(list,
			number(prefix+"info", r.def.Info, 0, 1),
			number(prefix+"warning", r.def.Warning, 0, 1),
			number(prefix+"critical", r.def.Critical, 0, 1),
			number(prefix+"hysteresis", r.def.Hysteresis, 0, 0.5),
			duration(prefix+"hold", r.def.Hold, 0, time.Hour),
		)
	}
	return list
}

// checkThresholds reports thresholds that are not in order. The blame falls on
// the value that was set last in the chain of layers, or on the higher one.
func (l *Loaded) checkThresholds() []Problem {
	var problems []Problem
	for _, r := range resources {
		prefix := "thresholds." + r.name + "."
		names := []string{"info", "warning", "critical"}
		for i := range names[1:] {
			low, high := prefix+names[i], prefix+names[i+1]
			lower, upper := l.values[low].(float64), l.values[high].(float64)
			if lower <= upper {
				continue
			}
			blamed := slices.MaxFunc([]string{low, high}, func(a, b string) int {
				return int(l.origins[a].Layer) - int(l.origins[b].Layer)
			})
			problems = append(problems, Problem{
				Origin: l.origins[blamed], Key: blamed,
				What: fmt.Sprintf("%s (%v) is above %s (%v); allowed: info <= warning <= critical", low, lower, high, upper),
			})
		}
	}
	return problems
}
