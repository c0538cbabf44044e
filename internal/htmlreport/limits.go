package htmlreport

import (
	"cmp"
	"fmt"
	"slices"

	"rmagent/internal/human"
)

const shownNear = 15

// share is how much of a limit was taken when most of it was.
type share struct {
	ratio       peak
	used, limit float64 // then
}

func (s *share) add(used, limit float64, ms int64) {
	if limit > 0 && s.ratio.add(used/limit, ms) {
		s.used, s.limit = used, limit
	}
}

// nearRow tells how near something came to a limit.
type nearRow struct {
	Class, What, Who      string
	Share, Used, At, Then string
	Width                 float64
}

// near is a limit before it is written down.
type near struct {
	what, who string
	most      share
	unit      unit
	end       string // at the end of the records
}

// nearRows are the limits that came nearest to being hit, the nearest first.
func (v *view) nearRows() (rows []nearRow, more string) {
	list := slices.DeleteFunc(slices.Concat(v.nearHost(), v.nearFilesystems(), v.nearCards(), v.nearCgroups(), v.nearProcesses()),
		func(n near) bool { return !(n.most.ratio.value > 0) })
	slices.SortStableFunc(list, func(a, b near) int { return cmp.Compare(b.most.ratio.value, a.most.ratio.value) })
	for _, n := range list[:min(len(list), shownNear)] {
		m := &n.most
		row := nearRow{
			What: n.what, Who: human.Text(n.who), Share: percent(m.ratio.value), At: v.clock.format(m.ratio.at), Then: n.end,
			Width: round(min(m.ratio.value, 1) * 100), Used: n.unit.format(m.used) + " of " + n.unit.format(m.limit),
		}
		switch {
		case m.ratio.value >= 0.9:
			row.Class = "critical"
		case m.ratio.value >= 0.8:
			row.Class = "warning"
		}
		rows = append(rows, row)
	}
	if n := uint64(len(list) - len(rows)); n > 0 {
		more = plural(n, "limit is", "limits are") + " not listed: less of them was taken."
	}
	return rows, more
}

// ofSeries is the nearest that a value came to a limit that stayed the same.
func ofSeries(s *series, limit float64) (most share) {
	if !s.empty() {
		most.add(s.peak, limit, s.peakAt)
	}
	return most
}

// atEnd is the share that is taken by the last value.
func atEnd(s *series, limit float64) string {
	if s.empty() || limit <= 0 {
		return ""
	}
	return percent(s.last / limit)
}

func (v *view) nearHost() (list []near) {
	h := &v.host
	for _, x := range []struct {
		what  string
		s     *series
		limit uint64
		unit  unit
	}{
		{"memory", h.memory, h.memoryTotal, unitBytes}, {"swap", h.swap, h.swapTotal, unitBytes},
		{"open files (fs.file-max)", h.files, h.filesLimit, unitCount}, {"PIDs (pid_max)", h.threads, h.pidLimit, unitCount},
	} {
		list = append(list, near{x.what, "the machine", ofSeries(x.s, float64(x.limit)), x.unit, atEnd(x.s, float64(x.limit))})
	}
	return list
}

func (v *view) nearFilesystems() (list []near) {
	for _, f := range v.filesystems.all() {
		list = append(list, near{"space", f.path, f.space, unitBytes, atEnd(f.used, 1)}, near{"inodes", f.path, f.inodes, unitCount, ""})
	}
	return list
}

func (v *view) nearCards() (list []near) {
	for _, c := range v.gpus.all() {
		most := ofSeries(c.memory, 1)
		most.used, most.limit = most.used*float64(c.total), float64(c.total)
		list = append(list, near{"GPU memory", fmt.Sprintf("GPU %d %s", c.index, c.name), most, unitBytes, atEnd(c.memory, 1)})
	}
	return list
}

func (v *view) nearCgroups() (list []near) {
	for _, c := range v.cgroups.all() {
		list = append(list, near{"memory.max", c.path, c.memoryShare, unitBytes, ""}, near{"pids.max", c.path, c.pidsShare, unitCount, ""})
	}
	return list
}

// nearProcesses also say when descriptors run out, where the last reading said so.
func (v *view) nearProcesses() (list []near) {
	for _, p := range v.processes.nearest.list {
		n := near{"descriptors (RLIMIT_NOFILE)", fmt.Sprintf("%s (pid %d)", p.comm, p.key.pid), p.fdShare, unitCount, ""}
		switch left, ok := p.fdLeft.Get(); {
		case p.exit != nil:
			n.end = "ended"
		case ok:
			n.end = "full in " + seconds(left)
		}
		list = append(list, n)
	}
	return list
}
