// Chain opens a path by a known chain of functions.
package main

import (
	"os"
	"runtime"
	"sync"
	"syscall"
)

var sink int

//go:noinline
func openHere(path string) int {
	fd, _ := syscall.Open(path, syscall.O_RDONLY, 0)
	sink = fd
	return fd + 1
}

//go:noinline
func middle(path string) int {
	var b [64]byte
	b[len(path)&63] = 1
	r := openHere(path)
	sink += int(b[3])
	return r + 1
}

//go:noinline
func outer(path string) int {
	r := middle(path)
	sink += r
	return r + 1
}

type opener interface{ open(path string) int }

type file struct{ n int }

//go:noinline
func (f file) open(path string) int { return outer(path) + f.n }

//go:noinline
func recursive(path string, n int) int {
	var b [200]byte
	b[n&63] = 1
	if n == 0 {
		return outer(path)
	}
	return recursive(path, n-1) + int(b[7])
}

//go:noinline
func starter(path string, wg *sync.WaitGroup) {
	wg.Add(1)
	go worker(path, wg)
}

//go:noinline
func worker(path string, wg *sync.WaitGroup) {
	defer wg.Done()
	sink = outer(path)
}

//go:noinline
func deferred(path string) {
	defer func() { recover(); sink = outer(path) }()
	panic("thrown")
}

func main() {
	runtime.LockOSThread()
	path := os.Args[2]
	var wg sync.WaitGroup
	switch os.Args[1] {
	case "direct":
		sink = outer(path)
	case "deep":
		sink = recursive(path, 40)
	case "interface":
		var o opener = &file{1}
		sink = o.open(path)
	case "goroutine":
		starter(path, &wg)
	case "panic":
		deferred(path)
	case "os":
		f, _ := os.Open(path)
		sink = int(f.Fd())
	case "cgo":
		cgo(path)
	}
	wg.Wait()
}
