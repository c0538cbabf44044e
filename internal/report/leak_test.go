package report

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"rmagent/record"
)

func frameOf(function, module string) record.Frame {
	return record.Frame{Function: record.Some(function), Module: record.Some(module)}
}

// Where nobody's own code is known, the C library's wrapper of a system call tells least.
func TestCulpritOfARuntime(t *testing.T) {
	const libc, node = "/usr/lib/libc.so.6", "/usr/bin/node"
	connect := []record.Frame{
		frameOf("__socket", libc), frameOf("uv__tcp_connect", "/usr/lib/libuv.so.1"), frameOf("node::TCPWrap::Connect", node), frameOf("node::Start", node),
	}
	if got := Place(connect); got != "uv__tcp_connect in libuv.so.1" {
		t.Error(got)
	}
	if got := Place(append(connect[:3:3], frameOf("serve", "/srv/addon.node"))); got != "serve in addon.node" {
		t.Error(got)
	}
	if got := Place([]record.Frame{frameOf("__socket", libc), frameOf("__libc_start_main", libc)}); got != "an unknown caller of __socket in libc.so.6" {
		t.Error(got)
	}
	if got := Place([]record.Frame{frameOf("__syscall_cp_c", "/srv/static-musl")}); got != "an unknown caller of __syscall_cp_c in static-musl" {
		t.Error(got)
	}
}

// What is stripped opens descriptors, too, and the C library's name for it tells nobody.
func TestCulpritWithoutAName(t *testing.T) {
	const libc, program = "/usr/lib/libc.so.6", "/srv/stripped"
	at := func(module string, offset uint64) record.Frame {
		return record.Frame{Module: record.Some(module), Offset: record.Some(offset)}
	}
	stack := []record.Frame{frameOf("__libc_open64", libc), at(program, 0x1231), frameOf("__GI___qsort_r", libc), at(program, 0x1293)}
	if got := Place(stack); Culprit(stack) != 1 || got != "stripped+0x1231" {
		t.Error(got)
	}
	plugin := []record.Frame{frameOf("__libc_open64", libc), at(libc, 5), at("/srv/plugin.so", 0x77), frameOf("dispatch", program), frameOf("main", program)}
	if got := Place(plugin); Culprit(plugin) != 2 || got != "plugin.so+0x77, called by dispatch in stripped" {
		t.Error(got)
	}
}

