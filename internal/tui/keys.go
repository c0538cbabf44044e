package tui

import (
	"strings"
	"unicode/utf8"

	"rmagent/internal/human"
)

// Key takes a key, by Bubble Tea's name of it; text is what it types, if anything.
func (m *Model) Key(name, text string) Effect {
	if name == "ctrl+c" {
		return Quit
	}
	switch {
	case m.typing:
		return m.typed(name, text)
	case m.screen == help:
		m.screen = m.below
		return None
	case name == "?":
		m.below, m.screen = m.screen, help
		return None
	case name == "space", name == " ":
		return m.pause()
	case m.screen == detail:
		return m.detailKey(name)
	}
	return m.tableKey(name)
}

// maxFilter bounds what may be typed.
const maxFilter = 64

// typed takes a key while a filter is typed.
func (m *Model) typed(name, text string) Effect {
	switch name {
	case "enter":
		m.typing = false
	case "esc":
		m.typing, m.filter = false, ""
	case "backspace":
		_, n := utf8.DecodeLastRuneInString(m.filter)
		m.filter = m.filter[:len(m.filter)-n]
	case "ctrl+u":
		m.filter = ""
	default:
		if len(m.filter)+len(text) <= maxFilter {
			m.filter += human.Text(text)
		}
	}
	m.top = 0
	m.arrange()
	return None
}

// pause holds the screen as it is, or goes on with the latest reading.
func (m *Model) pause() Effect {
	m.paused = !m.paused
	if m.paused || m.waiting == nil {
		return None
	}
	m.remember(m.waiting)
	m.show(m.waiting)
	m.waiting = nil
	return m.refresh()
}

func (m *Model) tableKey(name string) Effect {
	switch name {
	case "q":
		return Quit
	case "esc":
		m.filter = ""
		m.arrange()
	case "/":
		m.typing = true
	case "enter":
		return m.open()
	case "t":
		m.tree = !m.tree
		m.arrange()
	case "a":
		m.pinned = !m.pinned
		m.arrange()
	case "r":
		m.turned = !m.turned
		m.arrange()
	case "left", "<":
		m.sortBeside(-1)
	case "right", ">":
		m.sortBeside(1)
	default:
		if !m.move(name) && m.sortBy(name) {
			m.arrange()
		}
	}
	return None
}

// sortBeside sorts by the next column of those that are shown.
func (m *Model) sortBeside(step int) {
	for i := m.sort + step; i >= 0 && i < len(columns); i += step {
		if columns[i].key != "" && columns[i].wide <= m.width {
			m.sort, m.turned = i, false
			m.arrange()
			return
		}
	}
}

// move moves the cursor.
func (m *Model) move(name string) bool {
	page := max(m.tableHeight()-1, 1)
	to := m.at
	switch name {
	case "up", "k":
		to--
	case "down", "j":
		to++
	case "pgup", "ctrl+b":
		to -= page
	case "pgdown", "ctrl+f":
		to += page
	case "home":
		to = 0
	case "end":
		to = len(m.rows) - 1
	default:
		return false
	}
	if len(m.rows) > 0 {
		m.at = max(0, min(to, len(m.rows)-1))
		m.cursor = m.rows[m.at].id()
	}
	if name == "home" { // and stay on top
		m.cursor = id{}
	}
	return true
}

// open shows the process under the cursor.
func (m *Model) open() Effect {
	r := m.selected()
	if r == nil {
		return None
	}
	m.cursor = r.id()
	m.screen, m.scroll, m.details = detail, 0, Detail{}
	return m.refresh()
}

func (m *Model) detailKey(name string) Effect {
	switch name {
	case "esc", "q", "enter", "left":
		m.screen = table
		m.arrange()
	case "up", "k":
		m.scroll--
	case "down", "j":
		m.scroll++
	case "pgup", "ctrl+b":
		m.scroll -= m.height - 3
	case "pgdown", "ctrl+f":
		m.scroll += m.height - 3
	case "home":
		m.scroll = 0
	case "end":
		m.scroll = 1 << 20
	}
	m.scroll = max(m.scroll, 0)
	return None
}

// keysHelp is the page behind the question mark.
func keysHelp() []string {
	lines := []string{
		bold.in("Keys"),
		"up down pgup pgdn home end   move; home stays on top",
		"enter                        look at a process: what it holds, its limits",
		"/                            filter by name, service, path or PID; esc: all",
		"space                        pause and go on",
		"t                            as a tree",
		"a                            leaks and what is near a limit on top, or not",
		"r                            reverse the order",
		"< >, left right              sort by the column beside",
		"q                            end",
		"", bold.in("Sort by"),
	}
	var keys []string
	for _, c := range columns {
		if c.key != "" {
			keys = append(keys, fit(c.key+"  "+c.help, 38))
		}
	}
	for i := 0; i < len(keys); i += 2 {
		lines = append(lines, strings.TrimRight(strings.Join(keys[i:min(i+2, len(keys))], ""), " "))
	}
	return append(lines, "", bold.in("Marks"),
		red.in("!")+" leaks descriptors, or is critical   "+yellow.in("~")+" gathers descriptors   "+yellow.in(">")+" near a limit",
	)
}
