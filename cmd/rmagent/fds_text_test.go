package main

import (
	"bufio"
	"bytes"
	"strings"
	"testing"
	"time"

	"rmagent/internal/cmdline"
	"rmagent/record"
)

// The page of a host begins with who can open nothing more, then who can't soon, and
// shows of each what it holds most of, without stacks.
func TestPageOfAHost(t *testing.T) {
	process := func(pid int32, name string, verdict record.Verdict, open uint64, left float64) record.Leak {
		r := record.Leak{PID: pid, Comm: name, Verdict: verdict, FDOpen: record.Some(open), FDLimit: record.Some[uint64](1000)}
		if left > 0 {
			r.SecondsToLimit, r.GrowthPerSecond = record.Some(left), record.Some(float64(1000-open)/left)
		}
		return r
	}
	rows := []record.Leak{
		process(1, "large", record.VerdictSteady, 600, 0), process(2, "later", record.VerdictLeaking, 500, 3000),
		process(3, "soon", record.VerdictLeaking, 200, 60), process(4, "grows", record.VerdictGrowing, 100, 30),
		process(5, "full", record.VerdictSteady, 1000, 0), process(6, "starts", record.VerdictSteady, 50, 10),
	}
	soon := rows[2]
	stack := []record.Frame{{Function: record.Some("main.dial"), File: record.Some("/src/net.go"), Line: record.Some[uint64](7)}, {Function: record.Some("main.main")}}
	for _, held := range []uint64{60, 80, 70, 30, 41} {
		soon.Sites = append(soon.Sites, record.Site{Held: held, Type: "tcp4", Target: record.Some("10.0.0.1:80"), Stack: stack})
	}
	soon.Sites[1].Stack, soon.Sites[1].StackEnd = nil, record.Some("before_tracing")
	soon.Sites[3].Stack = []record.Frame{stack[0], {Function: record.Some("main.retry")}, stack[1]}
	soon.Sites[2].Type, soon.Sites[4].Type = "udp4", "unix"
	var out bytes.Buffer
	w := bufio.NewWriter(&out)
	page := fdPage{Painter: cmdline.NewPainter(w, &out)}
	page.host(rows, []record.Leak{rows[1], soon})
	w.Flush()
	text := out.String()
	at := -1
	for _, want := range []string{"full ", "soon ", "later ", "grows ", "large ", "starts ", "soon (pid 3)", "later (pid 2)"} {
		i := strings.Index(text, want)
		if i <= at {
			t.Errorf("%q is not behind the one before:\n%s", want, text)
		}
		at = i
	}
	for _, want := range []string{
		"      5  full               1000       1000 100%  now ",
		"      6  starts               50       1000   5%  - ",
		"  90  tcp4  by main.dial at net.go:7  10.0.0.1:80\n  80  tcp4  opened before it was watched  10.0.0.1:80\n  70 ",
		"rmagent fds --pid 3",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no %q:\n%s", want, text)
		}
	}
	fitsColumns(t, text)

	// An agent that reads rarely has numbers of some time ago.
	for age, want := range map[time.Duration]string{1900 * time.Millisecond: "6 processes hold 2450 descriptors\n", 14 * time.Second: "6 processes hold 2450 descriptors, as of 14 s ago\n"} {
		out.Reset()
		page.age = age
		page.host(rows, nil)
		w.Flush()
		if line, _, _ := strings.Cut(out.String(), "\n"); line+"\n" != want {
			t.Errorf("%v old: %q, want %q", age, line, want)
		}
	}
	if strings.Contains(text, "main.main") || strings.Contains(text, "  41 ") {
		t.Errorf("more than the page of a host has:\n%s", text)
	}
}

// Two static functions of one name differ by their files, or else by their offsets.
func TestFunctionsOfOneName(t *testing.T) {
	frame := func(file string, offset uint64) record.Frame {
		f := record.Frame{Function: record.Some("handle"), Module: record.Some("/usr/bin/server"), Offset: record.Some(offset)}
		if file != "" {
			f.File, f.Line = record.Some(file), record.Some[uint64](3)
		}
		return f
	}
	for place, f := range map[string]record.Frame{
		"a.c:3": frame("/src/a.c", 0x1168), "b.c:3": frame("/src/b.c", 0x11a8),
		"server+0x1168": frame("", 0x1168), "server+0x11a8": frame("", 0x11a8),
	} {
		var out bytes.Buffer
		w := bufio.NewWriter(&out)
		printStack(cmdline.NewPainter(w, &out), &record.Site{Stack: []record.Frame{f}}, 0)
		w.Flush()
		if want := "handle  " + place + "\n"; out.String() != want {
			t.Errorf("%q, want %q", out.String(), want)
		}
	}
}
