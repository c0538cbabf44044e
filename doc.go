// Package rmagent tells a Go program what it is running out of, without an agent:
// which limit a process hits first and what happens then ([Headroom],
// [HeadroomSelf], [Watch]), how much memory can still be had ([ReadMemory]), and an
// HTTP middleware that refuses requests while too little is left
// ([NewBackpressure]).
//
// [CheckFDs] tells whether so many files more would be safe.
//
// [Open] runs a whole agent inside a program: it reads every process of the machine,
// judges by thresholds and limits, and calls whoever has subscribed.
//
// The values are those of package record: one that can't be known is unknown, with
// a reason, and never zero. It is for Linux; reading needs no privilege for the
// program's own process, and root or CAP_SYS_PTRACE for all that there is to know
// of another user's.
package rmagent
