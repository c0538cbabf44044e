// Package hostfs reads what is a file whichever source the processes come from:
// the machine as a whole, its cgroups, and who a process is beyond its numbers.
// It judges nothing.
//
// [HostReader], [CgroupReader] and [Identifier] each own their descriptors and
// buffers; one goroutine uses one of them at a time. An Identifier uses its
// CgroupReader, so those two share a goroutine. Only filesystems that may hang
// (networks, FUSE) are asked by goroutines of their own, at most one each.
//
// Everything is read below Options.Root, so that a copy of a machine's files
// reads like the machine.
package hostfs
