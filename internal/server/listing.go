package server

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"sync"

	"rmagent/internal/engine"
	"rmagent/record"
)

// listing has the processes of one view encoded, and in the orders that were asked for,
// once for all who ask.
type listing struct {
	view *engine.View
	once sync.Once
	err  error

	plain, full spans // without command lines, and with those that are known
	secret      bool  // the two differ

	users int // who read its buffers; under the lock of listings

	mu     sync.Mutex
	orders map[string][]int // indices of processes by the number that they are sorted by
}

// separator stands between two processes in an array.
const separator = ",\n"

// spans are texts in one buffer, with separators between.
type spans struct {
	buf  []byte
	ends []int
}

func (s *spans) at(i int) []byte {
	from := 0
	if i > 0 {
		from = s.ends[i-1] + len(separator)
	}
	return s.buf[from:s.ends[i]]
}

// listings has the listing of the latest view that somebody asked for, and the one before
// until that is encoded. The buffers of those before are used again once nobody reads
// them: megabytes of fresh memory for each view cost more than encoding.
type listings struct {
	mu      sync.Mutex
	latest  *listing  // nil: nobody asked lately
	encoded *listing  // the latest that is
	spare   sync.Pool // of *spans, which the collector may take

	wanted bool // somebody asked since the last tick
	kept   bool // keepListings runs
}

// listed returns the encoded processes of the last reading, which the caller releases. It
// is the reading before while the last one is being encoded ahead: who comes just after a
// tick does not wait for that.
func (s *Server) listed(ctx context.Context) (*listing, error) {
	v, err := s.view()
	if err != nil {
		return nil, err
	}
	l, keep := s.listings.ask(v.Tick)
	if keep {
		go s.keepListings(v.Tick)
	}
	if l != nil {
		return l, nil
	}
	if v, err = s.detailed(ctx); err != nil {
		return nil, err
	}
	return s.list(v)
}

// keepListings encodes each reading when it is there, until a tick passes at which nobody
// asks or the server is closed.
func (s *Server) keepListings(tick uint64) {
	for s.awaitTick(tick) && s.listings.wantedStill() {
		ctx, cancel := context.WithTimeout(context.Background(), answerTime)
		if v, err := s.detailed(ctx); err == nil {
			if l, err := s.list(v); err == nil {
				s.listings.release(l)
			}
		} // else who asks is told
		cancel()
		tick = s.Views.Latest().Tick
	}
}

// awaitTick waits for a view after that of tick; false: the server is closed.
func (s *Server) awaitTick(tick uint64) bool {
	for {
		next := s.Views.Published()
		if s.Views.Latest().Tick != tick {
			return true
		}
		select {
		case <-next:
		case <-s.done:
			return false
		}
	}
}

// ask returns the listing of a tick if it is encoded, or of the one before if that of tick
// soon will be, and tells whether somebody has to begin to keep listings.
func (ls *listings) ask(tick uint64) (l *listing, keep bool) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	kept := ls.kept
	ls.wanted, ls.kept = true, true
	if l = ls.encoded; l == nil || l.view.Tick != tick && !(kept && l.view.Tick+1 == tick) {
		return nil, !kept
	}
	l.users++
	return l, !kept
}

// wantedStill tells whether somebody asked since it was called before. If nobody did, all
// that is kept goes.
func (ls *listings) wantedStill() bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.kept = ls.wanted
	ls.wanted = false
	if !ls.kept {
		ls.drop(ls.latest)
		ls.drop(ls.encoded)
		ls.latest, ls.encoded = nil, nil
	}
	return ls.kept
}

// list returns the encoded processes of a view, which the caller releases.
func (s *Server) list(v *engine.View) (*listing, error) {
	l := s.listings.acquire(v)
	l.once.Do(func() {
		if l.err = l.encode(s); l.err == nil {
			s.listings.finished(l)
		}
	})
	if l.err != nil {
		s.listings.release(l)
		return nil, l.err
	}
	return l, nil
}

// finished puts a listing that is encoded in the place of the one before.
func (ls *listings) finished(l *listing) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if last := ls.encoded; last == nil || last.view.Tick <= l.view.Tick {
		l.users++
		ls.encoded = l
		ls.drop(last)
	}
}

