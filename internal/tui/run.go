package tui

import (
	"context"
	"errors"
	"io"
	"time"

	tea "charm.land/bubbletea/v2"
)

// Run shows a source on a terminal until the user ends it or ctx does.
func Run(ctx context.Context, m *Model, source Source, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p := tea.NewProgram(&driver{ctx: ctx, model: m, source: source}, tea.WithContext(ctx), tea.WithInput(in), tea.WithOutput(out))
	_, err := p.Run()
	if errors.Is(err, tea.ErrInterrupted) || errors.Is(err, tea.ErrProgramKilled) && ctx.Err() != nil {
		return nil
	}
	return err
}

// driver has Bubble Tea drive a model.
type driver struct {
	ctx    context.Context
	model  *Model
	source Source
}

type failure struct {
	err   error
	after time.Time
}

// next waits for a reading beside.
func (d *driver) next(after time.Time) tea.Cmd {
	return func() tea.Msg {
		r, err := d.source.Next(d.ctx, after)
		if err != nil {
			return failure{err, after}
		}
		return r
	}
}

// Init asks for the first reading.
func (d *driver) Init() tea.Cmd { return d.next(time.Time{}) }

// retryAfter is how long a source that failed is left alone.
const retryAfter = time.Second

// Update gives the model what happened.
func (d *driver) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		d.model.Resize(msg.Width, msg.Height)
	case tea.KeyPressMsg:
		return d, d.key(msg)
	case tea.PasteMsg:
		return d, d.do(d.model.Key("paste", msg.Content))
	case *Reading:
		return d, tea.Batch(d.next(msg.Time), d.do(d.model.Take(msg)))
	case Detail:
		d.model.TakeDetail(msg)
	case failure:
		if d.ctx.Err() != nil {
			return d, tea.Quit
		}
		d.model.Fail(msg.err)
		return d, tea.Tick(retryAfter, func(time.Time) tea.Msg { return retry(msg.after) })
	case retry:
		return d, d.next(time.Time(msg))
	}
	return d, nil
}

// key gives the model a key. Terminals send Alt and a key as Esc and the key, so what was
// read at once, on a busy machine, is Esc and then a key: there are no commands with Alt.
func (d *driver) key(k tea.KeyPressMsg) tea.Cmd {
	if !k.Mod.Contains(tea.ModAlt) {
		return d.do(d.model.Key(k.String(), k.Text))
	}
	k.Mod &^= tea.ModAlt
	return tea.Batch(d.do(d.model.Key("esc", "")), d.do(d.model.Key(k.String(), k.Text)))
}

type retry time.Time

func (d *driver) do(e Effect) tea.Cmd {
	switch e {
	case Quit:
		return tea.Quit
	case AskDetail:
		pid := d.model.Wanted()
		return func() tea.Msg { return d.source.Detail(d.ctx, pid) }
	}
	return nil
}

// View shows the model on the terminal's other screen.
func (d *driver) View() tea.View {
	v := tea.NewView(d.model.View())
	v.AltScreen = true
	return v
}
