// Package leak judges whether the open descriptors of a process grow, and whether
// what grows is a leak. It is pure: time is an argument, and nothing is read.
//
// A [Judge] watches the low-water marks of every process (package aggregate keeps
// them) and says who to look at more often, who to trace, and what changed. A
// [Ledger] keeps what a traced process opened, by the place in its code, and what of
// that is still open; it is the evidence that tells a leak from a pool that fills.
// docs/leaks.md explains the verdicts, docs/decisions/leak-evidence.md the figures.
package leak
