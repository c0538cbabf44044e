// Package loader reads processes from the kernel's own tables by BPF. It owns
// every BPF object, link and reader of rmagent; what it gives out are plain
// values.
//
// There are two scans, of the same facts. Where syscall programs may call kfuncs
// (6.10), a syscall program walks the list of processes and leaves records in an
// array that this package maps: no event, no hook, no copy. Older kernels (5.17)
// have a task iterator that is read like a file.
package loader
