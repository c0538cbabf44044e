// Package category learns from the summaries of jobs how much the next job of the
// same kind should be given at first. Jobs of one category are taken to use about the
// same; one that turns out to need more than its first allocation is run again with
// the most that was ever seen. The rules are cctools', and its buckets: values are
// gathered in buckets of 1 core, 250 MB of memory, 250 MB of disk, and 1 GPU.
//
// It is pure: summaries go in, numbers come out.
package category
