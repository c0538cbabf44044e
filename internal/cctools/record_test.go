package cctools

import (
	"reflect"
	"testing"

	"rmagent/record"
)

// A summary that went through a record says the same.
func TestRecordIsReadBack(t *testing.T) {
	s := typical()
	for id := range Measure(NumMeasures) {
		if id != Start && id != End {
			s.Measures.Set(id, float64(3+id))
		}
	}
	r := s.Record()
	back := SummaryOf(r)
	for id := range Measure(NumMeasures) {
		want, _ := s.Measures.Get(id)
		got, ok := back.Measures.Get(id)
		switch id {
		case MachineCPUs, MachineLoad, FSNodes, Workers: // of the machine: no record of the job
			if ok {
				t.Errorf("%s is in a record", id)
			}
		default:
			if !ok || got != want {
				t.Errorf("%s: %v, not %v", id, got, want)
			}
		}
	}
	if len(back.Exceeded) != 2 || back.Exceeded[0] != s.Exceeded[0] || back.Category != s.Category || back.ExitType != s.ExitType {
		t.Errorf("%+v", back)
	}
	if r.Limits[0].Value != 302.5*BytesPerMB || r.Limits[0].Unit != "bytes" {
		t.Errorf("%+v", r.Limits[0])
	}
	if len(r.Measured) != reflect.TypeFor[record.JobUse]().NumField() {
		t.Errorf("%d values are judged, there are %d", len(r.Measured), reflect.TypeFor[record.JobUse]().NumField())
	}
	if r.Command.Known() {
		t.Error("the command is told unasked")
	}
	if got := s.Exceeded[0].String(); got != "memory: 302 MB > 200 MB after 0.412 s" {
		t.Error(got)
	}
}
