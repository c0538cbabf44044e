package hostfs

import "rmagent/internal/hostfs/kfile"

// deviceSums adds up two counters over devices that come and go, so that the
// sums only grow: a device that leaves takes nothing with it, and one that
// appears after the first reading counts from then on, for it may be an old one
// under a new name.
type deviceSums struct {
	devices map[string]*device
	sums    [2]uint64
	round   uint64 // of reading, from 1
}

type device struct {
	counted bool
	last    [2]uint64
	round   uint64 // in which it was last there
}

// take reads a file of one device a line. It reports whether a device is new, and
// whether one has left.
func (s *deviceSums) take(b []byte, parse func(line []byte) (name []byte, now [2]uint64, ok bool)) (came, left bool) {
	s.round++
	for len(b) > 0 {
		var line []byte
		line, b = kfile.Line(b)
		if name, now, ok := parse(line); ok {
			came = s.update(name, now) || came
		}
	}
	return came, s.sweep()
}

// update takes a device's counters; it reports whether the device is a new one,
// which doesn't count before it is said to.
func (s *deviceSums) update(name []byte, now [2]uint64) (isNew bool) {
	d := s.devices[string(name)]
	if d == nil {
		s.devices[string(name)] = &device{last: now, round: s.round}
		return true
	}
	for i := range now {
		switch {
		case !d.counted:
		case now[i] >= d.last[i]:
			s.sums[i] += now[i] - d.last[i]
		default: // it went and came back
			s.sums[i] += now[i]
		}
	}
	d.last, d.round = now, s.round
	return false
}

// decide says for every device whether it counts.
func (s *deviceSums) decide(counts func(name string) bool) {
	for name, d := range s.devices {
		counted := counts(name)
		if counted && s.round == 1 {
			for i := range d.last {
				s.sums[i] += d.last[i]
			}
		}
		d.counted = counted
	}
}

// sweep forgets the devices that were not there in this round, and reports
// whether there were any.
func (s *deviceSums) sweep() (any bool) {
	for name, d := range s.devices {
		if d.round != s.round {
			delete(s.devices, name)
			any = true
		}
	}
	return any
}
