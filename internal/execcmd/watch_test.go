package execcmd

import (
	"path/filepath"
	"strings"
	"testing"

	"rmagent/internal/cctools"
)

// A directory that is gone, or a full disk, fails each of a long job's snapshots.
func TestOneSnapshotThatFailsIsTold(t *testing.T) {
	w := &jobWatch{plan: &plan{Options: cctools.Options{Template: filepath.Join(t.TempDir(), "gone/t")}}}
	for i := range 100 {
		w.snapshot("made(1)", float64(i))
	}
	if err := w.failed; err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "t.snapshot.00") {
		t.Errorf("it is told %v", err)
	}
	if len(w.snapshots) != 100 {
		t.Errorf("the summary has %d snapshots", len(w.snapshots))
	}
}
