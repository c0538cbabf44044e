package cctools

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func limitsOf(l *Limits) string {
	var parts []string
	for _, id := range l.Names() {
		v, _ := l.Get(id)
		parts = append(parts, fmt.Sprintf("%s=%v", id, v))
	}
	return strings.Join(parts, " ")
}

func TestParseLimits(t *testing.T) {
	for text, want := range map[string]string{
		"memory: 200":                       "memory=200",
		" memory :200":                      "memory=200",
		"memory: 200, disk: 5":              "memory=200 disk=5",
		"memory: 1.5 GB":                    "memory=1536",
		"memory: 512kB":                     "memory=0.5",
		"wall_time: 2 h, cpu_time: 100 ms":  "wall_time=7200 cpu_time=0.1",
		"bandwidth: 1 Gbps":                 "bandwidth=1000",
		"cores: 1.5 cores":                  "cores=1.5",
		"open_files: 0":                     "open_files=0",
		"memory: 3, memory: -1":             "",
		"max_concurrent_processes: 3 procs": "max_concurrent_processes=3",
		"end: 1795619282.322293":            "end=1.795619282322293e+09",
	} {
		var l Limits
		if err := ParseLimits(text, &l); err != nil {
			t.Errorf("%s: %v", text, err)
		} else if got := limitsOf(&l); got != want {
			t.Errorf("%s: %s, not %s", text, got, want)
		}
	}
}

func TestParseLimitsRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                  `"" is not of the form name: value`,
		"memory 200":        `"memory 200" is not of the form name: value`,
		"bogus: 3":          `there is no limit called "bogus"`,
		"resident_memory: ": "",
		"memory: x":         `"memory": "x" is no number`,
		"memory: 200 s":     `unit "s" makes no sense: it is counted in B, kB, MB, GB or TB`,
		"wall_time: 3 MB":   `it is counted in s, ms, us, min or h`,
		"gpus: 1 MB":        `it is counted in gpus`,
		"memory: -2":        `allowed are 0 and more, and -1 for no limit`,
		"memory: 1e400":     "",
		"memory: inf":       "",
		"memory: nan":       "",
		"memory: 1,":        `"" is not of the form`,
		"m\x1b[2J: 1":       `"m\x1b[2J"`,
	} {
		l := new(Limits)
		l.Set(Disk, 7)
		err := ParseLimits(text, l)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v, not %s", text, err, want)
		}
		if got := limitsOf(l); got != "disk=7" {
			t.Errorf("%q: half of it was taken: %s", text, got)
		}
	}
}

func TestParseLimitsFile(t *testing.T) {
	for data, want := range map[string]string{
		"memory: 200\n\n# a comment\ndisk: 1 GB # another\n":                                   "memory=200 disk=1024",
		`{"wall_time": [3600, "s"], "swap_memory": [5, "GB"]}`:                                 "wall_time=3600 swap_memory=5120",
		`{"memory": 200, "disk": [7]}`:                                                         "memory=200 disk=7",
		`{"category":"a","exit_status":0,"peak_times":{"memory":[1,"s"]},"memory":[1,"MB"]}`:   "memory=1",
		"\n{\n  \"cores\":\n    [\n      2,\n      \"cores\"\n    ],\n  \"command\":\"true\"}": "cores=2",
	} {
		var l Limits
		if err := ParseLimitsFile("f", []byte(data), &l); err != nil {
			t.Errorf("%s: %v", data, err)
		} else if got := limitsOf(&l); got != want {
			t.Errorf("%s: %s, not %s", data, got, want)
		}
	}
}

func TestParseLimitsFileNamesThePlace(t *testing.T) {
	for data, want := range map[string]string{
		"":                                      "f:1: no limits in it",
		"memory: 200\nbogus: 1\n":               `f:2: there is no limit called "bogus": there are start, end, wall_time`,
		"\n\nresident_memory: 3":                "f:3: there is no limit called resident_memory: it is memory now",
		"memory = 200":                          `f:1: "memory = 200" is not of the form name: value`,
		"{\n\"memory\": [200, \"MB\"],\n\"x\":": `f:3: `,
		"{\n\"memory\": [200, \"s\"]}":          `f:2: memory: unit "s" makes no sense`,
		"{\n\"memory\": [200, \"MB\"]\n":        "f:2: the JSON object does not end",
		"{\n\"memory\" [200]}":                  "f:2: not JSON: ",
		"{\n\n\"memory\": \"200\"}":             "f:3: memory: a value is",
		`{"memory": null}`:                      "f:1: memory: a value is",
		`{"memory": [null]}`:                    "f:1: memory: a value is",
		"{\"memory\": 1}\n{}":                   "f:2: something follows the JSON object",
		"[1]":                                   "f:1: ",
	} {
		l := new(Limits)
		err := ParseLimitsFile("f", []byte(data), l)
		if err == nil {
			t.Errorf("%q: no error", data)
			continue
		}
		if !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v\nnot %s", data, err, want)
		}
		if !l.Empty() {
			t.Errorf("%q: half of it was taken", data)
		}
	}
}

