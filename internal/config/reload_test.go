package config

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// TestAdopt: what can change changes, all else waits for the next start.
func TestAdopt(t *testing.T) {
	load := func(text string) *Loaded {
		t.Helper()
		l, err := Load(Inputs{Path: "f", File: []byte(text)})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	old := load("interval: 1s\njsonl: /a\nthresholds: {fd: {warning: 0.85}}\nactions: [{name: a, kind: log}]")
	next := load("interval: 2s\njsonl: /b\nsource: procfs\n\nactions: [{name: a, kind: log, recovery: true}, {name: b, kind: log}]")
	a, err := old.Adopt(next)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"interval", "thresholds.fd.warning", "actions"}; !slices.Equal(a.Changed, want) {
		t.Errorf("changed %q, want %q", a.Changed, want)
	}
	if want := []string{"source", "jsonl"}; !slices.Equal(a.Waiting, want) {
		t.Errorf("waiting %q, want %q", a.Waiting, want)
	}
	if a.Interval != 2*time.Second || a.JSONL != "/a" || a.Source != "auto" || a.Thresholds["fd"].Warning != 0.8 || len(a.Actions) != 2 || !a.Actions[0].Recovery {
		t.Errorf("%+v", a.Config)
	}
	if got := a.Origin("jsonl").String(); got != "f:2" {
		t.Errorf("jsonl is from %s", got)
	}
	if got := a.Origin("actions[1].kind").String(); got != "f:5" {
		t.Errorf("an action is from %s", got)
	}
	if a.Hash() == old.Hash() || a.Hash() == next.Hash() {
		t.Error("the hash is not that of what is in force")
	}
	same, err := a.Adopt(next)
	if err != nil || len(same.Changed) != 0 || !slices.Equal(same.Waiting, a.Waiting) || same.Hash() != a.Hash() {
		t.Errorf("once more: %+v, %v", same, err)
	}
}

// TestFileWatch changes a file in every way that files of settings are changed.
func TestFileWatch(t *testing.T) {
	dir := t.TempDir()
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, path), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	at := func(path string) string { return filepath.Join(dir, path) }
	// As the kubelet lays out a ConfigMap: file -> ..data/file, ..data -> a directory.
	do(os.Mkdir(at("v1"), 0o755))
	do(os.Mkdir(at("v2"), 0o755))
	write("v1/file", "interval: 1s")
	write("v2/file", "interval: 2s")
	do(os.Symlink("v1", at("..data")))
	do(os.Symlink("..data/file", at("file")))
	write("plain", "interval: 1s")

	for _, c := range []struct {
		what, path string
		change     func()
	}{
		{"written in place", "plain", func() { write("plain", "interval: 2s ") }},
		{"renamed over", "plain", func() { write("new", "interval: 3s "); do(os.Rename(at("new"), at("plain"))) }},
		{"a link swapped", "file", func() { do(os.Symlink("v2", at("..tmp"))); do(os.Rename(at("..tmp"), at("..data"))) }},
		{"removed", "plain", func() { do(os.Remove(at("plain"))) }},
		{"there again", "plain", func() { write("plain", "interval: 1s") }},
	} {
		if _, err := os.Stat(at(c.path)); err != nil && c.what != "there again" {
			t.Fatal(err)
		}
		w := WatchFile(at(c.path))
		for range 2 {
			if w.Changed() {
				t.Errorf("%s: changed before it was", c.what)
			}
		}
		c.change()
		if w.Changed() {
			t.Errorf("%s: told before it was still", c.what)
		}
		if !w.Changed() {
			t.Errorf("%s: not told", c.what)
		}
		if w.Changed() {
			t.Errorf("%s: told twice", c.what)
		}
	}

	// What is read for another reason is not told.
	w := WatchFile(at("plain"))
	write("plain", "interval: 4s")
	w.Reading()
	for range 2 { // a change is told when it is seen to stand
		if w.Changed() {
			t.Error("told of what was read")
		}
	}

	// While it is being written nothing is told.
	w = WatchFile(at("plain"))
	for _, text := range []string{"a", "ab", "abc"} {
		write("plain", text)
		if w.Changed() {
			t.Errorf("told at %q", text)
		}
	}
	if !w.Changed() {
		t.Error("not told in the end")
	}
}
