package fallback

import "rmagent/internal/sample"

// past is what the reader remembers of a process, so that counters which /proc
// keeps per thread only grow: a thread takes its own with it when it ends, and
// another one becomes the leader when it calls exec.
type past struct {
	start uint64
	round uint64 // of reading, in which it was last there

	ran       uint64 // by the leader
	ranBefore uint64 // by the leaders before it
	waited    uint64 // by the threads that lived then
	waitedSum uint64 // all growth of waited, from when the process was first read
}

// pastOf returns what is remembered of a process, or a new memory.
func (r *Reader) pastOf(id sample.ID) past {
	h := r.pasts[id.PID]
	if h.start != id.StartTicks {
		h = past{start: id.StartTicks}
	}
	h.round = r.round
	return h
}

// leaderRan takes the leader's run time and returns what leaders ran in all.
func (r *Reader) leaderRan(id sample.ID, ran uint64) uint64 {
	h := r.pastOf(id)
	if ran < h.ran {
		h.ranBefore += h.ran
	}
	h.ran = ran
	r.pasts[id.PID] = h
	return h.ranBefore + ran
}

// threadsWaited takes the sum over living threads and returns what it grew by in
// all.
func (r *Reader) threadsWaited(id sample.ID, waited uint64) uint64 {
	h := r.pastOf(id)
	if waited > h.waited {
		h.waitedSum += waited - h.waited
	}
	h.waited = waited
	r.pasts[id.PID] = h
	return h.waitedSum
}

// maxPasts bounds what is remembered where no reading of everything tells who
// is gone.
const maxPasts = 1 << 16

// forget drops who was not there in a reading of so many processes.
func (r *Reader) forget(everything bool, processes int) {
	if len(r.pasts) <= processes || !everything && len(r.pasts) < maxPasts {
		return
	}
	for pid, h := range r.pasts {
		if h.round != r.round {
			delete(r.pasts, pid)
		}
	}
}
