package fallback

import (
	"testing"

	"rmagent/internal/sample"
	"rmagent/internal/sampletest"
)

func TestConformance(t *testing.T) {
	sampletest.TestReader(t, func(t testing.TB) sample.Reader {
		r, err := Open(Options{})
		if err != nil {
			t.Fatal(err)
		}
		return r
	})
}
