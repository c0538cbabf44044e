package metrics

import (
	"bytes"
	"compress/gzip"
	"context"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/prometheus/common/expfmt"

	"rmagent/internal/engine"
)

// door answers the scrapes of one door. What was made of a view serves all who scrape
// until the next one.
type door struct {
	Options
	tables    *tables
	processes bool

	plain, open variant
}

// variant is the latest view in one format.
type variant struct {
	mu     sync.Mutex
	view   *engine.View
	text   []byte // nil: of no view yet
	zipped []byte // nil: nobody asked for it

	groupers [3]grouper
}

func newDoor(o Options, t *tables, processes bool) *door {
	return &door{Options: o, tables: t, processes: processes}
}

func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v, err := d.latest(r.Context())
	if err != nil {
		http.Error(w, "The agent did not answer in time; it may be stuck in a reading.", http.StatusServiceUnavailable)
		return
	}
	// Protocol buffers may be asked for, but nobody takes them alone.
	media := expfmt.NegotiateAccept(r.Header, expfmt.FmtOpenMetrics_1_0_0, expfmt.FmtText)
	from := &d.plain
	if media.FormatType() == expfmt.TypeOpenMetrics {
		from = &d.open
	}
	zip := acceptsGzip(r.Header)
	text, err := d.text(from, v, zip)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", string(media))
	h.Set("Content-Length", strconv.Itoa(len(text)))
	h.Add("Vary", "Accept-Encoding")
	if zip {
		h.Set("Content-Encoding", "gzip")
	}
	_, _ = w.Write(text) // a client that is gone is no failure
}

// latest is the last view with its details, nil before the first reading.
func (d *door) latest(ctx context.Context) (*engine.View, error) {
	if d.Views.Latest() == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return d.Views.Detailed(ctx)
}

// text returns a view as text. It is made once, while others who ask wait.
func (d *door) text(t *variant, v *engine.View, zip bool) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.text == nil || t.view != v {
		s := page{
			tables:     d.tables,
			exposition: exposition{open: t == &d.open, buf: make([]byte, 0, len(t.text)+len(t.text)/8)},
			groupers:   &t.groupers,
		}
		t.view, t.text, t.zipped = v, s.text(&d.Options, v, d.processes), nil
	}
	if !zip {
		return t.text, nil
	}
	if t.zipped == nil {
		var b bytes.Buffer
		z, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
		if err != nil {
			return nil, err
		}
		if _, err := z.Write(t.text); err != nil {
			return nil, err
		}
		if err := z.Close(); err != nil {
			return nil, err
		}
		t.zipped = b.Bytes()
	}
	return t.zipped, nil
}

// acceptsGzip tells whether a client named gzip among what it takes (RFC 9110, 12.5.3).
func acceptsGzip(h http.Header) bool {
	for _, line := range h.Values("Accept-Encoding") {
		for coding := range strings.SplitSeq(line, ",") {
			name, weight, _ := strings.Cut(coding, ";")
			if !strings.EqualFold(strings.TrimSpace(name), "gzip") {
				continue
			}
			q, err := strconv.ParseFloat(strings.TrimPrefix(strings.ReplaceAll(weight, " ", ""), "q="), 64)
			return err != nil || q > 0
		}
	}
	return false
}
