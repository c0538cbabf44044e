package tui

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"rmagent/internal/human"
	"rmagent/record"
)

// Effect is what whoever drives the model should do next.
type Effect int

// The effects.
const (
	None      Effect = iota
	Quit             // end
	AskDetail        // look at the process that Wanted names
)

// Options say how the screen looks at first.
type Options struct {
	Source  string // where it reads
	ASCII   bool   // the terminal shows no other characters
	Sort    string // key of a column; empty: CPU
	Version string
	PIDs    []int32 // that were asked for; nil: all
}

// id tells processes apart that had one PID after the other.
type id struct {
	pid   int32
	ticks uint64
}

// row is a process as the table shows it.
type row struct {
	*record.Process
	name  string // safe to show
	where string
	leak  *record.Leak // nil: nothing grows
	state record.State // the worst of its own; empty: normal
	why   string
	depth []bool // of the tree: for each level whether more siblings follow
}

func (r *row) id() id { return id{r.PID, r.StartTicks} }

// urgency puts what leaks and what is near a limit on top.
func (r *row) urgency() int {
	switch {
	case r.leak != nil && r.leak.Verdict == record.VerdictLeaking:
		return 4
	case r.state == record.StateCritical:
		return 3
	case r.leak != nil && r.leak.Verdict == record.VerdictGrowing:
		return 2
	case r.state == record.StateWarning:
		return 1
	}
	return 0
}

// past is what is remembered of a process.
type past struct {
	cpu, memory, files history
	seen               uint64 // the reading that had it last
}

// screen is what is shown.
type screen int

const (
	table screen = iota
	detail
	help
)

// Model is the state of the screen.
type Model struct {
	options       Options
	glyphs        *glyphs
	width, height int

	reading  *Reading
	readings uint64
	err      error // why there is no newer reading
	paused   bool
	waiting  *Reading // the latest, while paused
	missed   int      // readings since then

	sort    int // index of the column
	turned  bool
	pinned  bool
	tree    bool
	filter  string
	typing  bool
	screen  screen
	below   screen // what help covers
	rows    []row
	cursor  id  // of the selected process
	at      int // its index
	top     int // first row that is shown
	scroll  int // of the detail
	details Detail
	asked   bool // a detail is under way

	pasts                   map[id]*past
	cpu, mem, disk, traffic history
}

// New returns a model that has read nothing yet.
func New(o Options) *Model {
	m := &Model{options: o, glyphs: &unicodeGlyphs, width: 80, height: 24, pinned: true, pasts: map[id]*past{}}
	if o.ASCII {
		m.glyphs = &asciiGlyphs
	}
	m.sortBy(cmp.Or(o.Sort, "c"))
	return m
}

func (m *Model) sortBy(key string) bool {
	for i := range columns {
		if columns[i].key == key && key != "" {
			m.turned = m.sort == i && !m.turned
			m.sort = i
			return true
		}
	}
	return false
}

// Resize takes the size of the terminal.
func (m *Model) Resize(width, height int) {
	m.width, m.height = max(width, 20), max(height, 6)
}

// Take takes the next reading.
func (m *Model) Take(r *Reading) Effect {
	m.err = nil
	if m.paused {
		m.waiting = r
		m.missed = min(m.missed+1, historyLength)
		return None
	}
	m.remember(r)
	m.show(r)
	return m.refresh()
}

// Fail takes why there is no next reading.
func (m *Model) Fail(err error) { m.err = err }

// TakeDetail takes what was asked for.
func (m *Model) TakeDetail(d Detail) {
	m.asked = false
	if d.PID == m.cursor.pid {
		m.details = d
	}
}

// Wanted is the process that AskDetail is about.
func (m *Model) Wanted() int32 { return m.cursor.pid }

// refresh asks again for what the detail shows.
func (m *Model) refresh() Effect {
	if m.screen != detail || m.asked || m.selected() == nil {
		return None
	}
	m.asked = true
	return AskDetail
}

// remember adds a reading to the histories.
func (m *Model) remember(r *Reading) {
	m.readings++
	for ; m.missed > 1; m.missed-- { // a pause leaves a hole
		m.skip()
	}
	m.missed = 0
	h := &r.Host
	m.cpu.add(h.CPURatio)
	m.mem.add(memoryRatio(h))
	m.disk.add(sum(h.DiskReadBytesPerSecond, h.DiskWrittenBytesPerSecond))
	m.traffic.add(sum(h.NetReceivedBytesPerSecond, h.NetSentBytesPerSecond))
	for i := range r.Processes {
		p := &r.Processes[i]
		key := id{p.PID, p.StartTicks}
		x := m.pasts[key]
		if x == nil {
			x = &past{}
			m.pasts[key] = x
		}
		x.seen = m.readings
		x.cpu.add(p.CPUCores)
		x.memory.add(record.Float(p.RSSBytes))
		x.files.add(record.Float(p.FDOpen))
	}
	for key, x := range m.pasts {
		if x.seen != m.readings {
			delete(m.pasts, key)
		}
	}
}

