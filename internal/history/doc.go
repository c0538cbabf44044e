// Package history remembers the last hour: what each resource of the machine was used,
// its peaks, and how often it came to a warning or worse. It learns from records, the
// agent's as they are written, or those of a file, so that a restart forgets nothing
// ([Store.Fill]).
//
// Memory is bounded: so many series of so many points. Points lie at least a second
// apart (the kept time by the number of points); peaks and averages count every
// reading.
package history
