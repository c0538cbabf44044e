package server

import (
	"sync"

	"rmagent/internal/engine"
)

// perView keeps what was made of one view, for all who ask about it.
type perView[T any] struct {
	mu    sync.Mutex
	view  *engine.View
	value T
}

// of returns what makes makes of v. It is made once, while others who ask wait.
func (p *perView[T]) of(v *engine.View, makes func() (T, error)) (T, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.view == v {
		return p.value, nil
	}
	value, err := makes()
	if err == nil && (p.view == nil || p.view.Tick <= v.Tick) { // one that is late does not replace the newer one
		p.view, p.value = v, value
	}
	return value, err
}