// skip adds an unknown value to every history.
func (m *Model) skip() {
	none := record.Opt[float64]{}
	for _, h := range [...]*history{&m.cpu, &m.mem, &m.disk, &m.traffic} {
		h.add(none)
	}
	for _, x := range m.pasts {
		x.cpu.add(none)
		x.memory.add(none)
		x.files.add(none)
	}
}

func memoryRatio(h *record.Host) record.Opt[float64] {
	total, used := h.MemoryTotalBytes.Or(0), h.MemoryUsedBytes
	return record.SomeIf(float64(used.Or(0))/float64(max(total, 1)), used.Known() && total > 0)
}

// show makes the rows of a reading.
func (m *Model) show(r *Reading) {
	m.reading = r
	m.arrange()
}

// arrange makes the rows anew: chosen, sorted, and the cursor where its process is.
func (m *Model) arrange() {
	if m.reading == nil {
		return
	}
	m.rows = m.rows[:0]
	leaks := map[id]*record.Leak{}
	for i := range m.reading.Leaks {
		l := &m.reading.Leaks[i]
		leaks[id{l.PID, l.StartTicks}] = l
	}
	states := processStates(m.reading.States)
	needle := strings.ToLower(m.filter)
	for i := range m.reading.Processes {
		p := &m.reading.Processes[i]
		x := row{Process: p, name: human.Text(p.Comm), where: where(&p.ProcessFacts)}
		if s := states[fmt.Sprintf("pid:%d@%d", p.PID, p.StartTicks)]; s != nil {
			x.state, x.why = s.State, human.Text(s.Resource)
		}
		x.leak = leaks[x.id()]
		if needle == "" || x.matches(needle) {
			m.rows = append(m.rows, x)
		}
	}
	slices.SortFunc(m.rows, m.order)
	if m.tree {
		m.rows = treeOf(m.rows)
	}
	m.follow()
}

// processStates has the worst state of each process.
func processStates(list []record.StateChange) map[string]*record.StateChange {
	states := map[string]*record.StateChange{}
	for i := range list { // worst first
		s := &list[i]
		if strings.HasPrefix(s.Target, "pid:") && states[s.Target] == nil {
			states[s.Target] = s
		}
	}
	return states
}

func (r *row) matches(needle string) bool {
	for _, s := range [...]string{r.name, r.where, human.Text(r.Exe.Or("")), fmt.Sprint(r.PID)} {
		if strings.Contains(strings.ToLower(s), needle) {
			return true
		}
	}
	return false
}

// order is that of the table.
func (m *Model) order(a, b row) int {
	by := columns[m.sort].less(&a, &b)
	if m.turned && by != outright && by != -outright {
		by = -by
	}
	urgent := 0
	if m.pinned && !m.tree {
		urgent = cmp.Compare(b.urgency(), a.urgency())
	}
	return cmp.Or(urgent, by, cmp.Compare(a.PID, b.PID), cmp.Compare(a.StartTicks, b.StartTicks))
}

// treeOf puts children below their parents, in the order that the rows have.
func treeOf(rows []row) []row {
	byPID := map[int32]int{}
	for i := range rows {
		byPID[rows[i].PID] = i
	}
	children := map[int][]int{}
	var roots []int
	for i := range rows {
		parent, known := byPID[rows[i].PPID.Or(0)]
		if !known || parent == i {
			roots = append(roots, i)
			continue
		}
		children[parent] = append(children[parent], i)
	}
	out := make([]row, 0, len(rows))
	placed := make([]bool, len(rows))
	var place func(list []int, depth []bool)
	place = func(list []int, depth []bool) {
		for n, i := range list {
			if placed[i] {
				continue
			}
			placed[i] = true
			r := rows[i]
			r.depth = append(slices.Clone(depth), n < len(list)-1)
			out = append(out, r)
			place(children[i], r.depth)
		}
	}
	place(roots, nil)
	for i := range rows { // parents that are each other's children: two readings of a PID
		if !placed[i] {
			place([]int{i}, nil)
		}
	}
	return out
}

// follow keeps the cursor on its process, or near where it was.
func (m *Model) follow() {
	if m.screen == detail {
		return // it is about this process, whether it is still there or not
	}
	i := slices.IndexFunc(m.rows, func(r row) bool { return r.id() == m.cursor })
	if i < 0 || m.cursor == (id{}) {
		i = m.at
		if m.cursor == (id{}) {
			i = 0
		}
	}
	m.moveTo(i)
}

func (m *Model) moveTo(i int) {
	m.at = max(0, min(i, len(m.rows)-1))
	if len(m.rows) == 0 {
		m.cursor = id{}
		return
	}
	if m.at == 0 && m.top == 0 && m.cursor == (id{}) {
		return // nobody moved yet: stay on top, whoever is there
	}
	m.cursor = m.rows[m.at].id()
}

// selected is the process under the cursor, nil where it is gone.
func (m *Model) selected() *row {
	for i := range m.rows {
		if m.rows[i].id() == m.cursor || m.cursor == (id{}) && i == 0 {
			return &m.rows[i]
		}
	}
	return nil
}
