package cctools

import "strconv"

// ExitType is how a job ended, in cctools' words.
type ExitType string

// The ways to end.
const (
	ExitNormal  ExitType = "normal"  // by itself, whatever its status
	ExitSignal  ExitType = "signal"  // by a signal
	ExitLimits  ExitType = "limits"  // a limit was broken, whether or not it was enforced
	ExitRunning ExitType = "running" // not yet: a summary with --update-summary
)

// Exactness says what a value of a summary is worth.
type Exactness uint8

// The kinds of exactness.
const (
	Unknown Exactness = iota // there is no value; Why says why
	Exact                    // counted, or the kernel's own high-water mark
	Sampled                  // the highest of readings: a peak between two was not seen
	AtLeast                  // some of the job was not seen at all
)

// String returns the word for it in summaries and records.
func (e Exactness) String() string {
	return [...]string{"unknown", "exact", "sampled", "at_least"}[e]
}

// Field is a name and a value that go into the summary as they are.
type Field struct{ Name, Value string }

// Snapshot is what a job used from the snapshot before, or its start, to a moment
// that it marked itself by something it did to a file.
type Snapshot struct {
	Name string // labels and counts: started(1),rotated(2)
	Measures
}

// Summary is what a job used, and how it ended.
type Summary struct {
	Category string // empty: none
	Command  string // as it was given, in one line
	TaskID   string // empty: none

	ExitType   ExitType
	Signal     int // that ended it; 0: none
	ExitStatus int // of the command; 128+N if signal N ended it, 143 if an enforced limit did
	LastError  int // errno of a resource that ran out (EMFILE, ENOSPC); 0: none
	// Cause says in a sentence what ended the job or broke in it, where exit type and
	// status don't: an OOM kill, descriptors that ran out. Empty: nothing.
	Cause string

	// Measures has what the job used: totals, and the highest values of what goes up
	// and down. CoresAvg follows from CPUTime and WallTime: see Finish.
	Measures Measures
	// Exactness says what each value is worth; Why, by measure, why it is unknown or
	// not exact.
	Exactness [NumMeasures]Exactness
	Why       map[Measure]string

	Exceeded  []Exceeded // limits that were broken
	PeakTimes Measures   // seconds since the start at which each value was reached
	Snapshots []Snapshot // oldest first

	Host           string
	MonitorVersion string
	ExecutableType string  // dynamic, static, unknown, or the first line of a script
	MeasuredBy     string  // ebpf, agent, cgroup, procfs
	Verbatim       []Field // given with -V
	Files          []File  // that were opened, with --with-inotify; nil without
	FilesMissed    string  // why Files is not all; empty: it is

	OOMKills uint64 // processes of the job that the OOM killer chose
}

// Finish fills in what follows from the rest: cores_avg, and cores where the average
// is more than any window had, as it is in a job shorter than the window.
func (s *Summary) Finish() {
	wall, ok := s.Measures.Get(WallTime)
	cpu, known := s.Measures.Get(CPUTime)
	if ok {
		s.PeakTimes.Set(Start, 0)
		s.PeakTimes.Set(End, wall)
		s.PeakTimes.Set(WallTime, wall)
	}
	if !ok || !known || wall <= 0 {
		return
	}
	average := cpu / wall
	s.Measures.Set(CoresAvg, average)
	s.Exactness[CoresAvg] = s.Exactness[CPUTime]
	s.PeakTimes.Set(CoresAvg, wall)
	if peak, ok := s.Measures.Get(Cores); !ok || peak <= average {
		s.Measures.Set(Cores, average)
		s.Exactness[Cores] = s.Exactness[CPUTime]
		s.PeakTimes.Set(Cores, wall)
	}
}

// trimZeros writes v with at most six decimals, none of them for nothing.
func trimZeros(v float64) string {
	return strconv.FormatFloat(roundTo(v, 6), 'f', -1, 64)
}
