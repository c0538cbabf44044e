package python

import (
	"slices"
	"strings"

	"rmagent/internal/sample"
	"rmagent/record"
)

// Language is what frames of CPython have as their language.
const Language = "python"

const interpreterLoop = "_PyEval_EvalFrameDefault"

// Frames names frames; those whose code can't be read any more have no name.
func (p *Interpreter) Frames(frames []sample.PythonFrame) []record.Frame {
	named := make([]record.Frame, len(frames))
	for i, f := range frames {
		named[i].Language = record.Some(Language)
		place, err := p.Place(f.Code, f.Instruction)
		if err != nil {
			continue
		}
		named[i].Function, named[i].File = record.Some(place.Function), record.Some(place.File)
		if place.Line > 0 {
			named[i].Line = record.Some(uint64(place.Line))
		}
	}
	return named
}

// Merge puts frames of CPython into the native stack in which they ran: each run of
// the interpreter's loop is replaced by the frames that it ran. What else is from the
// interpreter's own file is left out: it says nothing that the program's author wrote,
// and which of its functions a call goes through changes as CPython learns
// (specialization, PEP 659). What is left when the native walk ended early comes last.
func Merge(native []record.Frame, frames []sample.PythonFrame, named []record.Frame) []record.Frame {
	interpreter := interpreterModule(native)
	merged := make([]record.Frame, 0, len(native)+len(named))
	next := 0
	for _, f := range native {
		if !isLoop(&f) || next == len(named) {
			if len(named) == 0 || !interpreter.Known() || f.Module != interpreter {
				merged = append(merged, f)
			}
			continue
		}
		for next < len(named) {
			if !isShim(&named[next]) {
				merged = append(merged, named[next])
			}
			next++
			if frames[next-1].Entry {
				break
			}
		}
	}
	return append(merged, slices.DeleteFunc(slices.Clone(named[next:]), func(f record.Frame) bool { return isShim(&f) })...)
}

// isShim tells of a frame that is CPython's own: it stands between a class that is called
// and its __init__ once the call is specialized (_Py_InitCleanup in Python/specialize.c, from
// 3.12 on), and no traceback has it.
func isShim(f *record.Frame) bool {
	return f.Function == record.Some("__init__") && f.File == record.Some("__init__")
}

func isLoop(f *record.Frame) bool {
	name, _ := f.Function.Get()
	return strings.HasPrefix(name, interpreterLoop)
}

// interpreterModule is the file that the interpreter's loop is from, unknown where the
// stack has none.
func interpreterModule(native []record.Frame) (module record.Opt[string]) {
	for i := range native {
		if isLoop(&native[i]) {
			return native[i].Module
		}
	}
	return module
}
