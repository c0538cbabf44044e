package cctools

import (
	"math"
	"time"

	"rmagent/record"
)

// Record makes a record of the summary. Who the job is (Job, PID, StartTicks), and its
// command, which is only told when asked for, are the caller's to fill in.
func (s *Summary) Record() *record.Job {
	r := &record.Job{
		JobFacts: record.JobFacts{
			Category:       optText(s.Category),
			TaskID:         optText(s.TaskID),
			ExecutableType: optText(s.ExecutableType),
			MeasuredBy:     s.MeasuredBy,
			StartTime:      optTime(&s.Measures, Start),
			EndTime:        optTime(&s.Measures, End),
			ExitType:       string(s.ExitType),
			ExitStatus:     record.Some(int32(s.ExitStatus)),
			Signal:         record.SomeIf(int32(s.Signal), s.Signal != 0),
			LastError:      record.SomeIf(int32(s.LastError), s.LastError != 0),
			Cause:          optText(s.Cause),
			OOMKills:       record.SomeIf(s.OOMKills, s.OOMKills > 0),
		},
	}
	for id := range Measure(NumMeasures) {
		f := fieldOf(&r.JobUse, id)
		if f == nil {
			continue
		}
		v, ok := s.Measures.Get(id)
		if ok {
			f.set(v * recordUnits[id.Unit()].factor)
		}
		at, peaked := s.PeakTimes.Get(id)
		r.Measured = append(r.Measured, record.JobValue{
			Resource:    id.String(),
			Exactness:   s.Exactness[id].String(),
			Why:         optText(s.Why[id]),
			PeakSeconds: record.SomeIf(at, ok && peaked),
		})
	}
	for _, e := range s.Exceeded {
		r.Limits = append(r.Limits, e.record())
	}
	return r
}

// SummaryOf makes a summary of a record, as far as it tells.
func SummaryOf(r *record.Job) *Summary {
	s := &Summary{
		Category: r.Category.Or(""), TaskID: r.TaskID.Or(""), Command: r.Command.Or(""),
		ExecutableType: r.ExecutableType.Or(""), MeasuredBy: r.MeasuredBy, Host: r.Host,
		ExitType: ExitType(r.ExitType), ExitStatus: int(r.ExitStatus.Or(0)), Signal: int(r.Signal.Or(0)),
		LastError: int(r.LastError.Or(0)), Cause: r.Cause.Or(""), OOMKills: r.OOMKills.Or(0),
	}
	for id := range Measure(NumMeasures) {
		if f := fieldOf(&r.JobUse, id); f != nil {
			if v, ok := f.get(); ok {
				s.Measures.Set(id, v/recordUnits[id.Unit()].factor)
			}
		}
	}
	for _, t := range []struct {
		id   Measure
		time record.Opt[time.Time]
	}{{Start, r.StartTime}, {End, r.EndTime}} {
		if at, ok := t.time.Get(); ok {
			s.Measures.Set(t.id, float64(at.UnixMicro())/1e6)
		}
	}
	for _, l := range r.Limits {
		if id, ok := MeasureOf(l.Resource); ok {
			factor := recordUnits[id.Unit()].factor
			s.Exceeded = append(s.Exceeded, Exceeded{Measure: id, Limit: l.Limit / factor, Value: l.Value / factor, Seconds: l.Seconds})
		}
	}
	return s
}

// recordUnits are the units of records, and how many of them make one of cctools'.
var recordUnits = map[string]struct {
	name   string
	factor float64
}{
	"s": {"seconds", 1}, "MB": {"bytes", BytesPerMB}, "Mbps": {"bits_per_second", 1e6}, "cores": {"cores", 1},
	"gpus": {"gpus", 1}, "procs": {"processes", 1}, "switches": {"switches", 1}, "files": {"files", 1},
	"faults": {"faults", 1}, "nodes": {"nodes", 1}, "workers": {"workers", 1},
}

// InRecord returns a value of the measure in the unit that records have it in.
func (m Measure) InRecord(v float64) (value float64, unit string) {
	u := recordUnits[m.Unit()]
	return v * u.factor, u.name
}

func (e Exceeded) record() record.JobLimit {
	u := recordUnits[e.Measure.Unit()]
	return record.JobLimit{Resource: e.Measure.String(), Value: e.Value * u.factor, Limit: e.Limit * u.factor, Unit: u.name, Seconds: e.Seconds}
}

// Near says how near values are to the limits, in the units of records.
func (l *Limits) Near(values *Measures) []record.JobNear {
	list := []record.JobNear{}
	for _, id := range l.Names() {
		u := recordUnits[id.Unit()]
		limit, _ := l.Get(id)
		v, known := values.Get(id)
		list = append(list, record.JobNear{
			Resource: id.String(), Value: record.SomeIf(v*u.factor, known), Limit: limit * u.factor,
			Ratio: record.SomeIf(v/limit, known && limit > 0), Unit: u.name,
		})
	}
	return list
}

// field is one of a record's values, whole or not.
type field struct {
	whole *record.Opt[uint64]
	real  *record.Opt[float64]
}

func (f *field) set(v float64) {
	if f.real != nil {
		*f.real = record.Some(v)
	} else if v < math.MaxInt64 {
		*f.whole = record.Some(uint64(math.Round(v)))
	}
}

func (f *field) get() (float64, bool) {
	if f.real != nil {
		return f.real.Get()
	}
	v, ok := f.whole.Get()
	return float64(v), ok
}

// fieldOf returns the field of a measure, or nil if records of jobs have none.
func fieldOf(u *record.JobUse, id Measure) *field {
	switch id {
	case WallTime:
		return &field{real: &u.WallTimeSeconds}
	case CPUTime:
		return &field{real: &u.CPUTimeSeconds}
	case Memory:
		return &field{whole: &u.MemoryBytes}
	case VirtualMemory:
		return &field{whole: &u.VirtualMemoryBytes}
	case SwapMemory:
		return &field{whole: &u.SwapMemoryBytes}
	case Disk:
		return &field{whole: &u.DiskBytes}
	case BytesRead:
		return &field{whole: &u.ReadBytes}
	case BytesWritten:
		return &field{whole: &u.WrittenBytes}
	case BytesReceived:
		return &field{whole: &u.ReceivedBytes}
	case BytesSent:
		return &field{whole: &u.SentBytes}
	case Bandwidth:
		return &field{real: &u.BandwidthBitsPerSecond}
	case GPUs:
		return &field{whole: &u.GPUs}
	case GPUMemory:
		return &field{whole: &u.GPUMemoryBytes}
	case Cores:
		return &field{real: &u.Cores}
	case CoresAvg:
		return &field{real: &u.CoresAvg}
	case ContextSwitches:
		return &field{whole: &u.ContextSwitches}
	case MaxConcurrentProcesses:
		return &field{whole: &u.MaxConcurrentProcesses}
	case TotalProcesses:
		return &field{whole: &u.TotalProcesses}
	case TotalFiles:
		return &field{whole: &u.TotalFiles}
	case OpenFiles:
		return &field{whole: &u.OpenFiles}
	case MinorFaults:
		return &field{whole: &u.MinorFaults}
	case MajorFaults:
		return &field{whole: &u.MajorFaults}
	case RunDelay:
		return &field{real: &u.RunDelaySeconds}
	}
	return nil
}

func optText(s string) record.Opt[string] { return record.SomeIf(s, s != "") }

func optTime(m *Measures, id Measure) record.Opt[time.Time] {
	v, ok := m.Get(id)
	return record.SomeIf(time.UnixMicro(int64(math.Round(v*1e6))).UTC(), ok && v < 1e11)
}
