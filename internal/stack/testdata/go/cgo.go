//go:build cgo

package main

/*
#include <fcntl.h>
#include <stdlib.h>
static volatile int sink;
__attribute__((noinline)) static int open_here(const char *path) { sink = open(path, O_RDONLY); return sink + 1; }
__attribute__((noinline)) static int outer(const char *path) { int r = open_here(path); sink = r; return r + 1; }
*/
import "C"

//go:noinline
func cgo(path string) { sink = callC(path) }

//go:noinline
func callC(path string) int { return int(C.outer(C.CString(path))) }
