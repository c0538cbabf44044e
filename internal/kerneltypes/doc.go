// Package kerneltypes picks a few types out of a kernel's BTF
// (Documentation/bpf/btf.rst) without decoding the rest. A kernel has some 150,000
// types, and nearly all of them hang together by pointers: who asks for task_struct's
// layout decodes them all, which takes longer than loading the programs that need it.
//
// A type is copied with what it holds by value; where a pointer leads is left out.
// That is all that CO-RE relocations of fields ask for: each names the type that it
// begins with.
package kerneltypes
