// Command bench measures rmagent beside its peers, in one run and in turns, so
// that the ratios hold on whatever machine it runs.
//
// It owns everything it starts: populations of idle or busy processes, one
// watcher at a time in a memory cgroup of its own, and loops that feel the
// watcher's hooks. All of it ends with the run, also at Ctrl-C. docs/benchmarks.md
// says how each figure is taken.
package main
