package engine

import (
	"rmagent/internal/sample"
	"rmagent/internal/stack/worker"
)

// Where a stack was walked before, the tracer finds that out itself, by the words that the
// walk read: then it copies no stack, which is most of what a birth costs who is traced.

// maxOffered bounds the walks of one process that the tracer is offered at one drain.
const maxOffered = 8

// offer has the tracer know the walk of a stack, which is site n of a process.
func (l *Leaks) offer(t *traced, image worker.Image, raw *sample.RawStack, stack *worker.Site, n int) {
	if stack == nil || t.runsPython || cutOff(stack) || t.offered >= maxOffered {
		return
	}
	t.offered++
	words, epoch, ok := l.Stacks.Words(image, raw, stack, l.words[:0])
	l.words = words
	if !ok {
		return
	}
	if t.epoch != epoch {
		l.Tracer.ForgetWalks(image.ID)
		t.epoch = epoch
	}
	l.Tracer.Remember(image.ID, image.ExecID, words, uint32(n+1))
}

// followEpochs has the tracer forget walks that hold no more, as mappings changed.
func (l *Leaks) followEpochs() {
	if l.Stacks == nil {
		return
	}
	for id, t := range l.traced {
		t.offered = 0
		if t.epoch != 0 && l.Stacks.Epoch(worker.Image{ID: id, ExecID: t.execID}) != t.epoch {
			l.Tracer.ForgetWalks(id)
			t.epoch = 0
		}
	}
}
