// Command program prints where its address space begins and then, at several depths
// of calls, every address of its stack with what the runtime says is there.
package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"sort"
	"strings"
)

type shape interface{ visit(depth int) int }

type square struct{ side int }

//go:noinline
func (s square) visit(depth int) int { return leaf(depth) + s.side }

type wrapped struct{ *square }

func leaf(depth int) int   { return outer(depth) + 1 }
func outer(depth int) int  { return middle(depth) + 2 }
func middle(depth int) int { return innermost(depth) + 3 }
func innermost(depth int) int {
	if depth > 0 {
		return depth
	}
	return dump()
}

//go:noinline
func dump() int {
	pcs := make([]uintptr, 64)
	pcs = pcs[:runtime.Callers(1, pcs)]
	frames := runtime.CallersFrames(pcs)
	for _, pc := range pcs {
		frame, _ := frames.Next()
		fmt.Printf("%x %s %s:%d\n", pc, frame.Function, frame.File, frame.Line)
	}
	return len(pcs)
}

func main() {
	program, err := os.Executable()
	if err != nil {
		panic(err)
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		panic(err)
	}
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		if strings.HasSuffix(lines.Text(), program) {
			fmt.Println("base", strings.SplitN(lines.Text(), "-", 2)[0])
			break
		}
	}

	leaf(0)
	var s shape = wrapped{&square{2}}
	s.visit(0)
	func() { leaf(0) }()
	defer func() { outer(0) }()
	done := make(chan bool)
	go func() {
		middle(0)
		close(done)
	}()
	<-done
	sort.Slice(make([]int, 2), func(i, j int) bool { return innermost(0) > 0 })
	generics()
}
