// Package footprint measures what directories hold: the disk footprint of a job. A
// [Meter] walks them again and again in a goroutine of its own, and spends no
// more than a share of the time on it, however large they are; whoever asks gets the last
// whole measurement at once.
package footprint
