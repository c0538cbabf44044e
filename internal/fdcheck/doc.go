// Package fdcheck judges whether a process may open so many files more before it
// runs out of descriptors, purely: what is open and which limits apply are
// arguments.
//
// The rule: open + files + sockets + overhead must stay below the limit by a
// margin. Two limits count, and the nearer one decides: the process's soft
// RLIMIT_NOFILE, which is also how a container limits descriptors, and the
// machine's fs.file-max. What is unknown makes the answer unknown, never safe.
package fdcheck
