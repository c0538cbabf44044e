package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/cilium/ebpf"
)

// Whatever a program is written in, if its stacks are walked to their ends by tables or frame
// pointers they are soon not copied any more: the tracer knows their walks.
func TestWalksOfLeakersAreKnown(t *testing.T) {
	needTracing(t)
	for _, l := range leakers {
		if !slices.Contains([]string{"c", "c-frame-pointers", "c-static", "c++", "rust", "go-stripped"}, l.name) {
			continue
		}
		t.Run(l.name, func(t *testing.T) {
			t.Parallel() // most of the time, it waits
			p := l.start(t)
			w := watchFDs(t, "2m", p)
			await(t, "births whose walks are known", func() bool { return knownBirths(t, w.cmd.Process.Pid) >= 10 })
			w.stop()
		})
	}
}

// knownBirths is how many births the log of an agent's tracer has by their walks.
func knownBirths(t *testing.T, pid int) (n int) {
	t.Helper()
	infos, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range infos {
		info, err := os.ReadFile(path)
		if err != nil {
			continue // closed meanwhile
		}
		_, rest, ok := bytes.Cut(info, []byte("map_id:\t"))
		if !ok {
			continue
		}
		id, err := strconv.Atoi(string(bytes.Fields(rest)[0]))
		if err != nil {
			t.Fatal(err)
		}
		n += knownIn(t, ebpf.MapID(id))
	}
	return n
}

// knownIn counts the entries of a map, if it is that half of a log.
func knownIn(t *testing.T, id ebpf.MapID) (n int) {
	t.Helper()
	m, err := ebpf.NewMapFromID(id)
	if err != nil {
		return 0 // gone with who had it
	}
	defer m.Close()
	if info, err := m.Info(); err != nil || info.Name != "knowns" {
		return 0
	}
	var key uint32
	value := make([]byte, m.ValueSize())
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		if binary.NativeEndian.Uint64(value) != 0 { // its number, once it is written
			n++
		}
	}
	if err := entries.Err(); err != nil {
		t.Fatal(err)
	}
	return n
}
