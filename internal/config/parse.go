package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// ParseDuration reads a duration: numbers with units (ns, us, ms, s, m, h, d),
// joined as in 1m30s, or a bare number of seconds.
func ParseDuration(s string) (time.Duration, error) {
	bad := fmt.Errorf("%q is not a duration such as 500ms, 10s, 1m30s or 2d", s)
	if f, err := strconv.ParseFloat(s, 64); err == nil {
		return seconds(f, bad)
	}
	days, rest := 0.0, s
	if number, after, ok := strings.Cut(s, "d"); ok {
		f, err := strconv.ParseFloat(number, 64)
		if err != nil || f < 0 {
			return 0, bad
		}
		days, rest = f, after
	}
	d, err := seconds(days*24*60*60, bad)
	if err != nil || rest == "" && s != "" {
		return d, err
	}
	part, err := time.ParseDuration(rest)
	if err != nil || part < 0 || d+part < d {
		return 0, bad
	}
	return d + part, nil
}

func seconds(f float64, bad error) (time.Duration, error) {
	ns := math.Round(f * 1e9)
	if !(ns >= 0 && ns < math.MaxInt64) {
		return 0, bad
	}
	return time.Duration(ns), nil
}

// showDuration is Duration.String in days, or without its empty parts.
func showDuration(d time.Duration) string {
	const day = 24 * time.Hour
	if d > 0 && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

var sizeUnits = map[string]float64{
	"": 1, "B": 1,
	"kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
	"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
}

// ParseSize reads a number of bytes: a number, alone or with a unit of powers of
// 1000 (kB, MB, GB, TB) or of 1024 (KiB, MiB, GiB, TiB).
func ParseSize(s string) (float64, error) {
	number := strings.TrimRight(s, "BkKMGTi")
	factor, ok := sizeUnits[s[len(number):]]
	f, err := parseNumber(strings.TrimRight(number, " "))
	if err != nil || !ok {
		return 0, fmt.Errorf("%q is not a size such as 8388608, 8MB or 8MiB", s)
	}
	return f * factor, nil
}

func parseNumber(s string) (float64, error) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
		return 0, fmt.Errorf("%q is not a number", s)
	}
	return f, nil
}

func parseBool(s string) (any, error) {
	switch s {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return nil, fmt.Errorf("%q is neither", s)
}