func readNothing(path string, _ int) ([]byte, error) {
	switch path {
	case "limits":
		return []byte(`{"memory": [100, "MB"]}`), nil
	case "events":
		return []byte(`{"log": {"events": [{"label": "a", "on-create": true}]}}`), nil
	}
	return nil, fmt.Errorf("open %s: %w", path, os.ErrNotExist)
}

func TestParseArgs(t *testing.T) {
	base := Options{Interval: 5 * time.Second}
	with := func(change func(*Options)) Options { o := base; change(&o); return o }
	for line, want := range map[string]Options{
		"-O t -i 2 -- ls -l":             with(func(o *Options) { o.Template, o.Interval, o.Command = "t", 2*time.Second, []string{"ls", "-l"} }),
		"-Ot -i2 true":                   with(func(o *Options) { o.Template, o.Interval, o.Command = "t", 2*time.Second, []string{"true"} }),
		"sleep 1 -O t":                   with(func(o *Options) { o.Template, o.Command = "t", []string{"sleep", "1"} }),
		"-O t sleep -- -1":               with(func(o *Options) { o.Template, o.Command = "t", []string{"sleep", "-1"} }),
		"--with-output-files=t -fc true": with(func(o *Options) { o.Template, o.Foreground, o.Shell = "t", true, "true" }),
		"--with-out t --sh true":         with(func(o *Options) { o.Template, o.Shell = "t", "true" }),
		"--no-pprint --measure-only --with-time-series --with-inotify --update-summary --accurate-short-processes true": with(func(o *Options) {
			o.Compact, o.Only, o.Series, o.Inotify, o.UpdateSummary, o.AccurateShort, o.Command = true, true, true, true, true, true, []string{"true"}
		}),
		"-L memory:200 -l limits -L disk:1 true": with(func(o *Options) {
			o.Limits.Set(Memory, 100)
			o.Limits.Set(Disk, 1)
			o.Command = []string{"true"}
		}),
		"--pid 42 -d all -o :stderr": with(func(o *Options) { o.PID, o.DebugFile = 42, ":stderr" }),
		"-V a:b:c -V category:k -V taskid:9 true": with(func(o *Options) {
			o.Verbatim, o.Category, o.TaskID, o.Command = []Field{{"a", "b:c"}}, "k", "9", []string{"true"}
		}),
		"--measure-dir a --measure-dir=b true": with(func(o *Options) { o.MeasureDirs, o.Command = []string{"a", "b"}, []string{"true"} }),
		"--follow-chdir --without-disk true":   with(func(o *Options) { o.FollowChdir, o.NoDisk, o.Command = true, true, []string{"true"} }),
		"--snapshot-events events true": with(func(o *Options) {
			o.EventsPath, o.Command = "events", []string{"true"}
			o.SnapshotFiles = []WatchedFile{{Path: "log", Events: []WatchEvent{{Label: "a", OnCreate: true, Count: -1}}}}
		}),
	} {
		o, action, err := ParseArgs(strings.Fields(line), readNothing)
		if err != nil || action != ActionRun {
			t.Errorf("%s: %v, %v", line, action, err)
			continue
		}
		if diff := cmp.Diff(want, *o, cmp.AllowUnexported(Measures{}), cmp.Comparer(func(a, b *Pattern) bool { return a == b })); diff != "" {
			t.Errorf("%s: %s", line, diff)
		}
	}
	for line, want := range map[string]Action{"-h": ActionHelp, "--help": ActionHelp, "-v x": ActionVersion, "--version": ActionVersion} {
		if _, action, err := ParseArgs(strings.Fields(line), readNothing); err != nil || action != want {
			t.Errorf("%s: %v, %v", line, action, err)
		}
	}
}

