package worker

import (
	"errors"
	"os"

	"rmagent/internal/elffile"
	"rmagent/internal/gotab"
	"rmagent/record"
)

// symbols names what is at an address of a file, innermost first.
type symbols interface {
	Frames(vaddr uint64) []record.Frame
}

// openSymbols prepares a file; debug is its file of debug information, nil where there
// is none.
func openSymbols(f, _ *elffile.File) symbols {
	if table, err := gotab.Open(f); err == nil {
		return goSymbols{table}
	}
	return nil
}

type goSymbols struct{ table *gotab.Table }

func (s goSymbols) Frames(vaddr uint64) []record.Frame {
	var frames []record.Frame
	for _, f := range s.table.Frames(nil, vaddr) {
		frame := record.Frame{Function: record.Some(printable(f.Function)), Inlined: f.Inlined}
		if f.File != "" {
			frame.File = record.Some(printable(f.File))
		}
		if f.Line > 0 {
			frame.Line = record.Some(uint64(f.Line))
		}
		frames = append(frames, frame)
	}
	return frames
}

// perfMap names code that was generated at run time, as /tmp/perf-PID.map does.
type perfMap struct{}

func readPerfMap(*os.File) (*perfMap, error) { return nil, errors.New("not read yet") }

func (*perfMap) find(uint64) (string, bool) { return "", false }
