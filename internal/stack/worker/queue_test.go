package worker

import (
	"testing"
	"time"

	"rmagent/internal/sample"
)

func imageOf(pid int32) Image { return Image{ID: sample.ID{PID: pid}} }

// Who has much to be walked, and who takes long, leaves the others their share.
func TestQueueServesTheLeastServed(t *testing.T) {
	var q queue
	for seq := range uint64(100) {
		q.add(job{image: imageOf(1), seq: seq})
	}
	for range 100 {
		q.add(job{image: imageOf(2)})
	}
	served := map[int32]int{}
	for range 20 {
		j, ok := q.next()
		if !ok {
			t.Fatal("nothing waits")
		}
		pid := j.image.ID.PID
		served[pid]++
		q.took(&j, map[int32]time.Duration{1: time.Second, 2: 100 * time.Millisecond}[pid])
	}
	if served[1] > 3 || served[1] == 0 {
		t.Errorf("the slow one was served %d times of 20, want about as long as the other", served[1])
	}
	// Who comes later waits for one at most, and has no claim to what the others had.
	q.add(job{image: imageOf(3)})
	q.add(job{image: imageOf(3)})
	for want := 1; want <= 2; want++ {
		for others := 0; ; others++ {
			j, _ := q.next()
			q.took(&j, time.Millisecond)
			if j.image.ID.PID == 3 {
				break
			}
			if others == 2 {
				t.Fatal("the new one waits for more than one job of each other")
			}
		}
	}
	var last uint64
	for q.jobs > 0 {
		j, _ := q.next()
		if q.took(&j, time.Millisecond); j.image.ID.PID == 1 {
			if j.seq < last {
				t.Errorf("%d after %d", j.seq, last)
			}
			last = j.seq
		}
	}
	if _, ok := q.next(); ok || q.bytes != 0 || len(q.lines) != 0 {
		t.Errorf("empty: %+v", q)
	}
}

func TestQueueIsBounded(t *testing.T) {
	var q queue
	for q.room(imageOf(1), 0) {
		q.add(job{image: imageOf(1)})
	}
	if q.jobs != maxQueued/ofQueue || !q.room(imageOf(2), 0) {
		t.Errorf("one image has %d of %d places; room for another: %v", q.jobs, maxQueued, q.room(imageOf(2), 0))
	}
	window := make([]byte, 1<<20)
	for q.room(imageOf(2), len(window)) {
		q.add(job{image: imageOf(2), raw: sample.RawStack{Window: window}})
	}
	if q.bytes != maxQueuedBytes/ofQueue {
		t.Errorf("one image's windows have %d of %d bytes", q.bytes, maxQueuedBytes)
	}
	for pid := int32(3); pid < 3+ofQueue; pid++ {
		for q.room(imageOf(pid), 0) {
			q.add(job{image: imageOf(pid)})
		}
	}
	if q.jobs != maxQueued {
		t.Errorf("%d wait, want %d", q.jobs, maxQueued)
	}
}

// What is to be found is found first: it names what waits.
func TestQueueFindsFirst(t *testing.T) {
	var q queue
	q.add(job{image: imageOf(1), seq: 1})
	q.add(job{image: imageOf(2), find: &search{}})
	if j, _ := q.next(); j.find == nil {
		t.Errorf("%+v comes first", j)
	}
}

// What waits while nobody takes the answers goes on when they are taken.
func TestTakingAnswersMakesRoom(t *testing.T) {
	c := &Client{wake: make(chan struct{}, 1), answers: make([]Answer, maxQueued)}
	c.queue.add(job{image: imageOf(1)})
	if _, ok := c.next(); ok {
		t.Error("there is no room for another answer")
	}
	if n := len(c.Answers(nil)); n != maxQueued {
		t.Errorf("%d answers", n)
	}
	select {
	case <-c.wake:
	default:
		t.Error("nobody is woken")
	}
	if _, ok := c.next(); !ok {
		t.Error("nothing is done")
	}
}
