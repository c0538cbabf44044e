package server

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// boundListener keeps a door from having more than most connections. Where there are
// so many, the one goes that has waited longest without a whole request; where all are
// being answered, the one that has been for longest, if it takes its answer so slowly
// that it may be stuck; else the new one is refused. So whoever holds connections
// without using them keeps nobody out.
type boundListener struct {
	net.Listener
	most int

	mu   sync.Mutex
	open map[*boundConn]struct{}
}

// boundConn is a connection of which it is known whether it is being answered.
type boundConn struct {
	net.Conn
	owner   *boundListener
	answers atomic.Int32 // that are being made
	since   atomic.Int64 // when it began to wait or to be answered, Unix nanoseconds
}

// stuckTime is how long an answer may take before its connection may have to give way.
const stuckTime = 5 * time.Second

func bound(l net.Listener) net.Listener {
	return &boundListener{Listener: l, open: map[*boundConn]struct{}{}, most: maxConns}
}

func (l *boundListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if b := l.admit(c); b != nil {
			return b, nil
		}
		refuse(c)
	}
}

// admit takes a connection in, or returns nil where there is no room.
func (l *boundListener) admit(c net.Conn) *boundConn {
	b := &boundConn{Conn: c, owner: l}
	b.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.open) >= l.most {
		out := l.dispensable(time.Now())
		if out == nil {
			return nil
		}
		delete(l.open, out)
		out.Conn.Close()
	}
	l.open[b] = struct{}{}
	return b
}

// dispensable is the connection that gives way, nil where none does.
func (l *boundListener) dispensable(now time.Time) *boundConn {
	var idle, stuck *boundConn
	longer := func(c, than *boundConn) bool { return than == nil || c.since.Load() < than.since.Load() }
	for c := range l.open {
		switch {
		case c.answers.Load() == 0:
			if longer(c, idle) {
				idle = c
			}
		case now.UnixNano()-c.since.Load() > int64(stuckTime) && longer(c, stuck):
			stuck = c
		}
	}
	if idle != nil {
		return idle
	}
	return stuck
}

// refused is all that a connection without room gets.
const refused = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 1\r\nConnection: close\r\n\r\n" +
	`{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"Too many requests are being answered."}` + "\n"

func refuse(c net.Conn) {
	// It fits into the socket's own buffer; nobody waits for more.
	_ = c.SetWriteDeadline(time.Now().Add(time.Millisecond))
	_, _ = c.Write([]byte(refused))
	c.Close()
}

func (c *boundConn) now() { c.since.Store(time.Now().UnixNano()) }

func (c *boundConn) Close() error {
	c.owner.mu.Lock()
	delete(c.owner.open, c)
	c.owner.mu.Unlock()
	return c.Conn.Close()
}

type connKey struct{}

// withConn remembers the connection of requests. Over TLS it is the one inside.
func withConn(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = t.NetConn()
	}
	return context.WithValue(ctx, connKey{}, c)
}

// atWork marks the connection of a request while that is being answered.
func atWork(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(connKey{}).(*boundConn); ok {
			c.now()
			c.answers.Add(1)
			defer func() {
				c.now()
				c.answers.Add(-1)
			}()
		}
		next.ServeHTTP(w, r)
	})
}
