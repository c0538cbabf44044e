// Package kfile reads the small text files that the kernel makes up on reading
// (under /proc, /sys and cgroup mounts) and cuts them into lines, words and
// numbers. Nothing here allocates: the caller owns every buffer and every
// descriptor.
package kfile
