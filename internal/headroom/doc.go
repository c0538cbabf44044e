// Package headroom answers which limit a process hits first: it knows every limit
// that applies to a process, what counts against it, what happens at it and how
// to raise it.
//
// [Evaluate] and [Machine] judge: they are pure, and time is in their arguments
// ([Facts] are of one instant; rates come from two of them). [Reader] reads facts
// from /proc and the cgroup hierarchies: of one process exactly, or of many at
// once from a scan's snapshot ([Reader.Nearest]). One goroutine uses a Reader at a
// time; it closes what it opens, and never waits for a filesystem that hangs.
//
// A limit whose use can't be known is a row that says so and why. It is never
// named first.
package headroom
