package execcmd

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/cctools"
	"rmagent/internal/cmdline"
	"rmagent/internal/human"
	"rmagent/internal/job"
)

// jobProgress shows on a terminal what a job uses, in one line that it takes back.
type jobProgress struct {
	on    bool
	shown bool
	next  time.Time
}

// progressAfter is how long a job runs before it is worth a line.
const progressAfter = 2 * time.Second

func newJobProgress(p *plan) *jobProgress {
	return &jobProgress{on: p.progress, next: time.Now().Add(progressAfter)}
}

func (p *jobProgress) show(s *job.Step) {
	if !p.on || s.Number < 0 || time.Now().Before(p.next) || !calm() {
		return
	}
	p.shown = true
	value := func(id cctools.Measure) float64 {
		v, _ := s.Now.Get(id)
		return v
	}
	if s.Left {
		fmt.Fprintf(os.Stderr, "\r\x1b[K[rmagent] %s: the command ended, processes left: %.0f; Ctrl-C ends them\r",
			human.Seconds(s.Seconds), value(cctools.MaxConcurrentProcesses))
		return
	}
	fmt.Fprintf(os.Stderr, "\r\x1b[K[rmagent] %s: %s CPU, %s memory, %.0f processes, %.0f files open\r",
		human.Seconds(s.Seconds), human.Seconds(value(cctools.CPUTime)), human.Bytes(value(cctools.Memory)*cctools.BytesPerMB),
		value(cctools.MaxConcurrentProcesses), value(cctools.OpenFiles))
}

// calm reports whether the terminal is this process's to write a line on: it is in the
// foreground, and no editor or pager has taken the terminal over.
func calm() bool {
	t, err := unix.IoctlGetTermios(int(os.Stderr.Fd()), unix.TCGETS)
	return err == nil && t.Lflag&unix.ICANON != 0 && foreground()
}

func (p *jobProgress) end() {
	if p.shown {
		fmt.Fprint(os.Stderr, "\r\x1b[K")
	}
}

// closeTo is from which share of a limit on a job came close to it.
const closeTo = 0.8

// printJob says on one screen what a job used, at most, and what came close to its
// limit.
func printJob(to io.Writer, s *cctools.Summary, limits *cctools.Limits, r *job.Result, lost error) {
	out := bufio.NewWriter(to)
	defer out.Flush()
	p := cmdline.NewPainter(out, to)
	wall, _ := s.Measures.Get(cctools.WallTime)
	p.Line("%s %s", p.Paint(cmdline.Bold, "rmagent: "+shorten(human.Text(s.Command))), ending(s, r)+fmt.Sprintf(" after %.3f s", wall))
	for _, e := range s.Exceeded {
		p.Line("  %s", p.Paint(cmdline.Red, "limit broken: "+e.String()))
	}
	if s.Cause != "" {
		p.Line("  %s", p.Paint(cmdline.Red, s.Cause))
	}
	if n := len(r.Refused); n > 0 {
		p.Line("  %s", p.Paint(cmdline.Red, fmt.Sprintf("another user's processes could not be ended: %d", n)))
	}
	if n := r.Left - len(r.Refused); n > 0 {
		p.Line("  %s", p.Paint(cmdline.Red, fmt.Sprintf("processes that survived SIGKILL, because they wait for the kernel: %d", n)))
	}
	for _, row := range jobRows(s) {
		p.Line("  %-10s %s", row[0], row[1])
	}
	for _, id := range limits.Names() {
		printLimit(p, s, limits, id)
	}
	if lost != nil {
		p.Line("  %s", p.Paint(cmdline.Dim, "measured by "+s.MeasuredBy+", less exactly: "+lost.Error()))
	}
}

func shorten(text string) string {
	const most = 60
	if r := []rune(text); len(r) > most {
		return string(r[:most-3]) + "..."
	}
	return text
}

// ending says how a job ended.
func ending(s *cctools.Summary, r *job.Result) string {
	switch {
	case s.ExitType == cctools.ExitLimits && r.Killed:
		return "was ended"
	case s.Signal != 0:
		return fmt.Sprintf("was ended by signal %d (%s)", s.Signal, unix.SignalName(unix.Signal(s.Signal)))
	}
	return fmt.Sprintf("exited with status %d", s.ExitStatus)
}

// jobRows are what is shown of a summary; an inexact value says so.
func jobRows(s *cctools.Summary) [][2]string {
	value := func(id cctools.Measure, format func(float64) string) string {
		v, ok := s.Measures.Get(id)
		if !ok {
			return "unknown"
		}
		mark := map[cctools.Exactness]string{cctools.Sampled: "~", cctools.AtLeast: "at least "}
		return mark[s.Exactness[id]] + format(v)
	}
	mb := func(v float64) string { return human.Bytes(v * cctools.BytesPerMB) }
	number := func(v float64) string { return fmt.Sprintf("%.0f", v) }
	secs := func(v float64) string { return fmt.Sprintf("%.3f s", v) }
	cores := func(v float64) string { return fmt.Sprintf("%.2f", v) }
	return [][2]string{
		{"CPU", value(cctools.CPUTime, secs) + ", " + value(cctools.CoresAvg, cores) + " cores on average, waited " + value(cctools.RunDelay, secs) + " for a CPU"},
		{"memory", "peak " + value(cctools.Memory, mb) + at(s, cctools.Memory) + ", swap " + value(cctools.SwapMemory, mb)},
		{"processes", value(cctools.TotalProcesses, number) + ", most at once " + value(cctools.MaxConcurrentProcesses, number)},
		{"files", "most open at once " + value(cctools.OpenFiles, number)},
		{"read", value(cctools.BytesRead, mb) + ", written " + value(cctools.BytesWritten, mb)},
		{"network", value(cctools.BytesReceived, mb) + " received, " + value(cctools.BytesSent, mb) + " sent"},
	}
}

func at(s *cctools.Summary, id cctools.Measure) string {
	if t, ok := s.PeakTimes.Get(id); ok {
		return fmt.Sprintf(" (at %.1f s)", t)
	}
	return ""
}

func printLimit(p *cmdline.Painter, s *cctools.Summary, limits *cctools.Limits, id cctools.Measure) {
	limit, _ := limits.Get(id)
	v, ok := s.Measures.Get(id)
	if !ok {
		p.Line("  %s", p.Paint(cmdline.Yellow, fmt.Sprintf("limit of %s: not watched, %s is unknown here", id, id)))
		return
	}
	text := fmt.Sprintf("limit of %s: %s of %s %s", strings.ReplaceAll(id.String(), "_", " "), id.Text(v), id.Text(limit), id.Unit())
	if limit > 0 {
		text += fmt.Sprintf(" (%.0f %%)", 100*v/limit)
	}
	colour := ""
	if v > closeTo*limit {
		colour = cmdline.Yellow
	}
	p.Line("  %s", p.Paint(colour, text))
}
