package kerneltypes

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"github.com/cilium/ebpf/btf"
)

// names are what the tests look for: structs with unions, bit fields and arrays in them,
// an enum, what programs are attached to, and what no kernel has.
var names = []string{"task_struct", "mm_struct", "sock", "pid_type", "btf_trace_sched_switch", "bpf_iter_task", "no_such_thing"}

func kernel(t testing.TB) []byte {
	t.Helper()
	if _, err := os.Stat(Path); err != nil {
		t.Skip("this kernel tells no types")
	}
	var copied []byte
	if err := Kernel(func(b []byte) error { copied = bytes.Clone(b); return nil }); err != nil {
		t.Fatal(err)
	}
	return copied
}

// TestAgainstTheLibrary compares what is found with what cilium/ebpf decodes.
func TestAgainstTheLibrary(t *testing.T) {
	raw := kernel(t)
	table, err := Find(raw, names)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct {
		kind Kind
		typ  btf.Type
	}{
		"btf_trace_sched_switch": {Typedef, new(btf.Typedef)},
		"bpf_iter_task":          {Func, new(btf.Func)},
		"task_struct":            {Struct, new(btf.Struct)},
	} {
		id, ok := table.ID(want.kind, name)
		typ, err := whole.TypeByID(btf.TypeID(id))
		if !ok || err != nil || typ.TypeName() != name {
			t.Errorf("%s is type %d, %v: %v, %v", name, id, ok, typ, err)
		}
	}
	if id, ok := table.ID(Struct, "no_such_thing"); ok {
		t.Errorf("no_such_thing is type %d", id)
	}
	few, err := table.Types()
	if err != nil {
		t.Fatal(err)
	}
	if len(few) > len(raw)/20 {
		t.Errorf("%d bytes of %d: that is more than a few types", len(few), len(raw))
	}
	part, err := btf.LoadSpecFromReader(bytes.NewReader(few))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"task_struct", "mm_struct", "sock"} {
		var got, want *btf.Struct
		if err := errors.Join(part.TypeByName(name, &got), whole.TypeByName(name, &want)); err != nil {
			t.Error(err)
			continue
		}
		same(t, name, got, want, 0)
	}
}

// same compares two types, as far as they hold what they have by value.
func same(t *testing.T, where string, got, want btf.Type, depth int) {
	if depth > maxDepth {
		t.Fatalf("%s: too deep", where)
	}
	switch w := want.(type) {
	case *btf.Pointer:
		if p, ok := got.(*btf.Pointer); !ok || p.Target.TypeName() != "" {
			t.Errorf("%s: %v, want a pointer to nothing", where, got)
		}
	case *btf.Struct:
		g, ok := got.(*btf.Struct)
		if !ok || g.Name != w.Name || g.Size != w.Size {
			t.Errorf("%s: %v, want %v", where, got, want)
			return
		}
		members(t, where, g.Members, w.Members, depth)
	case *btf.Union:
		g, ok := got.(*btf.Union)
		if !ok || g.Name != w.Name || g.Size != w.Size {
			t.Errorf("%s: %v, want %v", where, got, want)
			return
		}
		members(t, where, g.Members, w.Members, depth)
	case *btf.Array:
		g, ok := got.(*btf.Array)
		if !ok || g.Nelems != w.Nelems {
			t.Errorf("%s: %v, want %v", where, got, want)
			return
		}
		same(t, where+"[]", g.Type, w.Type, depth+1)
	case *btf.Enum:
		g, ok := got.(*btf.Enum)
		if !ok || g.Name != w.Name || len(g.Values) != len(w.Values) {
			t.Errorf("%s: %v, want %v", where, got, want)
		}
	case *btf.Typedef:
		if g, ok := got.(*btf.Typedef); ok && g.Name == w.Name {
			same(t, where, g.Type, w.Type, depth+1)
			return
		}
		t.Errorf("%s: %v, want %v", where, got, want)
	case *btf.Volatile, *btf.Const, *btf.Restrict:
		same(t, where, btf.UnderlyingType(got), btf.UnderlyingType(want), depth+1)
	default:
		if got.TypeName() != want.TypeName() {
			t.Errorf("%s: %v, want %v", where, got, want)
		}
	}
}

func members(t *testing.T, where string, got, want []btf.Member, depth int) {
	if len(got) != len(want) {
		t.Errorf("%s: %d members, want %d", where, len(got), len(want))
		return
	}
	for i, w := range want {
		g := got[i]
		if g.Name != w.Name || g.Offset != w.Offset || g.BitfieldSize != w.BitfieldSize {
			t.Errorf("%s.%s: %v at %d, want %v at %d", where, w.Name, g, g.Offset, w, w.Offset)
		}
		same(t, where+"."+w.Name, g.Type, w.Type, depth+1)
	}
}

// FuzzFind looks in bytes that are no BTF, or cut off.
func FuzzFind(f *testing.F) {
	var b btf.Builder
	number := &btf.Int{Name: "int", Size: 4}
	inner := &btf.Union{Name: "inner", Size: 8, Members: []btf.Member{{Name: "a", Type: number}, {Name: "p", Type: &btf.Pointer{Target: number}}}}
	outer := &btf.Struct{Name: "outer", Size: 16, Members: []btf.Member{
		{Name: "in", Type: &btf.Volatile{Type: inner}}, {Name: "many", Type: &btf.Array{Type: number, Index: number, Nelems: 2}, Offset: 64},
	}}
	if _, err := b.Add(outer); err != nil {
		f.Fatal(err)
	}
	good, err := b.Marshal(nil, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)-3])
	f.Add([]byte{0x9f, 0xeb, 1, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		table, err := Find(raw, []string{"outer", "inner", "int"})
		if err != nil {
			return
		}
		table.ID(Struct, "outer")
		table.Types()
	})
}

func BenchmarkFind(b *testing.B) {
	raw := kernel(b)
	for b.Loop() {
		table, err := Find(raw, names)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := table.Types(); err != nil {
			b.Fatal(err)
		}
	}
}
