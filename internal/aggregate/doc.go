// Package aggregate compares readings: what a process, the host or a cgroup did
// between this snapshot and the one before. It does no I/O and reads no clock.
//
// A [Table] takes one [sample.Snapshot] a tick and keeps a [Process] for each
// identity. Everything that it hands out is valid until the next Update. Rates
// divide by the monotonic time between the two readings; where there is no
// reading before, a counter went back, or a value is unknown, the rate is unknown,
// never zero or negative. Rates are rounded to a millionth when they are computed,
// so that what is judged is what a record says.
package aggregate
