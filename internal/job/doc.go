// Package job runs a command and measures the whole tree of its processes: what they
// used together, the most they had at once, and which limit they broke. A limit that
// is broken ends the tree, all of it.
//
// Who belongs to a job, and what it did, is told by a [Tracker]: the kernel's tags
// (package loader), a running agent's (package job/sock), or /proc, where neither can
// be had. [Meter] makes cctools' measures of that, purely; [Run] is the loop around
// both.
package job
