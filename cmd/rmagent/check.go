package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/urfave/cli/v2"
	"go.uber.org/zap"

	"rmagent/internal/cmdline"
	"rmagent/internal/config"
	"rmagent/internal/fdcheck"
	"rmagent/internal/headroom"
	"rmagent/internal/human"
	"rmagent/internal/policy"
	"rmagent/internal/sink"
	"rmagent/record"
)

// Exit statuses of check.
const (
	exitRisky   = 3
	exitUnknown = 4
)

func checkCommand() *cli.Command {
	return command(&cli.Command{
		Name:  "check",
		Usage: "say whether so many files more can be opened safely",
		Description: "Exit status 0: safe, 3: risky, 4: it can't be told. Files, sockets and an overhead must\n" +
			"fit below the limit, less a margin. Without --pid the process that calls is looked at,\n" +
			"such as the shell: what it starts has the same limits.",
		Flags: cmdline.Flags(
			&cli.StringFlag{Name: "files", Usage: "so many files, `N`, are about to be opened"},
			&cli.StringFlag{Name: "sockets", Value: "0", Usage: "and so many sockets, `N`"},
			&cli.StringFlag{Name: "overhead", Value: fmt.Sprint(fdcheck.DefaultOverhead), Usage: "and what a program opens beside them, `N`"},
			&cli.Float64Flag{Name: "margin", Value: fdcheck.DefaultMargin, Usage: "the share of the limit that must stay free, `RATIO`"},
			&cli.IntSliceFlag{Name: "pid", Usage: "by process `PID`, one only; default: the process that calls"},
			&cli.StringFlag{Name: "warnings-file", Usage: "what is risky is logged to `PATH`, too"},
			&cli.BoolFlag{Name: "json", Usage: "one JSON object"},
			&cli.BoolFlag{Name: "local", Usage: "read here, never ask a running agent"}),
		Action: checkFDs,
	})
}

func checkFDs(c *cli.Context) error {
	l, err := cmdline.LoadConfig(c)
	if err != nil {
		return err
	}
	request, err := checkRequest(c, l)
	if err != nil {
		return err
	}
	pid, err := checkPID(c)
	if err != nil {
		return err
	}
	r, err := headroom.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	usage, err := r.ReadDescriptors(c.Context, pid)
	if err != nil {
		return noProcesses([]int32{pid})
	}
	answer := fdcheck.Judge(usage, &request)
	if err := warn(c, l, &answer); err != nil {
		return err
	}
	if c.Bool("json") {
		err = printJSON(c.App.Writer, answer, true)
	} else {
		err = printCheck(c, &answer)
	}
	if err := quiet(err); err != nil {
		return err
	}
	return checkStatus(&answer)
}

// checkStatus is the exit status that tells an answer.
func checkStatus(a *record.FDCheck) error {
	switch safe, known := a.Safe.Get(); {
	case !known:
		return cmdline.StatusError(exitUnknown)
	case !safe:
		return cmdline.StatusError(exitRisky)
	}
	return nil
}

func checkRequest(c *cli.Context, l *config.Loaded) (fdcheck.Request, error) {
	if !c.IsSet("files") {
		return fdcheck.Request{}, cmdline.Usagef("check: --files N is missing: how many files are about to be opened?")
	}
	request := fdcheck.NewRequest(0)
	request.Thresholds = l.Thresholds[policy.FD]
	request.Margin = c.Float64("margin")
	for _, flag := range []struct {
		name  string
		value *uint64
	}{{"files", &request.Files}, {"sockets", &request.Sockets}, {"overhead", &request.Overhead}} {
		n, err := wholeNumber(c.String(flag.name), fdcheck.MaxCount)
		if err != nil {
			return request, cmdline.Usagef("--%s %v", flag.name, err)
		}
		*flag.value = n
	}
	if err := request.Validate(); err != nil {
		return request, cmdline.Usagef("--%v", err)
	}
	return request, nil
}

// wholeNumber reads a number from 0 to high.
func wholeNumber(text string, high uint64) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n > high {
		return 0, fmt.Errorf("%q: allowed are whole numbers from 0 to %d", text, high)
	}
	return n, nil
}

// checkPID is the process to look at: the one that was named, or the caller's.
func checkPID(c *cli.Context) (int32, error) {
	pid := os.Getppid()
	switch pids := c.IntSlice("pid"); {
	case len(pids) > 1:
		return 0, cmdline.Usagef("check: --pid %d and %d: it is asked about one process", pids[0], pids[1])
	case len(pids) == 1:
		pid = pids[0]
	case pid == 0:
		return 0, cmdline.Usagef("check: the process that calls is outside this PID namespace; name one with --pid")
	}
	if pid < 1 || pid > maxPID {
		return 0, cmdline.Usagef("--pid %d: allowed are 1 to %d", pid, maxPID)
	}
	return int32(pid), nil
}

// warn logs an answer that is not plainly safe, where a file for warnings is set.
func warn(c *cli.Context, l *config.Loaded, a *record.FDCheck) error {
	state, _ := a.State.Get()
	if l.WarningsFile == "" || a.Safe.Or(false) && state == record.StateNormal {
		return nil
	}
	log, err := openLog(l)
	if err != nil {
		return err
	}
	log.Logger().Warn("fd_check",
		zap.String("message", a.Message),
		zap.String("advice", a.Advice),
		sink.Foreign("comm", a.Comm),
		zap.Int32("pid", a.PID),
		zap.Uint64("files", a.Files),
		zap.Uint64("open", a.Open.Or(0)),
		zap.Uint64("limit", a.Limit.Or(0)),
		zap.Uint64("required", a.Required),
		zap.Float64("ratio", a.Ratio.Or(0)),
		zap.Bool("known", a.Safe.Known()),
		zap.String("state", string(state)),
		zap.Uint64("batch", a.Batch.Or(0)))
	return log.Close(c.Context)
}

// printCheck writes an answer for people.
func printCheck(c *cli.Context, a *record.FDCheck) error {
	verdict := "CANNOT TELL"
	if safe, known := a.Safe.Get(); known {
		verdict = map[bool]string{true: "SAFE", false: "RISKY"}[safe]
	}
	w := bufio.NewWriter(c.App.Writer)
	io.WriteString(w, cmdline.Wrap(verdict+": ", a.Message)+"\n")
	rows := [][]string{
		{"process", fmt.Sprintf("%s (pid %d)", human.Text(a.Comm), a.PID)},
		{"needed", fmt.Sprintf("%d: %d files, %d sockets, %d others", a.Required, a.Files, a.Sockets, a.Overhead)},
	}
	if ratio, ok := a.Ratio.Get(); ok {
		rows = append(rows,
			[]string{"with them", fmt.Sprintf("%d of %d (%.0f%%, %s); safe is below %.0f%%, by %s", a.Open.Or(0)+a.Required, a.Limit.Or(0),
				ratio*100, a.State.Or(""), (1-a.MarginRatio)*100, a.LimitedBy)},
			[]string{"batch", fmt.Sprintf("%d files at once fit safely now", a.Batch.Or(0))})
	}
	rows = append(rows, []string{"advice", a.Advice})
	name := "to raise"
	for _, how := range a.Raise {
		rows, name = append(rows, []string{name, how}), ""
	}
	cmdline.WriteTable(w, rows)
	return w.Flush()
}
