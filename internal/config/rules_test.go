package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rmagent/internal/policy"
	"rmagent/record"
)

const tracking = `
tracked:
  - label: web
    name: nginx*
    unit: nginx.service
    max_cpu_percent: 150
    max_memory_mb: 512
    max_fd: 2000
    max_disk_bytes_per_second: 50MB
    max_network_bytes_per_second: 1MiB
    max_gpu_percent: 50
    max_gpu_memory_mb: 4096
    prune: true
    actions: [notify, stop]
  - {pid: 4711, max_cpu_percent: 50}
protected: ["name:sshd", "unit:docker.service", "cgroup:/system.slice"]
priorities: ["unit:batch-*.service=-10", "name:a=b=5"]
actions: [{name: notify, kind: log}, {name: stop, kind: signal}]
`

func TestTracked(t *testing.T) {
	l, err := Load(yamlOf(tracking))
	if err != nil {
		t.Fatal(err)
	}
	want := policy.Default()
	want.Tracked = []policy.Rule{
		{
			Label: "web", Selector: policy.Selector{Name: "nginx*", Unit: "nginx.service"},
			Limits: policy.Limits{
				CPUPercent: 150, MemoryBytes: 512 << 20, FDs: 2000, DiskBytesPerSecond: 50e6, NetworkBytesPerSecond: 1 << 20,
				GPUPercent: 50, GPUMemoryBytes: 4096 << 20,
			},
			Prune: true, Actions: []string{"notify", "stop"},
		},
		{Selector: policy.Selector{PID: 4711}, Limits: policy.Limits{CPUPercent: 50}},
	}
	want.Protected = []policy.Selector{{Name: "sshd"}, {Unit: "docker.service"}, {Cgroup: "/system.slice"}}
	want.Priorities = []policy.Priority{
		{Selector: policy.Selector{Unit: "batch-*.service"}, Priority: -10}, {Selector: policy.Selector{Name: "a=b"}, Priority: 5},
	}
	want.Agent = 99
	got := l.Policy(99)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := got.Validate(); err != nil {
		t.Error(err)
	}

	var shown bytes.Buffer
	if err := l.Write(&shown); err != nil {
		t.Fatal(err)
	}
	again, err := Load(Inputs{Path: "shown", File: shown.Bytes()})
	if err != nil {
		t.Fatalf("%v in\n%s", err, shown.String())
	}
	if diff := cmp.Diff(l.Config, again.Config); diff != "" {
		t.Errorf("what is shown is another configuration (-want +got):\n%s", diff)
	}
}

