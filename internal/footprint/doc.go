// Package footprint measures what directories hold: the disk footprint of a job. A
// [Meter] walks them again and again in a goroutine of its own, and takes no more
// than a tenth of a core for it, however large they are; whoever asks gets the last
// whole measurement at once.
package footprint