func TestParseArgsRefuses(t *testing.T) {
	for line, want := range map[string]string{
		"":                                 "no command to run",
		"-O t":                             "no command to run",
		"-O":                               "option -O needs a value",
		"--sh":                             "option --sh needs a value",
		"--bogus true":                     `unknown option "--bogus" (--help lists them)`,
		"-x true":                          `unknown option "-x" (--help lists them)`,
		"--with true":                      "option --with may be --without-disk-footprint, --with-output-files, --with-time-series, --with-inotify",
		"--no-pprint=1 true":               "option --no-pprint takes no value",
		"-i 0 true":                        `-i: "0": allowed are whole seconds, 1 and more`,
		"-i 5x true":                       `-i: "5x": allowed are whole seconds, 1 and more`,
		"-i 99999999999999 true":           "allowed are whole seconds",
		"-L bogus:1 true":                  `-L: limits "bogus:1": there is no limit called "bogus"`,
		"-l gone true":                     "-l: open gone: file does not exist",
		"--pid 0":                          `--pid: "0": allowed is the PID of a process`,
		"--pid 1 true":                     "--pid: a command can't be given with it",
		"--pid 1 -f":                       "can't be used with it",
		"--follow-chdir --measure-dir x y": "--follow-chdir and --measure-dir can't be used together",
		"-c true false":                    `-c: another command is given beside it: "false"`,
		"-V nothing true":                  `-V: "nothing" is not of the form name: value`,
		"-V memory:3 true":                 "-V: memory: the summary has a value of that name itself",
		"--catalog-task-name x true":       "--catalog-task-name: not supported",
		"--snapshot-events limits true":    `--snapshot-events: limits:1: "memory": it is not of the form`,
	} {
		_, _, err := ParseArgs(strings.Fields(line), readNothing)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v\nnot %s", line, err, want)
		}
	}
}

