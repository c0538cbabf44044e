// Package agent puts a running agent together: what reads the machine, what judges it,
// what is written where, and what becomes of a configuration that changes meanwhile.
// The command run and the library's Open both run one.
package agent