// TestRecorded: a config record says all that the policy was, after it was written and
// read.
func TestRecorded(t *testing.T) {
	for _, text := range []string{"", tracking, "max_cpu_usage_percent: 33\nthresholds: {disk: {after: 3s}}\njsonl: /tmp/x\nprocesses: all"} {
		l, err := Load(yamlOf(text))
		if err != nil {
			t.Fatal(err)
		}
		line, err := record.Append(nil, &record.Config{Header: record.Header{Schema: record.Schema}, Values: l.Values()})
		if err != nil {
			t.Fatal(err)
		}
		r, err := record.Decode(line)
		if err != nil {
			t.Fatal(err)
		}
		got, unknown, err := Recorded("r.jsonl:1", r.(*record.Config))
		if err != nil || unknown != nil {
			t.Fatalf("%v, unknown %v", err, unknown)
		}
		if diff := cmp.Diff(l.Policy(1), got.Policy(1)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if got.Processes != l.Processes || got.Interval != l.Interval || got.JSONL != "" {
			t.Errorf("processes %s, interval %v, jsonl %q", got.Processes, got.Interval, got.JSONL)
		}
	}
	var r record.Config
	if err := json.Unmarshal([]byte(`{"values":{"later":{"a":1},"max_cpu_usage_percent":101,"jsonl":[]}}`), &r); err != nil {
		t.Fatal(err)
	}
	_, unknown, err := Recorded("r.jsonl:7", &r)
	var e *Error
	if !errors.As(err, &e) || !strings.Contains(err.Error(), "max_cpu_usage_percent: 101 is out of range") || len(unknown) != 1 || unknown[0] != "later" {
		t.Errorf("unknown %v, %v", unknown, err)
	}
}

func TestProblemsOfRules(t *testing.T) {
	for text, want := range map[string]string{
		"tracked: 5":                                  "f:1: tracked: it is the number 5; allowed: a list of rules",
		"tracked: [5]":                                "f:1: tracked[0]: it is the number 5; allowed: keys with values",
		"tracked:\n- name: a\n  max_cpu: 5":           "f:3: tracked[0].max_cpu: there is no such key; did you mean max_fd?",
		"tracked:\n- max_fd: 5":                       "f:2: tracked[0]: it selects nobody; allowed: at least one of pid, name, unit and cgroup, or job",
		"tracked:\n- {job: render, name: x}":          "f:2: tracked[0]: it selects processes and jobs; allowed: pid, name, unit and cgroup, or job alone",
		"tracked:\n- {job: '['}":                      "f:2: tracked[0].job: \"[\": syntax error in pattern; allowed: a pattern, as nginx*",
		"tracked:\n- name: '['":                       `f:2: tracked[0].name: "[": syntax error in pattern; allowed: a pattern, as nginx*`,
		"tracked:\n- name: a\n  name: b":              "f:3: tracked[0].name: it was set in line 2 already",
		"tracked:\n- {name: a, max_fd: -1}":           "f:2: tracked[0].max_fd: -1 is out of range; allowed: a number from 0 to 2.147483648e+09",
		"tracked:\n- {name: a, pid: 0}":               "f:2: tracked[0].pid: 0 is out of range; allowed: a whole number from 1 to 4194303",
		"tracked:\n- {name: a, prune: 1}":             "f:2: tracked[0].prune: it is the number 1; allowed: true or false",
		"tracked:\n- {name: a, actions: [1]}":         "f:2: tracked[0].actions: an element is the number 1; allowed: names of actions",
		"tracked:\n- {name: a, max_gpu_percent: 101}": "f:2: tracked[0].max_gpu_percent: 101 is out of range; allowed: a number from 0 to 100",
		"tracked:\n- {name: a, actions: [notfy]}\nactions: [{name: notify, kind: log}]": "f:2: tracked[0].actions: there is no action notfy; did you mean notify?; allowed: names of the list actions",
		"tracked: &a []":                  "f:1: tracked: anchors and aliases are not allowed",
		"protected: [sshd]":               `f:1: protected: "sshd" has no kind; allowed: a list of name:PATTERN, unit:PATTERN or cgroup:PATTERN`,
		"protected: ['name:']":            `f:1: protected: "name:" has no pattern; allowed: a list of name:PATTERN, unit:PATTERN or cgroup:PATTERN`,
		"priorities: ['name:a']":          `f:1: priorities: "name:a" has no priority; allowed: a list of name:PATTERN=N, unit:PATTERN=N or cgroup:PATTERN=N`,
		"priorities: ['name:a=x']":        `f:1: priorities: "x" is no priority from -1000 to 1000; allowed: a list of name:PATTERN=N, unit:PATTERN=N or cgroup:PATTERN=N`,
		"max_disk_usage_percent: 101":     "f:1: max_disk_usage_percent: 101 is out of range; allowed: a number from 0 to 100",
		"observation_period: 0":           "f:1: observation_period: 0s is out of range; allowed: a duration from 1s to 1d",
		"thresholds: {cpu: {after: -1s}}": `f:1: thresholds.cpu.after: "-1s" is not a duration such as 500ms, 10s, 1m30s or 2d; allowed: a duration from 0s to 1d`,
	} {
		_, err := Load(yamlOf(text))
		if err == nil || err.Error() != want {
			t.Errorf("%q:\n got %v\nwant %s", text, err, want)
		}
	}
	_, err := Load(Inputs{Environ: []string{"RMAGENT_TRACKED=a"}})
	if want := "environment RMAGENT_TRACKED: tracked: only the YAML file can set it; allowed: a list of rules"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	l, err := Load(Inputs{Environ: []string{"RMAGENT_PROTECTED=name:a, unit:b", "RMAGENT_PRIORITIES="}})
	if err != nil || len(l.Protected) != 2 || len(l.Priorities) != 0 {
		t.Errorf("%v, %+v", err, l)
	}
}
