// Package report makes records of aggregates and judgments, purely. It decides
// which processes are reported, and turns the kernel's units into the records'.
package report
