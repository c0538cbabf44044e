// Package pprof makes profiles of held descriptors, for go tool pprof and whatever
// else reads its format.
package pprof

import (
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/google/pprof/profile"

	"rmagent/record"
)

// Profile is what processes hold, by stack: the count of descriptors, and the age of
// the oldest in seconds. Type, target, thread, process and, where there is no stack,
// why are labels.
func Profile(at time.Time, list []record.Leak) *profile.Profile {
	b := builder{
		functions: map[[2]string]*profile.Function{},
		locations: map[string]*profile.Location{},
		mappings:  map[[2]string]*profile.Mapping{},
	}
	b.p = &profile.Profile{
		SampleType:        []*profile.ValueType{{Type: "held", Unit: "count"}, {Type: "oldest", Unit: "seconds"}},
		DefaultSampleType: "held",
		TimeNanos:         at.UnixNano(),
	}
	for i := range list {
		if f := program(&list[i]); f != nil {
			b.mapping(f) // a profile has the name of its first mapping
		}
	}
	for i := range list {
		for j := range list[i].Sites {
			b.add(&list[i], &list[i].Sites[j])
		}
	}
	return b.p
}

// program returns a frame of the process's own file, nil where none looks like it.
func program(l *record.Leak) *record.Frame {
	for i := range l.Sites {
		for j := range l.Sites[i].Stack {
			f := &l.Sites[i].Stack[j]
			if l.Comm != "" && strings.HasPrefix(path.Base(f.Module.Or("")), l.Comm) {
				return f
			}
		}
	}
	return nil
}

type builder struct {
	p         *profile.Profile
	functions map[[2]string]*profile.Function
	locations map[string]*profile.Location
	mappings  map[[2]string]*profile.Mapping
}

func (b *builder) add(l *record.Leak, s *record.Site) {
	labels := map[string][]string{"type": {s.Type}, "process": {l.Comm}}
	for key, v := range map[string]record.Opt[string]{"target": s.Target, "thread": s.Thread, "stack_end": s.StackEnd} {
		if text, ok := v.Get(); ok {
			labels[key] = []string{text}
		}
	}
	out := &profile.Sample{
		Value:    []int64{int64(s.Held), int64(s.OldestSeconds.Or(0))},
		Label:    labels,
		NumLabel: map[string][]int64{"pid": {int64(l.PID)}},
	}
	for i := 0; i < len(s.Stack); {
		n := i + 1 // a frame and those that are inlined into it, as pprof has them, are one location
		for n < len(s.Stack) && s.Stack[n-1].Inlined {
			n++
		}
		out.Location = append(out.Location, b.location(s.Stack[i:n]))
		i = n
	}
	if len(out.Location) == 0 {
		out.Location = []*profile.Location{b.location([]record.Frame{{Function: record.Some("[" + s.StackEnd.Or("unknown") + "]")}})}
	}
	b.p.Sample = append(b.p.Sample, out)
}

func (b *builder) location(frames []record.Frame) *profile.Location {
	key := fmt.Sprint(frames)
	if loc := b.locations[key]; loc != nil {
		return loc
	}
	last := &frames[len(frames)-1]
	loc := &profile.Location{ID: uint64(len(b.locations) + 1), Address: last.Offset.Or(0), Mapping: b.mapping(last)}
	for i := range frames {
		f := &frames[i]
		loc.Line = append(loc.Line, profile.Line{Function: b.function(f), Line: int64(f.Line.Or(0))})
	}
	b.locations[key] = loc
	b.p.Location = append(b.p.Location, loc)
	return loc
}

func (b *builder) function(f *record.Frame) *profile.Function {
	name := f.Function.Or("")
	if name == "" {
		name = fmt.Sprintf("%s+0x%x", path.Base(f.Module.Or("unknown")), f.Offset.Or(0))
	}
	key := [2]string{name, f.File.Or("")}
	if fn := b.functions[key]; fn != nil {
		return fn
	}
	fn := &profile.Function{ID: uint64(len(b.functions) + 1), Name: name, SystemName: name, Filename: key[1]}
	b.functions[key] = fn
	b.p.Function = append(b.p.Function, fn)
	return fn
}

func (b *builder) mapping(f *record.Frame) *profile.Mapping {
	if !f.Module.Known() {
		return nil
	}
	key := [2]string{f.Module.Or(""), f.BuildID.Or("")}
	if m := b.mappings[key]; m != nil {
		return m
	}
	m := &profile.Mapping{
		ID: uint64(len(b.mappings) + 1), File: key[0], BuildID: key[1],
		HasFunctions: true, HasFilenames: true, HasLineNumbers: true, HasInlineFrames: true,
	}
	b.mappings[key] = m
	b.p.Mapping = append(b.p.Mapping, m)
	return m
}
