package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func init() {
	// What is started dies with the thread that started it (PR_SET_PDEATHSIG): so
	// start everything from the one that lasts.
	runtime.LockOSThread()
}

func main() {
	o, err := parseOptions(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	agent, agentFlags string
	cache             string
	sockets           string   // directory of this run's
	names             []string // of peers
	suites            []string
	json              bool

	idle        []int
	busy, hertz int
	rounds      int
	span        time.Duration

	loopRounds int
	jobRounds  int
	loopTime   time.Duration
	short      int
	shortTime  time.Duration
}

func parseOptions(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	full := f.Bool("full", false, "about 20 minutes: 3 rounds of longer windows")
	n := f.String("n", "100,1000,5000", "numbers of idle processes")
	names := f.String("peers", "", "whom to compare, of "+strings.Join(peerNames, ", ")+" (default all, rmagent-all only with -full)")
	suites := f.String("suites", strings.Join(usualSuites, ","), "what to measure, of "+strings.Join(suiteNames, ", "))
	secs := f.Int("secs", 0, "seconds of each window (default 2; 10 with -full)")
	f.IntVar(&o.rounds, "rounds", 0, "rounds (default 1; 3 with -full)")
	f.IntVar(&o.jobRounds, "job-rounds", 5, "rounds of the suite jobs")
	f.IntVar(&o.busy, "busy", 1000, "number of busy processes; 0: none")
	f.IntVar(&o.hertz, "hertz", 5, "how often each busy process wakes in a second")
	f.StringVar(&o.agent, "agent", "bin/rmagent", "the agent's program")
	f.StringVar(&o.agentFlags, "agent-flags", "", "more flags of the agent's run command")
	f.StringVar(&o.cache, "cache", ".cache/bench", "directory for what is built")
	f.BoolVar(&o.json, "json", false, "print JSON")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	o.loopRounds, o.loopTime = 4, 300*time.Millisecond
	o.short, o.shortTime = 2000, 4*time.Second
	o.span = 2 * time.Second
	defaultRounds := 1
	if *full {
		o.loopRounds, o.loopTime, o.shortTime = 15, time.Second, 10*time.Second
		o.span, defaultRounds = 10*time.Second, 3
	}
	if *secs > 0 {
		o.span = time.Duration(*secs) * time.Second
	}
	if o.rounds == 0 {
		o.rounds = defaultRounds
	}
	if *names == "" {
		*names = strings.Join(peerNames, ",")
		if !*full {
			*names = strings.Replace(*names, agentAllName+",", "", 1)
		}
	}
	o.names, o.suites = list(*names), list(*suites)
	var err error
	if o.idle, err = numbers(*n); err != nil {
		return o, err
	}
	return o, errors.Join(known("peer", o.names, peerNames), known("suite", o.suites, suiteNames))
}

func known(what string, names, all []string) error {
	for _, name := range names {
		if !slices.Contains(all, name) {
			return fmt.Errorf("no %s is named %q; there are %s", what, name, strings.Join(all, ", "))
		}
	}
	return nil
}

func list(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' })
}

func numbers(s string) ([]int, error) {
	var all []int
	for _, field := range list(s) {
		n, err := strconv.Atoi(field)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("number of processes %q: want a number above 0", field)
		}
		all = append(all, n)
	}
	return all, nil
}

func (o options) wants(name string) bool { return slices.Contains(o.names, name) }
