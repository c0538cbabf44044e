// Package opened counts what happens to the files of a job's working directories:
// opens, closes, reads and writes, as inotify(7) tells them. The kernel does not say
// who did it, so the counts are of whoever uses files there; files elsewhere are not
// seen. The kernel merges equal events that follow each other, so reads and writes
// are counted at least.
package opened
