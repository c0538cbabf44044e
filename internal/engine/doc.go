// Package engine turns the crank: once an interval it reads the source, compares,
// judges, and writes. It is the only owner of mutable state, and all of that
// belongs to the goroutine that calls [Engine.Run].
package engine