func TestParseEvents(t *testing.T) {
	files, err := ParseEvents("e", []byte(`{
		"my.log": {"from-start": true, "from-start-if-truncated": false, "events": [
			{"label": "start", "on-create": true, "count": 1},
			{"label": "rotated", "on-truncate": true},
			{"label": "gone", "on-delete": true, "count": -1},
			{"label": "before-analysis", "on-pattern": "^# ANALYSIS.*"}]},
		"please": {"delete-if-found": true, "events": [{"label": "manual", "on-create": true}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	a, b := files[0], files[1]
	if len(files) != 2 || !a.FromStart || !a.KeepTruncated || a.Delete || len(a.Events) != 4 || a.Events[0].Count != 1 || a.Events[1].Count != -1 {
		t.Errorf("%+v", a)
	}
	if p := a.Events[3].OnPattern; p == nil || !p.Match([]byte("# ANALYSIS of x")) || p.Match([]byte("the # ANALYSIS")) {
		t.Errorf("pattern %v", p)
	}
	if b.Path != "please" || !b.Delete || b.FromStart || b.KeepTruncated {
		t.Errorf("%+v", b)
	}
}

func TestParseEventsNamesThePlace(t *testing.T) {
	for data, want := range map[string]string{
		``:                              "e:1: the JSON object does not end",
		`[]`:                            "e:1: it is no JSON object",
		`{}`:                            "e:1: no file to watch",
		"{\n\"a\": 3}":                  `e:2: "a": it is not of the form`,
		"{\n\n\"a\": {\"events\": []}}": `e:3: "a": events: 0 of them: allowed are 1 to 256`,
		`{"a": {"events": {}}}`:         `e:1: "a": events: a object, not a list`,
		`{"a": {"events": [{"label": "x", "on-creation": true}]}}`:                    `e:1: "a": unknown field "on-creation"`,
		`{"a": {"events": [{"on-create": true}]}}`:                                    `e:1: "a": events[0]: it has no label`,
		`{"a": {"events": [{"label": "x y", "on-create": true}]}}`:                    `e:1: "a": events[0]: label "x y": allowed are`,
		`{"a": {"events": [{"label": "x"}]}}`:                                         "it needs exactly one of on-create, on-delete, on-truncate and on-pattern, and has 0",
		`{"a": {"events": [{"label": "x", "on-create": true, "on-pattern": "y"}]}}`:   "and has 2",
		`{"a": {"events": [{"label": "x", "on-pattern": "("}]}}`:                      `label x: on-pattern: pattern "(": error parsing regexp`,
		`{"a": {"events": [{"label": "x", "on-create": true, "count": 0}]}}`:          "count 0: allowed are 1 and more, and -1 for no limit",
		`{"a": {"events": [{"label": "x", "on-create": "yes"}]}}`:                     `events.on-create: a string, not a boolean`,
		`{"": {"events": [{"label": "x", "on-create": true}]}}`:                       "that is no file's name",
		`{"a": {"events": [{"label": "x", "on-create": true}]}, "a": {"events": []}}`: `"a" is there twice`,
		"{\"a\": {\"events\": [{\"label\": \"x\", \"on-create\": true}]}}\nx":         "e:2: something follows",
		`{"a": ` + strings.Repeat(`[`, 20000) + strings.Repeat(`]`, 20000) + `}`:      "e:1: not JSON: ",
	} {
		_, err := ParseEvents("e", []byte(data))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%.80s: %v\nnot %s", data, err, want)
		}
	}
}

func TestReadSummaries(t *testing.T) {
	var got []string
	err := ReadSummaries("s", strings.NewReader(`# of a queue
{"category":"a","exit_type":"normal","memory":[200,"MB"],"wall_time":[2000000,"us"],"cpu_time":null,"strange":[1,"x"],"exact":"memory"}
{
 "category":"b","exit_type":"limits","limits_exceeded":{"memory":[100,"MB"]},"memory":[1,"GB"],
 "peak_times":{"memory":[0.5,"s"]},"exit_status":143}
`), func(raw json.RawMessage) error {
		s, err := ParseSummary(raw)
		if err != nil {
			return err
		}
		memory, _ := s.Measures.Get(Memory)
		wall, _ := s.Measures.Get(WallTime)
		at, _ := s.PeakTimes.Get(Memory)
		got = append(got, fmt.Sprintf("%s %s %v %v %v %d %v %s", s.Category, s.ExitType, memory, wall, at, s.ExitStatus, s.Exceeded, s.Exactness[Memory]))
		return nil
	})
	want := []string{"a normal 200 2 0 0 [] exact", "b limits 1024 0 0.5 143 [memory: 1024 MB > 100 MB after 0.000 s] unknown"}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
}

func TestReadSummariesNamesThePlace(t *testing.T) {
	for data, want := range map[string]string{
		"\n\n{\"memory\": [\"x\", \"MB\"]}":        "s:3: memory: a value is",
		"{\"memory\": [1, \"MB\"]}\n\n{\"memory\"": "s:3: the JSON object does not end",
		"{\"memory\": [1, \"MB\"]}\n}":             "s:2: not JSON: ",
		"# nothing\n[1, 2]":                        "s:2: no summary of a job",
		`{"a": 1}`:                                 "s:1: no summary of a job",
		`{"memory": [1, "s"]}`:                     `s:1: memory: unit "s" makes no sense`,
	} {
		err := ReadSummaries("s", strings.NewReader(data), func(raw json.RawMessage) error { _, err := ParseSummary(raw); return err })
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v\nnot %s", data, err, want)
		}
	}
	stop := errors.New("enough")
	if err := ReadSummaries("s", strings.NewReader("{}{}"), func(json.RawMessage) error { return stop }); !errors.Is(err, stop) {
		t.Error(err)
	}
}

func FuzzParseLimits(f *testing.F) {
	f.Add("memory: 200, disk: 1 GB")
	f.Add(`{"memory":[1,"MB"]}`)
	f.Fuzz(func(t *testing.T, text string) {
		for _, parse := range []func(*Limits) error{
			func(l *Limits) error { return ParseLimits(text, l) },
			func(l *Limits) error { return ParseLimitsFile("f", []byte(text), l) },
		} {
			l := new(Limits)
			err := parse(l)
			if err != nil && (!l.Empty() || strings.ContainsAny(err.Error(), "\n\x1b")) {
				t.Errorf("%q: %q, %s", text, err, limitsOf(l))
			}
		}
	})
}

func FuzzParseEvents(f *testing.F) {
	f.Add([]byte(`{"a": {"events": [{"label": "x", "on-pattern": "a+", "count": 3}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		files, err := ParseEvents("e", data)
		if err != nil && strings.ContainsAny(err.Error(), "\n\x1b") {
			t.Errorf("%q", err)
		}
		for i := range files {
			for _, e := range files[i].Events {
				if err == nil && e.OnPattern != nil {
					e.OnPattern.Match(data)
				}
			}
		}
	})
}

func FuzzParseArgs(f *testing.F) {
	f.Add("-O t\x00-i\x003\x00--\x00true")
	f.Add("--with-out=t\x00-fc\x00x")
	f.Fuzz(func(t *testing.T, line string) {
		o, action, err := ParseArgs(strings.Split(line, "\x00"), readNothing)
		if err == nil && action == ActionRun && len(o.Command) == 0 && o.PID == 0 && o.Shell == "" && !strings.Contains(line, "c") {
			t.Errorf("%q: nothing to run", line)
		}
		if err != nil && strings.ContainsAny(err.Error(), "\n\x1b") {
			t.Errorf("%q", err)
		}
	})
}

func FuzzReadSummaries(f *testing.F) {
	f.Add([]byte("# x\n{\"memory\":[1,\"MB\"]}{\"exit_type\":\"limits\",\"limits_exceeded\":{\"disk\":[1,\"GB\"]}}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_ = ReadSummaries("s", bytes.NewReader(data), func(raw json.RawMessage) error {
			s, err := ParseSummary(raw)
			if err != nil {
				return err
			}
			// What was read can be written, and read again to the same.
			again, err := ParseSummary(AppendSummary(nil, s, FileOptions{Compact: true}))
			if err != nil {
				t.Fatalf("%q: %v", raw, err)
			}
			if again.Category != s.Category || again.Measures.known != s.Measures.known {
				t.Errorf("%q was read as %+v, then as %+v", raw, s, again)
			}
			return nil
		})
	})
}
