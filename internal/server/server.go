package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/exporter-toolkit/web"
	"go.uber.org/zap"
	"go.uber.org/zap/exp/zapslog"

	"rmagent/internal/engine"
	"rmagent/record"
)

// Views is what the engine publishes: engine.Views.
type Views interface {
	Latest() *engine.View
	Published() <-chan struct{}
	Detailed(ctx context.Context) (*engine.View, error)
	Holds(ctx context.Context, pid int32) (record.Leak, error)
}

// Headroom looks at limits.
type Headroom interface {
	// Process looks at one process, twice if between is not 0.
	Process(ctx context.Context, pid int32, between time.Duration) (record.Headroom, error)
	// Follow looks at one process, with rates since the last look if that was lately.
	Follow(ctx context.Context, pid int32) (record.Headroom, error)
	// Nearest says who is nearest to a limit; 0 for most is all.
	Nearest(ctx context.Context, f engine.Filter, between time.Duration, most int) (record.HeadroomList, error)
}

// Options are what a server answers from. Where a function or an interface is nil, its
// questions are answered with status 501.
type Options struct {
	Views  Views
	Events *Bus
	Host   string // of the records' headers
	BootID string
	System System

	// Health says what this agent can't do, and why.
	Health   func() []Trouble
	Headroom Headroom
	// Control changes what can be changed, and remembers.
	Control Control
	// Jobs tells of the jobs that are measured now.
	Jobs func() []record.RunningJob
	// Policy is the effective configuration.
	Policy func() any
	// Asked is told of each request before it is answered; nil: nobody is.
	Asked func()
	// Metrics answers /metrics, with series of processes or without.
	Metrics func(processes bool) http.Handler
	Log     *zap.Logger
}

// The bounds of a request and of a connection.
const (
	maxHeader  = 16 << 10
	maxBody    = 64 << 10
	headerTime = 5 * time.Second  // to send the header of a request
	readTime   = 10 * time.Second // to send all of it
	writeTime  = 30 * time.Second // to take the answer
	idleTime   = 2 * time.Minute
	maxConns   = 512 // of one door
	answerTime = 20 * time.Second
)

// Server answers on its doors until it is closed.
type Server struct {
	Options
	mux      *http.ServeMux
	listings listings
	cpus     cpuMeter

	mu    sync.Mutex
	doors []*http.Server
	done  chan struct{} // closed when the server is: ends what streams
}

// New returns a server without doors.
func New(o Options) *Server {
	s := &Server{Options: o, mux: http.NewServeMux(), done: make(chan struct{})}
	for i := range routes {
		r := &routes[i]
		handle := r.handle
		if r.numbers != nil {
			handle = numbersHandler(r.numbers)
		}
		s.mux.HandleFunc(r.method+" "+r.pattern(), func(w http.ResponseWriter, q *http.Request) { s.serve(r, handle, w, q) })
	}
	return s
}

// ServeUnix answers on a unix socket until the server is closed.
func (s *Server) ServeUnix(l net.Listener) error {
	door := s.door(http.HandlerFunc(s.answer))
	atWork := door.ConnContext
	door.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(atWork(ctx, c), callerKey{}, peerOf(c))
	}
	return s.open(door, func() error { return door.Serve(bound(l)) })
}

// ServeTCP answers on a TCP socket until the server is closed: numbers only, unless
// the web configuration in the file webConfig (empty: none) asks for TLS and for who
// the client is.
func (s *Server) ServeTCP(l net.Listener, webConfig string) error {
	var h http.Handler = http.HandlerFunc(s.answer)
	if isLoopback(l.Addr()) && webConfig == "" {
		h = checkHost(h)
	}
	door := s.door(identify(h, webConfig))
	if webConfig == "" {
		return s.open(door, func() error { return door.Serve(bound(l)) })
	}
	flags := &web.FlagConfig{WebConfigFile: &webConfig}
	warnings := s.Log.WithOptions(zap.IncreaseLevel(zap.WarnLevel)).Core()
	return s.open(door, func() error {
		return web.Serve(bound(l), door, flags, slog.New(zapslog.NewHandler(warnings, zapslog.AddStacktraceAt(slog.LevelError+1))))
	})
}

