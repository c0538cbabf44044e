package sample

import (
	"reflect"
	"testing"
)

// Every field of Process that a source may not know must have an entry in the
// table, or Take and everything made from the table would pass it over.
func TestEveryFieldHasAName(t *testing.T) {
	seen := map[string]Field{}
	for f := range NumFields {
		name := f.String()
		if name == "" {
			t.Errorf("field %d has no name", f)
		}
		if other, dup := seen[name]; dup {
			t.Errorf("fields %d and %d are both named %q", other, f, name)
		}
		seen[name] = f
		if f.Info().Kind != Label && (f.Info().At == nil || f.Info().Unit == None) {
			t.Errorf("field %v has arithmetic but no accessor or unit", f)
		}
	}
	// ID, Since, Comm, KernelThread and Known are always there; the rest is optional.
	if n := reflect.TypeFor[Process]().NumField() - 5; n != int(NumFields) {
		t.Errorf("Process has %d optional fields, the table %d", n, NumFields)
	}
}

func TestTakeCopiesExactlyTheFieldsAsked(t *testing.T) {
	var from Process
	v := reflect.ValueOf(&from).Elem()
	for i := range v.NumField() {
		switch f := v.Field(i); f.Kind() {
		case reflect.Uint64, reflect.Uint32, reflect.Uint8:
			f.SetUint(uint64(i + 1))
		case reflect.Int32:
			f.SetInt(int64(i + 1))
		}
	}
	from.Known = AllFields

	var all Process
	all.ID, all.Comm, all.KernelThread = from.ID, from.Comm, from.KernelThread
	all.Take(&from, AllFields)
	if all != from {
		t.Errorf("after taking every field:\n got %+v\nwant %+v", all, from)
	}

	for f := range NumFields {
		var one Process
		one.Take(&from, SetOf(f))
		if one.Known != SetOf(f) {
			t.Errorf("taking %v makes %b known", f, one.Known)
		}
		changed := 0
		o := reflect.ValueOf(one)
		for i := range o.NumField() {
			if name := o.Type().Field(i).Name; name != "Known" && !o.Field(i).IsZero() {
				changed++
			}
		}
		if changed != 1 {
			t.Errorf("taking %v changes %d fields", f, changed)
		}
	}

	from.Known = 0
	var none Process
	if none.Take(&from, AllFields); none != (Process{}) {
		t.Errorf("taking from a process that knows nothing gives %+v", none)
	}
}
