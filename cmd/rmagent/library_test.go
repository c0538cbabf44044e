package main

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"testing"
	"time"

	"rmagent"
	"rmagent/record"
)

// An agent inside a program names the code that leaks, if it is told where the command
// is; without it tells who grows.
func TestALibraryAgentNamesWhoLeaks(t *testing.T) {
	needTracing(t)
	command, err := agentBinary()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rmagent.Open(t.Context(), rmagent.Options{Command: "/no/such/rmagent"}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a command that there is not: %v", err)
	}
	l := leakers[slices.IndexFunc(leakers, func(l leaker) bool { return l.name == "c" })]
	p := l.start(t)
	a, err := rmagent.Open(t.Context(), rmagent.Options{
		Command: command, Settings: map[string]string{"source": "ebpf", "gpu": "off", "interval": "200ms", "hooks": "none"},
	})
	if err != nil {
		t.Fatal(err)
	}
	sites := make(chan record.Site, 100)
	_, err = a.Subscribe(rmagent.Subscription{Kinds: []record.Kind{record.KindLeak}, Func: func(r record.Record) {
		if leak := r.(*record.Leak); leak.PID == p.PID() {
			for _, s := range leak.Sites {
				if len(s.Stack) > 0 {
					sites <- s
				}
			}
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- a.Run(context.Background()) }()
	defer func() {
		if err := errors.Join(a.Close(), <-ended); err != nil {
			t.Error(err)
		}
	}()
	if _, err := a.Report(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.Say("")
	select {
	case s := <-sites:
		if !slices.ContainsFunc(s.Stack, func(f record.Frame) bool { return f.Function.Or("") == l.function }) {
			t.Errorf("the stack is %+v", s.Stack)
		}
	case <-time.After(patience):
		t.Error("nobody says who leaks")
	}
}