func (ls *listings) acquire(v *engine.View) *listing {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l := ls.latest
	if l == nil || l.view != v {
		l = &listing{view: v, orders: map[string][]int{}}
		if last := ls.latest; last == nil || last.view.Tick <= v.Tick { // else an older view is still asked for
			l.users++
			ls.latest = l
			ls.drop(last)
		}
	}
	l.users++
	return l
}

func (ls *listings) release(l *listing) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.drop(l)
}

// drop takes a user from a listing, if there is one; after the last user its buffers are
// free.
func (ls *listings) drop(l *listing) {
	if l == nil {
		return
	}
	l.users--
	if l.users > 0 {
		return
	}
	for _, s := range []*spans{&l.plain, &l.full} {
		if s.buf != nil && (s == &l.plain || l.secret) {
			ls.spare.Put(&spans{s.buf[:0], s.ends[:0]})
		}
		*s = spans{}
	}
}

// empty returns spans with room for as much as there was before.
func (ls *listings) empty() spans {
	if s, ok := ls.spare.Get().(*spans); ok {
		return *s
	}
	return spans{}
}

func (l *listing) encode(s *Server) (err error) {
	list := l.view.Details.Processes
	for i := range list {
		l.secret = l.secret || list[i].Cmdline != nil
	}
	l.plain = s.listings.empty()
	if err := l.plain.fill(s, list, false); err != nil || !l.secret {
		l.full = l.plain
		return err
	}
	l.full = s.listings.empty()
	return l.full.fill(s, list, true)
}

// fill encodes processes, with command lines or without.
func (s *spans) fill(server *Server, list []record.Process, cmdline bool) (err error) {
	var p record.Process // a copy: others read the view
	for i := range list {
		p = list[i]
		if !cmdline {
			p.Cmdline = nil
		}
		if i > 0 {
			s.buf = append(s.buf, separator...)
		}
		if s.buf, err = server.line(s.buf, &p); err != nil {
			return err
		}
		s.ends = append(s.ends, len(s.buf))
		if i == 16 { // they are all about as long
			s.buf = slices.Grow(s.buf, len(s.buf)/16*(len(list)+len(list)/8))
		}
	}
	return nil
}

// whole is the text of all processes if a caller may see everything that is in it, else
// nil.
func (l *listing) whole(c *caller) []byte {
	switch {
	case !l.secret:
		return l.plain.buf
	case c.mayRead(0, false):
		return l.full.buf
	}
	return nil
}

// of returns a process as a caller may see it.
func (l *listing) of(c *caller, i int) []byte {
	if uid, known := l.view.Details.Processes[i].UID.Get(); c.mayRead(uid, known) {
		return l.full.at(i)
	}
	return l.plain.at(i)
}

// choose returns the indices of the processes that a request asks for, in its order.
func (l *listing) choose(r *http.Request) []int {
	list := l.view.Details.Processes
	f := filterOf(r)
	q := r.URL.Query()
	most := len(list)
	if n, err := parseLimit(q.Get("limit")); err == nil {
		most = min(most, n)
	}
	which := make([]int, 0, most)
	for _, i := range l.order(q.Get("sort")) {
		if len(which) == most {
			break
		}
		if f.MatchRecord(&list[i].ProcessFacts) {
			which = append(which, i)
		}
	}
	return which
}

// order returns all indices, sorted by a number, greatest first, or as they are. Nobody
// changes them.
func (l *listing) order(name string) []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if order, there := l.orders[name]; there {
		return order
	}
	list := l.view.Details.Processes
	type ranked struct {
		value float64
		index int
	}
	ranks := make([]ranked, len(list))
	for i := range list {
		ranks[i].index = i
	}
	if key := sortKeys[name]; key != nil {
		for i := range list {
			ranks[i].value = key(&list[i]).Or(-1)
		}
		slices.SortFunc(ranks, func(a, b ranked) int {
			return cmp.Or(cmp.Compare(b.value, a.value), cmp.Compare(a.index, b.index))
		})
	}
	order := make([]int, len(list))
	for i := range ranks {
		order[i] = ranks[i].index
	}
	l.orders[name] = order
	return order
}