// door makes the HTTP server of one door.
func (s *Server) door(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           atWork(h),
		ConnContext:       withConn,
		ReadHeaderTimeout: headerTime,
		ReadTimeout:       readTime,
		WriteTimeout:      writeTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          zap.NewStdLog(s.Log.WithOptions(zap.IncreaseLevel(zap.ErrorLevel))),
	}
}

// open runs a door until it is closed, which is no error.
func (s *Server) open(door *http.Server, serve func() error) error {
	s.mu.Lock()
	select {
	case <-s.done:
		s.mu.Unlock()
		return nil
	default:
	}
	s.doors = append(s.doors, door)
	s.mu.Unlock()
	if err := serve(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Close ends all streams, and lets answers that have begun end within ctx.
func (s *Server) Close(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.done:
		return nil
	default:
		close(s.done)
	}
	var errs []error
	for _, door := range s.doors {
		if err := door.Shutdown(ctx); err != nil {
			errs = append(errs, door.Close())
		}
	}
	return errors.Join(errs...)
}

// answer finds the route of a request.
func (s *Server) answer(w http.ResponseWriter, r *http.Request) {
	if s.Asked != nil {
		s.Asked()
	}
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", pagePolicy)
	if r.ContentLength != 0 {
		// Else an answer would wait for a body that nobody reads, as long as it may take.
		h.Set("Connection", "close")
	}
	if _, pattern := s.mux.Handler(r); pattern == "" {
		s.noRoute(w, r)
		return
	}
	if r.ContentLength > maxBody {
		problemf(http.StatusRequestEntityTooLarge, "The body has %d bytes; allowed are %d.", r.ContentLength, maxBody).write(w)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	s.mux.ServeHTTP(w, r)
}

// serve answers a request on its route.
func (s *Server) serve(r *route, handle handler, w http.ResponseWriter, q *http.Request) {
	c := callerOf(q.Context())
	if p := r.allow(c); p != nil {
		p.write(w)
		return
	}
	if err := s.checkQuery(r, q); err != nil {
		asProblem(err).write(w)
		return
	}
	if q.ContentLength == 0 { // all of it was read: what takes time now is the answer
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // HTTP/1 and 2 both can
	}
	if !r.streams && r.numbers == nil {
		ctx, cancel := context.WithTimeout(q.Context(), answerTime)
		defer cancel()
		q = q.WithContext(ctx)
	}
	if err := handle(s, w, q); err != nil {
		s.fail(w, q, err)
	}
}

func (s *Server) fail(w http.ResponseWriter, q *http.Request, err error) {
	if q.Context().Err() != nil && errors.Is(err, context.Canceled) {
		return // nobody waits for it any more
	}
	p := asProblem(err)
	if p.Status == http.StatusInternalServerError {
		s.Log.Warn("request_failed", zap.String("path", record.Text([]byte(q.URL.Path))), zap.Error(err))
	}
	p.write(w)
}

// view returns the view of the last tick, an error before the first.
func (s *Server) view() (*engine.View, error) {
	if v := s.Views.Latest(); v != nil {
		return v, nil
	}
	return nil, notYet()
}

// detailed returns the view of the last tick with its details.
func (s *Server) detailed(ctx context.Context) (*engine.View, error) {
	if _, err := s.view(); err != nil {
		return nil, err
	}
	v, err := s.Views.Detailed(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, problemf(http.StatusServiceUnavailable, "The agent did not answer in time; it may be stuck in a reading.")
	}
	return v, err
}

func notYet() error {
	p := problemf(http.StatusServiceUnavailable, "The agent has not read the machine yet.")
	p.retry = time.Second
	return p
}
