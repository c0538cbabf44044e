package cctools

import (
	"bytes"
	"slices"
	"strings"
)

// Names in the summary file that cctools does not have. All of them are strings or
// whole numbers: its reader ends at an object that it does not know, and complains
// of each such array, but passes over these.
const (
	keyCause        = "cause"
	keyLimitsBroken = "limits_broken"
	keyMeasuredBy   = "measured_by"
	keyOOMKills     = "oom_kills"
	keyUnknown      = "unknown"
	keyFilesMissed  = "files_missed"
)

// FileOptions say how a summary is written.
type FileOptions struct {
	Compact bool // one line
	// CCToolsOnly leaves out the measures that cctools does not know, of each of which
	// its reader complains.
	CCToolsOnly bool
}

// AppendSummary appends the summary file to dst: JSON in cctools' order and layout.
func AppendSummary(dst []byte, s *Summary, o FileOptions) []byte {
	b := bytes.NewBuffer(dst)
	j := s.json(o)
	if o.Compact {
		j.compact(b)
	} else {
		j.pretty(b, 0)
	}
	return b.Bytes()
}

func (s *Summary) json(o FileOptions) object {
	var j object
	for _, f := range s.Verbatim {
		j.add(f.Name, f.Value)
	}
	text := func(name, value string) {
		if value != "" {
			j.add(name, value)
		}
	}
	text("executable_type", s.ExecutableType)
	text("monitor_version", s.MonitorVersion)
	text("host", s.Host)
	if s.Files != nil {
		j.add("input_files", fileList(s.Files, false))
		j.add("output_files", fileList(s.Files, true))
	}
	text(keyFilesMissed, s.FilesMissed)
	s.exactness(&j, o)
	s.snapshots(&j, o)
	text("category", s.Category)
	text("taskid", s.TaskID)
	text("command", s.Command)
	j.add("exit_status", s.ExitStatus)
	if s.LastError != 0 {
		j.add("last_error", s.LastError)
	}
	text("exit_type", string(s.ExitType))
	text(keyCause, s.Cause)
	if s.ExitType == ExitSignal {
		j.add("signal", s.Signal)
	}
	if s.OOMKills > 0 {
		j.add(keyOOMKills, s.OOMKills)
	}
	if len(s.Exceeded) > 0 {
		s.exceeded(&j, o)
	}
	s.Measures.add(&j, o, Measure.quantity)
	if !s.PeakTimes.Empty() {
		var peaks object
		s.PeakTimes.addReversed(&peaks, o, seconds)
		j.add("peak_times", peaks)
	}
	return j
}

func (s *Summary) snapshots(j *object, o FileOptions) {
	if len(s.Snapshots) == 0 {
		return
	}
	list := make([]object, 0, len(s.Snapshots))
	for i := range s.Snapshots {
		list = append(list, s.Snapshots[i].json(o))
	}
	j.add("snapshots", list)
}

func (s *Snapshot) json(o FileOptions) object {
	j := object{{"snapshot_name", s.Name}}
	s.add(&j, o, Measure.quantity)
	return j
}

// exceeded tells the limits as cctools does, and in words what was measured and
// when.
func (s *Summary) exceeded(j *object, o FileOptions) {
	var limits object
	var words []string
	for _, e := range s.Exceeded {
		words = append(words, e.String())
		if !(o.CCToolsOnly && e.Measure.Ours()) {
			limits.add(e.Measure.String(), quantity{numberOf(roundTo(e.Limit, 6)), e.Measure.Unit()})
		}
	}
	if len(limits) > 0 {
		j.add("limits_exceeded", limits)
	}
	j.add(keyLimitsBroken, strings.Join(words, "; "))
}

// exactness lists the measures by what their values are worth.
func (s *Summary) exactness(j *object, o FileOptions) {
	if s.MeasuredBy != "" {
		j.add(keyMeasuredBy, s.MeasuredBy)
	}
	for _, kind := range []Exactness{Exact, Sampled, AtLeast} {
		var names []string
		for id := range Measure(NumMeasures) {
			if s.Measures.Known(id) && s.Exactness[id] == kind && !(o.CCToolsOnly && id.Ours()) {
				names = append(names, id.String())
			}
		}
		if names != nil {
			j.add(kind.String(), strings.Join(names, " "))
		}
	}
	var unknown []string
	for id := range Measure(NumMeasures) {
		if why := s.Why[id]; !s.Measures.Known(id) && why != "" {
			unknown = append(unknown, id.String()+": "+why)
		}
	}
	if unknown != nil {
		j.add(keyUnknown, strings.Join(unknown, "; "))
	}
}

// add adds the values that are known, in cctools' order.
func (m *Measures) add(j *object, o FileOptions, value func(Measure, float64) quantity) {
	for id := range Measure(NumMeasures) {
		if v, ok := m.Get(id); ok && !(o.CCToolsOnly && id.Ours()) {
			j.add(id.String(), value(id, v))
		}
	}
}

// addReversed does the same from the last to the first, as cctools lists peaks.
func (m *Measures) addReversed(j *object, o FileOptions, value func(Measure, float64) quantity) {
	var list object
	m.add(&list, o, value)
	slices.Reverse(list)
	*j = append(*j, list...)
}

func (m Measure) quantity(v float64) quantity {
	return quantity{numberOf(m.Round(v)), m.Unit()}
}

func seconds(_ Measure, v float64) quantity {
	return quantity{numberOf(roundTo(v, 3)), "s"}
}

// AppendSnapshot appends the file of one snapshot to dst.
func AppendSnapshot(dst []byte, s *Snapshot, o FileOptions) []byte {
	b := bytes.NewBuffer(dst)
	s.json(o).pretty(b, 0)
	return b.Bytes()
}
