// Package engine turns the crank: once an interval it reads the source, compares,
// judges, and writes. All that is known from one reading to the next belongs to the
// goroutine that calls [Engine.Run]; others get [Views].
package engine
