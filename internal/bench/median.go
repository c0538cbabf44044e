package main

import "slices"

// median of nothing is 0.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// medianSteady takes the median of each figure by itself.
func medianSteady(samples []steadySample) steadySample {
	of := func(figure func(steadySample) float64) float64 {
		var values []float64
		for _, s := range samples {
			values = append(values, figure(s))
		}
		return median(values)
	}
	m := steadySample{
		CPUSecondsPerMinute: of(func(s steadySample) float64 { return s.CPUSecondsPerMinute }),
		RSSBytes:            int64(of(func(s steadySample) float64 { return float64(s.RSSBytes) })),
		PSSBytes:            int64(of(func(s steadySample) float64 { return float64(s.PSSBytes) })),
		ReadingsPerSecond:   of(func(s steadySample) float64 { return s.ReadingsPerSecond }),
		WrittenPerSecond:    of(func(s steadySample) float64 { return s.WrittenPerSecond }),
		SeenRatio:           of(func(s steadySample) float64 { return s.SeenRatio }),
		ForksPerSecond:      of(func(s steadySample) float64 { return s.ForksPerSecond }),
		PopulationCores:     of(func(s steadySample) float64 { return s.PopulationCores }),
	}
	if charged := chargedOf(samples); len(charged) > 0 {
		bytes := int64(median(charged))
		m.ChargedBytes = &bytes
	}
	return m
}

func chargedOf(samples []steadySample) []float64 {
	var values []float64
	for _, s := range samples {
		if s.ChargedBytes != nil {
			values = append(values, float64(*s.ChargedBytes))
		}
	}
	return values
}