// A place that is a guess is told as one, and is the same place.
func TestPlaceThatIsAGuess(t *testing.T) {
	certain := []record.Frame{frameOf("open", "/usr/lib/ld-musl-x86_64.so.1"), frameOf("log_open", "/srv/api"), frameOf("main", "/srv/api")}
	guess := slices.Clone(certain)
	guess[1].Guess = record.Some("epilogue")
	nameless := []record.Frame{{Module: record.Some("/srv/api"), Offset: record.Some[uint64](16)}, guess[1]}
	library := []record.Frame{{Function: record.Some("socket"), Module: record.Some("/usr/lib/libc.so.6"), Guess: record.Some("frame_pointer")}}
	for want, stack := range map[string][]record.Frame{
		"log_open in api": certain, "log_open in api (probably)": guess,
		"api+0x10, called by log_open in api (probably)": nameless,
		"an unknown caller of socket in libc.so.6":       library,
	} {
		if got := Place(stack); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
	openers := ByPlace([]record.Site{{Held: 5, Stack: guess}, {Held: 3, Stack: certain}})
	if len(openers) != 1 || openers[0].Held != 8 || openers[0].Place != "log_open in api (probably)" {
		t.Errorf("%+v", openers)
	}
}

func TestLeakMessage(t *testing.T) {
	r := record.Leak{
		PID: 7, Comm: "api", Verdict: record.VerdictLeaking, FDOpen: record.Some[uint64](299), FDLimit: record.Some[uint64](300),
		GrowthPerSecond: record.Some(0.5), SecondsToLimit: record.Some(2.0),
		Sites: []record.Site{{Held: 290, Type: "file", Target: record.Some("/etc/hosts"), Stack: []record.Frame{frameOf("lookup", "/srv/api")}}},
	}
	if got, want := LeakMessage(&r), "api (pid 7) leaks descriptors: 299/300 descriptors are open, 30.0 a minute more, full in 2 s; "+
		"290 of these (file /etc/hosts) were opened by lookup in api"; got != want {
		t.Errorf("%q, not %q", got, want)
	}
	r.FDOpen = record.Some[uint64](300)
	if got := LeakMessage(&r); !strings.Contains(got, "300/300 descriptors are open: it is full, and opens fail (EMFILE); 290") {
		t.Errorf("at the limit: %q", got)
	}
}

// A place that many call is one line, and all that it holds.
func TestPlacesThatManyCall(t *testing.T) {
	site := func(held uint64, kind, target string, functions ...string) record.Site {
		s := record.Site{Held: held, Type: kind, Target: record.SomeIf(target, target != "")}
		for _, f := range functions {
			s.Stack = append(s.Stack, frameOf(f, "/srv/api"))
		}
		if functions == nil {
			s.StackEnd = record.Some("before_tracing")
		}
		return s
	}
	r := record.Leak{PID: 7, Comm: "api", Verdict: record.VerdictLeaking, FDOpen: record.Some[uint64](60), Sites: []record.Site{
		site(9, "file", "/etc/hosts"),
		site(20, "file", "/etc/hosts", "open", "log_open", "route1", "main"),
		site(11, "unix", "", "socket", "log_open", "route1", "main"),
		site(10, "file", "/etc/hosts", "open", "log_open", "route2", "main"),
		site(1, "file", "/etc/passwd", "open", "log_open", "route2", "main"),
	}}
	var got []string
	for _, o := range ByPlace(r.Sites) {
		got = append(got, fmt.Sprint(o.Held, " ", o.Type, " ", o.Target.Or(""), " ", o.Place, " ", o.Ways))
	}
	want := []string{"9 file /etc/hosts  1", "30 file /etc/hosts log_open in api 2", "11 unix  log_open in api 1", "1 file /etc/passwd log_open in api 1"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if got, want := LeakMessage(&r), "30 of these (file /etc/hosts) were opened by log_open in api, reached by 2 ways"; !strings.HasSuffix(got, want) {
		t.Error(got)
	}
	r.Unattributed = map[string]uint64{"not_listed": 9}
	if got, want := LeakMessage(&r), "; at least 30 of these (file /etc/hosts) were opened by log_open in api, reached by at least 2 ways"; !strings.HasSuffix(got, want) {
		t.Error(got)
	}
}

// What is advised works, whatever the hard limit is.
func TestLeakAdviceAboveTheHardLimit(t *testing.T) {
	r := record.Leak{PID: 7, Verdict: record.VerdictLeaking}
	if got := LeakAdvice(&r); !strings.Contains(got, "--nofile=N:") || !strings.Contains(got, "N:N, as root, where N is above the hard limit") {
		t.Error(got)
	}
}

// Who can't be told what Node ran is told how to see it.
func TestLeakAdviceForNode(t *testing.T) {
	r := record.Leak{PID: 7, Verdict: record.VerdictLeaking, Sites: []record.Site{{Stack: []record.Frame{frameOf("uv__socket", "/usr/lib/libuv.so.1"), frameOf("node::Start", "/usr/bin/node")}}}}
	const how = "--perf-basic-prof"
	if got := LeakAdvice(&r); !strings.Contains(got, how) {
		t.Error(got)
	}
	script := record.Frame{Function: record.Some("serve"), File: record.Some("/srv/app.js"), Language: record.Some("javascript")}
	r.Sites[0].Stack = append(r.Sites[0].Stack, script)
	if got := LeakAdvice(&r); strings.Contains(got, how) {
		t.Error(got)
	}
}
