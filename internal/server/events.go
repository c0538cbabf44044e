package server

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"rmagent/record"
)

const (
	// eventWriteTime is how long a listener may take for one write.
	eventWriteTime = 10 * time.Second
	// keepAlive is how often a comment is sent where nothing happens, so that both
	// sides notice when the other is gone.
	keepAlive = 15 * time.Second
)

func eventKind(s string) error {
	if slices.Contains(eventKinds, record.Kind(s)) {
		return nil
	}
	names := make([]string, len(eventKinds))
	for i, k := range eventKinds {
		names[i] = string(k)
	}
	return fmt.Errorf("allowed are %s", strings.Join(names, ", "))
}

// events sends records as they come. Without Last-Event-ID it begins with the next
// one.
func (s *Server) events(w http.ResponseWriter, r *http.Request) error {
	if s.Events == nil {
		return missing(s, w, r)
	}
	kinds := r.URL.Query()["kind"]
	if slices.Contains(kinds, string(record.KindExit)) {
		s.Events.wantExits(1)
		defer s.Events.wantExits(-1)
	}
	next := s.Events.last()
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		n, err := strconv.ParseUint(id, 10, 64)
		if err != nil {
			return problemf(http.StatusBadRequest, "Last-Event-ID: %q is no number.", record.Text([]byte(id)))
		}
		next = min(n+1, next) // one of a former run of the agent says nothing
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no")
	l := listener{
		server: s, w: w, control: http.NewResponseController(w), next: next,
		wants: func(k record.Kind) bool {
			if len(kinds) == 0 {
				return k != record.KindExit
			}
			return slices.Contains(kinds, string(k))
		},
		trusted: callerOf(r.Context()).trusted,
	}
	if err := l.send(": hello\n\n"); err != nil {
		return nil
	}
	return l.listen(r)
}

// listener is one who listens.
type listener struct {
	server  *Server
	w       http.ResponseWriter
	control *http.ResponseController
	next    uint64
	wants   func(record.Kind) bool
	trusted bool
	batch   []Event
}

// listen sends until the client is gone, stuck, or the server closes.
func (l *listener) listen(r *http.Request) error {
	alive := time.NewTicker(keepAlive)
	defer alive.Stop()
	for {
		more, err := l.catchUp()
		if err != nil {
			return nil // gone, or stuck
		}
		select {
		case <-more:
		case <-alive.C:
			if l.send(": still here\n\n") != nil {
				return nil
			}
		case <-r.Context().Done():
			return nil
		case <-l.server.done:
			return nil
		}
	}
}

// catchUp sends what there is.
func (l *listener) catchUp() (more <-chan struct{}, err error) {
	var lost uint64
	l.batch, lost, more = l.server.Events.since(l.batch[:0], l.next)
	var b strings.Builder
	if lost > 0 {
		fmt.Fprintf(&b, "event: lost\ndata: {\"events\":%d}\n\n", lost)
	}
	l.next += lost + uint64(len(l.batch))
	for i := range l.batch {
		e := &l.batch[i]
		if !l.wants(e.Kind) {
			continue
		}
		data := e.Plain
		if l.trusted {
			data = e.Full
		}
		fmt.Fprintf(&b, "id: %d\nevent: %s\ndata: %s\n\n", e.Number, e.Kind, data)
	}
	clear(l.batch)
	if b.Len() == 0 {
		return more, nil
	}
	return more, l.send(b.String())
}

func (l *listener) send(text string) error {
	if err := l.control.SetWriteDeadline(time.Now().Add(eventWriteTime)); err != nil {
		return err
	}
	if _, err := l.w.Write([]byte(text)); err != nil {
		return err
	}
	return l.control.Flush()
}
