// Package human writes numbers as people read them.
package human

import (
	"fmt"
	"time"
)

// Bytes writes a number of bytes in units of 1024, with four digits at most.
func Bytes(n float64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	i := 0
	for n >= 1024 && i < len(units)-1 {
		n /= 1024
		i++
	}
	if i == 0 || n >= 100 {
		return fmt.Sprintf("%.0f %s", n, units[i])
	}
	return fmt.Sprintf("%.1f %s", n, units[i])
}

// Percent writes a share. It never says 100 while something is left, nor 0 where
// something is used.
func Percent(ratio float64) string {
	switch v := ratio * 100; {
	case v > 0 && v < 1:
		return "<1%"
	case v > 99 && v < 100:
		return "99%"
	default:
		return fmt.Sprintf("%.0f%%", v)
	}
}

// Seconds writes a duration in seconds in the unit that suits its length.
func Seconds(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case seconds > 365*24*3600:
		return "over a year"
	case d >= 48*time.Hour:
		return fmt.Sprintf("%.0f days", d.Hours()/24)
	case d >= 2*time.Hour:
		return fmt.Sprintf("%.0f h", d.Hours())
	case d >= 2*time.Minute:
		return fmt.Sprintf("%.0f min", d.Minutes())
	}
	return fmt.Sprintf("%.0f s", d.Seconds())
}

// Rate writes how often something happens, in the unit that makes it a number that
// one can picture.
func Rate(perSecond float64) string {
	switch {
	case perSecond >= 10:
		return fmt.Sprintf("%.0f a second", perSecond)
	case perSecond >= 0.95:
		return fmt.Sprintf("%.1f a second", perSecond)
	case perSecond*60 >= 0.95:
		return fmt.Sprintf("%.1f a minute", perSecond*60)
	}
	return fmt.Sprintf("%.1f an hour", perSecond*3600)
}
