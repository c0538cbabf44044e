// Package sample holds the facts of one instant, as a source read them: what
// each process, the host and its cgroups had, which of it is known, and what was
// lost. It judges nothing and does no I/O.
//
// Everything is a plain value that a reader reuses from tick to tick: a
// [Snapshot] is valid until its reader is asked to fill it again.
package sample
