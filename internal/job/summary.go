package job

import (
	"bytes"
	"debug/elf"
	"os"
	"strconv"
	"syscall"

	"rmagent/internal/cctools"
	"rmagent/record"
)

// Summarize makes a summary of a job that ended. What only the caller knows (command,
// category, host...) is left to it.
func Summarize(r *Result, t Tracker) *cctools.Summary {
	s := &cctools.Summary{MeasuredBy: t.Source(), ExitType: cctools.ExitNormal, Exceeded: r.Exceeded}
	m := r.Meter
	m.Most.Set(cctools.Start, seconds(r.Start.UnixMicro()))
	m.Most.Set(cctools.End, seconds(r.End.UnixMicro()))
	m.Summarize(s, t.Exactness)
	if r.State != nil {
		s.ExitStatus = r.State.ExitCode()
		if status, ok := r.State.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			s.ExitType, s.Signal = cctools.ExitSignal, int(status.Signal())
			s.ExitStatus = 128 + s.Signal
		}
	}
	if len(r.Exceeded) > 0 {
		s.ExitType = cctools.ExitLimits
	}
	return s
}

// SummarizeSelf makes a summary of a function that ended.
func SummarizeSelf(r *Result) *cctools.Summary {
	s := &cctools.Summary{MeasuredBy: "self", ExitType: cctools.ExitNormal, Exceeded: r.Exceeded}
	m := r.Meter
	m.Most.Set(cctools.Start, seconds(r.Start.UnixMicro()))
	m.Most.Set(cctools.End, seconds(r.End.UnixMicro()))
	m.Summarize(s, SelfExactness)
	if len(r.Exceeded) > 0 {
		s.ExitType = cctools.ExitLimits
	}
	return s
}

func seconds(micros int64) float64 { return float64(micros) / 1e6 }

// machine adds what a summary says of the machine.
func machine(m *cctools.Measures) {
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		word, _, _ := bytes.Cut(b, []byte{' '})
		if v, err := strconv.ParseFloat(string(word), 64); err == nil {
			m.Set(cctools.MachineLoad, v)
		}
	}
	if n, ok := onlineCPUs(); ok {
		m.SetCount(cctools.MachineCPUs, n)
	}
}

// onlineCPUs counts "0-3,8".
func onlineCPUs() (n uint64, ok bool) {
	b, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err != nil {
		return 0, false
	}
	for part := range bytes.SplitSeq(bytes.TrimSpace(b), []byte{','}) {
		first, last, ranged := bytes.Cut(part, []byte{'-'})
		if !ranged {
			last = first
		}
		a, err1 := strconv.ParseUint(string(first), 10, 16)
		z, err2 := strconv.ParseUint(string(last), 10, 16)
		if err1 != nil || err2 != nil || z < a {
			return 0, false
		}
		n += z - a + 1
	}
	return n, true
}

// ExecutableType says in cctools' words what kind of program a file is: dynamic,
// static, a script's first line, or unknown.
func ExecutableType(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return "unknown"
	}
	defer f.Close()
	head := make([]byte, 128)
	n, _ := f.ReadAt(head, 0)
	head = head[:n]
	if bytes.HasPrefix(head, []byte("#!")) {
		line, _, _ := bytes.Cut(head, []byte{'\n'})
		return record.Text(line)
	}
	e, err := elf.NewFile(f)
	if err != nil {
		return "unknown"
	}
	for _, p := range e.Progs {
		if p.Type == elf.PT_INTERP {
			return "dynamic"
		}
	}
	return "static"
}
