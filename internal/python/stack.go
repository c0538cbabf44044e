package python

import (
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
// the interpreter's loop is replaced by the frames that it ran. What is left when the
// native walk ended early comes last.
func Merge(native []record.Frame, frames []sample.PythonFrame, named []record.Frame) []record.Frame {
	merged := make([]record.Frame, 0, len(native)+len(named))
	next := 0
	for _, f := range native {
		if name, _ := f.Function.Get(); !strings.HasPrefix(name, interpreterLoop) || next == len(named) {
			merged = append(merged, f)
			continue
		}
		for next < len(named) {
			merged = append(merged, named[next])
			next++
			if frames[next-1].Entry {
				break
			}
		}
	}
	return append(merged, named[next:]...)
}
