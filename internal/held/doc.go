// Package held says what the descriptors of a process refer to: files by their
// paths, sockets by their addresses; and puts together those that belong together.
//
// The list itself comes from the kernel's table (loader.FDTracer) or, where BPF can't
// load, from procfs ([Proc.List]); paths come from procfs in either case. Names are
// the process's own choice: whoever shows them escapes them.
package held
